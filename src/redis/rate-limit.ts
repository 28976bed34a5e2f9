import { Ratelimit } from '@upstash/ratelimit'
import type { Redis } from '@upstash/redis/cloudflare'
import { type BoundedMap, createBoundedMap } from './bounded-map.ts'

/** A quota: `limit` requests in any `windowSeconds`. */
export interface Quota {
  limit: number
  windowSeconds: number
}

/** What remains of a quota for one subject, as last counted. */
export interface Allowance {
  isAllowed: boolean
  limit: number
  remaining: number
  /** Unix ms. If `isAllowed` is false: the first time at which a request passes. Otherwise: the end of the window. */
  resetsAt: number
}

/** The allowances of recent subjects, by policy and subject. One per isolate. Bounded by count. */
export type KnownAllowances = BoundedMap<Allowance>

export const createKnownAllowances = (maxEntries: number): KnownAllowances => createBoundedMap(maxEntries, () => 1)

/** Requests that an isolate has answered and not counted yet. */
export interface Uncounted<Policy extends string> {
  /** By policy and subject. */
  waiting: Map<string, { policy: Policy; subject: string; requests: number }>
  /** Until then, an invocation of this isolate is counting (Unix ms). */
  countingUntil: number
}

export const createUncounted = <Policy extends string>(): Uncounted<Policy> => ({
  waiting: new Map(),
  countingUntil: 0,
})

/** How long one invocation counts for the others. Work after an answer may take half a minute. */
const COUNTING_MS = 5_000
/** After this time without a result, the invocation that was counting has ended. */
const GONE_MS = 2_000

export type RateLimit<Policy extends string> = ReturnType<typeof createRateLimit<Policy>>

/**
 * Sliding-window limits per policy and subject (a user or a network), by @upstash/ratelimit.
 *
 * Redis types: two integers per policy and subject (this window and the one before), which expire after two windows.
 * `take` and `peek` cost one round trip, and one more when the quota is spent: it reads both windows, to compute when a
 * request passes again. `takeLater` costs one at most, `known` none. The first use of a script on a server costs one more.
 *
 * Redis errors are thrown: each route decides what an outage means. Requests are never retried, because a lost reply would
 * count them twice.
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
      timeout: 0, // its timeout admits requests; the client throws
    })
  const nameOf = (policy: Policy, subject: string) => `${prefixOf(policy)}:${subject}`

  /** When a request of `subject` passes again (Unix ms). One round trip. */
  async function nextFreeAt(policy: Policy, subject: string, windowEndsAt: number): Promise<number> {
    const windowMs = quotas[policy].windowSeconds * 1_000
    const window = Math.round(windowEndsAt / windowMs) - 1
    // The library names its keys like this.
    const windows = [window, window - 1].map((number) => `${nameOf(policy, subject)}:${number}`)
    const [current, previous] = await redis.mget<(number | null)[]>(...windows)
    return freeAt(quotas[policy], window * windowMs, previous ?? 0, current ?? 0)
  }

  async function take(policy: Policy, subject: string, requests = 1): Promise<Allowance> {
    const { limit } = quotas[policy]
    const { success, remaining, reset } = await limiterOf(policy).limit(subject, { rate: requests })
    const resetsAt = success ? reset : await nextFreeAt(policy, subject, reset)
    const allowance = { isAllowed: success, limit, remaining, resetsAt }
    known.set(nameOf(policy, subject), allowance)
    return allowance
  }

  return {
    /** The allowance that this isolate has counted last, unless it is out of date. */
    known(policy: Policy, subject: string, now = Date.now()): Allowance | undefined {
      const allowance = known.get(nameOf(policy, subject))
      const waitMs = (allowance?.resetsAt ?? 0) - now
      // A quota is free after two windows at most: any longer means that the clock was set back.
      return waitMs > 0 && waitMs <= 2_000 * quotas[policy].windowSeconds ? allowance : undefined
    },

    /** Spends one request. Repeating it spends another one. */
    take: (policy: Policy, subject: string) => take(policy, subject),

    /** Undoes a `take` of a subject that did not make the request. One round trip. */
    async refund(policy: Policy, subject: string): Promise<void> {
      known.delete(nameOf(policy, subject))
      await limiterOf(policy).limit(subject, { rate: -1 })
    },

    /**
     * Spends `requests` that have been answered already. While one invocation of this isolate counts, the others leave
     * theirs to it, so all of them share a round trip, and those of one subject share a command. If Redis fails, the
     * requests are forgotten: these windows are ephemeral.
     */
    async takeLater(policy: Policy, subject: string, requests = 1): Promise<void> {
      const { waiting } = uncounted
      const name = nameOf(policy, subject)
      waiting.set(name, { policy, subject, requests: (waiting.get(name)?.requests ?? 0) + requests })
      const startedAt = Date.now()
      const countingMs = uncounted.countingUntil - startedAt
      if (countingMs > 0 && countingMs <= GONE_MS) return // longer: the clock was set back
      while (waiting.size > 0 && Date.now() < startedAt + COUNTING_MS) {
        uncounted.countingUntil = Date.now() + GONE_MS
        const batch = [...waiting.values()]
        waiting.clear()
        await Promise.allSettled(batch.map((due) => take(due.policy, due.subject, due.requests)))
      }
      uncounted.countingUntil = 0 // the next request counts the rest
    },

    /** What remains. Spends nothing. */
    async peek(policy: Policy, subject: string): Promise<Allowance> {
      const { remaining, reset } = await limiterOf(policy).getRemaining(subject)
      const isAllowed = remaining > 0
      const resetsAt = isAllowed ? reset : await nextFreeAt(policy, subject, reset)
      return { isAllowed, limit: quotas[policy].limit, remaining, resetsAt }
    },
  }
}

/**
 * The first ms at which a sliding window has room: where the requests of the window that begins at `startsAt`, plus those
 * of the window before, weighted by the share of it that still counts, are below the limit. The library rounds that
 * weighted number down.
 */
export function freeAt({ limit, windowSeconds }: Quota, startsAt: number, previous: number, current: number): number {
  const windowMs = windowSeconds * 1_000
  const room = limit - current
  if (room <= 0) return freeAt({ limit, windowSeconds }, startsAt + windowMs, current, 0)
  const elapsedMs = previous < room ? 0 : Math.floor((windowMs * (previous - room)) / previous) + 1
  return startsAt + Math.min(elapsedMs, windowMs)
}
