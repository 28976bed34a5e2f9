import { expect, test } from 'vitest'
import { createStream } from '../../src/redis/stream.ts'
import { newKeyspace } from './setup.ts'

const KEYS = { streamLog: 'log', streamTold: 'told', streamChannel: 'live' }

/** A stream of texts over a keyspace of its own. */
function newStream() {
  const redis = newKeyspace().connect()
  const noSubscription = () => Promise.reject(new Error('tests bring the messages themselves'))
  const policy = { maxEntries: 1_000, ttlMs: 60_000 }
  return { redis, log: createStream<string>({ redis, writes: redis, subscribe: noSubscription }, KEYS, policy) }
}

const item = (name: string) => ({ name, value: name })

async function* of(...messages: object[]): AsyncGenerator<string, void> {
  for (const message of messages) yield JSON.stringify(message)
}

const NEVER = { everyMs: 3_600_000, alongside: async () => true }

test('whatever the messages say, and in whatever order, a follower gets every entry once and in order', async () => {
  const { log, redis } = newStream()
  await log.append([item('before')])
  const start = await log.read(undefined)
  await log.append([item('a'), item('b')])
  await log.append([item('b'), item('c')]) // b is there already
  await log.append([item('d')])
  const [, a, b, c, d] = Object.keys(await redis.xrange(KEYS.streamLog, '-', '+'))
  const entry = (id = '', value = '') => ({ id, value })
  const messages = [
    { after: b, entries: [entry(c, 'c')] }, // overtook the one of a and b
    { after: start.position, entries: [entry(a, 'a'), entry(b, 'b')] },
    { after: c, entries: [entry(d, 'd')] },
    { after: c, entries: [entry(d, 'd')] }, // told twice
  ]
  const got = []
  for await (const entries of log.follow(start, of(...messages), NEVER)) got.push(...entries.map(({ value }) => value))
  expect(got).toEqual(['a', 'b', 'c', 'd'])
})

test('the look is taken in time also when there is always another message', async () => {
  const { log } = newStream()
  const start = await log.read(undefined)
  await log.append([item('found by looking')])
  let asked = 0
  async function* endless() {
    for (let i = 1; i < 100_000; i += 1) yield JSON.stringify({ after: '', entries: [{ id: `1-${i}`, value: 'a' }] })
  }
  const got = []
  const look = { everyMs: 20, alongside: async () => (asked += 1) < 2 }
  for await (const entries of log.follow(start, endless(), look)) {
    got.push(...entries)
    await scheduler.wait(1)
  }
  expect(asked).toBe(2)
  expect(got.at(-1)?.value).toBe('found by looking')
})
