import type { Redis } from '@upstash/redis/cloudflare'

/** A lock, as its owner holds it. */
export interface HeldLock {
  name: string
  /** Only this owner can extend or release the lock. */
  owner: string
  /** The fencing token: higher than that of every earlier holder. Storage that stores it can refuse older holders. */
  fence: number
  /** Unix ms by our clock, counted from before the request: never later than the expiry in Redis. */
  expiresAt: number
}

/** Another owner holds the lock. */
export interface Refused {
  /** The lock expires after this time (ms), unless its owner extends it. */
  retryAfterMs: number
}

/** The owner lost the lock during its work: it expired, or its key was deleted. */
export class LockLost extends Error {
  override readonly name = 'LockLost'
}

export interface LockKeys {
  lock: (name: string) => string
  fence: (name: string) => string
}

export interface Acquire {
  ttlMs: number
  /** How long to retry. 0, the default: one attempt. */
  waitMs?: number
  /** Pass the same owner to repeat an attempt with a lost reply. Random if absent. */
  owner?: string
}

/** Redis keeps the last fence this long. After that, the clock is far ahead of it. */
const FENCE_MS = 30 * 86_400_000
/** The first pause between attempts is at most `BASE_MS`, a later one at most `CAP_MS`. */
const BASE_MS = 25
const CAP_MS = 1_000

/**
 * KEYS: lock, fence. ARGV: owner, TTL (ms), TTL of the fence (ms). Returns `{1, fence}`, or `{0, PTTL}` of the holder.
 * A fence is the server's time in µs, or the last fence + 1 if that is higher. So it rises even if the last one is lost.
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

/** KEYS: lock. ARGV: owner, TTL (ms). Returns the fence, or nil if the owner does not hold the lock. */
const EXTEND = `#!lua flags=allow-key-locking
local fence, owner = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):(.*)$')
if owner ~= ARGV[1] then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(fence)`

/** KEYS: lock. ARGV: owner. Returns 0 if another owner holds the lock, else 1. */
const RELEASE = `#!lua flags=allow-key-locking
local owner = string.match(redis.call('GET', KEYS[1]) or '', '^%d+:(.*)$')
if not owner then return 1 end
if owner ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`

export interface LockDependencies {
  /** Commands on this connection may run twice. */
  redis: Redis
  keys: LockKeys
  now?: () => number
  random?: () => number
  /** Waits until the time is over or `signal` aborts. */
  pause?: (ms: number, signal?: AbortSignal) => Promise<void>
}

export type Locks = ReturnType<typeof createLocks>

/**
 * Locks with an expiry, an owner and a fencing token.
 *
 * Redis types: per lock a string `<fence>:<owner>` that expires with the lock, and a string with the last fence. Each
 * operation is one script and one round trip; waiting costs one per attempt. Redis errors are thrown.
 *
 * A lock alone cannot stop a former holder that still works. So the guarded storage must refuse lower fences
 * (`locks/fences` does so for D1). Fences rise even across a flush, unless the server's clock is set back.
 *
 * A waiting caller pauses a random time below a bound that doubles ("full jitter"), until the deadline. There is no
 * queue. Every operation is safe to repeat: an attempt with a lost reply is repeated as the same owner and gets the same
 * fence. While waiting, an error of Redis counts as a refusal. At the deadline it is thrown, and a lock that this caller
 * may hold unknowingly is released, or expires.
 *
 * Sources: Redis, SET ("Patterns"); M. Kleppmann, How to do distributed locking (2016), on fencing; M. Brooker,
 * Exponential Backoff and Jitter (AWS Architecture Blog, 2015).
 */
export function createLocks(dependencies: LockDependencies) {
  const { redis, keys, now = Date.now, random = Math.random, pause = pauseFor } = dependencies

  async function attempt(name: string, owner: string, ttlMs: number): Promise<HeldLock | Refused> {
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

  /**
   * Acquires `name`, and retries for `waitMs`. Returns `Refused` if another owner holds it at the deadline. Safe to
   * repeat with the same owner.
   */
  async function acquire(name: string, { ttlMs, waitMs = 0, owner }: Acquire): Promise<HeldLock | Refused> {
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
        if (owner === undefined) await release(name, self).catch(() => {}) // only this caller knows the owner
        throw failure
      }
      await pause(Math.min(random() * boundMs, leftMs))
    }
  }

  /** Extends the lock: it lasts `ttlMs` from now. Returns undefined if the owner does not hold it. Safe to repeat. */
  async function extend(name: string, owner: string, ttlMs: number): Promise<HeldLock | undefined> {
    const askedAt = now()
    const fence = await redis.eval<string[], number | null>(EXTEND, [keys.lock(name)], [owner, String(ttlMs)])
    return fence === null ? undefined : { name, owner, fence, expiresAt: askedAt + ttlMs }
  }

  /** Releases the lock. Returns false if another owner holds it. A free lock counts as released. Safe to repeat. */
  async function release(name: string, owner: string): Promise<boolean> {
    return (await redis.eval<string[], number>(RELEASE, [keys.lock(name)], [owner])) === 1
  }

  return {
    acquire,
    extend,
    release,

    /**
     * Runs `work` while it holds `name`, and returns its result. Extends the lock every third of `ttlMs`. `signal` aborts
     * when the lock is lost: its key was deleted, or Redis did not answer in time.
     *
     * Returns undefined, without running `work`, if another owner holds the lock. Throws `LockLost` if the lock was lost
     * during the work, even if `work` ignored the signal. Fenced writes of the work were applied or refused.
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
          if (extended === 'unanswered') continue // the lock lasts until `expiry`
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
        clearTimeout(expiry) // an extension in flight may have set it
        await release(name, held.owner).catch(() => {}) // it expires
      }
    },
  }
}

export const isHeld = (outcome: HeldLock | Refused): outcome is HeldLock => 'fence' in outcome

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
