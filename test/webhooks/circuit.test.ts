import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Health, HEALTHY, isSuspect, next, reasonToDisable, SLOW_MS, stateOf } from '../../src/webhooks/circuit.ts'
import type { Attempt } from '../../src/webhooks/sender.ts'

const policy = { timeoutMs: 15_000, circuitFailures: 5, circuitMs: 30_000, failingMs: 5 * 86_400_000 }
const attemptWith = (given: Partial<Attempt>): Attempt => ({
  at: 0,
  durationMs: 5,
  status: 200,
  error: null,
  answer: null,
  answerHeaders: null,
  retryAfterMs: null,
  ...given,
})

const attempts = fc.record({
  at: fc.constant(0),
  durationMs: fc.nat(16_000),
  status: fc.option(fc.constantFrom(200, 204, 302, 404, 410, 429, 500, 503)),
  error: fc.constant(null),
  answer: fc.constant(null),
  answerHeaders: fc.constant(null),
  retryAfterMs: fc.option(fc.nat(86_400_000)),
})
const successes = attempts.map((attempt) => ({ ...attempt, status: 200 }))
const failures = attempts.map((attempt) => ({ ...attempt, status: attempt.status === null ? null : 500 }))

/** The health after a history of attempts, one second apart. */
const after = (history: Attempt[], from: Health = HEALTHY) =>
  history.reduce((health, attempt, i) => next(health, attempt, policy, i * 1_000), from)

test('a success closes the circuit, whatever happened before', () => {
  fc.assert(
    fc.property(fc.array(attempts), successes, (history, success) => {
      const health = after([...history, success])
      expect(health).toEqual({ ...HEALTHY, slowSince: health.slowSince })
      expect(stateOf(health, 0)).toBe('closed')
    }),
  )
})

test('failures are counted since the last success, and failing since the first of them', () => {
  fc.assert(
    fc.property(fc.array(attempts), successes, fc.array(failures, { minLength: 1 }), (history, success, failed) => {
      const health = after([...history, success, ...failed])
      expect(health.failures).toBeGreaterThanOrEqual(failed.length)
      expect(health.failingSince).toBe((history.length + 1) * 1_000)
      expect(isSuspect(health)).toBe(true)
    }),
  )
})

test('the circuit opens at the given number of failures, not before, and stays open twice as long each time up to a bound', () => {
  const opened = Array.from({ length: 12 }, (_, i) =>
    after(Array.from({ length: i + 1 }, () => attemptWith({ status: 500 }))),
  ).map(({ openUntil }, i) => (openUntil === null ? null : (openUntil - i * 1_000) / policy.circuitMs))
  expect(opened).toEqual([null, null, null, null, 1, 2, 4, 8, 16, 32, 32, 32])
})

test('an open circuit ends at most 32 times its first duration later, or when the endpoint asked for, whichever is later', () => {
  fc.assert(
    fc.property(fc.array(attempts), failures, fc.nat(), (history, failure, now) => {
      const { openUntil } = next(after(history), failure, policy, now)
      if (openUntil === null) return
      expect(openUntil).toBeGreaterThanOrEqual(now)
      expect(openUntil - now).toBeLessThanOrEqual(Math.max(32 * policy.circuitMs, failure.retryAfterMs ?? 0))
    }),
  )
})

test('a timeout opens the circuit at once; another failure without an answer does not', () => {
  expect(after([attemptWith({ status: null, durationMs: policy.timeoutMs })]).openUntil).toBe(policy.circuitMs)
  expect(after([attemptWith({ status: null, durationMs: 10 })]).openUntil).toBeNull()
})

test.each([429, 503])('%i with Retry-After opens the circuit until then; 500 does not', (status) => {
  const retryAfterMs = 600_000
  expect(after([attemptWith({ status, retryAfterMs })]).openUntil).toBe(retryAfterMs)
  expect(after([attemptWith({ status: 500, retryAfterMs })]).openUntil).toBeNull()
  expect(after([attemptWith({ status })]).openUntil).toBeNull()
})

test('a failed test opens a half-open circuit again, however few failures there were', () => {
  fc.assert(
    fc.property(fc.nat(3), failures, (failed, failure) => {
      const halfOpen = { failures: failed, failingSince: 0, openUntil: 1_000, slowSince: null }
      expect(stateOf(halfOpen, 999)).toBe('open')
      expect(stateOf(halfOpen, 1_000)).toBe('half-open')
      expect(stateOf(next(halfOpen, failure, policy, 1_000), 1_000)).toBe('open')
    }),
  )
})

test('slow successes make a suspect of an endpoint since the first of them; a fast one ends that', () => {
  const slow = attemptWith({ durationMs: SLOW_MS })
  const fast = attemptWith({ durationMs: SLOW_MS - 1 })
  expect(after([fast, slow, slow])).toEqual({ ...HEALTHY, slowSince: 1_000 })
  expect(isSuspect(after([slow]))).toBe(true)
  expect(isSuspect(after([slow, fast]))).toBe(false)
})

test('410 disables at once, failing only after days without a success', () => {
  const failure = attemptWith({ status: 500 })
  const reason = (attempt: Attempt, failingSince: number, now: number) =>
    reasonToDisable({ ...HEALTHY, failures: 1, failingSince }, attempt, policy, now)
  expect(reason(attemptWith({ status: 410 }), 0, 0)).toBe('gone')
  expect(reason(failure, 0, policy.failingMs - 1)).toBeUndefined()
  expect(reason(failure, 0, policy.failingMs)).toBe('failing')
  expect(reasonToDisable(HEALTHY, attemptWith({}), policy, Number.MAX_SAFE_INTEGER)).toBeUndefined()
})
