import { expect, test } from 'vitest'
import {
  type Breaker,
  createBreaker,
  createConnection,
  newMeter,
  RedisUnavailable,
  type Sent,
} from '../../src/redis/client.ts'
import { newKeyspace } from './setup.ts'

test('commands of one turn share one request, whichever clients they come from', async () => {
  const { server, control } = newKeyspace()
  const meter = newMeter()
  const connect = createConnection(server, createBreaker(5, 1_000), meter)
  const reads = connect({ timeoutMs: 5_000, isSafeTwice: true })
  const writes = connect({ timeoutMs: 5_000, isSafeTwice: false })

  const [, , name, list] = await Promise.all([
    writes.set('name', 'ada'),
    writes.pipeline().rpush('list', 'a', 'b').incr('n').exec(),
    reads.get('name'),
    reads.lrange('list', 0, -1),
  ])

  expect(name).toBe('ada') // in the order issued
  expect(list).toEqual(['a', 'b'])
  expect(await control.counts()).toMatchObject({ requests: 1, commands: 5 })
  expect(meter).toMatchObject({ commands: 5, roundTrips: 1, failures: 0 })
})

test('MGETs that follow one another are one command, but not across a write', async () => {
  const { connect, control } = newKeyspace()
  const redis = connect()
  await redis.mset({ a: 1, b: { x: 'y' }, c: 'z' })
  await control.reset()
  const replies = await Promise.all([redis.mget('a', 'b'), redis.mget('none'), redis.pipeline().mget('c', 'a').exec()])
  expect(replies).toEqual([[1, { x: 'y' }], [null], [['z', 1]]])
  expect(await control.counts()).toMatchObject({ requests: 1, byCommand: { mget: 1 } })

  const ordered = await Promise.all([redis.mget('a'), redis.set('a', 2), redis.mget('a'), redis.mget('b', 'a')])
  expect(ordered).toEqual([[1], 'OK', [2], [{ x: 'y' }, 2]])
  expect(await control.counts()).toMatchObject({ requests: 2, byCommand: { mget: 3, set: 1 } })

  await redis.set('text', 'abc')
  const failed = await Promise.allSettled([redis.incr('text'), redis.mget('a'), redis.mget('c')])
  expect(failed.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled'])
})

test('onSent receives each request that ended: its commands, its duration, and whether it was answered', async () => {
  const { server, control } = newKeyspace()
  const received: Sent[] = []
  const connect = createConnection(server, createBreaker(5, 1_000), newMeter(), (sent) => void received.push(sent))
  const redis = connect({ timeoutMs: 5_000, isSafeTwice: true })
  await Promise.all([redis.set('text', 'abc'), redis.get('text')])
  await redis.incr('text').catch(() => {}) // an error is an answer
  await redis.multi().set('a', 1).exec()
  await control.fault({ kind: 'cut', times: 1 })
  await redis.ping()
  const ms = expect.any(Number)
  expect(received).toEqual([
    {
      commands: [
        ['set', 'text', 'abc'],
        ['get', 'text'],
      ],
      ms,
      isAnswered: true,
    },
    { commands: [['incr', 'text']], ms, isAnswered: true },
    { commands: [['set', 'a', 1]], ms, isAnswered: true },
    { commands: [['ping']], ms, isAnswered: false },
    { commands: [['ping']], ms, isAnswered: true },
  ])
})

test('an error of one command does not affect the others of its request', async () => {
  const { connect } = newKeyspace()
  const redis = connect()
  await redis.set('text', 'abc')
  const [incremented, read] = await Promise.allSettled([redis.incr('text'), redis.get('text')])

  expect(incremented).toMatchObject({ status: 'rejected', reason: { name: 'UpstashError' } })
  expect(read).toEqual({ status: 'fulfilled', value: 'abc' })
})

test('multi() is sent alone', async () => {
  const { connect, control } = newKeyspace()
  const redis = connect()
  const [answers, read] = await Promise.all([redis.multi().set('a', 1).incr('a').exec(), redis.get('b')])
  expect(answers).toEqual(['OK', 2])
  expect(read).toBeNull()
  expect((await control.counts()).requests).toBe(2)
})

test('a request without a reply is sent again only if every command is safe twice', async () => {
  const { connect, control } = newKeyspace()
  await control.fault({ kind: 'cut', times: 1 })
  expect(await connect({ isSafeTwice: true }).set('a', 1)).toBe('OK')
  expect((await control.counts()).requests).toBe(2)

  await control.fault({ kind: 'cut', times: 1 })
  await expect(connect({ isSafeTwice: false }).incr('a')).rejects.toThrow(RedisUnavailable)
  expect(await connect().get('a')).toBe(2) // it ran once
})

test('a request with one unsafe command is not sent again', async () => {
  const { server, control } = newKeyspace()
  const connect = createConnection(server, createBreaker(5, 1_000), newMeter())
  const safe = connect({ timeoutMs: 5_000, isSafeTwice: true })
  const unsafe = connect({ timeoutMs: 5_000, isSafeTwice: false })
  await control.fault({ kind: 'cut', times: 1 })

  const results = await Promise.allSettled([safe.get('n'), unsafe.incr('n')])
  expect(results.map((result) => result.status)).toEqual(['rejected', 'rejected'])
  expect(await safe.get('n')).toBe(1)
})

test('a request fails after its timeout and is not repeated', async () => {
  const { connect, control } = newKeyspace()
  await control.fault({ kind: 'hang' })
  const failure = connect({ timeoutMs: 50 }).get('a')
  await expect(failure).rejects.toThrow(RedisUnavailable)
  await expect(failure).rejects.toThrow('50 ms')
  expect((await control.counts()).requests).toBe(1)
})

test('the breaker opens after failures in a row, lets one probe through, and closes when it succeeds', async () => {
  const { connect, control } = newKeyspace()
  const clock = { aheadMs: 0 } // the test owns it: a busy machine may take longer than any cool-down
  const real = createBreaker(3, 60_000)
  const breaker: Breaker = {
    ...real,
    admit: (now) => real.admit(now + clock.aheadMs),
    fail: (ticket, now) => real.fail(ticket, now + clock.aheadMs),
  }
  const ask = () => connect({ isSafeTwice: false }, breaker).get('a')
  await control.fault({ kind: 'refuse', times: 4 })
  for (let i = 0; i < 3; i += 1) await expect(ask()).rejects.toThrow('did not answer')

  await expect(ask()).rejects.toThrow('the circuit is open')
  expect((await control.counts()).requests).toBe(3)

  clock.aheadMs += 60_001
  const probes = await Promise.allSettled([1, 2, 3].map(ask))
  expect(probes.map((probe) => probe.status)).toEqual(['rejected', 'rejected', 'rejected'])
  expect((await control.counts()).requests).toBe(4) // one probe of three, and it failed
  await expect(ask()).rejects.toThrow('the circuit is open')

  clock.aheadMs += 60_001
  await expect(ask()).resolves.toBeNull()
  await expect(ask()).resolves.toBeNull()
  expect(real.state(Date.now() + clock.aheadMs)).toBe('closed')
})

test('an error that Redis answers does not open the breaker, a 5xx does', async () => {
  const { connect, control } = newKeyspace()
  const breaker = createBreaker(2, 60_000)
  const redis = connect({ isSafeTwice: false }, breaker)
  await redis.set('text', 'abc')
  for (let i = 0; i < 3; i += 1) await expect(redis.incr('text')).rejects.toThrow('not an integer')
  expect(breaker.state(Date.now())).toBe('closed')

  await control.fault({ kind: 'status', status: 502, message: 'Bad gateway' })
  for (let i = 0; i < 2; i += 1) await expect(redis.get('text')).rejects.toThrow(RedisUnavailable)
  expect(breaker.state(Date.now())).toBe('open')
})

test('requests that fail together are one incident: a short blip does not open the breaker', async () => {
  const { server, control } = newKeyspace()
  const breaker = createBreaker(3, 60_000)
  /** A client of one more invocation. */
  const ask = (isSafeTwice: boolean) =>
    createConnection(server, breaker, newMeter())({ timeoutMs: 100, isSafeTwice }).get('a')
  for (const [kind, isSafeTwice] of [
    ['hang', true],
    ['refuse', false],
    ['refuse', true], // with their retries
  ] as const) {
    await control.fault({ kind })
    const asked = await Promise.allSettled(Array.from({ length: 6 }, () => ask(isSafeTwice)))
    expect(new Set(asked.map(({ status }) => status))).toEqual(new Set(['rejected']))
    await control.clearFaults()
    expect(breaker.state(Date.now())).toBe('closed')
    expect(await createConnection(server, breaker, newMeter())({ timeoutMs: 20_000, isSafeTwice }).get('a')).toBeNull()
  }

  await control.fault({ kind: 'refuse' })
  for (let incident = 0; incident < 3; incident += 1) {
    expect(breaker.state(Date.now())).toBe('closed')
    await Promise.allSettled(Array.from({ length: 6 }, () => ask(true)))
  }
  expect(breaker.state(Date.now())).toBe('open')
})

test('a failure of a request that began before the breaker opened does not keep it open for longer', () => {
  const breaker = createBreaker(1, 1_000)
  const [first = -1, second = -1] = [breaker.admit(0), breaker.admit(0)]
  breaker.fail(first, 100)
  breaker.fail(second, 900)
  expect(breaker.state(1_099)).toBe('open')
  expect(breaker.state(1_100)).toBe('half-open')
})

test('a clock that is set back does not keep the breaker open', () => {
  const HOUR = 3_600_000
  const breaker = createBreaker(1, 1_000)
  breaker.fail(breaker.admit(HOUR) ?? -1, HOUR)
  expect(breaker.admit(HOUR + 999)).toBeUndefined()
  expect(breaker.state(0)).toBe('half-open')
  const probe = breaker.admit(0)
  expect(probe).toBeDefined()
  expect(breaker.admit(0)).toBeUndefined() // one probe here too
  breaker.fail(probe ?? -1, 0)
  expect(breaker.state(999)).toBe('open')
  expect(breaker.state(1_000)).toBe('half-open')
})
