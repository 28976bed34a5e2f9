import { expect, test, vi } from 'vitest'
import { type Batch, createStream, type Message } from '../../src/redis/stream.ts'
import { newKeyspace } from './setup.ts'

const KEYS = { streamLog: 'log', streamNames: 'names', streamOrigin: 'origin', streamChannel: 'live' }

/** A stream of texts over a keyspace of its own. */
function newStream(maxEntries = 1_000) {
  const keyspace = newKeyspace()
  const redis = keyspace.connect()
  const noSubscription = () => Promise.reject(new Error('tests bring the messages themselves'))
  const policy = { maxEntries, ttlMs: 60_000 }
  const log = createStream<string>({ redis, writes: redis, join: noSubscription }, KEYS, policy)
  return { redis, log, control: keyspace.control }
}

const item = (name: string) => ({ name, value: name })

/** Messages for the only follower of an isolate. */
const alone = (messages: AsyncIterator<Message<string> | undefined, void>) => ({
  messages,
  claimCheck: () => true,
  pass: () => {},
})

async function* each(messages: (Message<string> | undefined)[]): AsyncGenerator<Message<string> | undefined, void> {
  yield* messages
}
const of = (...messages: (Message<string> | undefined)[]) => alone(each(messages))

const NEVER = { everyMs: 3_600_000, alongside: async () => true }

/** The values of all batches, with `gap` where entries are lost. */
async function valuesOf(batches: AsyncIterable<Batch<string>>): Promise<string[]> {
  const values = []
  for await (const { entries, hasGap } of batches)
    values.push(...(hasGap ? ['gap'] : []), ...entries.map((e) => e.value))
  return values
}

test('a follower gets every entry once and in order, whatever the order of the messages', async () => {
  const { log, redis } = newStream()
  await log.append([item('before')])
  const start = await log.read(undefined)
  await log.append([item('a'), item('b')])
  await log.append([item('b'), item('c')]) // b is there already
  await log.append([item('d')])
  const [, a = '', b = '', c = '', d = ''] = Object.keys(await redis.xrange(KEYS.streamLog, '-', '+'))
  const entry = (id = '', value = '') => ({ id, value })
  const messages = [
    { after: b, entries: [entry(c, 'c')] }, // overtook the one of a and b
    { after: start.position, entries: [entry(a, 'a'), entry(b, 'b')] },
    { after: c, entries: [entry(d, 'd')] },
    { after: c, entries: [entry(d, 'd')] }, // published twice
  ]
  expect(await valuesOf(log.follow(start, of(...messages), NEVER))).toEqual(['a', 'b', 'c', 'd'])
})

test('the check is made in time also when there is always another message', async () => {
  const { log } = newStream()
  const start = await log.read(undefined)
  await log.append([item('found by the check')])
  let asked = 0
  async function* endless() {
    for (let i = 1; i < 100_000; i += 1) yield { after: '', entries: [{ id: `0-0`, value: 'a' }] }
  }
  const got = []
  const check = { everyMs: 20, alongside: async () => (asked += 1) < 2 }
  for await (const { entries } of log.follow(start, alone(endless()), check)) {
    got.push(...entries)
    await scheduler.wait(1)
  }
  expect(asked).toBe(2)
  expect(got.at(-1)?.value).toBe('found by the check')
})

test('the check is made also when the clock is set back and there is always another message', async () => {
  const { log } = newStream()
  const start = await log.read(undefined)
  const realNow = Date.now
  using clock = vi.spyOn(Date, 'now')
  async function* endless() {
    for (let i = 1; i < 1_000; i += 1) {
      if (i === 2) clock.mockImplementation(() => realNow() - 3_600_000)
      yield { after: '', entries: [{ id: `0-0`, value: 'a' }] }
    }
  }
  let asked = 0
  const check = { everyMs: 60_000, alongside: async () => (asked += 1) < 1 }
  await valuesOf(log.follow(start, alone(endless()), check))
  expect(asked).toBe(1)
})

test('a position is continued exactly while the entry after it is kept', async () => {
  const { log } = newStream(3)
  const origin = (await log.read(undefined)).position
  await log.append([item('a'), item('b')])
  expect(await log.read(origin)).toMatchObject({ isComplete: true, missed: [{ value: 'a' }, { value: 'b' }] })
  const { position: b } = await log.read(undefined)
  await log.append([item('c')])
  expect((await log.read(origin)).isComplete).toBe(true) // a, b, c
  await log.append([item('d'), item('e')])
  expect(await log.read(origin)).toMatchObject({ isComplete: false, missed: [] })
  expect(await log.read(b)).toMatchObject({
    isComplete: true,
    missed: [{ value: 'c' }, { value: 'd' }, { value: 'e' }],
  })
  await log.append([item('f')]) // b is trimmed, and so is what follows it
  const late = await log.read(b)
  expect(late).toMatchObject({ isComplete: false, missed: [] })
  expect(late.position).toBe((await log.read(undefined)).position)
})

test.each([
  ['the empty log is flushed', [], 'flush', []],
  ['the empty log is flushed, then entries come', [], 'flush', ['x']],
  ['entries come and all is flushed', ['a'], 'flush', []],
  ['entries come, all is flushed, and more come', ['a'], 'flush', ['x']],
  ['entries come and the log is evicted', ['a'], 'log', []],
  ['entries come, the log is evicted, and more come', ['a'], 'log', ['x']],
  ['the origin is evicted', [], 'origin', []],
  ['the origin is evicted, then entries come', [], 'origin', ['x']],
] as const)('a position on the empty log is not continued when %s', async (_, before, loss, after) => {
  const { log, redis } = newStream()
  const { position } = await log.read(undefined)
  expect((await log.read(position)).isComplete).toBe(true)
  for (const name of before) await log.append([item(name)])
  await log.read(undefined) // another reader
  await (loss === 'flush' ? redis.flushdb() : redis.del(loss))
  for (const name of after) await log.append([item(name)])
  await log.read(undefined)
  expect(await log.read(position)).toMatchObject({ isComplete: false, missed: [] })
})

test('a position of another log is not continued, even between the entries of this one', async () => {
  const { log, redis } = newStream()
  await log.append([item('a')])
  const { position } = await log.read(undefined)
  const [ms = 0] = position.split('-').map(Number)
  await redis.flushdb()
  await redis.xadd(KEYS.streamLog, `${ms - 10}-0`, { p: '-', e: '"other"' }) // its clock was behind
  await log.append([item('b')])
  expect(await log.read(position)).toMatchObject({ isComplete: false, missed: [] })
  expect((await log.read(`${ms - 5}-0`)).isComplete).toBe(false)
  expect((await log.read('0-0')).isComplete).toBe(false)
})

test('a follower is notified of a gap when the log is lost', async () => {
  const { log, redis } = newStream()
  await log.append([item('a')])
  const start = await log.read(undefined)
  await log.append([item('lost')])
  await redis.flushdb()
  await log.append([item('b')])
  await log.append([item('c')])
  const [b = '', c = ''] = Object.keys(await redis.xrange(KEYS.streamLog, '-', '+'))
  const messages = [
    { after: '-', entries: [{ id: b, value: 'b' }] },
    { after: b, entries: [{ id: c, value: 'c' }] },
  ]
  expect(await valuesOf(log.follow(start, of(...messages), NEVER))).toEqual(['gap', 'b', 'c'])
})

test('an append whose reply is lost publishes when it is repeated, and a follower reads what it lacks', async () => {
  const { log, redis, control } = newStream()
  await log.append([item('a')])
  const [start, current] = [await log.read(undefined), await log.read(undefined)]
  await control.fault({ kind: 'cut', times: 2, match: 'EVAL' }) // executed, and unknown to the client
  await expect(log.append([item('b')])).rejects.toThrow('did not answer')
  expect(await redis.xlen(KEYS.streamLog)).toBe(2)
  await control.reset()
  await log.append([item('b')])
  expect((await control.counts()).byCommand).toEqual({ eval: 1, publish: 1 })
  expect(await redis.xlen(KEYS.streamLog)).toBe(2)

  const last = (await log.read(undefined)).position
  const published = { after: last, entries: [] }
  expect(await valuesOf(log.follow(start, of(published), NEVER))).toEqual(['b'])
  expect(await valuesOf(log.follow({ ...current, position: last }, of(published), NEVER))).toEqual([])
})

test('names of entries that are not on the log any more are removed now and then, and both keys expire', async () => {
  const { log, redis } = newStream(3)
  for (let i = 0; i < 200; i += 1) await log.append([item(String(i))])
  expect(await redis.xlen(KEYS.streamLog)).toBe(3)
  const names = await redis.zcard(KEYS.streamNames)
  expect(names).toBeGreaterThanOrEqual(3)
  expect(names).toBeLessThan(200) // one append of 16 removes them, on average
  for (const key of [KEYS.streamLog, KEYS.streamNames]) {
    const ttl = await redis.pttl(key)
    expect(ttl).toBeGreaterThan(55_000) // less than a 24th part of the TTL has passed since it was renewed
    expect(ttl).toBeLessThanOrEqual(60_000)
  }
})
