import { Ratelimit } from '@upstash/ratelimit'
import type { Redis } from '@upstash/redis/cloudflare'
import { type BoundedMap, createBoundedMap } from './bounded-map.ts'
import { runGuarded, type Guard, type Script } from './script.ts'

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

/**
 * What became of a script with guards: what remains of the quota and, if it is allowed, the reply, and whether a guard could
 * not decide; or the guard that refused.
 */
export type Taken<T> = { allowance: Allowance; reply: T; isUndecided: boolean } | { heldBack: unknown[]; by: number }

/** The allowances of recent subjects, by policy and subject. One per isolate. Bounded by count. */
export type KnownAllowances = BoundedMap<Allowance>

export const createKnownAllowances = (maxEntries: number): KnownAllowances => createBoundedMap(maxEntries, () => 1)

/** The requests of one subject that an isolate has answered and not counted yet. */
interface Waiting<Policy extends string> {
  policy: Policy
  subject: string
  requests: number
  /** When the first of them was answered (Unix ms). */
  startedAt: number
}

/** Requests that an isolate has answered and not counted yet. One per isolate. */
export interface Uncounted<Policy extends string> {
  /** By policy and subject, the longest waiting first. */
  waiting: Map<string, Waiting<Policy>>
  /** The names of those that are to be counted now. */
  due: Set<string>
  /** Until then, an invocation of this isolate is counting (Unix ms). */
  countingUntil: number
}

export const createUncounted = <Policy extends string>(): Uncounted<Policy> => ({
  waiting: new Map(),
  due: new Set(),
  countingUntil: 0,
})

/** An isolate counts the requests of a subject when they are this share of what remained at its last count, or one. */
export const UNCOUNTED_SHARE = 1 / 32
/** It also counts requests that have waited for this long, at the next request of any subject. */
const UNCOUNTED_MS = 10_000
/** If more subjects than this are waiting, it forgets the one that has waited longest: each is far below its quota. */
const UNCOUNTED_SUBJECTS = 10_000
/** The most subjects in one round trip. */
const COUNTED_AT_ONCE = 100

/** How long one invocation counts for the others. Work after an answer may take half a minute. */
const COUNTING_MS = 5_000
/** After this time without a result, the invocation that was counting has ended. */
const GONE_MS = 2_000

/**
 * Spends one request, as the script of the library does, on the same windows. KEYS: window, the one before. ARGV: limit,
 * share of the window before that still counts, TTL (ms). Returns 1 or 0, and both counts. A window is of use until the
 * next one ends.
 */
const GUARD = `#!lua flags=allow-key-locking
-- usually calls 1
local current, previous = tonumber(HELD[1] or '0'), tonumber(HELD[2] or '0')
if math.floor(previous * ARGV[2]) + current >= tonumber(ARGV[1]) then return { 0, current, previous } end
current = redis.call('INCRBY', KEYS[1], 1)
if current == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return { 1, current, previous }`

/**
 * Sliding-window limits per policy and subject (a user or a network), by @upstash/ratelimit.
 *
 * Redis types: two integers per policy and subject (this window and the one before), which expire after two windows.
 * `take` and `peek` cost one round trip, and one more when the quota is spent: it reads both windows, to compute when a
 * request passes again. `note` and `known` cost none. The first use of a script on a server costs one more.
 *
 * `take` is exact. `note` and `count` add up the requests of a subject in this isolate and send one weighted count: when
 * they are `UNCOUNTED_SHARE` of what remained at the last count, or after ten seconds. So a subject far below its quota
 * costs almost nothing, and one near it is counted request by request. In exchange it can exceed the quota: by at most
 * `UNCOUNTED_SHARE` of it for each isolate that it reaches (one request if that is less), and by what arrives while a count
 * is under way. An isolate that ends, or a window that ends, forgets what was not counted.
 *
 * Redis errors are thrown: each route decides what an outage means. Requests are never retried, because a lost reply would
 * count them twice.
 */
export const createRateLimit = <Policy extends string>(
  connect: () => Redis,
  known: KnownAllowances,
  uncounted: Uncounted<Policy>,
  quotas: Record<Policy, Quota>,
  prefixOf: (policy: Policy) => string,
) => new RateLimit(connect, known, uncounted, quotas, prefixOf)

/** A class, because every invocation creates one: methods cost it nothing until they are used. */
export class RateLimit<Policy extends string> {
  readonly #connect: () => Redis
  readonly #known: KnownAllowances
  readonly #uncounted: Uncounted<Policy>
  readonly #quotas: Record<Policy, Quota>
  readonly #prefixOf: (policy: Policy) => string

  constructor(
    connect: () => Redis,
    known: KnownAllowances,
    uncounted: Uncounted<Policy>,
    quotas: Record<Policy, Quota>,
    prefixOf: (policy: Policy) => string,
  ) {
    this.#connect = connect
    this.#known = known
    this.#uncounted = uncounted
    this.#quotas = quotas
    this.#prefixOf = prefixOf
  }

  #limiterOf(policy: Policy): Ratelimit {
    return new Ratelimit({
      redis: this.#connect(),
      limiter: Ratelimit.slidingWindow(this.#quotas[policy].limit, `${this.#quotas[policy].windowSeconds} s`),
      prefix: this.#prefixOf(policy),
      ephemeralCache: false, // its map has no bound; `known` has
      timeout: 0, // its timeout admits requests; the client throws
    })
  }

  #nameOf(policy: Policy, subject: string): string {
    return `${this.#prefixOf(policy)}:${subject}`
  }

  #windowMs(policy: Policy): number {
    return this.#quotas[policy].windowSeconds * 1_000
  }

  #windowOf(policy: Policy, at: number): number {
    return Math.floor(at / this.#windowMs(policy))
  }

  /** Whether an invocation of this isolate is counting. An end that is further away is from before the clock was set back. */
  #isCounting(now: number): boolean {
    const remainingMs = this.#uncounted.countingUntil - now
    return remainingMs > 0 && remainingMs <= GONE_MS
  }

  /** How many requests of a subject are not counted yet. */
  #uncountedOf(name: string): number {
    return this.#uncounted.waiting.get(name)?.requests ?? 0
  }

  #forget(name: string): Waiting<Policy> | undefined {
    const entry = this.#uncounted.waiting.get(name)
    this.#uncounted.waiting.delete(name)
    this.#uncounted.due.delete(name)
    return entry
  }

  /** Takes what is to be counted now: what is due, and what has waited for long. */
  #takeDue(now: number): Waiting<Policy>[] {
    const { waiting, due } = this.#uncounted
    const taken: Waiting<Policy>[] = []
    const add = (name: string) => {
      const entry = this.#forget(name)
      if (entry && this.#windowOf(entry.policy, entry.startedAt) === this.#windowOf(entry.policy, now))
        taken.push(entry)
    }
    for (const name of due) {
      if (taken.length >= COUNTED_AT_ONCE) return taken
      add(name)
    }
    for (const [name, { startedAt }] of waiting) {
      if (taken.length >= COUNTED_AT_ONCE || now - startedAt < UNCOUNTED_MS) break
      add(name)
    }
    return taken
  }

  /** The keys of a window and of the one before, as the library names them. */
  #windowKeys(policy: Policy, subject: string, window: number): string[] {
    return [window, window - 1].map((number) => `${this.#nameOf(policy, subject)}:${number}`)
  }

  /** When a request of `subject` passes again (Unix ms). One round trip. */
  async #nextFreeAt(policy: Policy, subject: string, windowEndsAt: number): Promise<number> {
    const windowMs = this.#windowMs(policy)
    const window = Math.round(windowEndsAt / windowMs) - 1
    const windows = this.#windowKeys(policy, subject, window)
    const [current, previous] = await this.#connect().mget<(number | null)[]>(...windows)
    return freeAt(this.#quotas[policy], window * windowMs, previous ?? 0, current ?? 0)
  }

  async #take(policy: Policy, subject: string, requests: number): Promise<Allowance> {
    const { limit } = this.#quotas[policy]
    const { success, remaining, reset } = await this.#limiterOf(policy).limit(subject, { rate: requests })
    const resetsAt = success ? reset : await this.#nextFreeAt(policy, subject, reset)
    const allowance = { isAllowed: success, limit, remaining, resetsAt }
    this.#known.set(this.#nameOf(policy, subject), allowance)
    return allowance
  }

  /** What remains by the last count of this isolate, less what it has not counted since. Undefined: out of date. */
  known(policy: Policy, subject: string, now = Date.now()): Allowance | undefined {
    const name = this.#nameOf(policy, subject)
    const allowance = this.#known.get(name)
    const waitMs = (allowance?.resetsAt ?? 0) - now
    // A quota is free after two windows at most: any longer means that the clock was set back.
    if (!allowance || waitMs <= 0 || waitMs > 2 * this.#windowMs(policy)) return undefined
    const remaining = allowance.isAllowed ? Math.max(0, allowance.remaining - this.#uncountedOf(name)) : 0
    return remaining === allowance.remaining ? allowance : { ...allowance, remaining }
  }

  /** What may remain where nothing is `known`. The subject may have spent more on other isolates. */
  estimate(policy: Policy, subject: string, now = Date.now()): Allowance {
    const name = this.#nameOf(policy, subject)
    const { limit } = this.#quotas[policy]
    const remaining = Math.max(1, this.#known.get(name)?.remaining ?? limit) - this.#uncountedOf(name)
    const resetsAt = (this.#windowOf(policy, now) + 1) * this.#windowMs(policy)
    return { isAllowed: true, limit, remaining: Math.max(0, remaining), resetsAt }
  }

  /**
   * Spends `requests`. Repeating it spends them again. More than what remains is refused and spent all the same: a penalty
   * may exceed the quota. Where nothing remains, nothing more is spent.
   */
  take(policy: Policy, subject: string, requests = 1): Promise<Allowance> {
    return this.#take(policy, subject, requests)
  }

  /**
   * Spends one request and runs `script`, unless `guards` or the quota refuse it: one command, one round trip, also when
   * the quota is spent. `heldBack` is the reply of the guard that refused, number `by`: then nothing is spent and `script` did not
   * run. Repeating it spends another request.
   */
  async takeAndRun<T>(policy: Policy, subject: string, guards: Guard[], script: Script): Promise<Taken<T>> {
    const quota = this.#quotas[policy]
    const windowMs = this.#windowMs(policy)
    const now = Date.now()
    const window = this.#windowOf(policy, now)
    const share = 1 - (now % windowMs) / windowMs
    const limitGuard = {
      text: GUARD,
      keys: this.#windowKeys(policy, subject, window),
      reads: 2,
      args: [quota.limit, share, 2 * windowMs + 1_000].map(String), // the TTL of the library
    }
    const replies = await runGuarded(this.#connect(), [...guards, limitGuard], script)
    if (replies.length <= guards.length) {
      return { heldBack: replies.at(-1) as unknown[], by: replies.length - 1 } // a guard returns a list
    }
    const [spent = 0, current = 0, previous = 0] = replies[guards.length] as number[] // as GUARD returns it
    const isAllowed = spent === 1
    const allowance = {
      isAllowed,
      limit: quota.limit,
      remaining: isAllowed ? quota.limit - current - Math.floor(previous * share) : 0,
      resetsAt: isAllowed ? (window + 1) * windowMs : freeAt(quota, window * windowMs, previous, current),
    }
    this.#known.set(this.#nameOf(policy, subject), allowance)
    const isUndecided = replies.slice(0, guards.length).some((reply) => (reply as unknown[])[0] === 2)
    return { allowance, reply: replies[guards.length + 1] as T, isUndecided } // the script's own reply, or nothing
  }

  /**
   * Gives requests back: of a subject that did not make them, or as a reward. One round trip. Repeating it gives more; after a
   * lost reply it is not repeated, so the subject may have spent too many until the window ends.
   */
  async refund(policy: Policy, subject: string, requests = 1): Promise<void> {
    this.#known.delete(this.#nameOf(policy, subject))
    await this.#limiterOf(policy).limit(subject, { rate: -requests })
  }

  /** Forgets what a subject has spent of every policy. One command. Safe to repeat. */
  async forget(subject: string, now = Date.now()): Promise<void> {
    const policies = Object.keys(this.#quotas) as Policy[] // the keys of `Record<Policy, Quota>`
    for (const policy of policies) this.#forget(this.#nameOf(policy, subject))
    await this.#connect().del(
      ...policies.flatMap((policy) => this.#windowKeys(policy, subject, this.#windowOf(policy, now))),
    )
  }

  /** Notes `requests` that have been answered. True: something is to be counted, so call `count`. */
  note(policy: Policy, subject: string, requests = 1, now = Date.now()): boolean {
    const { waiting, due } = this.#uncounted
    const name = this.#nameOf(policy, subject)
    let entry = waiting.get(name)
    if (!entry || this.#windowOf(policy, entry.startedAt) !== this.#windowOf(policy, now)) {
      this.#forget(name) // a new entry is the last
      entry = { policy, subject, requests: 0, startedAt: now }
      waiting.set(name, entry)
    }
    entry.requests += requests
    const remaining = this.#known.get(name)?.remaining ?? this.#quotas[policy].limit
    if (entry.requests >= remaining * UNCOUNTED_SHARE) due.add(name)
    const [oldest] = waiting
    if (oldest && waiting.size > UNCOUNTED_SUBJECTS) this.#forget(oldest[0])
    if (this.#isCounting(now)) return false // that invocation counts them
    return due.size > 0 || (oldest !== undefined && now - oldest[1].startedAt >= UNCOUNTED_MS)
  }

  /**
   * Counts what is due. While one invocation of this isolate counts, the others leave theirs to it, so all of them share
   * a round trip, and those of one subject share a command. If Redis fails, the requests are forgotten: these windows are
   * ephemeral. After a lost reply they are not counted again. Repeating it counts what is due since.
   */
  async count(): Promise<void> {
    const startedAt = Date.now()
    if (this.#isCounting(startedAt)) return
    for (let now = startedAt; now < startedAt + COUNTING_MS; now = Date.now()) {
      const taken = this.#takeDue(now)
      if (taken.length === 0) break
      this.#uncounted.countingUntil = now + GONE_MS
      await Promise.allSettled(taken.map(({ policy, subject, requests }) => this.#take(policy, subject, requests)))
    }
    this.#uncounted.countingUntil = 0 // the next request counts the rest
  }

  /** What remains. Spends nothing. */
  async peek(policy: Policy, subject: string): Promise<Allowance> {
    const counted = await this.#limiterOf(policy).getRemaining(subject)
    const { reset } = counted
    const remaining = Math.max(0, counted.remaining - this.#uncountedOf(this.#nameOf(policy, subject)))
    const isAllowed = counted.remaining > 0
    const resetsAt = isAllowed ? reset : await this.#nextFreeAt(policy, subject, reset)
    return { isAllowed, limit: this.#quotas[policy].limit, remaining, resetsAt }
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
