import { drizzle } from 'drizzle-orm/d1'
import { createComments } from './comments/comments.ts'
import type { Config, LimitName } from './config.ts'
import { createDispatch, type Listener } from './events/consume.ts'
import { createCounterUpdates } from './events/counters.ts'
import { createOutbox, type EventMessage } from './events/outbox.ts'
import { createFeed } from './feed/feed.ts'
import { createFollows } from './users/follows.ts'
import { createIdempotency } from './idempotency/idempotency.ts'
import { keys } from './keys.ts'
import { createFences } from './locks/fences.ts'
import { createLikes, type LikeMessage } from './likes/likes.ts'
import { createMaintenance } from './monitoring/maintenance.ts'
import { createRecorder } from './monitoring/recorder.ts'
import { createScan } from './monitoring/scan.ts'
import { createStats } from './monitoring/stats.ts'
import { createNotifications, type Inbox } from './notifications/notifications.ts'
import { type CachedPost, createPosts } from './posts/posts.ts'
import { createPresence } from './presence/presence.ts'
import { type CacheEvent, createCache, createMemory } from './redis/cache.ts'
import { createBreaker, createConnection, type Meter, type Sent } from './redis/client.ts'
import { createConcurrency } from './redis/concurrency.ts'
import { createCounters } from './redis/counter.ts'
import { createLocks } from './redis/lock.ts'
import { createOnline } from './redis/presence.ts'
import { createStream } from './redis/stream.ts'
import { createSubscribe } from './redis/subscription.ts'
import { createSessions } from './redis/session.ts'
import { createKnownAllowances, createRateLimit, createUncounted } from './redis/rate-limit.ts'
import { createWriteThrough } from './redis/write-through.ts'
import { createRecommendations } from './recommendations/recommendations.ts'
import { createSearch } from './search/search.ts'
import { createAccounts, createSessionSource } from './sessions/sessions.ts'
import { createTokens } from './sessions/token.ts'
import { createStreams, type Streamed } from './streams/streams.ts'
import { createViews } from './posts/views.ts'
import { type CachedUser, createUsers } from './users/users.ts'
import { createAttempts } from './webhooks/attempts.ts'
import { createDeliveries } from './webhooks/deliveries.ts'
import { type DeliveryMessage, type Posted, wakeMessage } from './webhooks/messages.ts'
import { createSender } from './webhooks/sender.ts'
import { createWebhooks } from './webhooks/webhooks.ts'

/** What an isolate keeps between requests. */
export type Isolate = ReturnType<typeof createIsolate>

export const createIsolate = (config: Config) => ({
  memory: createMemory(config.memoryMaxBytes),
  breaker: createBreaker(config.redis.breakerFailures, config.redis.breakerCoolDownMs),
  allowances: createKnownAllowances(10_000),
  uncounted: createUncounted<LimitName>(),
  tokens: createTokens(config.sessions.key),
  recorder: createRecorder(config.monitoring.slowMs),
  openStreams: { count: 0 },
  /** The endpoints of webhooks that are being waited for, and since when. */
  awaited: new Map<string, number>(),
})

/** Of one invocation: where its costs are noted, and how it works on after the answer. */
export interface Invocation {
  meter: Meter
  onCacheEvent: (event: CacheEvent) => void
  onSent?: (sent: Sent) => void
  /** Is told of a failure that is made up for later: whose it is, and what was thrown. */
  onFailure: (of: string, error: unknown) => void
  defer: (work: () => Promise<unknown>) => void
  /** For whatever goes out on behalf of this invocation (W3C Trace Context); absent where nobody asked. */
  traceparent?: string
}

/** Counts that nobody asked for in a day leave Redis; D1 holds them. */
const COUNT_TTL_MS = 86_400_000

/** How long events are kept for who resumes a stream, after the last. */
const STREAM_TTL_MS = 86_400_000

/** What is bound to the Worker besides its configuration. */
export interface Bindings {
  DB: D1Database
  LIKES: Queue<LikeMessage>
  EVENTS: Queue<EventMessage>
  DELIVERIES: Queue<DeliveryMessage>
}

export type Services = ReturnType<typeof createServices>

/** Builds the modules one invocation needs. */
export function createServices(config: Config, bindings: Bindings, isolate: Isolate, invocation: Invocation) {
  const { meter, defer, onCacheEvent, onSent, onFailure, traceparent } = invocation
  const db = drizzle(bindings.DB)
  const connect = createConnection(config.redis, isolate.breaker, meter, onSent)
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
  const inboxes = createCache<Inbox>(
    { ...cache, memory: createMemory(0) }, // one's own change must be seen at once, whichever isolate answers
    { ...config.caches.inboxes, name: 'inbox', key: keys.inbox, versionOf: () => 0 },
  )
  const counters = createCounters(redis, COUNT_TTL_MS, defer)
  const patientCounters = createCounters(writes, COUNT_TTL_MS, defer)
  const writeThrough = createWriteThrough(defer, config.redis.breakerCoolDownMs)
  const notifications = createNotifications({ db, inboxes, writeThrough, ...config.notifications })
  const likes = createLikes(
    db,
    counters,
    patientCounters,
    (message) => bindings.LIKES.send({ ...message, ...(traceparent === undefined ? {} : { traceparent }) }),
    (kind, contentIds) => notifications.tellLikes(kind, contentIds),
  )

  const sessions = createSessions(redis, createSessionSource(db), config.sessions, keys, defer)
  const { tokens } = isolate

  const tell = (messages: EventMessage[]) =>
    sendAll(
      bindings.EVENTS,
      messages.map((body) => ({ body })),
    )
  const outbox = createOutbox(db, tell, defer, traceparent)
  const counterUpdates = createCounterUpdates(db, outbox)

  const users = createUsers(db, usersById, idsByUsername, outbox, writeThrough)
  const posts = createPosts({
    db,
    byId: postsById,
    hotIds: hotPosts,
    counters,
    likedBy: (userId, ids) => likes.likedBy(userId, ids),
    authors: users,
    outbox,
    writeThrough,
    hotWindowMs: config.hotWindowMs,
  })
  const accounts = createAccounts(db, sessions, tokens, config.sessions.absoluteMs, outbox, (username) =>
    users.forgetUsername(username),
  )
  const idempotency = createIdempotency(db)
  const online = createOnline(redis, keys, config.presence)
  const scan = createScan(redis, config.monitoring.scanCommands)
  const send = createSender(config.webhooks)
  const post = (messages: Posted[]) => sendAll(bindings.DELIVERIES, messages)
  const webhooks = createWebhooks({
    db,
    outbox,
    send,
    wakeSoon: (webhookId) => defer(() => post([wakeMessage(webhookId)])),
    policy: config.webhooks,
    source: config.events.source,
  })
  const attempts = createAttempts({
    db,
    outbox,
    send,
    post,
    probe: (webhook) => webhooks.probe(webhook),
    policy: config.webhooks,
    source: config.events.source,
    onAttempt: isolate.recorder.delivered,
    awaited: isolate.awaited,
    defer,
    onFailure,
  })
  const deliveries = createDeliveries({ db, attempts, post, onFailure })
  const stats = createStats({
    redis,
    once,
    db,
    recorder: isolate.recorder,
    scan,
    breakerState: () => isolate.breaker.state(Date.now()),
    sources: {
      queues: () =>
        Promise.all(
          Object.entries({ likes: bindings.LIKES, events: bindings.EVENTS, deliveries: bindings.DELIVERIES }).map(
            async ([queue, binding]) => backlogOf(queue, await binding.metrics()),
          ),
        ),
      online: () => online.count(Date.now()),
      outbox: () => outbox.backlog(Date.now()),
      webhooks: () => webhooks.figures(),
    },
    policy: config.monitoring,
    defer,
  })
  const maintenance = createMaintenance({
    sessions: (most, now) => accounts.purge(most, now),
    idempotencyKeys: (most, now) => idempotency.purge(most, now),
    hotFeeds: () => posts.purgeHot(),
    events: (most, now) => outbox.purge(most, now - config.events.keptMs),
    deliveries: (most, now) => deliveries.purge(most, now - config.webhooks.keptMs),
    webhookFigures: (most, now) => webhooks.purge(most, now),
    notifications: (most, now) => notifications.purge(most, now),
  })
  const streams = createStreams({
    db,
    log: createStream<Streamed>(
      { redis, writes, subscribe: createSubscribe(config.redis, isolate.breaker, meter, writeTimeoutMs, onSent) },
      keys,
      { maxEntries: config.streams.maxEntries, ttlMs: STREAM_TTL_MS },
    ),
    places: createConcurrency(redis, keys, { ...config.streams, ttlMs: 2 * config.streams.checkMs + 10_000 }),
    open: isolate.openStreams,
    source: config.events.source,
    policy: { ...config.streams, keptMs: STREAM_TTL_MS },
    defer,
    onFailure,
  })
  const search = createSearch(db)
  const recommendations = createRecommendations({
    db,
    lists: createCache<string[]>(cache, {
      ...config.caches.recommended,
      name: 'recommended',
      key: keys.recommended,
      versionOf: () => 0,
    }),
    hot: (limit) => posts.hot(limit),
    getMany: posts.getMany,
  })
  /** Who is told of events: one line each. */
  const listeners: Listener[] = [
    deliveries.listener,
    streams.listener,
    notifications.listener,
    search.listener,
    recommendations.listener,
  ]
  const dispatch = createDispatch({
    db,
    listeners,
    counterUpdates,
    send: (message, options) => bindings.EVENTS.send(message, options),
    onFailure,
  })
  return {
    redis,
    outbox,
    dispatch,
    webhooks,
    deliveries,
    stats,
    scan,
    maintenance,
    users,
    posts,
    comments: createComments(db, counters, outbox, writeThrough),
    follows: createFollows(db, users, outbox, writeThrough),
    feed: createFeed(db, posts.withCounts),
    search,
    recommendations,
    idempotency,
    likes,
    notifications,
    views: createViews(db, patientCounters),
    sessions,
    streams,
    tokens,
    accounts,
    presence: createPresence({ db, online, outbox, defer }),
    locks: createLocks({ redis: writes, keys }),
    fences: createFences(db),
    rateLimit: createRateLimit(once, isolate.allowances, isolate.uncounted, config.limits, keys.rateLimit),
  }
}

/** A queue takes a hundred messages at a time. */
async function sendAll<T>(queue: Queue<T>, messages: MessageSendRequest<T>[]): Promise<void> {
  for (let sent = 0; sent < messages.length; sent += 100) {
    await queue.sendBatch(messages.slice(sent, sent + 100))
  }
}

/** What a queue says of itself, in our units. */
const backlogOf = (queue: string, { backlogCount, backlogBytes, oldestMessageTimestamp }: QueueMetrics) => ({
  queue,
  backlog: backlogCount,
  backlogBytes,
  oldestAgeSeconds: oldestMessageTimestamp
    ? Math.max(0, (Date.now() - oldestMessageTimestamp.getTime()) / 1_000)
    : null,
})
