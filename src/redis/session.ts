import type { Redis } from '@upstash/redis/cloudflare'
import type { BoundedMap } from './bounded-map.ts'
import type { Guard } from './script.ts'

/** A session without its secret. Times are Unix ms. */
interface Session {
  /** SHA-256 of the token, base64url. */
  hash: string
  /** The user's epoch when the session began. A higher epoch of the user ends the session. */
  epoch: number
  /** When the user was last seen, accurate to `touchMs`. */
  seenAt: number
  /** The absolute end. */
  expiresAt: number
}

/** A session as Redis holds it. */
interface CachedSession extends Session {
  /** The source knew this session at that time, while Redis held it. 0: not confirmed since it was filled. */
  confirmedAt: number
}

/** A small value about a user that travels with the check of a session. A higher version is newer. */
interface Versioned {
  version: number
}

/** What Redis holds of a session, `ended` included, the user's epoch, and the user's state there. */
export type HeldSession<State> = [session: CachedSession | string | null, epoch: number | null, state: State | null]

/** A session as the source of truth holds it. */
export interface StoredSession<State> extends Session {
  /** The user's epoch now. */
  currentEpoch: number
  /** The user's state now. */
  state: State
}

/** The content of a genuine token (see `createSessionTokens`). Its session may have ended. */
export interface Claims {
  userId: string
  sessionId: string
  /** SHA-256 of the token, base64url. */
  hash: string
}

/** All in ms. */
export interface SessionPolicy {
  /** A session ends when its user is not seen for this long. */
  idleMs: number
  /** The source records visits at this interval. */
  touchMs: number
  /** How long an isolate may use a user's state without asking Redis. */
  memoryMs: number
  /** How long an isolate trusts Redis before it asks the source which ends Redis missed. Only with `SessionSource.missed`. */
  recheckMs?: number
}

/** The source of truth for sessions. It survives the loss of Redis. */
export interface SessionSource<State> {
  load(claims: Claims): Promise<StoredSession<State> | null>
  /** Records a visit. Returns false if the session does not exist. */
  touch(sessionId: string, seenAt: number): Promise<boolean>
  /**
   * The ids of ended sessions, and of users whose sessions were ended, that Redis may have missed. Undefined: too many.
   * Absent: the source does not know.
   */
  missed?: () => Promise<ReadonlySet<string> | undefined>
}

/** What an isolate remembers about Redis between requests. */
export interface SessionMemory<State> {
  /** The ms after Redis last failed, or when the isolate began (Unix ms). Older confirmations do not count. */
  redisFailedAt: number
  /** The states of users whose sessions were live, by user, and when they were read (Unix ms). */
  states: BoundedMap<{ state: State; readAt: number }>
  /** The ends that Redis may have missed, and when the isolate began to read them (Unix ms). */
  missed?: { ids: ReadonlySet<string>; readAt: number }
  /** When a check began to read them after its answer (Unix ms). */
  rereadAt?: number
}

/** How long a check trusts a confirmation of the source. */
const TRUST_MS = 60_000

/** A check that began in time may take effect so much later. */
const SLACK_MS = 100

/** Replaces an ended session, so that a load in progress cannot bring it back. */
const ENDED = 'ended'
const ENDED_MS = 3_600_000
/** When an epoch expires, the next check loads it together with the session. */
const EPOCH_MS = 30 * 86_400_000
/** The same for a user's state. */
const STATE_MS = 86_400_000

/** Replaces a session if nobody has changed it since it was read. */
const REPLACE = `#!lua flags=allow-key-locking
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`

/** Replaces a state by a newer one. KEYS: state. ARGV: version, state, TTL (ms). */
const PUT_STATE = `#!lua flags=allow-key-locking
local held = redis.call('GET', KEYS[1])
local version = tonumber(string.match(held or '', '"version":(%d+)') or '-1')
if tonumber(ARGV[1]) >= version then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1`

/**
 * Whether a session is live without a question to the source. KEYS: session, epoch, state. ARGV: hash, now, idle (ms),
 * confirmed from and to. Returns 1; or 0 and the three values, for `check` to decide.
 */
const GUARD = `#!lua flags=allow-key-locking
local session, now = HELD[1] or '', tonumber(ARGV[2])
local function number(name) return tonumber(string.match(session, '"' .. name .. '":(%d+)') or '-1') end
if string.match(session, '"hash":"([^"]*)"') == ARGV[1]
  and tonumber(HELD[2] or '-2') == number('epoch')
  and now < number('expiresAt')
  and now < number('seenAt') + ARGV[3]
  and number('confirmedAt') >= tonumber(ARGV[4])
  and number('confirmedAt') <= tonumber(ARGV[5])
then return { 1 } end
return { 0, HELD[1], HELD[2], HELD[3] }`

/** Raises a number. Never lowers it. */
const RAISE = `#!lua flags=allow-key-locking
local held = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) > held then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1`

export type SessionStore<State extends Versioned> = ReturnType<typeof createSessionStore<State>>

/**
 * Sessions, cached in Redis. A session is live until it is ended, idles out or expires.
 *
 * Redis types: one string of JSON per session, which expires when idle; per user one integer, the epoch, and one string
 * of JSON, the user's state. Ending all sessions of a user raises the epoch. A check is one `MGET` of all three: one
 * round trip, which a guarded write shares. If Redis fails or lacks the session or the state, the check asks the source.
 * If the source fails too, the check throws; if only the source fails, the check uses what Redis holds.
 *
 * A check trusts a cached session for `TRUST_MS` after the source confirmed it, then asks the source again. So an end that
 * Redis missed (unreachable, out of memory, read-only, flushed) takes effect within 60 s everywhere. It takes effect at
 * once in isolates that saw Redis fail, and in isolates that began after the last confirmation. A refused write never
 * extends the trust.
 *
 * The source may list the ends that Redis missed (`missed`). Then an isolate trusts Redis for `recheckMs` after it read that
 * list, and never about a session on it. So such an end holds everywhere after `recheckMs`; `outlast` waits for that. An
 * isolate in use reads the list after an answer, at half of that time, so its checks need not wait for it. If source and list
 * fail, the check uses what Redis holds, except about what the isolate knows to be on the list.
 *
 * A state is as current as its session: it holds at once where Redis took the change, and within 60 s where Redis missed
 * it, or lost it while an older state was on its way. Of two states the higher version wins, here and in Redis.
 *
 * A load in progress never brings back an ended session: a fill (`SET NX`) is not trusted. Only a session that Redis held
 * before the source confirmed it is trusted, and only if nobody has changed it meanwhile (compare-and-set).
 *
 * All writes are safe to repeat.
 */
export function createSessionStore<State extends Versioned>(
  redis: Redis,
  source: SessionSource<State>,
  policy: SessionPolicy,
  keys: {
    session: (sessionId: string) => string
    epoch: (userId: string) => string
    state: (userId: string) => string
  },
  defer: (work: () => Promise<unknown>) => void,
  memory: SessionMemory<State>,
) {
  const ttlMs = (session: Session, now: number) => Math.max(1, Math.min(policy.idleMs, session.expiresAt - now))

  function isLive(session: Session, epoch: number, claims: Claims, now: number): boolean {
    // Both are hashes of a secret, so comparing them leaks nothing.
    const isTheirs = session.hash === claims.hash && session.epoch === epoch
    return isTheirs && now < session.expiresAt && now < session.seenAt + policy.idleMs
  }

  const { recheckMs = 0 } = policy

  /** Whether this isolate knows that Redis may have missed the end of this session. */
  const isMissed = ({ sessionId, userId }: Claims) =>
    memory.missed !== undefined && (memory.missed.ids.has(sessionId) || memory.missed.ids.has(userId))

  /** How long ago this isolate began to read the list of missed ends (ms). */
  const listAgeMs = (now: number) => {
    const ageMs = now - (memory.missed?.readAt ?? -Infinity)
    return ageMs >= 0 ? ageMs : Infinity // the clock was set back
  }

  /** Reads the list of missed ends. If that fails, nothing is trusted. */
  async function readMissed(now: number): Promise<void> {
    const ids = await source.missed?.()
    if (ids) memory.missed = { ids, readAt: now }
  }

  /**
   * Reads the list of missed ends if it is too old for a guard: one query of the source. Reads it after the answer if it is
   * soon too old. Undefined: no need to wait.
   */
  function prepare(now = Date.now()): Promise<void> | undefined {
    if (!source.missed) return undefined
    if (listAgeMs(now) >= recheckMs) return readMissed(now).catch(() => {})
    const isRead = Math.abs(now - (memory.rereadAt ?? -Infinity)) < recheckMs / 2
    if (isRead || listAgeMs(now) < recheckMs / 2) return undefined
    memory.rereadAt = now
    defer(() => readMissed(now).catch(() => {}))
    return undefined
  }

  /** When the source must have confirmed a session for a check to trust it (Unix ms). Later: a clock was set back. */
  function trustedSpan(claims: Claims, now: number): [from: number, to: number] {
    if (source.missed && (isMissed(claims) || listAgeMs(now) >= Math.max(recheckMs, 1))) return [1, 0] // never
    return [Math.max(memory.redisFailedAt, now - TRUST_MS + 1), now + TRUST_MS - 1]
  }
  function isTrusted(claims: Claims, { confirmedAt }: CachedSession, now: number): boolean {
    const [from, to] = trustedSpan(claims, now)
    return confirmedAt >= from && confirmedAt <= to
  }

  const raiseEpoch = (userId: string, epoch: number) =>
    redis.eval(RAISE, [keys.epoch(userId)], [String(epoch), String(EPOCH_MS)])

  const putState = (userId: string, state: State) =>
    redis.eval(PUT_STATE, [keys.state(userId)], [String(state.version), JSON.stringify(state), String(STATE_MS)])

  /** Remembers a state that was read at `readAt`, unless memory has a newer one; returns the newer of the two. */
  function remember(userId: string, state: State, readAt: number): State {
    const known = memory.states.get(userId)
    if (known && known.state.version > state.version && readAt - known.readAt < TRUST_MS) return known.state
    memory.states.set(userId, { state, readAt })
    return state
  }

  const replace = (sessionId: string, from: CachedSession, to: CachedSession, now: number) =>
    redis.eval(REPLACE, [keys.session(sessionId)], [JSON.stringify(from), JSON.stringify(to), String(ttlMs(to, now))])

  const writeTombstone = (sessionId: string) => redis.set(keys.session(sessionId), ENDED, { px: ENDED_MS })

  /** Adds a session that Redis lacks. It is not trusted yet. */
  async function fill(claims: Claims, session: CachedSession, epoch: number, now: number): Promise<void> {
    const key = keys.session(claims.sessionId)
    await Promise.all([
      raiseEpoch(claims.userId, epoch),
      redis.set(key, session, { nx: true, px: ttlMs(session, now) }),
    ])
  }

  /** Asks the source again now that Redis holds `filled`, so that checks may trust it. */
  async function confirmFilled(claims: Claims, filled: CachedSession, now: number): Promise<void> {
    const stored = await source.load(claims)
    if (!stored || stored.epoch !== stored.currentEpoch) return void (await writeTombstone(claims.sessionId))
    await Promise.all([
      replace(claims.sessionId, filled, { ...filled, confirmedAt: now }, now),
      putState(claims.userId, stored.state),
    ])
  }

  /** Asks the source. Brings Redis up to date after the answer, if `isRedisUp`. */
  async function confirm(
    claims: Claims,
    cached: CachedSession | undefined,
    now: number,
    isRedisUp: boolean,
    held: State | null,
  ): Promise<State | undefined> {
    const stored = await source.load(claims)
    if (!stored || stored.epoch !== stored.currentEpoch) {
      if (isRedisUp) defer(() => writeTombstone(claims.sessionId).catch(() => {}))
      return undefined
    }
    const { currentEpoch, hash, epoch, expiresAt, state } = stored
    // The source records visits at intervals, so it may be `touchMs` behind.
    const seenAt = Math.max(stored.seenAt + policy.touchMs, cached?.seenAt ?? 0)
    if (!isLive({ hash, epoch, expiresAt, seenAt }, currentEpoch, claims, now)) return undefined

    if (now - stored.seenAt >= policy.touchMs) {
      defer(async () => {
        const exists = await source.touch(claims.sessionId, now)
        if (!exists && isRedisUp) await writeTombstone(claims.sessionId)
      })
    }
    const seen = { hash, epoch, seenAt: now, expiresAt }
    // If Redis refuses the write, the next check asks the source again.
    if (isRedisUp && cached) {
      defer(() =>
        Promise.all([
          raiseEpoch(claims.userId, currentEpoch),
          replace(claims.sessionId, cached, { ...seen, confirmedAt: now }, now),
          held?.version === state.version || putState(claims.userId, state),
        ]).catch(() => {}),
      )
    } else if (isRedisUp) {
      const filled = { ...seen, confirmedAt: 0 }
      defer(() =>
        fill(claims, filled, currentEpoch, now)
          .then(() => confirmFilled(claims, filled, now))
          .catch(() => {}),
      )
    }
    return remember(claims.userId, state, now)
  }

  const keysOf = ({ sessionId, userId }: Claims) => [keys.session(sessionId), keys.epoch(userId), keys.state(userId)]

  /** Remembers a failure of Redis, then throws it. */
  const noteFailure = (error: unknown): never => {
    memory.redisFailedAt = Date.now() + 1
    throw error
  }

  return {
    /** Allows a script to run if the session of `claims` is live and trusted. Otherwise `check` decides by its reply. */
    guard: (claims: Claims, now = Date.now()): Guard => ({
      text: GUARD,
      keys: keysOf(claims),
      reads: 3,
      args: [claims.hash, ...[now, policy.idleMs, ...trustedSpan(claims, now)].map(String)],
    }),

    /** For guards. `check` does it itself. */
    prepare,

    /**
     * Waits until an end that the source holds has taken effect in every isolate, although Redis missed it. Only with
     * `SessionSource.missed`.
     */
    outlast: (): Promise<void> => new Promise((resolve) => setTimeout(resolve, recheckMs && recheckMs + SLACK_MS)),

    /**
     * The state of the user if the session of `claims` is live. One round trip, unless a guard has just read what Redis
     * holds: `held`. One query of the source if the session is not trusted, or Redis lacks the state; and one beside the
     * round trip if the list of missed ends is too old.
     */
    async check(
      claims: Claims,
      now = Date.now(),
      held: Promise<HeldSession<State>> = redis.mget<HeldSession<State>>(...keysOf(claims)),
    ): Promise<State | undefined> {
      let replies: HeldSession<State>
      try {
        const preparing = prepare(now)
        replies = await held.catch(noteFailure)
        await preparing
      } catch {
        return confirm(claims, undefined, now, false, null)
      }
      const [cached, epoch, state] = replies
      if (cached === ENDED) return undefined
      if (cached === null || typeof cached === 'string') return confirm(claims, undefined, now, true, state)
      if (epoch !== null && cached.epoch < epoch) return undefined
      if (epoch === cached.epoch && !isLive(cached, epoch, claims, now)) return undefined
      if (epoch === cached.epoch && isTrusted(claims, cached, now) && state) return remember(claims.userId, state, now)
      try {
        return await confirm(claims, cached, now, true, state)
      } catch (error) {
        if (epoch === cached.epoch && state && !isMissed(claims)) return state // nobody can end a session or change a state while the source fails
        throw error
      }
    },

    /** The state of a user, if this isolate read it at most `memoryMs` ago for a session that was live. No round trip. */
    known(userId: string, now = Date.now()): State | undefined {
      const { state, readAt = 0 } = memory.states.get(userId) ?? {}
      return now >= readAt && now < readAt + policy.memoryMs ? state : undefined
    },

    /**
     * Replaces the state of a user after the source has changed it, unless Redis has a newer one. This isolate uses it at
     * once. One round trip. Throws if Redis fails. Safe to repeat.
     */
    async change(userId: string, state: State, now = Date.now()): Promise<void> {
      remember(userId, state, now)
      await putState(userId, state).catch(noteFailure)
    },

    /**
     * Adds a session that the source has just stored. One round trip, and another one after the answer. Safe to repeat.
     */
    async begin(claims: Claims, session: Session, now = Date.now()): Promise<void> {
      const filled = { ...session, confirmedAt: 0 }
      await fill(claims, filled, session.epoch, now)
      defer(() => confirmFilled(claims, filled, now).catch(() => {})) // otherwise the first check asks the source
    },

    /** Ends one session, after the source deleted it. One round trip. Throws if Redis fails. Safe to repeat. */
    async end(sessionId: string): Promise<void> {
      await writeTombstone(sessionId).catch(noteFailure)
    },

    /**
     * Removes the epoch and the state of a user who is gone: a check then asks the source. One round trip. Throws if
     * Redis fails. Safe to repeat.
     */
    async forget(userId: string): Promise<void> {
      await redis.del(keys.epoch(userId), keys.state(userId)).catch(noteFailure)
    },

    /**
     * Ends the sessions of a user that began before `epoch`, after the source raised it. One round trip. Throws if
     * Redis fails. Safe to repeat.
     */
    async endAll(userId: string, epoch: number): Promise<void> {
      await raiseEpoch(userId, epoch).catch(noteFailure)
    },
  }
}
