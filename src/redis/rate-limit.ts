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

export type RateLimit<Policy extends string> = ReturnType<typeof createRateLimit<Policy>>

/**
 * Sliding-window limits per policy and subject (a user or an address), by @upstash/ratelimit.
 *
 * Redis types: two integers per policy and subject (this window and the last), expiring after two windows.
 * `take` and `peek` are one round trip each (one more for the first use of a script on a server); `known` none.
 * Redis errors are thrown: whether an outage opens or closes a route is the route's to say. A request is not
 * retried: a lost reply would count it twice.
 */
export function createRateLimit<Policy extends string>(
  redis: Redis,
  known: KnownAllowances,
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

  return {
    /** What this isolate knows without asking: set for whoever it has counted before, and for the blocked. */
    known(policy: Policy, subject: string, now = Date.now()): Allowance | undefined {
      const allowance = known.get(nameOf(policy, subject))
      return allowance && now < allowance.resetsAt ? allowance : undefined
    },

    /** Spends one request. */
    async take(policy: Policy, subject: string): Promise<Allowance> {
      const { limit, windowSeconds } = quotas[policy]
      const { success, remaining, reset } = await limiterOf(policy).limit(subject)
      // When the whole quota went in this window, the next one frees its first place a share of a window later.
      const resetsAt = success ? reset : reset + Math.ceil((windowSeconds * 1_000) / limit)
      const allowance = { isAllowed: success, limit, remaining, resetsAt }
      known.set(nameOf(policy, subject), allowance)
      return allowance
    },

    /** What is left, spending none. */
    async peek(policy: Policy, subject: string): Promise<Allowance> {
      const { remaining, reset } = await limiterOf(policy).getRemaining(subject)
      return { isAllowed: remaining > 0, limit: quotas[policy].limit, remaining, resetsAt: reset }
    },
  }
}
