import type { Redis } from '@upstash/redis/cloudflare'

/** A lock that is held. */
export interface Held {
  name: string
  /** Who holds it: only this owner extends or releases it. */
  owner: string
  /** Fencing token: higher than that of any holder before. Storage that remembers it refuses an older holder. */
  fence: number
  /** Unix ms by our clock, reckoned from before the request: never later than Redis lets it go. */
  expiresAt: number
}

/** Another holds the lock. */
export interface Refused {
  /** When the present hold ends (ms from now), if it is not extended. */
  retryAfterMs: number
}

/** The lock was lost while its work went on: it expired, or was taken away. */
export class LockLost extends Error {
  override readonly name = 'LockLost'
}

export interface LockKeys {
  lock: (name: string) => string
  fence: (name: string) => string
}

export interface Acquire {
  ttlMs: number
  /** How long to try again before giving up; 0, the default, asks once. */
  waitMs?: number
  /** Give the same again to repeat an attempt whose outcome was lost. Random, if absent. */
  owner?: string
}

/** The last fence is kept this long; by then the clock is far past it. */
const FENCE_MS = 30 * 86_400_000
/** Waiting: the first pause is at most `BASE_MS`, a later one at most `CAP_MS`. */
const BASE_MS = 25
const CAP_MS = 1_000

/**
 * KEYS: lock, fence. ARGV: owner, TTL (ms), TTL of the fence (ms). Answers `{1, fence}`, or `{0, PTTL}` of the holder.
 * A fence is the server's time in µs, or the last one + 1 if that is higher: it rises even when the last is forgotten.
 */
const ACQUIRE = `#!lua flags=allow-key-locking
-- usually calls 5
local held = redis.call('GET', KEYS[1])
if held then
  local fence, owner = string.match(held, '^(%d+):(.*)$')
  if owner ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, tonumber(fence)}
end
local time = redis.call('TIME')
local fence = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if fence <= last then fence = last + 1 end
local text = string.format('%.0f', fence)
redis.call('SET', KEYS[2], text, 'PX', ARGV[3])
redis.call('SET', KEYS[1], text .. ':' .. ARGV[1], 'PX', ARGV[2])
return {1, fence}`

/** KEYS: lock. ARGV: owner, TTL (ms). Answers the fence, or nil for who does not hold it. */
const EXTEND = `#!lua flags=allow-key-locking
local fence, owner = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):(.*)$')
if owner ~= ARGV[1] then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(fence)`

/** KEYS: lock. ARGV: owner. Answers 0 when another holds it, else 1. */
const RELEASE = `#!lua flags=allow-key-locking
local owner = string.match(redis.call('GET', KEYS[1]) or '', '^%d+:(.*)$')
if not owner then return 1 end
if owner ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`

export interface LockDependencies {
  /** Every command sent here may run twice. */
  redis: Redis
  keys: LockKeys
  now?: () => number
  random?: () => number
  /** Waits, no longer than until `signal` aborts. */
  pause?: (ms: number, signal?: AbortSignal) => Promise<void>
}

export type Locks = ReturnType<typeof createLocks>

/**
 * Locks with an end, an owner and a fencing token.
 *
 * Redis types: per lock a string `<fence>:<owner>` that expires with it, and a string holding the last fence. Each
 * step is one script and one round trip; waiting takes one per attempt.
 *
 * A lock alone makes nobody wait for work that outlives it: at any moment a former holder may still believe it holds
 * it. So what it guards must refuse a lower fence (`locks/fences` does for D1). A fence rises even over a flush, as
 * long as the server's clock is not set back over it meanwhile.
 *
 * Whoever waits pauses a random time up to a bound that doubles ("full jitter"), until the deadline; there is no queue.
 * An attempt whose reply was lost is repeated as the same owner, and gets the same fence. While waiting, a Redis that
 * does not answer counts as a refusal; at the deadline its error is thrown, and a hold we may have without knowing is
 * given back, or expires.
 *
 * Sources: Redis, SET ("Patterns"); M. Kleppmann, How to do distributed locking (2016), on fencing; M. Brooker,
 * Exponential Backoff and Jitter (AWS Architecture Blog, 2015).
 */
export function createLocks(dependencies: LockDependencies) {
  const { redis, keys, now = Date.now, random = Math.random, pause = pauseFor } = dependencies

  async function attempt(name: string, owner: string, ttlMs: number): Promise<Held | Refused> {
    const askedAt = now()
    const [isOurs, value] = await redis.eval<string[], [number, number]>(
      ACQUIRE,
      [keys.lock(name), keys.fence(name)],
      [owner, String(ttlMs), String(FENCE_MS)],
    )
    return isOurs === 1
      ? { name, owner, fence: value, expiresAt: askedAt + ttlMs }
      : { retryAfterMs: Math.max(0, value) }
  }

  /** Acquires `name`, waiting if asked to; answers `Refused` when another still holds it at the deadline. */
  async function acquire(name: string, { ttlMs, waitMs = 0, owner }: Acquire): Promise<Held | Refused> {
    const self = owner ?? crypto.randomUUID()
    const deadline = now() + waitMs
    for (let boundMs = BASE_MS; ; boundMs = Math.min(boundMs * 2, CAP_MS)) {
      let refused: Refused | undefined
      let failure: unknown
      try {
        const outcome = await attempt(name, self, ttlMs)
        if (isHeld(outcome)) return outcome
        refused = outcome
      } catch (error) {
        failure = error
      }
      const leftMs = deadline - now()
      if (leftMs <= 0) {
        if (refused) return refused
        if (owner === undefined) await release(name, self).catch(() => {}) // nobody else can: only we know this owner
        throw failure
      }
      await pause(Math.min(random() * boundMs, leftMs))
    }
  }

  /** Makes a hold last `ttlMs` from now; undefined for who does not hold the lock (any more). */
  async function extend(name: string, owner: string, ttlMs: number): Promise<Held | undefined> {
    const askedAt = now()
    const fence = await redis.eval<string[], number | null>(EXTEND, [keys.lock(name)], [owner, String(ttlMs)])
    return fence === null ? undefined : { name, owner, fence, expiresAt: askedAt + ttlMs }
  }

  /** Ends a hold. False when another holds the lock; a lock that nobody holds counts as released. */
  async function release(name: string, owner: string): Promise<boolean> {
    return (await redis.eval<string[], number>(RELEASE, [keys.lock(name)], [owner])) === 1
  }

  return {
    acquire,
    extend,
    release,

    /**
     * Runs `work` while holding `name`, which is extended every third of `ttlMs`. `signal` aborts when the lock is
     * lost: taken away, or not extended in time because Redis did not answer. Answers what `work` does.
     *
     * Answers undefined, without running it, when another holds the lock. Throws `LockLost` if the lock was lost while
     * it worked, even when it took no notice; what it wrote under its fence stands or was refused.
     */
    async withLock<T>(
      name: string,
      { ttlMs, waitMs = 0 }: Omit<Acquire, 'owner'>,
      work: (signal: AbortSignal, fence: number) => Promise<T>,
    ): Promise<T | undefined> {
      const held = await acquire(name, { ttlMs, waitMs })
      if (!isHeld(held)) return undefined
      const lost = new AbortController()
      const done = new AbortController()
      const lose = () => lost.abort(new LockLost(`The lock ${name} was lost`))
      let expiry = setTimeout(lose, held.expiresAt - now())

      const keep = async () => {
        while (!done.signal.aborted && !lost.signal.aborted) {
          await pause(ttlMs / 3, done.signal)
          if (done.signal.aborted) return
          const extended = await extend(name, held.owner, ttlMs).catch(() => 'unanswered' as const)
          if (extended === 'unanswered') continue // there is still time, until `expiry`
          if (!extended) return lose()
          clearTimeout(expiry)
          expiry = setTimeout(lose, extended.expiresAt - now())
        }
      }

      const kept = keep()
      try {
        const result = await work(lost.signal, held.fence)
        lost.signal.throwIfAborted()
        return result
      } finally {
        done.abort()
        clearTimeout(expiry)
        await kept
        clearTimeout(expiry) // that of an extension that was under way
        await release(name, held.owner).catch(() => {}) // it expires
      }
    },
  }
}

export const isHeld = (outcome: Held | Refused): outcome is Held => 'fence' in outcome

function pauseFor(ms: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, ms)
  signal?.addEventListener(
    'abort',
    () => {
      clearTimeout(timer)
      resolve()
    },
    { once: true },
  )
  return promise
}
