import fc from 'fast-check'
import { expect, test } from 'vitest'
import { retryAt } from '../../src/webhooks/retry.ts'

const schedules = fc.array(fc.integer({ min: 1, max: 36_000_000 }), { minLength: 1, maxLength: 20 })
const randoms = fc.double({ min: 0, max: 1, noNaN: true })

test('a retry waits as the schedule says, 20 % more or less, and no attempt follows its end', () => {
  fc.assert(
    fc.property(schedules, fc.nat(25), fc.nat(), randoms, (schedule, attemptsBefore, now, random) => {
      const at = retryAt(attemptsBefore, null, schedule, now, random)
      const wait = schedule[attemptsBefore]
      if (wait === undefined) {
        expect(at).toBeNull()
      } else {
        expect(at).toBeGreaterThanOrEqual(now + wait * 0.8 - 1e-3)
        expect(at).toBeLessThanOrEqual(now + wait * 1.2 + 1e-3)
      }
    }),
  )
})

test('a retry is never sooner than the endpoint asks for, and later only as the schedule says', () => {
  fc.assert(
    fc.property(schedules, fc.nat(86_400_000), randoms, (schedule, retryAfterMs, random) => {
      expect(retryAt(0, retryAfterMs, schedule, 0, random)).toBe(
        Math.max(retryAfterMs, retryAt(0, null, schedule, 0, random) ?? 0),
      )
    }),
  )
})

test('retries spread over the whole range', () => {
  const waits = Array.from({ length: 1_000 }, () => retryAt(0, null, [1_000], 0) ?? 0)
  expect(Math.min(...waits)).toBeLessThan(820)
  expect(Math.max(...waits)).toBeGreaterThan(1_180)
})
