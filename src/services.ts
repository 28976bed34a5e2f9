import { drizzle } from 'drizzle-orm/d1'
import { createComments } from './comments/comments.ts'
import type { Config, LimitName } from './config.ts'
import { createFeed } from './feed/feed.ts'
import { createFollows } from './users/follows.ts'
import { createIdempotency } from './idempotency/idempotency.ts'
import { keys } from './keys.ts'
import { createFences } from './locks/fences.ts'
import { createLikes, type LikeMessage } from './likes/likes.ts'
import { type CachedPost, createPosts } from './posts/posts.ts'
import { createPresence, type StatusChange } from './presence/presence.ts'
import { type CacheEvent, createCache, createMemory } from './redis/cache.ts'
import { createBreaker, createConnection, type Meter } from './redis/client.ts'
import { createCounters } from './redis/counter.ts'
import { createLocks } from './redis/lock.ts'
import { createOnline } from './redis/presence.ts'
import { createSessions } from './redis/session.ts'
import { createKnownAllowances, createRateLimit, createUncounted } from './redis/rate-limit.ts'
import { createWriteThrough } from './redis/write-through.ts'
import { createAccounts, createSessionSource } from './sessions/sessions.ts'
import { createTokens } from './sessions/token.ts'
import { createViews } from './posts/views.ts'
import { type CachedUser, createUsers } from './users/users.ts'

/** What an isolate keeps between requests. */
export type Isolate = ReturnType<typeof createIsolate>

export const createIsolate = (config: Config) => ({
  memory: createMemory(config.memoryMaxBytes),
  breaker: createBreaker(config.redis.breakerFailures, config.redis.breakerCoolDownMs),
  allowances: createKnownAllowances(10_000),
  uncounted: createUncounted<LimitName>(),
  tokens: createTokens(config.sessions.key),
})

/** Of one invocation: where its costs are noted, and how it works on after the answer. */
export interface Invocation {
  meter: Meter
  onCacheEvent: (event: CacheEvent) => void
  defer: (work: () => Promise<unknown>) => void
}

/** Counts that nobody asked for in a day leave Redis; D1 holds them. */
const COUNT_TTL_MS = 86_400_000

/** What is bound to the Worker besides its configuration. */
export interface Bindings {
  DB: D1Database
  LIKES: Queue<LikeMessage>
}

export type Services = ReturnType<typeof createServices>

/** Builds the modules one invocation needs. */
export function createServices(config: Config, bindings: Bindings, isolate: Isolate, invocation: Invocation) {
  const { meter, defer, onCacheEvent } = invocation
  const db = drizzle(bindings.DB)
  const connect = createConnection(config.redis, isolate.breaker, meter)
  const { readTimeoutMs, writeTimeoutMs } = config.redis
  const redis = connect({ timeoutMs: readTimeoutMs, isSafeTwice: true })
  const writes = connect({ timeoutMs: writeTimeoutMs, isSafeTwice: true })
  const once = connect({ timeoutMs: readTimeoutMs, isSafeTwice: false })

  const cache = { redis, memory: isolate.memory, defer, onEvent: onCacheEvent }
  const usersById = createCache<CachedUser>(cache, {
    ...config.caches.users,
    name: 'user',
    key: keys.user,
    versionOf: (user) => user.revision,
  })
  const idsByUsername = createCache<string>(cache, {
    ...config.caches.users,
    name: 'username',
    key: keys.username,
    versionOf: () => 0,
  })
  const postsById = createCache<CachedPost>(cache, {
    ...config.caches.posts,
    name: 'post',
    key: keys.post,
    versionOf: (post) => post.version,
  })
  const hotPosts = createCache<string[]>(cache, {
    ...config.caches.hot,
    name: 'hot',
    key: keys.hotPosts,
    versionOf: () => 0,
    generationKey: keys.hotGeneration,
  })
  const counters = createCounters(redis, COUNT_TTL_MS, defer)
  const patientCounters = createCounters(writes, COUNT_TTL_MS, defer)
  const likes = createLikes(db, counters, patientCounters, (message) => bindings.LIKES.send(message))

  const sessions = createSessions(redis, createSessionSource(db), config.sessions, keys, defer)
  const { tokens } = isolate

  // Nobody listens yet.
  const onStatusChange = async (_changes: StatusChange[]) => {}

  const writeThrough = createWriteThrough(defer, config.redis.breakerCoolDownMs)

  const users = createUsers(db, usersById, idsByUsername, writeThrough)
  const posts = createPosts({
    db,
    byId: postsById,
    hotIds: hotPosts,
    counters,
    likedBy: (userId, ids) => likes.likedBy(userId, ids),
    authors: users,
    writeThrough,
    hotWindowMs: config.hotWindowMs,
  })
  return {
    redis,
    users,
    posts,
    comments: createComments(db, counters, writeThrough),
    follows: createFollows(db, users, writeThrough),
    feed: createFeed(db, posts.withCounts),
    idempotency: createIdempotency(db),
    likes,
    views: createViews(db, patientCounters),
    sessions,
    tokens,
    accounts: createAccounts(db, sessions, tokens, config.sessions.absoluteMs, (username) =>
      users.forgetUsername(username),
    ),
    presence: createPresence(db, createOnline(redis, keys, config.presence), onStatusChange, defer),
    locks: createLocks({ redis: writes, keys }),
    fences: createFences(db),
    rateLimit: createRateLimit(once, isolate.allowances, isolate.uncounted, config.limits, keys.rateLimit),
  }
}
