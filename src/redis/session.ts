import type { Redis } from '@upstash/redis/cloudflare'

/** A session as Redis holds it: nothing that could be presented as a token. Times are Unix ms. */
interface Held {
  /** SHA-256 of the token, base64url. */
  hash: string
  /** The user's epoch when it began; over once the user's epoch is higher. */
  epoch: number
  /** When last seen, to within `touchMs`. */
  seenAt: number
  /** The absolute end. */
  expiresAt: number
}

/** A session as the source of truth has it. */
export interface StoredSession extends Held {
  /** The user's epoch now. */
  currentEpoch: number
}

/** What a token claims: genuine (see `createSessionTokens`), though the session may be over. */
export interface Claims {
  userId: string
  sessionId: string
  /** SHA-256 of the token, base64url. */
  hash: string
}

/** All in ms. */
export interface SessionPolicy {
  /** A session ends when not seen for this long. */
  idleMs: number
  /** How stale `seenAt` may become: only then is a request followed by a write. */
  touchMs: number
}

/** Where sessions last, whatever happens to Redis. */
export interface SessionSource {
  load(claims: Claims): Promise<StoredSession | null>
  /** Notes that a session was seen; false when there is no such session any more. */
  touch(sessionId: string, seenAt: number): Promise<boolean>
}

/** What an ended session leaves behind, so that a load or refresh in flight cannot bring it back. */
const ENDED = 'ended'
const ENDED_MS = 3_600_000
/** An epoch that Redis forgets is loaded again, together with its session. */
const EPOCH_MS = 30 * 86_400_000

/** Replaces a session by its refreshed self, unless it has been ended or refreshed meanwhile. */
const TOUCH = `#!lua flags=allow-key-locking
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`

/** Raises a number, and never lowers it. */
const RAISE = `#!lua flags=allow-key-locking
local held = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) > held then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1`

export type SessionStore = ReturnType<typeof createSessionStore>

/**
 * Sessions: who presents a token is who signed in, until the session is ended, idles out or expires.
 *
 * Redis types: a string of JSON per session, expiring when idle; an integer per user, the epoch, which rises when all
 * sessions of a user are ended. A check is one `MGET` of both: one round trip, and after `touchMs` a write behind the
 * answer. What Redis lacks, or cannot say, is loaded from the source; so sessions outlive Redis.
 *
 * An ended session stays ended: `end` and `endAll` come after the source forgot, leave a tombstone or a higher epoch,
 * and a fill (`SET NX`) or a refresh (compare-and-set) gives way to both. They throw when Redis does not answer; what
 * it missed then is made up for by the next refresh, which asks the source.
 */
export function createSessionStore(
  redis: Redis,
  source: SessionSource,
  policy: SessionPolicy,
  keys: { session: (sessionId: string) => string; epoch: (userId: string) => string },
  defer: (work: () => Promise<unknown>) => void,
) {
  const keepMs = (session: Held, now: number) => Math.max(1, Math.min(policy.idleMs, session.expiresAt - now))

  function isLive(session: Held, epoch: number, claims: Claims, now: number): boolean {
    // Both are hashes of what only the holder has; how alike they are tells nothing.
    const isTheirs = session.hash === claims.hash && session.epoch === epoch
    return isTheirs && now < session.expiresAt && now < session.seenAt + policy.idleMs
  }

  /** Sets what Redis lacks. A higher epoch, or what became of the session meanwhile, stays. */
  function fill(claims: Claims, held: Held, epoch: number, now: number) {
    return redis
      .pipeline()
      .eval(RAISE, [keys.epoch(claims.userId)], [String(epoch), String(EPOCH_MS)])
      .set(keys.session(claims.sessionId), held, { nx: true, px: keepMs(held, now) })
      .exec()
  }

  async function load(claims: Claims, now: number, isRedisUp: boolean): Promise<boolean> {
    const stored = await source.load(claims)
    if (!stored) return false
    const { currentEpoch, ...held } = stored
    // The source hears of a visit only now and then, so it may be that much behind.
    if (!isLive({ ...held, seenAt: held.seenAt + policy.touchMs }, currentEpoch, claims, now)) return false
    const seen = { ...held, seenAt: now }
    if (now - held.seenAt >= policy.touchMs) defer(() => source.touch(claims.sessionId, now))
    if (isRedisUp) defer(() => fill(claims, seen, currentEpoch, now).catch(() => {})) // the next check loads again
    return true
  }

  return {
    /** Whether the session that `claims` name is live. One round trip; the source on a miss or without Redis. */
    async check(claims: Claims, now = Date.now()): Promise<boolean> {
      const key = keys.session(claims.sessionId)
      let replies: [Held | string | null, number | null]
      try {
        replies = await redis.mget<[Held | string | null, number | null]>(key, keys.epoch(claims.userId))
      } catch {
        return load(claims, now, false)
      }
      const [held, epoch] = replies
      if (held === ENDED) return false
      const isBehind = held === null || typeof held === 'string' || epoch === null || held.epoch > epoch
      if (isBehind) return load(claims, now, true)
      if (!isLive(held, epoch, claims, now)) return false
      if (now - held.seenAt >= policy.touchMs) {
        const seen = { ...held, seenAt: now }
        const args = [JSON.stringify(held), JSON.stringify(seen), String(keepMs(seen, now))]
        defer(async () => {
          const [isKnown] = await Promise.all([source.touch(claims.sessionId, now), redis.eval(TOUCH, [key], args)])
          if (!isKnown) await redis.set(key, ENDED, { px: ENDED_MS })
        })
      }
      return true
    },

    /** Makes a session that the source has just stored known to Redis. One round trip. */
    async begin(claims: Claims, session: Held, now = Date.now()): Promise<void> {
      await fill(claims, session, session.epoch, now)
    },

    /** Ends one session, after the source forgot it. One round trip. */
    async end(sessionId: string): Promise<void> {
      await redis.set(keys.session(sessionId), ENDED, { px: ENDED_MS })
    },

    /** Ends all sessions of a user that began before `epoch`, after the source raised it. One round trip. */
    async endAll(userId: string, epoch: number): Promise<void> {
      await redis.eval(RAISE, [keys.epoch(userId)], [String(epoch), String(EPOCH_MS)])
    },
  }
}
