/**
 * `threads-edge/redis`: caches, counters, presence, sessions, locks, limits and streams over Redis by HTTP, for any Worker
 * or Node program. Every function takes a client of `@upstash/redis` and has defaults for the rest. `docs/primitives/` has a
 * page for each, with its commands and round trips.
 *
 * On Workers, call them in the handler, once per request: the client and what waits for it belong to the request. What an
 * isolate remembers between requests (memory, known limits, circuits) is kept here, by the name of the primitive.
 */
import type { Redis } from '@upstash/redis/cloudflare'
import {
  type Cache,
  type CacheEvent,
  type CachePolicy,
  createCache as createCacheOfKind,
  type Load,
} from '../src/redis/cache.ts'
import { type Breaker, createBreaker, createConnection, type Meter, newMeter, type Sent } from '../src/redis/client.ts'
import { createBoundedMap } from '../src/redis/bounded-map.ts'
import { createCounters, type LoadedCounts, type LoadedLike, type LikeState } from '../src/redis/counter.ts'
import { createLatency } from '../src/redis/latency.ts'
import { createLocks as createLocksOf, type Locks } from '../src/redis/lock.ts'
import { createMemory } from '../src/redis/memory.ts'
import { type Change, createOnline, type Seen, type Visibility } from '../src/redis/presence.ts'
import {
  createKnownAllowances,
  createRateLimit,
  createUncounted,
  type Quota,
  type RateLimit,
} from '../src/redis/rate-limit.ts'
import { type Claims, createSessionStore, type StoredSession } from '../src/redis/session.ts'
import { createSharedSubscription, newSharedSubscription } from '../src/redis/shared-subscription.ts'
import { createStream as createLog, type Batch, type Message } from '../src/redis/stream.ts'
import { createSubscribe } from '../src/redis/subscription.ts'
import { createWriteThrough as createWriteThroughOf, type WriteThrough } from '../src/redis/write-through.ts'
import { createTags, newKnownTags } from './tags.ts'

export { RedisUnavailable } from '../src/redis/client.ts'
export { type HeldLock, isHeld, LockLost, type Refused } from '../src/redis/lock.ts'
export { UNCOUNTED_SHARE, type Allowance } from '../src/redis/rate-limit.ts'
export type {
  Batch,
  Cache,
  CacheEvent,
  CachePolicy,
  Change,
  Claims,
  Load,
  Locks,
  Meter,
  Quota,
  RateLimit,
  Seen,
  Sent,
  Visibility,
  WriteThrough,
}

const SECOND_MS = 1_000
const MINUTE_MS = 60_000
const DAY_MS = 86_400_000

/** Runs work after the answer. On Workers: `(work) => ctx.waitUntil(work())`. */
export type Defer = (work: () => Promise<unknown>) => void

/** Starts the work at once. Its errors are lost: every primitive completes later what failed here. */
const atOnce: Defer = (work) => void work().catch(() => {})

/** What every primitive takes. */
export interface Common {
  /** A client of `@upstash/redis`, or that of `connect`. */
  redis: Redis
  /** The first word of its Redis keys. */
  name?: string
}

/** What the isolate keeps between requests. */
const kept = new Map<string, unknown>()

function keep<T>(name: string, create: () => T): T {
  const value = (kept.get(name) as T | undefined) ?? create() // each name has one type
  kept.set(name, value)
  return value
}

/** The circuit of a database in this isolate. Its first user decides on its policy. */
const breakerOf = (url: string, failures = 5, coolDownMs = 5_000): Breaker =>
  keep(`breaker ${url}`, () => createBreaker(failures, coolDownMs))

/** A database, and how to wait for it. Times are in ms. */
export interface ConnectOptions {
  url: string
  token: string
  /** How long a request may take at least, and at most where replies take long. Default: 250 and 1,000. */
  timeoutMs?: number
  maxTimeoutMs?: number
  /** The circuit opens after so many incidents in a row, and is probed after `coolDownMs`. Default: 5 and 5,000. */
  breakerFailures?: number
  coolDownMs?: number
  /** Called when an HTTP request has ended. */
  onSent?: (sent: Sent) => void
}

/** A connection to Redis, and what it has cost. */
export interface Connection {
  /** Retries once a request without a reply. For the primitives, whose commands are safe to repeat. */
  redis: Redis
  /** Never retries. For limits, and commands such as `INCR`. */
  once: Redis
  /** Commands, round trips and waiting of this connection. */
  meter: Meter
  state: () => ReturnType<Breaker['state']>
}

/**
 * Connects to Redis: commands of one turn of the event loop share one HTTP request; timeouts follow the measured latency; a
 * circuit breaker fails fast while Redis is away; a meter counts. Throws `RedisUnavailable` where there was no answer.
 * Create one per request. The circuit and the latency are shared in the isolate, by URL.
 */
export function connect(options: ConnectOptions): Connection {
  const { url, token, timeoutMs = 250, maxTimeoutMs = SECOND_MS, breakerFailures, coolDownMs } = options
  const breaker = breakerOf(url, breakerFailures, coolDownMs)
  const latency = keep(`latency ${url}`, () => createLatency({ minMs: timeoutMs, maxMs: maxTimeoutMs }))
  const meter = newMeter()
  const state = () => breaker.state(Date.now())
  const clientOf = createConnection({ url, token }, breaker, meter, (sent) => {
    if (sent.isAnswered) latency.answered(sent.ms)
    else latency.failed(sent.ms, state() !== 'closed')
    options.onSent?.(sent)
  })
  const hardMs = latency.hardMs()
  return {
    redis: clientOf({ timeoutMs: hardMs, isSafeTwice: true }),
    once: clientOf({ timeoutMs: hardMs, isSafeTwice: false }),
    meter,
    state,
  }
}

/** How long a cache keeps values, by default. */
const KEPT = { freshMs: 5 * MINUTE_MS, staleMs: 60 * MINUTE_MS, staleIfErrorMs: DAY_MS }

/** A kind of cached value. Every time has a default. */
export interface CacheOptions<T> extends Common, Partial<CachePolicy> {
  name: string
  /** A positive number that rises with every change of the value. Default: 0, no versions. */
  versionOf?: (value: T) => number
  /** Allows `expireAll`: reads then read one more key in the same command. */
  expiresTogether?: boolean
  defer?: Defer
  onEvent?: (event: CacheEvent) => void
  /** Bytes of isolate memory for all caches. The first cache of the isolate decides. Default: 16 MB. */
  memoryBytes?: number
}

/**
 * Cache-aside with leases in three layers: isolate memory, Redis, your loader. Defaults: fresh for 5 minutes (± 10 %), then
 * stale for an hour, a day if the loader fails; `null` for 30 s; 5 s in memory.
 */
export const createCache = <T>(options: CacheOptions<T>): Cache<T> => cacheOf(options)

function cacheOf<T>(options: CacheOptions<T> & { isCurrent?: (value: T) => boolean }): Cache<T> {
  const { redis, name, versionOf = () => 0, expiresTogether = false, memoryBytes = 16_000_000 } = options
  const { defer = atOnce, onEvent = () => {}, ...policy } = options
  const memory = keep('memory', () => createMemory(memoryBytes))
  return createCacheOfKind(
    { redis: () => redis, memory, defer, onEvent },
    {
      ...KEPT,
      negativeMs: 30 * SECOND_MS,
      memoryMs: 5 * SECOND_MS,
      softTimeoutMs: 60,
      leaseMs: 5 * SECOND_MS,
      waitMs: SECOND_MS,
      maxValueBytes: 65_536,
      ...policy,
      key: (id) => `${name}:${id}`,
      versionOf,
      ...(expiresTogether ? { generationKey: `generation:${name}` } : {}),
    },
  )
}

export interface TaggedCacheOptions<T> extends CacheOptions<T> {
  /** The tags of a value. A tag is any text. */
  tagsOf: (value: T) => string[]
  /** How many invalidated tags Redis and each isolate remember. One more expires the values from before. Default: 5,000. */
  maxTags?: number
}

/** A value with its tags, as Redis keeps it. `p`: the position in the log of tags at which its load began. */
interface Tagged<T> {
  value: T
  tags: string[]
  p: number
}

/**
 * A cache whose values have tags: `invalidateTags` makes all values with one of the tags out of date. A read that asks Redis
 * also reads which tags were invalidated since, with one command more in the same turn; a read from memory costs nothing. So
 * other isolates serve an old value for at most `memoryMs`, as after any other invalidation.
 */
export function createTaggedCache<T>(options: TaggedCacheOptions<T>) {
  const { redis, name, tagsOf, maxTags = 5_000, versionOf = () => 0, ...rest } = options
  const { freshMs, staleMs, staleIfErrorMs } = { ...KEPT, ...rest }
  // Fresh times vary by a tenth.
  const keepMs = 1.1 * freshMs + Math.max(staleMs, staleIfErrorMs)
  const known = keep(`tags ${name}`, newKnownTags)
  const tags = createTags(redis, `${name}:tags`, known, keepMs, maxTags)
  const isCurrent = (tagged: Tagged<T>) => tags.isCurrent(tagged.tags, tagged.p)
  const cache = cacheOf<Tagged<T>>({
    ...rest,
    redis,
    name,
    versionOf: ({ value }) => versionOf(value),
    isCurrent,
  })
  const tagged = (value: T, p: number): Tagged<T> => ({ value, tags: tagsOf(value), p })

  async function getMany(ids: string[], load: Load<T>): Promise<(T | null)[]> {
    const loadTagged = async (missing: string[]) => {
      const p = tags.position() // what is invalidated from now on may not be in what the load returns
      return (await load(missing)).map((value) => (value === null ? null : tagged(value, p)))
    }
    const reading = cache.getMany(ids, loadTagged)
    if (!(reading instanceof Promise)) return reading.map((held) => held?.value ?? null) // from memory
    // Without Redis, the cache decides what to serve.
    const [held] = await Promise.all([reading, tags.read().catch(() => {})])
    const isOld = (one: Tagged<T> | null) => one !== null && !isCurrent(one)
    const old = ids.filter((_, i) => isOld(held[i] ?? null))
    if (old.length === 0) return held.map((one) => one?.value ?? null)
    const again = await cache.getMany(old, loadTagged)
    const fresh = new Map(old.map((id, i) => [id, again[i] ?? null]))
    return ids.map((id, i) => (fresh.has(id) ? fresh.get(id) : held[i])?.value ?? null)
  }

  return {
    /** The values of `ids` in their order, `null` for what does not exist. `load` gets the ids that no layer has. */
    getMany,

    /** The value of `id`, or `null`. */
    async get(id: string, load: () => Promise<T | null>): Promise<T | null> {
      const [value] = await getMany([id], async () => [await load()])
      return value ?? null
    },

    /** As `put` of a cache without tags. */
    put: (id: string, value: T): Promise<void> => cache.put(id, tagged(value, tags.position())),

    /** Removes `ids`. One round trip. */
    invalidate: (ids: string[]): Promise<void> => cache.invalidate(ids),

    /**
     * Makes every value with one of these tags out of date, also those that are being loaded. Call it once the source of truth
     * has the change. One command and one round trip, however many values. Throws when Redis fails. Safe to repeat. The first
     * one, and the first after Redis has lost what was invalidated, expires all values.
     */
    invalidateTags: (names: string[]): Promise<void> => tags.invalidate(names),
  }
}

/** A member's state of a subject that your database does not have yet. */
export interface Membership {
  subject: string
  member: string
  isIn: boolean
  /** Unix ms by the clock of Redis. Of two states of one member and subject, the higher is newer. */
  changedAt: number
}

/** A count as your database has it. */
export interface StoredCount {
  count: number
  /** The newest `changedAt` among the memberships that it has of this subject. */
  changedAt: number
}

/** A state as your database has it. */
export interface StoredMembership {
  isIn: boolean
  changedAt: number
}

const stateOf = ({ isIn = false, changedAt = 0 }: Partial<StoredMembership> = {}): LikeState => ({
  isLiked: isIn,
  changedAt,
  stateSince: null,
})

/** For a source without `newest`: no id is as high. */
const NOTHING_NEWEST = { states: new Map<string, never>(), from: '\u{10ffff}' }

/** Your database, from which the counter starts and which it follows. */
export interface CounterSource {
  /** The counts of those of `subjects` that exist. */
  counts: (subjects: string[]) => Promise<Map<string, StoredCount>>
  /** The states of these pairs, in their order. Undefined: never set. */
  memberships: (pairs: { subject: string; member: string }[]) => Promise<(StoredMembership | undefined)[]>
  /**
   * The states of a member for the subjects with the highest ids, some thousand at most, and the lowest id from which on
   * these are all (compared byte by byte; '' if there are no others). Redis keeps them, so that your database is asked once
   * a day what a member is in. Absent: it is asked by each `memberOf` about subjects that the member has not set meanwhile.
   */
  newest?: (member: string) => Promise<{ states: Map<string, StoredMembership>; from: string }>
}

export interface CounterOptions extends Common {
  source: CounterSource
  /** How long Redis keeps a count that nobody changes. Default: a day. */
  ttlMs?: number
  defer?: Defer
}

/**
 * Counts the members of subjects exactly: likes of a post, votes for an answer, guests of an event. A member counts once,
 * however often a request is repeated. Redis answers at once; `flush` brings the changes to your database. Every call is
 * safe to repeat.
 */
export function createCounter({ redis, name = 'counter', source, ttlMs = DAY_MS, defer = atOnce }: CounterOptions) {
  const counters = createCounters(
    redis,
    {
      count: (_, subject) => `${name}:count:${subject}`,
      tally: (_, subject) => `${name}:tally:${subject}`,
      likedBy: (member) => `${name}:of:${member}`,
      likesUnwritten: `${name}:unwritten`,
      viewers: (subject) => `${name}:viewers:${subject}`,
      viewsUnwritten: `${name}:views-unwritten`,
      authors: (subject) => `${name}:authors:${subject}`,
    },
    ttlMs,
    defer,
  )
  async function statesOf(pairs: { subject: string; member: string }[]): Promise<LikeState[]> {
    const stored = await source.memberships(pairs)
    return pairs.map((_, i) => stateOf(stored[i]))
  }

  async function load(subject: string, member: string): Promise<LoadedLike | null> {
    const [counts, [state]] = await Promise.all([source.counts([subject]), statesOf([{ subject, member }])])
    const stored = counts.get(subject)
    return stored && state ? { ...stored, revision: stored.changedAt, state } : null
  }

  async function loadCounts(subjects: string[]): Promise<Map<string, LoadedCounts>> {
    const counts = await source.counts(subjects)
    return new Map(
      [...counts].map(([subject, { count, changedAt }]) => [subject, { likes: count, changedAt, revision: changedAt }]),
    )
  }

  return {
    /** Sets whether `member` is in; returns the exact count. Null: there is no such subject. One round trip. */
    async set(subject: string, member: string, isIn: boolean): Promise<number | null> {
      const counted = await counters.like(subject, member, isIn, () => load(subject, member))
      return counted?.count ?? null
    },

    /** The counts of `subjects`, in their order. 0 for those that do not exist. One round trip. */
    async read(subjects: string[]): Promise<number[]> {
      const counts = await counters.read(['likes'], subjects, loadCounts)
      return counts.map(([count = 0]) => count)
    },

    /** Which of `subjects` the member is in, in their order. One round trip. */
    async memberOf(member: string, subjects: string[]): Promise<boolean[]> {
      const of = async (missing: string[]) => {
        const loaded = await statesOf(missing.map((subject) => ({ subject, member })))
        return new Map(loaded.map((state, i) => [missing[i] ?? '', state]))
      }
      const states = await counters.states(member, subjects, {
        of,
        async newest(missing) {
          const { states: newest, from } = (await source.newest?.(member)) ?? NOTHING_NEWEST
          const known = [...newest].map(([subject, state]) => [subject, stateOf(state)] as const)
          const others = from === '' ? [] : missing.filter((subject) => !newest.has(subject))
          return { states: new Map([...known, ...(others.length > 0 ? await of(others) : [])]), from }
        },
      })
      return states.map(({ isLiked }) => isLiked)
    },

    /**
     * Gives `write` up to `most` changes that your database does not have, oldest first, and confirms them. `write` stores
     * each where its `changedAt` is newer than that of the row. Returns how many. Call it from a cron job or a queue.
     */
    async flush(write: (changes: Membership[]) => Promise<unknown>, most = 500): Promise<number> {
      const likes = await counters.unwrittenLikes(most)
      if (likes.length === 0) return 0
      const changes = likes.map((like) => ({
        subject: like.contentId,
        member: like.userId,
        isIn: like.isLiked,
        changedAt: like.changedAt,
      }))
      await write(changes)
      const subjects = [...new Set(changes.map(({ subject }) => subject))]
      const [counts, states] = await Promise.all([source.counts(subjects), statesOf(changes)])
      await counters.settle(
        [...counts].map(([contentId, { count, changedAt }]) => {
          return { counter: 'likes', contentId, count, changedAt, revision: changedAt }
        }),
        likes.map((like, i) => ({ ...like, state: counts.has(like.contentId) ? (states[i] ?? null) : null })),
      )
      return likes.length
    },
  }
}

export interface PresenceOptions extends Common {
  /** A user is online until this long after the last beat. Default: 5 minutes. */
  windowMs?: number
  /** Users who can be online at once. One more takes the one who was silent for longest offline. Default: 50,000. */
  maxUsers?: number
  /** Default: 20. */
  maxDevices?: number
  /** Who may see a user, when Redis does not know. Default: everyone. */
  visibilityOf?: (userId: string) => Promise<Visibility>
}

/** Users in one Redis key. */
const SHARD_USERS = 50_000

/** Who is online, on any number of devices, latest first. One round trip each. Every call is safe to repeat. */
export function createPresence(options: PresenceOptions) {
  const { redis, name = 'presence', windowMs = 5 * MINUTE_MS, maxUsers = SHARD_USERS, maxDevices = 20 } = options
  const { visibilityOf = async () => 'everyone' } = options
  const shards = Math.ceil(maxUsers / SHARD_USERS)
  const online = createOnline(
    redis,
    {
      presence: (shard) => `${name}:${shard}`,
      presenceChanges: (shard) => `${name}:${shard}:changes`,
      presenceDevices: (userId) => `${name}:devices:${userId}`,
      presenceVisibility: (userId) => `${name}:visibility:${userId}`,
      presenceLoss: `${name}:loss`,
      presenceLast: (userId) => `${name}:last:${userId}`,
    },
    { windowMs, shards, shardUsers: Math.ceil(maxUsers / shards), maxDevices },
  )
  return {
    /** Records a sign of life. `arrived`: the user was offline until now. `hidden`: nobody may see them. */
    async beat(userId: string, deviceId = userId): Promise<'arrived' | 'online' | 'hidden'> {
      const beat = { userId, deviceId, beatId: crypto.randomUUID() }
      let outcome = await online.beat(beat)
      if (outcome === 'unknown') outcome = await online.beat(beat, undefined, await visibilityOf(userId))
      if (outcome === 'unknown' || outcome === 'left') return 'hidden' // a flush or a departure in between
      return typeof outcome === 'string' ? outcome : 'arrived'
    },

    /** One device leaves. True: it was the last, so the user is offline. */
    leave: async (userId: string, deviceId = userId): Promise<boolean> =>
      (await online.leave(userId, deviceId)) !== undefined,

    /** Takes a user offline on all devices, and refuses their beats until `show`. */
    hide: async (userId: string): Promise<void> => void (await online.hide(userId)),

    /** Admits beats of a user again. */
    show: async (userId: string): Promise<void> => void (await online.show(userId, 'everyone')),

    /** The users online, latest first, seen no later than `until` (Unix ms). */
    latest: (count = 100, until?: number): Promise<Seen[]> => online.latest(count, Date.now(), until),

    /** How many users are online. */
    count: (): Promise<number> => online.count(Date.now()),

    /** Whether each of `userIds` is online, and when they were last seen (Unix ms), in their order. */
    async statuses(userIds: string[]): Promise<{ userId: string; isOnline: boolean; lastSeenAt: number | null }[]> {
      const seen = await online.lastSeen(userIds)
      const now = Date.now()
      return userIds.map((userId, i) => {
        const lastSeenAt = seen[i] ?? null
        return { userId, isOnline: online.isOnline(lastSeenAt, now), lastSeenAt }
      })
    },

    /**
     * Takes silent users offline and gives `announce` the arrivals and departures that nobody has announced, about `most`
     * of them, each at least once. True: there may be more. Call it from a cron job.
     */
    async sweep(announce: (changes: Change[]) => Promise<unknown>, most = 1_000): Promise<boolean> {
      const { changes, hasMore } = await online.takeChanges(most, Date.now())
      if (changes.length > 0) await announce(changes)
      await online.confirm(changes)
      return hasMore
    },
  }
}

/** A session to store. Times are Unix ms. */
export interface NewSession {
  id: string
  userId: string
  /** SHA-256 of the token, base64url. The token itself is stored nowhere. */
  hash: string
  epoch: number
  seenAt: number
  expiresAt: number
}

/** Your database, as the source of truth for sessions. */
export interface SessionSource {
  load: (claims: Claims) => Promise<Omit<StoredSession<{ version: number }>, 'state'> | null>
  /** Records a visit. Returns false if the session does not exist. */
  touch: (sessionId: string, seenAt: number) => Promise<boolean>
}

export interface SessionOptions extends Common {
  /** Your database: the sessions and one number per user, the epoch. It survives the loss of Redis. */
  source: SessionSource & {
    add: (session: NewSession) => Promise<unknown>
    remove: (sessionId: string) => Promise<unknown>
    epochOf: (userId: string) => Promise<number>
    /** Raises the epoch by one, and returns it. */
    raiseEpoch: (userId: string) => Promise<number>
  }
  /** A session ends when it is not used for this long. Default: an hour. */
  idleMs?: number
  /** A session ends after this time at the latest. Default: 30 days. */
  maxMs?: number
  defer?: Defer
}

/** The package carries nothing with its sessions. */
const NO_STATE = { version: 0 }
/** How many users an isolate knows. Their state takes no room. */
const KNOWN_USERS = 1_000

/** The last uses of a session are stored at this interval. */
const TOUCH_MS = 5 * MINUTE_MS

/**
 * Sessions with bearer tokens, cached in Redis. A check costs one round trip. Signing out everywhere is one number per
 * user. Without Redis, your database answers.
 */
export function createSessions(options: SessionOptions) {
  const { redis, name = 'session', source, idleMs = 60 * MINUTE_MS, maxMs = 30 * DAY_MS, defer = atOnce } = options
  const store = createSessionStore(
    redis,
    {
      async load(claims) {
        const stored = await source.load(claims)
        return stored && { ...stored, state: NO_STATE }
      },
      touch: (sessionId, seenAt) => source.touch(sessionId, seenAt),
    },
    { idleMs, touchMs: TOUCH_MS, memoryMs: 0 },
    {
      session: (id) => `${name}:${id}`,
      epoch: (userId) => `${name}:epoch:${userId}`,
      state: (userId) => `${name}:state:${userId}`,
    },
    defer,
    keep(`sessions ${name}`, () => ({
      redisFailedAt: Date.now(),
      states: createBoundedMap<{ state: typeof NO_STATE; readAt: number }>(KNOWN_USERS, () => 1),
    })),
  )

  /** What a token claims: `<session id>.<secret>.<user id>`. */
  async function read(token: string): Promise<Claims | undefined> {
    const [, sessionId, userId] = /^([\w-]{22})\.[\w-]{43}\.(.{1,200})$/.exec(token) ?? []
    if (sessionId === undefined || userId === undefined) return undefined
    return { userId, sessionId, hash: await sha256(token) }
  }

  return {
    /** Begins a session, and returns its token. It has 256 random bits. */
    async signIn(userId: string): Promise<{ token: string; expiresAt: number }> {
      const token = `${randomText(16)}.${randomText(32)}.${userId}`
      const claims = await read(token)
      if (!claims) throw new RangeError('A user id has 1 to 200 characters on one line')
      const now = Date.now()
      const epoch = await source.epochOf(userId)
      const session = { hash: claims.hash, epoch, seenAt: now, expiresAt: now + maxMs }
      await source.add({ ...session, id: claims.sessionId, userId })
      await store.begin(claims, session, now).catch(() => {}) // the first check asks the source
      return { token, expiresAt: session.expiresAt }
    },

    /** The user and session of a token, if the session is live. One round trip. */
    async check(token: string): Promise<Claims | undefined> {
      const claims = await read(token)
      return claims && (await store.check(claims)) ? claims : undefined
    },

    /** Ends one session. If Redis missed it, checks notice within a minute. */
    async signOut(sessionId: string): Promise<void> {
      await source.remove(sessionId)
      await store.end(sessionId).catch(() => {})
    },

    /** Ends every session of a user. If Redis missed it, checks notice within a minute. */
    async signOutEverywhere(userId: string): Promise<void> {
      const epoch = await source.raiseEpoch(userId)
      await store.endAll(userId, epoch).catch(() => {})
    },
  }
}

/** Locks with an owner, an expiry and a fencing token that rises. One round trip each. */
export const createLocks = ({ redis, name = 'lock' }: Common): Locks =>
  createLocksOf({ redis, keys: { lock: (of) => `${name}:${of}`, fence: (of) => `${name}:fence:${of}` } })

export interface LimitOptions<Policy extends string> extends Common {
  /** By the name of the policy. */
  quotas: Record<Policy, Quota>
}

/** How many subjects an isolate remembers. */
const KNOWN_SUBJECTS = 10_000

/**
 * Sliding-window limits: `take` counts exactly in one round trip; `note` and `count` add up in the isolate and send one
 * weighted count. Pass a client that never retries, such as `once` of `connect`: a repetition counts twice.
 */
export function createLimits<Policy extends string>(options: LimitOptions<Policy>): RateLimit<Policy> {
  const { redis, name = 'limit', quotas } = options
  const known = keep(`known ${name}`, () => createKnownAllowances(KNOWN_SUBJECTS))
  const uncounted = keep(`uncounted ${name}`, createUncounted<Policy>)
  return createRateLimit(
    () => redis,
    known,
    uncounted,
    quotas,
    (policy) => `${name}:${policy}`,
  )
}

export interface StreamOptions extends Common {
  /** The database of `redis`, for the subscription. */
  server: { url: string; token: string }
  /** Default: the newest 5,000 entries. */
  maxEntries?: number
  /** How long the log is kept after its last entry. Default: a day. */
  ttlMs?: number
  defer?: Defer
}

/** While nothing arrives, a follower looks for lost messages this often. */
const CHECK_MS = MINUTE_MS
/** A follower shows this often that it is alive. */
const BEAT_MS = 15 * SECOND_MS

/** A log that followers read live and resume: every entry once, in order, and a gap is reported. */
export function createStream<T>(options: StreamOptions) {
  const { redis, name = 'stream', server, maxEntries = 5_000, ttlMs = DAY_MS, defer = atOnce } = options
  const breaker = breakerOf(server.url)
  const join = createSharedSubscription(
    keep(`subscription ${server.url} ${name}`, newSharedSubscription<Message<T>>),
    createSubscribe(server, breaker, newMeter(), 5_000),
    `${name}:live`,
    BEAT_MS,
    defer,
  )
  const log = createLog<T>(
    { redis, writes: redis, join },
    {
      streamLog: `${name}:log`,
      streamNames: `${name}:names`,
      streamOrigin: `${name}:origin`,
      streamChannel: `${name}:live`,
    },
    { maxEntries, ttlMs },
  )
  return {
    /** Appends those of `items` whose name is not on the log, in order, and publishes them. Two round trips. */
    append: (items: { name: string; value: T }[]): Promise<void> => log.append(items),

    /** Sends values to those who follow now, past the log: once at most. One command. */
    publish: (values: T[]): Promise<void> => log.publish(values),

    /**
     * Yields entries as they arrive, after the id `since`, until `signal` aborts or the connection ends: then follow again
     * from the last id. `hasGap`: the log no longer has everything after `since`.
     */
    async *follow(since: string | undefined, signal: AbortSignal): AsyncGenerator<Batch<T>, void> {
      const over = new AbortController()
      const membership = await log.join(AbortSignal.any([signal, over.signal]))
      const beats = setInterval(membership.beat, BEAT_MS)
      const end = () => {
        clearInterval(beats)
        over.abort()
      }
      signal.addEventListener('abort', end, { once: true }) // also if nobody takes the next entry
      try {
        const start = await log.read(since)
        if (!start.isComplete) yield { entries: [], isReplay: true, hasGap: true }
        yield* log.follow(start, membership, { everyMs: CHECK_MS, alongside: async () => !signal.aborted })
      } finally {
        end()
      }
    },
  }
}

/** Brings a change that the database has to its caches, and never throws. `retryMs`: before the last attempt. */
export const createWriteThrough = ({
  defer = atOnce,
  retryMs = 5_000,
}: {
  defer?: Defer
  retryMs?: number
}): WriteThrough => createWriteThroughOf(defer, retryMs)

const base64url = (bytes: Uint8Array) =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')

const randomText = (bytes: number) => base64url(crypto.getRandomValues(new Uint8Array(bytes)))

const sha256 = async (text: string) =>
  base64url(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))))
