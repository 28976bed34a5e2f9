import { Ratelimit } from '@upstash/ratelimit'
import type { Redis } from '@upstash/redis/cloudflare'
import { type BoundedMap, createBoundedMap } from './bounded-map.ts'

/** A quota: `limit` requests in any `windowSeconds`. */
export interface Quota {
  limit: number
  windowSeconds: number
}

/** What is left of a quota for one subject, as last counted. */
export interface Allowance {
  isAllowed: boolean
  limit: number
  remaining: number
  /** Unix ms. When `isAllowed` is false, no request passes before it. */
  resetsAt: number
}

/** What an isolate knows of recent subjects: who is blocked needs no round trip. Bounded by count, oldest out. */
export type KnownAllowances = BoundedMap<Allowance>

export const createKnownAllowances = (maxEntries: number): KnownAllowances => createBoundedMap(maxEntries, () => 1)

/** What an isolate has answered and not counted yet, and until when one of its invocations is counting. */
export interface Uncounted<Policy extends string> {
  /** By policy and subject. */
  waiting: Map<string, { policy: Policy; subject: string; requests: number }>
  countingUntil: number
}

export const createUncounted = <Policy extends string>(): Uncounted<Policy> => ({
  waiting: new Map(),
  countingUntil: 0,
})

/** For so long one invocation counts for the others: what it does after its answer may last half a minute. */
const COUNTING_MS = 5_000
/** After so long without an outcome, whoever was counting is gone. */
const GONE_MS = 2_000

export type RateLimit<Policy extends string> = ReturnType<typeof createRateLimit<Policy>>

/**
 * Sliding-window limits per policy and subject (a user or an address), by @upstash/ratelimit.
 *
 * Redis types: two integers per policy and subject (this window and the last), expiring after two windows.
 * `take` and `peek` are one round trip each (one more for the first use of a script on a server), `takeLater` at most;
 * `known` none. Redis errors are thrown: whether an outage opens or closes a route is the route's to say. A request is not
 * retried: a lost reply would count it twice.
 */
export function createRateLimit<Policy extends string>(
  redis: Redis,
  known: KnownAllowances,
  uncounted: Uncounted<Policy>,
  quotas: Record<Policy, Quota>,
  prefixOf: (policy: Policy) => string,
) {
  const limiterOf = (policy: Policy) =>
    new Ratelimit({
      redis,
      limiter: Ratelimit.slidingWindow(quotas[policy].limit, `${quotas[policy].windowSeconds} s`),
      prefix: prefixOf(policy),
      ephemeralCache: false, // its map has no bound; `known` has
      timeout: 0, // its timeout lets requests pass; the client's throws
    })
  const nameOf = (policy: Policy, subject: string) => `${prefixOf(policy)}:${subject}`

  async function take(policy: Policy, subject: string, requests = 1): Promise<Allowance> {
    const { limit, windowSeconds } = quotas[policy]
    const { success, remaining, reset } = await limiterOf(policy).limit(subject, { rate: requests })
    // When the whole quota went in this window, the next one frees its first place a share of a window later.
    const resetsAt = success ? reset : reset + Math.ceil((windowSeconds * 1_000) / limit)
    const allowance = { isAllowed: success, limit, remaining, resetsAt }
    known.set(nameOf(policy, subject), allowance)
    return allowance
  }

  return {
    /** What this isolate knows without asking: set for whoever it has counted before, and for the blocked. */
    known(policy: Policy, subject: string, now = Date.now()): Allowance | undefined {
      const allowance = known.get(nameOf(policy, subject))
      return allowance && now < allowance.resetsAt ? allowance : undefined
    },

    /** Spends one request. */
    take: (policy: Policy, subject: string) => take(policy, subject),

    /**
     * Spends one request that has been answered already. While an invocation of this isolate counts, the others leave
     * theirs to it: the busier, the more requests share a round trip, and those of one subject a command. What cannot be
     * counted is forgotten: these windows are declared ephemeral.
     */
    async takeLater(policy: Policy, subject: string): Promise<void> {
      const { waiting } = uncounted
      const name = nameOf(policy, subject)
      waiting.set(name, { policy, subject, requests: (waiting.get(name)?.requests ?? 0) + 1 })
      const startedAt = Date.now()
      if (startedAt < uncounted.countingUntil) return
      while (waiting.size > 0 && Date.now() < startedAt + COUNTING_MS) {
        uncounted.countingUntil = Date.now() + GONE_MS
        const batch = [...waiting.values()]
        waiting.clear()
        await Promise.allSettled(batch.map((due) => take(due.policy, due.subject, due.requests)))
      }
      uncounted.countingUntil = 0 // what is left, the next request counts with its own
    },

    /** What is left, spending none. */
    async peek(policy: Policy, subject: string): Promise<Allowance> {
      const { remaining, reset } = await limiterOf(policy).getRemaining(subject)
      return { isAllowed: remaining > 0, limit: quotas[policy].limit, remaining, resetsAt: reset }
    },
  }
}
