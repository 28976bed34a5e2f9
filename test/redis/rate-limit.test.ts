import { expect, test } from 'vitest'
import {
  createKnownAllowances,
  createRateLimit,
  createUncounted,
  freeAt,
  UNCOUNTED_SHARE,
} from '../../src/redis/rate-limit.ts'
import { keysOf, newKeyspace } from './setup.ts'

/** So long that a test hardly ever crosses the end of a window. */
const DAY_SECONDS = 86_400

function newLimits(
  keyspace = newKeyspace(),
  known = createKnownAllowances(100),
  limit = 3,
  windowSeconds = DAY_SECONDS,
  uncounted = createUncounted<'reads'>(),
) {
  const redis = keyspace.connect({ isSafeTwice: false })
  const quotas = { reads: { limit, windowSeconds } }
  return createRateLimit(
    () => redis,
    known,
    uncounted,
    quotas,
    (policy) => `limit:${policy}`,
  )
}

test('each subject may spend its own quota and no more', async () => {
  const limits = newLimits()
  const taken = []
  for (let i = 0; i < 4; i += 1) taken.push(await limits.take('reads', 'u_ada'))

  expect(taken.map(({ isAllowed }) => isAllowed)).toEqual([true, true, true, false])
  expect(taken.map(({ remaining }) => remaining)).toEqual([2, 1, 0, 0])
  expect((await limits.take('reads', 'u_bob')).isAllowed).toBe(true)
})

test('exactly the quota passes when many isolates ask at once', async () => {
  const keyspace = newKeyspace()
  const isolates = Array.from({ length: 40 }, () => newLimits(keyspace, createKnownAllowances(10), 10))
  const taken = await Promise.all(isolates.map((limits) => limits.take('reads', 'u_ada')))
  expect(taken.filter(({ isAllowed }) => isAllowed)).toHaveLength(10)
})

test('an isolate knows a refused subject until a place is free again', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace)
  for (let i = 0; i < 4; i += 1) await limits.take('reads', 'u_ada')
  await keyspace.control.reset()

  const known = limits.known('reads', 'u_ada')
  expect(known?.isAllowed).toBe(false)
  expect(limits.known('reads', 'u_ada', known?.resetsAt)).toBeUndefined()
  expect(limits.estimate('reads', 'u_ada', known?.resetsAt)).toMatchObject({ isAllowed: true, remaining: 1 })
  // One ms into the next window, less than all three requests of this one count.
  expect((known?.resetsAt ?? 0) % (DAY_SECONDS * 1_000)).toBe(1)
  expect((await keyspace.control.counts()).requests).toBe(0)
})

test('peek spends nothing', async () => {
  const limits = newLimits()
  await limits.take('reads', 'u_ada')
  for (let i = 0; i < 5; i += 1) expect((await limits.peek('reads', 'u_ada')).remaining).toBe(2)
  expect((await limits.peek('reads', 'u_new')).remaining).toBe(3)
})

test('an isolate knows a bounded number of subjects', async () => {
  const known = createKnownAllowances(5)
  const limits = newLimits(newKeyspace(), known)
  for (let i = 0; i < 20; i += 1) await limits.take('reads', `ip:192.0.2.${i}`)
  expect(known.size()).toBe(5)
})

/** Notes a request that was answered, and counts it if that is due. */
const spend = async (limits: ReturnType<typeof newLimits>, subject = 'u_ada', requests = 1) => {
  if (limits.note('reads', subject, requests)) await limits.count()
}

test('a subject far below its quota costs one command for many requests', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, undefined, 3_200)
  for (let i = 0; i < 99; i += 1) await spend(limits)
  expect((await keyspace.control.counts()).requests).toBe(0)
  expect(limits.known('reads', 'u_ada')).toBeUndefined()
  expect(limits.estimate('reads', 'u_ada').remaining).toBe(3_101)

  await spend(limits) // a hundred: 1/32 of the quota
  expect((await keyspace.control.counts()).byCommand).toEqual({ evalsha: 1, eval: 1 }) // the server learns the script
  expect(limits.known('reads', 'u_ada')?.remaining).toBe(3_100)
  for (let i = 0; i < 5; i += 1) await spend(limits)
  expect(limits.known('reads', 'u_ada')?.remaining).toBe(3_095)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(3_095)
})

test('a subject near its quota is counted request by request', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, undefined, 1_000)
  await spend(limits, 'u_ada', 969)
  await keyspace.control.reset()
  for (let i = 0; i < 10; i += 1) await spend(limits)
  expect((await keyspace.control.counts()).commands).toBe(10)
  expect((await newLimits(keyspace, undefined, 1_000).peek('reads', 'u_ada')).remaining).toBe(21)
})

test('one subject on eight isolates exceeds its quota by at most a quarter, and then every isolate refuses it', async () => {
  const keyspace = newKeyspace()
  const limit = 320
  const isolates = Array.from({ length: 8 }, () => newLimits(keyspace, createKnownAllowances(10), limit))
  let answered = 0
  let refusedInARow = 0
  for (let i = 0; refusedInARow < isolates.length; i += 1) {
    const limits = isolates[i % isolates.length]
    if (!limits) throw new Error('there are eight')
    if (limits.known('reads', 'u_ada')?.isAllowed === false) {
      refusedInARow += 1
      continue
    }
    refusedInARow = 0
    answered += 1
    await spend(limits)
  }
  expect(answered).toBeGreaterThanOrEqual(limit)
  expect(answered).toBeLessThanOrEqual(limit + isolates.length * limit * UNCOUNTED_SHARE)
})

test('requests that have waited for ten seconds are counted at the next request of any subject', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, undefined, 1_000)
  const now = Date.now()
  expect(limits.note('reads', 'u_ada', 2, now - 10_000)).toBe(false)
  expect(limits.note('reads', 'u_bob', 1, now - 1)).toBe(false)
  expect(limits.note('reads', 'u_bob', 1, now)).toBe(true)
  await limits.count()
  const others = newLimits(keyspace, undefined, 1_000)
  expect((await others.peek('reads', 'u_ada')).remaining).toBe(998)
  expect((await others.peek('reads', 'u_bob')).remaining).toBe(1_000)
})

test('requests of a window that has ended are not counted in the next one', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, undefined, 1_000)
  const now = Date.now()
  limits.note('reads', 'u_ada', 20, now - DAY_SECONDS * 1_000)
  limits.note('reads', 'u_bob', 20, now - DAY_SECONDS * 1_000)
  expect(limits.note('reads', 'u_ada', 1, now)).toBe(true) // Bob's have waited for long
  await limits.count()
  expect((await keyspace.control.counts()).requests).toBe(0)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(999)
})

test('an isolate remembers a bounded number of subjects that it has not counted', () => {
  const uncounted = createUncounted<'reads'>()
  const limits = newLimits(undefined, undefined, 1_000, DAY_SECONDS, uncounted)
  for (let i = 0; i < 10_100; i += 1) limits.note('reads', `u_${i}`)
  expect(uncounted.waiting.size).toBe(10_000)
  expect(uncounted.waiting.has('limit:reads:u_99')).toBe(false)
})

test('requests that arrive while an isolate counts are counted together, each once', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, createKnownAllowances(100), 30)
  await limits.take('reads', 'u_other') // the server has the script now
  await keyspace.control.reset()
  await keyspace.control.latency(20)

  await Promise.all(Array.from({ length: 30 }, (_, i) => spend(limits, `u_${i % 3}`)))

  // The first is sent at once. The others wait for it, then share a round trip, with one command per subject.
  expect(await keyspace.control.counts()).toMatchObject({ requests: 2, commands: 4 })
  for (const subject of ['u_0', 'u_1', 'u_2']) expect((await limits.peek('reads', subject)).remaining).toBe(20)
})

test('requests counted together can exceed the quota, and the isolate then knows the subject as refused', async () => {
  const limits = newLimits()
  await Promise.all(Array.from({ length: 9 }, () => spend(limits)))
  expect(limits.known('reads', 'u_ada')?.isAllowed).toBe(false)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(0)
})

test('a request is left to the invocation that counts; if that one has ended, the next request counts both', async () => {
  const uncounted = createUncounted<'reads'>()
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, undefined, 10, DAY_SECONDS, uncounted)
  uncounted.countingUntil = Date.now() + 2_000
  await spend(limits)
  await limits.count()
  expect((await keyspace.control.counts()).requests).toBe(0)

  uncounted.countingUntil = Date.now()
  await spend(limits)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(8)
})

test('a request that Redis cannot count is forgotten, and the next one is counted', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace)
  await keyspace.control.fault({ kind: 'refuse', times: 1 })
  await spend(limits)
  await spend(limits)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(2)
})

test('a failure of Redis is thrown, because each route decides what it means', async () => {
  const keyspace = newKeyspace()
  await keyspace.control.fault({ kind: 'refuse' })
  await expect(newLimits(keyspace).take('reads', 'u_ada')).rejects.toThrow('did not answer')
})

test('a place is free exactly when the sliding window has room', async () => {
  const keyspace = newKeyspace()
  const [redis, limit, windowMs] = [keyspace.connect(), 5, DAY_SECONDS * 1_000]
  const limits = newLimits(keyspace, undefined, limit)
  const window = Math.floor(Date.now() / windowMs)
  await redis.set(`limit:reads:u_ada:${window - 1}`, 1_000)
  await redis.set(`limit:reads:u_ada:${window}`, 3)
  const { isAllowed, resetsAt } = await limits.take('reads', 'u_ada')
  expect(isAllowed).toBe(false)
  expect(resetsAt).toBe(window * windowMs + Math.floor((windowMs * 998) / 1_000) + 1)
  expect((await limits.peek('reads', 'u_ada')).resetsAt).toBe(resetsAt)
  expect(limits.known('reads', 'u_ada')?.resetsAt).toBe(resetsAt)
})

test('freeAt is the first ms at which the script of the library lets a request pass', () => {
  const windowMs = 60_000
  /** As in the script. */
  const passes = (limit: number, previous: number, current: number, ms: number) =>
    Math.floor((1 - (ms % windowMs) / windowMs) * previous) + current < limit
  for (const [limit, previous, current] of [
    [10, 10, 0],
    [10, 10, 3],
    [10, 9, 9],
    [10, 4, 9],
    [10, 15, 0],
    [3, 3, 2],
    [100, 100, 37],
    [7, 13, 6],
    [10, 0, 9],
    [1_200, 1_187, 613],
  ] as const) {
    const at = freeAt({ limit, windowSeconds: 60 }, 0, previous, current)
    const first = Array.from({ length: windowMs }, (_, ms) => ms).find((ms) => passes(limit, previous, current, ms))
    expect([limit, previous, current, at]).toEqual([limit, previous, current, first ?? windowMs])
  }
  // This window is full: the place is free in the next one, where its requests count as those before.
  for (const [limit, current] of [
    [10, 10],
    [10, 12],
    [3, 3],
    [100, 163],
  ] as const) {
    const at = freeAt({ limit, windowSeconds: 60 }, 0, 50, current)
    const first = Array.from({ length: windowMs }, (_, ms) => ms).find((ms) => passes(limit, current, 0, ms))
    expect(at).toBe(windowMs + (first ?? NaN))
  }
})

test('a refund gives a request back, and the isolate no longer knows the subject as refused', async () => {
  const limits = newLimits()
  for (let i = 0; i < 4; i += 1) await limits.take('reads', 'u_ada')
  await limits.refund('reads', 'u_ada')
  expect(limits.known('reads', 'u_ada')).toBeUndefined()
  expect((await limits.take('reads', 'u_ada')).isAllowed).toBe(true)
  expect((await limits.take('reads', 'u_ada')).isAllowed).toBe(false)
})

test('a penalty spends several requests at once, and a reward gives several back', async () => {
  const limits = newLimits(newKeyspace(), createKnownAllowances(100), 10)
  expect((await limits.take('reads', 'u_ada', 7)).remaining).toBe(3)
  await limits.refund('reads', 'u_ada', 5)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(8)
  expect((await limits.take('reads', 'u_ada', 12)).isAllowed).toBe(false) // and spent
  expect((await limits.take('reads', 'u_ada', 9)).isAllowed).toBe(false) // nothing remained: not spent
  await limits.refund('reads', 'u_ada', 5)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(1)
})

test('a clock that is set back neither keeps a subject refused, nor keeps an isolate from counting', async () => {
  const keyspace = newKeyspace()
  const uncounted = createUncounted<'reads'>()
  const limits = newLimits(keyspace, createKnownAllowances(100), 3, DAY_SECONDS, uncounted)
  for (let i = 0; i < 4; i += 1) await limits.take('reads', 'u_ada')
  const known = limits.known('reads', 'u_ada')
  expect(known?.isAllowed).toBe(false)
  const twoWindowsMs = 2 * DAY_SECONDS * 1_000
  expect(limits.known('reads', 'u_ada', (known?.resetsAt ?? 0) - twoWindowsMs)).toEqual(known)
  expect(limits.known('reads', 'u_ada', (known?.resetsAt ?? 0) - twoWindowsMs - 1)).toBeUndefined()

  uncounted.countingUntil = Date.now() + 3_600_000 // as set an hour ahead of the clock of now
  await spend(limits, 'u_bob')
  expect(limits.known('reads', 'u_bob')?.remaining).toBe(2)
})

/** A guard that allows or refuses, and a script that is seen to run. */
const guard = (isAllowed: boolean) => ({
  text: '#!lua\nreturn { tonumber(ARGV[1]), KEYS[1] }',
  keys: ['any'],
  reads: 0,
  args: [isAllowed ? '1' : '0'],
})
const COUNT = { text: "#!lua\nreturn redis.call('INCR', KEYS[1])", keys: ['ran'], reads: 0, args: [] }

test('a request and its script are one command, and share the windows of the other ways to count', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace)
  await limits.take('reads', 'u_ada')
  await keyspace.control.reset()
  const taken = []
  for (let i = 0; i < 3; i += 1) taken.push(await limits.takeAndRun('reads', 'u_ada', [guard(true)], COUNT))
  expect((await keyspace.control.counts()).byCommand).toEqual({ eval: 3 })
  expect(taken).toMatchObject([
    { allowance: { isAllowed: true, remaining: 1 }, reply: 1 },
    { allowance: { isAllowed: true, remaining: 0 }, reply: 2 },
    { allowance: { isAllowed: false, remaining: 0 } },
  ])
  expect(await keyspace.connect().get('ran')).toBe(2)
  expect(await limits.take('reads', 'u_ada')).toEqual(limits.known('reads', 'u_ada'))
  const [first, refused] = [taken[0], taken[2]]
  if (!first || !refused || 'heldBack' in first || 'heldBack' in refused) throw new Error('no guard refused')
  expect((await limits.take('reads', 'u_ada')).resetsAt).toBe(refused.allowance.resetsAt)
  expect((await limits.take('reads', 'u_bob')).resetsAt).toBe(first.allowance.resetsAt)
})

test('a guard that refuses holds back the script and the count', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace)
  const taken = await limits.takeAndRun('reads', 'u_ada', [guard(true), guard(false)], COUNT)
  expect(taken).toEqual({ heldBack: [0, 'any'], by: 1 })
  expect(await keyspace.connect().get('ran')).toBeNull()
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(3)
})

test('windows that a script counted expire', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, createKnownAllowances(10), 3, 60)
  await limits.takeAndRun('reads', 'u_ada', [], COUNT)
  const redis = keyspace.connect()
  const [key = ''] = await keysOf(redis, 'limit:reads:u_ada:*')
  const ttl = await redis.pttl(key)
  expect(ttl).toBeGreaterThan(60_000)
  expect(ttl).toBeLessThanOrEqual(121_000)
})
