import type { Redis } from '@upstash/redis/cloudflare'

export interface ConcurrencyKeys {
  /** Of one caller. */
  openStreams: (caller: string) => string
  allOpenStreams: string
}

export interface ConcurrencyPolicy {
  maxPerCaller: number
  maxTotal: number
  /** A place that is not kept for this long is free again. */
  ttlMs: number
  /** A connection is open for this long at most. */
  lifeMs: number
}

/** Whether a place was taken, or which bound refused it. */
export type Place = 'taken' | 'caller-full' | 'all-full'

/**
 * KEYS: caller, all. ARGV: member, now, expires at, maximum per caller, maximum in total, TTL of the keys.
 * A place that this member already holds is taken again.
 */
const TAKE = `#!lua flags=allow-key-locking
-- usually calls 8
local member, now = ARGV[1], ARGV[2]
local outcome = 'taken'
for i, refusal in ipairs({ 'caller-full', 'all-full' }) do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], ARGV[3], member)
  redis.call('PEXPIRE', KEYS[i], ARGV[6])
  if redis.call('ZCARD', KEYS[i]) > tonumber(ARGV[3 + i]) and outcome == 'taken' then outcome = refusal end
end
if outcome ~= 'taken' then for i = 1, 2 do redis.call('ZREM', KEYS[i], member) end end
return outcome`

export type Concurrency = ReturnType<typeof createConcurrency>

/**
 * Bounds how many connections are open at once, per caller and in total, across all isolates.
 *
 * Redis types: a sorted set per caller and one for all: member = connection, score = until when its place is held.
 * Taking a place is one round trip (9 commands with those in the script), keeping or releasing it one of 2 commands each.
 * All three are safe to repeat. A place whose holder died is free after `ttlMs`; after a flush the holders return as
 * they keep their places. Redis errors are thrown. `now` is Unix ms.
 */
export function createConcurrency(
  redis: Redis,
  { openStreams, allOpenStreams }: ConcurrencyKeys,
  { maxPerCaller, maxTotal, ttlMs, lifeMs }: ConcurrencyPolicy,
) {
  return {
    /** Takes a place, if there is one. Safe to repeat: a place that is held is taken again. */
    take: (caller: string, member: string, now: number): Promise<Place> =>
      redis.eval<string[], Place>(
        TAKE,
        [openStreams(caller), allOpenStreams],
        [member, ...[now, now + ttlMs, maxPerCaller, maxTotal, lifeMs + ttlMs].map(String)],
      ),

    /** Holds the place for another `ttlMs`. Safe to repeat. */
    async keep(caller: string, member: string, now: number): Promise<void> {
      const place = { score: now + ttlMs, member }
      await redis.pipeline().zadd(openStreams(caller), place).zadd(allOpenStreams, place).exec()
    },

    /** Gives the place back. Safe to repeat; a place that is not given back is free after `ttlMs`. */
    async release(caller: string, member: string): Promise<void> {
      await redis.pipeline().zrem(openStreams(caller), member).zrem(allOpenStreams, member).exec()
    },
  }
}
