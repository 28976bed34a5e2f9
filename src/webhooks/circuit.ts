import { type Attempt, isSuccess } from './sender.ts'

/** How well an endpoint answers. */
export interface Health {
  /** Failed attempts in a row. */
  failures: number
  /** When the first of those failed (Unix ms). Null: the last attempt succeeded. */
  failingSince: number | null
  /** The circuit is open until then (Unix ms); after that, one delivery tests the endpoint. Null: closed. */
  openUntil: number | null
  /** Since when its successful answers take `SLOW_MS` or longer (Unix ms). Null: the last one was fast. */
  slowSince: number | null
}

export interface CircuitPolicy {
  /** The deadline of one attempt. */
  timeoutMs: number
  /** Failures in a row that open the circuit. */
  circuitFailures: number
  /** How long the circuit stays open the first time. */
  circuitMs: number
  /** An endpoint that has failed for this long is disabled. */
  failingMs: number
}

/** From this duration on, an answer is slow. */
export const SLOW_MS = 1_000
/** Each failed test doubles the time the circuit stays open, up to this many times `circuitMs`. */
const MAX_CIRCUIT_FACTOR = 32

export const HEALTHY: Health = { failures: 0, failingSince: null, openUntil: null, slowSince: null }

/** Closed: send. Open: send nothing. Half-open: one delivery tests the endpoint. */
export const stateOf = ({ openUntil }: Pick<Health, 'openUntil'>, now: number): 'closed' | 'open' | 'half-open' =>
  openUntil === null ? 'closed' : openUntil > now ? 'open' : 'half-open'

/** Whether an endpoint may block a connection for long, so that it must share lanes with its like. */
export const isSuspect = ({ failures, slowSince }: Pick<Health, 'failures' | 'slowSince'>): boolean =>
  failures > 0 || slowSince !== null

/** The health of an endpoint after an attempt. */
export function next(health: Health, attempt: Attempt, policy: CircuitPolicy, now: number): Health {
  if (isSuccess(attempt)) {
    return { ...HEALTHY, slowSince: attempt.durationMs >= SLOW_MS ? (health.slowSince ?? now) : null }
  }
  // A timeout has blocked a connection for long enough: it opens the circuit at once.
  const isTimeout = attempt.status === null && attempt.durationMs >= policy.timeoutMs
  const failures = Math.max(health.failures + 1, isTimeout ? policy.circuitFailures : 0)
  const isOpening = failures >= policy.circuitFailures || health.openUntil !== null // a failed test opens it again
  const factor = Math.min(2 ** Math.max(0, failures - policy.circuitFailures), MAX_CIRCUIT_FACTOR)
  const ends = [...(isOpening ? [now + policy.circuitMs * factor] : []), ...requestedPause(attempt, now)]
  return {
    failures,
    failingSince: health.failingSince ?? now,
    openUntil: ends.length > 0 ? Math.max(...ends) : null,
    slowSince: health.slowSince,
  }
}

/** 429 and 503 with `Retry-After` ask for a pause of all deliveries. */
const requestedPause = ({ status, retryAfterMs }: Attempt, now: number): number[] =>
  (status === 429 || status === 503) && retryAfterMs !== null ? [now + retryAfterMs] : []

/** Why to disable an endpoint after `attempt`, which led to `health`. Undefined: not at all. */
export function reasonToDisable(
  health: Health,
  attempt: Attempt,
  policy: CircuitPolicy,
  now: number,
): 'gone' | 'failing' | undefined {
  if (attempt.status === 410) return 'gone'
  return health.failingSince !== null && now - health.failingSince >= policy.failingMs ? 'failing' : undefined
}
