/**
 * The part that both peers share: an API with the same answers as ours, written as the documentation of the two SDKs shows.
 * `ratelimit.limit()` and the session first, each awaited. Then the cache, then D1. The peers differ in how they cache.
 */
import { Ratelimit } from '@upstash/ratelimit'
import { Redis } from '@upstash/redis/cloudflare'
import { type Context, Hono } from 'hono'
import { HTTPException } from 'hono/http-exception'
import type { Post } from '../../src/posts/schema.ts'
import * as db from './database.ts'
import { readToken } from './token.ts'

export interface PeerEnv {
  DB: D1Database
  UPSTASH_REDIS_REST_URL: string
  UPSTASH_REDIS_REST_TOKEN: string
  LIMIT_READS: string
  LIMIT_WRITES: string
  LIMIT_PRESENCE: string
}

/** Cache-aside: the value cached under a key. On a miss, loads it and caches it for `seconds`. */
export interface ReadThrough {
  one<T>(key: string, seconds: number, load: () => Promise<T | null>): Promise<T | null>
  /** The same for several keys. Calls `load` once for all missing ones. */
  many<T>(
    keys: Record<string, string>,
    seconds: number,
    load: (ids: string[]) => Promise<Map<string, T>>,
  ): Promise<Map<string, T>>
  /** Stores a value after a write. */
  put(key: string, seconds: number, value: unknown): Promise<unknown>
}

const USER_SECONDS = 300
const POST_SECONDS = 300
const HOT_SECONDS = 60
const COUNTS_SECONDS = 86_400
const SESSION_SECONDS = 3_600
const PRESENCE_SECONDS = 300

/** Outlives a request, as the documentation of @upstash/ratelimit says: a blocked caller costs no round trip. */
const ephemeralCache = new Map<string, number>()

type AppContext = Context<{ Bindings: PeerEnv; Variables: { redis: Redis; cache: ReadThrough } }>

const userKey = (id: string) => `user:${id}`
const postKey = (id: string) => `post:${id}`
const countsKey = (id: string) => `counts:${id}`
const likedKey = (userId: string, postId: string) => `liked:${userId}:${postId}`
const keysOf = (ids: string[], keyOf: (id: string) => string) => Object.fromEntries(ids.map((id) => [id, keyOf(id)]))

const limits = {
  reads: { variable: 'LIMIT_READS', seconds: 60 },
  likes: { variable: 'LIMIT_WRITES', seconds: 3_600 },
  presence: { variable: 'LIMIT_PRESENCE', seconds: 3_600 },
} as const

async function limit(c: AppContext, name: keyof typeof limits, subject: string): Promise<void> {
  const { variable, seconds } = limits[name]
  const ratelimit = new Ratelimit({
    redis: c.var.redis,
    limiter: Ratelimit.slidingWindow(Number(c.env[variable]), `${seconds} s`),
    prefix: `limit:${name}`,
    ephemeralCache,
  })
  const { success, pending } = await ratelimit.limit(subject)
  c.executionCtx.waitUntil(pending)
  if (!success) throw new HTTPException(429, { message: 'Too many requests' })
}

const addressOf = (c: AppContext) => `ip:${c.req.header('CF-Connecting-IP') ?? 'unknown'}`

/** The user of a token. `GETEX` reads the session and extends it in one command. */
async function userOf(c: AppContext): Promise<string | null> {
  const claims = await readToken(c.req.header('Authorization'))
  if (!claims) return null
  const { sessionId, hash } = claims
  const key = `session:${sessionId}`
  let session = await c.var.redis.getex<db.Session>(key, { ex: SESSION_SECONDS })
  if (!session) {
    session = await db.loadSession(c.env.DB, sessionId)
    if (session) await c.var.redis.set(key, session, { ex: SESSION_SECONDS })
  }
  return session && session.hash === hash && Date.now() < session.expiresAt ? session.userId : null
}

async function requireUser(c: AppContext): Promise<string> {
  const userId = await userOf(c)
  if (userId === null) throw new HTTPException(401, { message: 'Sign in first' })
  return userId
}

/** Posts with their counts, and `likedByMe` for a signed-in user. The SDK pipelines the three reads. */
async function readPosts(c: AppContext, ids: string[], viewerId: string | null): Promise<Post[]> {
  const { cache } = c.var
  const [posts, counts, liked] = await Promise.all([
    cache.many(keysOf(ids, postKey), POST_SECONDS, (missing) => db.loadPosts(c.env.DB, missing)),
    cache.many(keysOf(ids, countsKey), COUNTS_SECONDS, (missing) => db.loadCounts(c.env.DB, missing)),
    viewerId === null
      ? undefined
      : cache.many(
          keysOf(ids, (id) => likedKey(viewerId, id)),
          COUNTS_SECONDS,
          (missing) => db.loadLiked(c.env.DB, viewerId, missing),
        ),
  ])
  return ids.flatMap((id) => {
    const post = posts.get(id)
    const count = counts.get(id)
    return post && count ? [{ ...post, ...count, ...(liked ? { likedByMe: liked.get(id) ?? false } : {}) }] : []
  })
}

/** A peer that caches with the result of `newCache`, called for each request. */
export function createPeer(
  newCache: (redis: Redis, context: { waitUntil(work: Promise<unknown>): void }) => ReadThrough,
) {
  const app = new Hono<{ Bindings: PeerEnv; Variables: { redis: Redis; cache: ReadThrough } }>()

  app.get('/healthz', (c) => c.json({ status: 'ok' }))

  app.use(async (c, next) => {
    const redis = Redis.fromEnv(c.env) // per request, as the documentation for Workers shows
    c.set('redis', redis)
    c.set('cache', newCache(redis, c.executionCtx))
    await next()
  })

  app.get('/v1/users/:id', async (c) => {
    await limit(c, 'reads', addressOf(c))
    const id = c.req.param('id')
    const user = await c.var.cache.one(userKey(id), USER_SECONDS, async () => {
      const users = await db.loadUsers(c.env.DB, [id])
      return users.get(id) ?? null
    })
    return user ? c.json(user) : c.json({ title: 'There is no such resource' }, 404)
  })

  app.get('/v1/users', async (c) => {
    await limit(c, 'reads', addressOf(c))
    const ids = [...new Set((c.req.query('ids') ?? '').split(','))].slice(0, 100)
    const users = await c.var.cache.many(keysOf(ids, userKey), USER_SECONDS, (missing) =>
      db.loadUsers(c.env.DB, missing),
    )
    return c.json({ items: ids.flatMap((id) => users.get(id) ?? []), nextCursor: null })
  })

  app.get('/v1/posts/hot', async (c) => {
    const viewerId = await userOf(c)
    await limit(c, 'reads', viewerId ?? addressOf(c))
    const count = Math.min(100, Number(c.req.query('limit') ?? 20))
    const ids = await c.var.cache.one('hot', HOT_SECONDS, () => db.loadHot(c.env.DB, Date.now()))
    const items = await readPosts(c, (ids ?? []).slice(0, count), viewerId)
    items.sort((a, b) => db.scoreOf(b) - db.scoreOf(a) || (a.id < b.id ? 1 : -1))
    return c.json({ items, nextCursor: null })
  })

  app.get('/v1/posts/:id', async (c) => {
    const viewerId = await userOf(c)
    await limit(c, 'reads', viewerId ?? addressOf(c))
    const [post] = await readPosts(c, [c.req.param('id')], viewerId)
    return post ? c.json(post) : c.json({ title: 'There is no such resource' }, 404)
  })

  const like = (isLiked: boolean) => async (c: AppContext) => {
    const userId = await requireUser(c)
    await limit(c, 'likes', userId)
    const id = c.req.param('id') ?? ''
    const counts = await db.setLike(c.env.DB, id, userId, isLiked)
    if (!counts) return c.json({ title: 'There is no such resource' }, 404)
    await Promise.all([
      c.var.cache.put(countsKey(id), COUNTS_SECONDS, counts),
      c.var.cache.put(likedKey(userId, id), COUNTS_SECONDS, isLiked),
    ])
    return c.json({ liked: isLiked, likes: counts.likesCount })
  }
  app.put('/v1/posts/:id/like', like(true))
  app.delete('/v1/posts/:id/like', like(false))

  app.post('/v1/presence/heartbeat', async (c) => {
    const userId = await requireUser(c)
    await limit(c, 'presence', userId)
    const now = Date.now()
    await c.var.redis
      .pipeline()
      .zadd('presence', { score: now, member: userId })
      .zremrangebyscore('presence', '-inf', now - PRESENCE_SECONDS * 1_000)
      .exec()
    return c.body(null, 204)
  })

  return app
}
