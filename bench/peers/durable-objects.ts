/**
 * Durable Objects instead of Redis, written as Cloudflare's documentation suggests ("Rules of Durable Objects", "Build a rate
 * limiter", "Alarms"): one object per unit of coordination, SQLite storage, RPC methods, alarms for what can wait. D1 holds
 * users, posts and, a second later, likes. It reads profiles and posts from D1: an object is no faster than that.
 */
import { DurableObject } from 'cloudflare:workers'
import { type Context, Hono } from 'hono'
import { HTTPException } from 'hono/http-exception'
import type { Post } from '../../src/posts/schema.ts'
import * as db from './database.ts'
import { readToken } from './token.ts'

interface ObjectsEnv {
  DB: D1Database
  RATE_LIMITER: DurableObjectNamespace<RateLimiter>
  SESSION: DurableObjectNamespace<Session>
  LIKES: DurableObjectNamespace<Likes>
  PRESENCE: DurableObjectNamespace<Presence>
  LIMIT_READS: string
  LIMIT_WRITES: string
  LIMIT_PRESENCE: string
}

const SESSION_MS = 3_600_000
/** A session notes that it was used at most this often: each time is a row written. */
const TOUCH_MS = 60_000
const PRESENCE_MS = 300_000
const SWEEP_MS = 60_000
const HOT_SECONDS = 60
const WRITE_BEHIND_MS = 1_000
/** One object for all users would be limited to about a thousand heartbeats per second. */
const PRESENCE_SHARDS = 16

/** The limit of one caller and policy, in memory, as "Build a rate limiter" shows. */
export class RateLimiter extends DurableObject<ObjectsEnv> {
  #nextAllowedAt = 0

  /** Whether the caller may send a request: `requests` in `windowMs`. */
  limit(requests: number, windowMs: number): boolean {
    const now = Date.now()
    const next = Math.max(now, this.#nextAllowedAt) + windowMs / requests
    if (next - now > windowMs) return false
    this.#nextAllowedAt = next
    return true
  }
}

/** One session. Idle objects delete their data by an alarm ("Durable Object Time To Live"). */
export class Session extends DurableObject<ObjectsEnv> {
  #session: db.Session | null = null
  #touchedAt = 0

  constructor(ctx: DurableObjectState, env: ObjectsEnv) {
    super(ctx, env)
    void ctx.blockConcurrencyWhile(async () => {
      this.#session = (await ctx.storage.get<db.Session>('session')) ?? null
    })
  }

  /** The user of the session, if `hash` is that of its token. */
  async check(id: string, hash: string): Promise<string | null> {
    if (!this.#session) {
      this.#session = await db.loadSession(this.env.DB, id)
      if (!this.#session) return null
      void this.ctx.storage.put('session', this.#session)
    }
    const { userId, expiresAt } = this.#session
    const now = Date.now()
    if (this.#session.hash !== hash || now >= expiresAt) return null
    if (now - this.#touchedAt > TOUCH_MS) {
      this.#touchedAt = now
      void this.ctx.storage.setAlarm(now + SESSION_MS)
    }
    return userId
  }

  override async alarm(): Promise<void> {
    await this.ctx.storage.deleteAll()
    this.#session = null
  }
}

/** The likes of one post: exact here at once, in D1 when the alarm has written them. */
export class Likes extends DurableObject<ObjectsEnv> {
  readonly #sql: SqlStorage

  constructor(ctx: DurableObjectState, env: ObjectsEnv) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS counter (post_id TEXT PRIMARY KEY, likes INTEGER NOT NULL) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS likes (
        user_id TEXT PRIMARY KEY, is_liked INTEGER NOT NULL, changed_at INTEGER NOT NULL, is_written INTEGER NOT NULL
      ) WITHOUT ROWID;
      CREATE INDEX IF NOT EXISTS unwritten ON likes (changed_at) WHERE NOT is_written`)
  }

  /** The count, and whether `viewerId` likes the post. Null: there is no such post. */
  async read(postId: string, viewerId: string | null): Promise<{ likes: number; liked: boolean } | null> {
    const likes = await this.#count(postId)
    if (likes === null) return null
    return { likes, liked: viewerId === null ? false : await this.#isLiked(postId, viewerId) }
  }

  async set(postId: string, userId: string, isLiked: boolean): Promise<number | null> {
    if ((await this.#count(postId)) === null) return null
    const inD1 = await this.#isLiked(postId, userId)
    // From here on nothing is awaited, so no other request comes between.
    const was = this.#local(userId) ?? inD1
    if (was !== isLiked) {
      const now = Date.now()
      this.#sql.exec(
        `INSERT INTO likes VALUES (?1, ?2, ?3, 0)
        ON CONFLICT DO UPDATE SET is_liked = excluded.is_liked, changed_at = excluded.changed_at, is_written = 0`,
        userId,
        Number(isLiked),
        now,
      )
      this.#sql.exec('UPDATE counter SET likes = likes + ?', isLiked ? 1 : -1)
      if ((await this.ctx.storage.getAlarm()) === null) await this.ctx.storage.setAlarm(now + WRITE_BEHIND_MS)
    }
    return this.#count(postId)
  }

  /** Writes to D1 what it does not have yet. Retried by the runtime if it throws. */
  override async alarm(): Promise<void> {
    const rows = this.#sql
      .exec<{ user_id: string; is_liked: number; changed_at: number }>(
        'SELECT user_id, is_liked, changed_at FROM likes WHERE NOT is_written',
      )
      .toArray()
    const [counter] = this.#sql.exec<{ post_id: string }>('SELECT post_id FROM counter').toArray()
    if (rows.length === 0 || !counter) return
    const values = JSON.stringify(rows.map((row) => [row.user_id, row.is_liked, row.changed_at]))
    await this.env.DB.prepare(
      `INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
      SELECT ?1, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?2) WHERE true
      ON CONFLICT DO UPDATE SET is_liked = excluded.is_liked, changed_at = excluded.changed_at`,
    )
      .bind(counter.post_id, values)
      .run()
    for (const { user_id, changed_at } of rows) {
      this.#sql.exec('UPDATE likes SET is_written = 1 WHERE user_id = ? AND changed_at = ?', user_id, changed_at)
    }
    const [more] = this.#sql.exec('SELECT 1 FROM likes WHERE NOT is_written LIMIT 1').toArray()
    if (more) await this.ctx.storage.setAlarm(Date.now() + WRITE_BEHIND_MS)
  }

  async #count(postId: string): Promise<number | null> {
    const read = () => this.#sql.exec<{ likes: number }>('SELECT likes FROM counter').toArray()[0]?.likes
    const known = read()
    if (known !== undefined) return known
    const counts = await db.loadCounts(this.env.DB, [postId])
    const likes = counts.get(postId)?.likesCount
    if (likes === undefined) return null
    this.#sql.exec('INSERT OR IGNORE INTO counter VALUES (?, ?)', postId, likes) // another request may have loaded it
    return read() ?? null
  }

  #local(userId: string): boolean | undefined {
    const [row] = this.#sql.exec<{ is_liked: number }>('SELECT is_liked FROM likes WHERE user_id = ?', userId).toArray()
    return row && row.is_liked === 1
  }

  async #isLiked(postId: string, userId: string): Promise<boolean> {
    const known = this.#local(userId)
    if (known !== undefined) return known
    const liked = await db.loadLiked(this.env.DB, userId, [postId])
    return this.#local(userId) ?? liked.get(postId) ?? false
  }
}

/** Who is online: a share of the users. */
export class Presence extends DurableObject<ObjectsEnv> {
  constructor(ctx: DurableObjectState, env: ObjectsEnv) {
    super(ctx, env)
    ctx.storage.sql.exec(
      'CREATE TABLE IF NOT EXISTS seen (user_id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID',
    )
  }

  async beat(userId: string): Promise<void> {
    const now = Date.now()
    this.ctx.storage.sql.exec('INSERT OR REPLACE INTO seen VALUES (?, ?)', userId, now)
    if ((await this.ctx.storage.getAlarm()) === null) await this.ctx.storage.setAlarm(now + SWEEP_MS)
  }

  override async alarm(): Promise<void> {
    const { sql } = this.ctx.storage
    sql.exec('DELETE FROM seen WHERE at <= ?', Date.now() - PRESENCE_MS)
    if (sql.exec('SELECT 1 FROM seen LIMIT 1').toArray().length > 0) {
      await this.ctx.storage.setAlarm(Date.now() + SWEEP_MS)
    }
  }
}

type AppContext = Context<{ Bindings: ObjectsEnv }>

const limits = {
  reads: { variable: 'LIMIT_READS', windowMs: 60_000 },
  likes: { variable: 'LIMIT_WRITES', windowMs: 3_600_000 },
  presence: { variable: 'LIMIT_PRESENCE', windowMs: 3_600_000 },
} as const

async function limit(c: AppContext, name: keyof typeof limits, subject: string): Promise<void> {
  const { variable, windowMs } = limits[name]
  const limiter = c.env.RATE_LIMITER.getByName(`${name}:${subject}`)
  if (await limiter.limit(Number(c.env[variable]), windowMs)) return
  throw new HTTPException(429, { message: 'Too many requests' })
}

const addressOf = (c: AppContext) => `ip:${c.req.header('CF-Connecting-IP') ?? 'unknown'}`

async function userOf(c: AppContext): Promise<string | null> {
  const claims = await readToken(c.req.header('Authorization'))
  return claims && c.env.SESSION.getByName(claims.sessionId).check(claims.sessionId, claims.hash)
}

async function requireUser(c: AppContext): Promise<string> {
  const userId = await userOf(c)
  if (userId === null) throw new HTTPException(401, { message: 'Sign in first' })
  return userId
}

/** Texts and other counts from D1; the exact likes from one object per post, all at once. */
async function readPosts(c: AppContext, ids: string[], viewerId: string | null): Promise<Post[]> {
  const [posts, counts, likes] = await Promise.all([
    db.loadPosts(c.env.DB, ids),
    db.loadCounts(c.env.DB, ids),
    Promise.all(ids.map((id) => c.env.LIKES.getByName(id).read(id, viewerId))),
  ])
  return ids.flatMap((id, i) => {
    const post = posts.get(id)
    const count = counts.get(id)
    const exact = likes[i]
    if (!post || !count || !exact) return []
    const likedByMe = viewerId === null ? {} : { likedByMe: exact.liked }
    return [{ ...post, ...count, likesCount: exact.likes, ...likedByMe }]
  })
}

/** The ids of the hot feed, from the cache of the data center. */
async function hotIds(c: AppContext): Promise<string[]> {
  const cacheKey = 'https://cache.internal/hot'
  const cached = await caches.default.match(cacheKey)
  if (cached) return cached.json()
  const ids = await db.loadHot(c.env.DB, Date.now())
  const answer = Response.json(ids, { headers: { 'Cache-Control': `max-age=${HOT_SECONDS}` } })
  c.executionCtx.waitUntil(caches.default.put(cacheKey, answer))
  return ids
}

const app = new Hono<{ Bindings: ObjectsEnv }>()

app.get('/healthz', (c) => c.json({ status: 'ok' }))

app.get('/v1/users/:id', async (c) => {
  await limit(c, 'reads', addressOf(c))
  const id = c.req.param('id')
  const users = await db.loadUsers(c.env.DB, [id])
  const user = users.get(id)
  return user ? c.json(user) : c.json({ title: 'There is no such resource' }, 404)
})

app.get('/v1/users', async (c) => {
  await limit(c, 'reads', addressOf(c))
  const ids = [...new Set((c.req.query('ids') ?? '').split(','))].slice(0, 100)
  const users = await db.loadUsers(c.env.DB, ids)
  return c.json({ items: ids.flatMap((id) => users.get(id) ?? []), nextCursor: null })
})

app.get('/v1/posts/hot', async (c) => {
  const viewerId = await userOf(c)
  await limit(c, 'reads', viewerId ?? addressOf(c))
  const ids = await hotIds(c)
  const items = await readPosts(c, ids.slice(0, Math.min(100, Number(c.req.query('limit') ?? 20))), viewerId)
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
  const likes = await c.env.LIKES.getByName(id).set(id, userId, isLiked)
  return likes === null ? c.json({ title: 'There is no such resource' }, 404) : c.json({ liked: isLiked, likes })
}
app.put('/v1/posts/:id/like', like(true))
app.delete('/v1/posts/:id/like', like(false))

app.post('/v1/presence/heartbeat', async (c) => {
  const userId = await requireUser(c)
  await limit(c, 'presence', userId)
  const shard = Number.parseInt(userId.slice(-2), 36) % PRESENCE_SHARDS // the end of a ULID is random
  await c.env.PRESENCE.getByName(`shard:${shard}`).beat(userId)
  return c.body(null, 204)
})

export default app
