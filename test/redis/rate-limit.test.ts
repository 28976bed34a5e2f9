import { expect, test } from 'vitest'
import { createKnownAllowances, createRateLimit, createUncounted } from '../../src/redis/rate-limit.ts'
import { newKeyspace } from './setup.ts'

/** Long, so that hardly a test runs across the end of a window. */
const DAY_SECONDS = 86_400

const newLimits = (
  keyspace = newKeyspace(),
  known = createKnownAllowances(100),
  limit = 3,
  windowSeconds = DAY_SECONDS,
  uncounted = createUncounted<'reads'>(),
) =>
  createRateLimit(
    keyspace.connect({ isSafeTwice: false }),
    known,
    uncounted,
    { reads: { limit, windowSeconds } },
    (policy) => `limit:${policy}`,
  )

test('a subject may spend its quota and no more, each subject its own', async () => {
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

test('a rejected subject is known to its isolate, until a place is free again', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace)
  for (let i = 0; i < 4; i += 1) await limits.take('reads', 'u_ada')
  await keyspace.control.reset()

  const known = limits.known('reads', 'u_ada')
  expect(known?.isAllowed).toBe(false)
  expect(limits.known('reads', 'u_ada', known?.resetsAt)).toBeUndefined()
  // 3 a day: the place of the first request of this window is free a third of a window into the next one.
  expect((known?.resetsAt ?? 0) % (DAY_SECONDS * 1_000)).toBe((DAY_SECONDS * 1_000) / 3)
  expect((await keyspace.control.counts()).requests).toBe(0)
})

test('looking spends nothing', async () => {
  const limits = newLimits()
  await limits.take('reads', 'u_ada')
  for (let i = 0; i < 5; i += 1) expect((await limits.peek('reads', 'u_ada')).remaining).toBe(2)
  expect((await limits.peek('reads', 'u_new')).remaining).toBe(3)
})

test('what an isolate knows is bounded', async () => {
  const known = createKnownAllowances(5)
  const limits = newLimits(newKeyspace(), known)
  for (let i = 0; i < 20; i += 1) await limits.take('reads', `ip:192.0.2.${i}`)
  expect(known.size()).toBe(5)
})

test('what an isolate answers while it counts is counted together, each request once', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, createKnownAllowances(100), 100)
  await limits.take('reads', 'u_other') // the script is known now
  await keyspace.control.reset()
  await keyspace.control.latency(20)

  const subjects = Array.from({ length: 30 }, (_, i) => `u_${i % 3}`)
  await Promise.all(subjects.map((subject) => limits.takeLater('reads', subject)))

  // The first goes at once; the others wait for it, and share a round trip, and a command for each subject.
  expect(await keyspace.control.counts()).toMatchObject({ requests: 2, commands: 4 })
  for (const subject of ['u_0', 'u_1', 'u_2']) expect((await limits.peek('reads', subject)).remaining).toBe(90)
})

test('of requests counted together those over the quota are known to be', async () => {
  const limits = newLimits()
  await Promise.all(Array.from({ length: 9 }, () => limits.takeLater('reads', 'u_ada')))
  expect(limits.known('reads', 'u_ada')?.isAllowed).toBe(false)
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(0)
})

test('while another invocation counts, a request is left to it; when that is gone, the next counts both', async () => {
  const uncounted = createUncounted<'reads'>()
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace, undefined, 10, DAY_SECONDS, uncounted)
  uncounted.countingUntil = Date.now() + 60_000
  await limits.takeLater('reads', 'u_ada')
  expect((await keyspace.control.counts()).requests).toBe(0)

  uncounted.countingUntil = Date.now()
  await limits.takeLater('reads', 'u_ada')
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(8)
})

test('what cannot be counted is forgotten, and the next is counted again', async () => {
  const keyspace = newKeyspace()
  const limits = newLimits(keyspace)
  await keyspace.control.fault({ kind: 'refuse', times: 1 })
  await limits.takeLater('reads', 'u_ada')
  await limits.takeLater('reads', 'u_ada')
  expect((await limits.peek('reads', 'u_ada')).remaining).toBe(2)
})

test('a failure of Redis is thrown: the route says what it means', async () => {
  const keyspace = newKeyspace()
  await keyspace.control.fault({ kind: 'refuse' })
  await expect(newLimits(keyspace).take('reads', 'u_ada')).rejects.toThrow('did not answer')
})
