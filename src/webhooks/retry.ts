/** A wait differs from the schedule by at most this share. */
const JITTER = 0.2

/**
 * When to attempt a delivery again (Unix ms), after `attemptsBefore` attempts and one more that failed. Null: never, the
 * schedule has ended. `retryAfterMs` of the answer is a minimum. `random` is from 0 to 1.
 */
export function retryAt(
  attemptsBefore: number,
  retryAfterMs: number | null,
  scheduleMs: readonly number[],
  now: number,
  random = Math.random(),
): number | null {
  const waitMs = scheduleMs[attemptsBefore]
  if (waitMs === undefined) return null
  return now + Math.max(waitMs * (1 - JITTER + 2 * JITTER * random), retryAfterMs ?? 0)
}
