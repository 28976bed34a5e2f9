import { env } from 'cloudflare:workers'
import { createHash, randomBytes } from 'node:crypto'
import { and, eq, sql } from 'drizzle-orm'
import { expect } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { createTables } from '../edge.ts'
import { addComment, addFollow, addPost, addUser, addWebhookRows, db, quickHash } from '../rows.ts'
import { receiver } from '../webhooks/endpoints.ts'
import { type Lab, newLab } from './lab.ts'

/** One valid request of an operation, with data of its own. */
export interface Call {
  path: string
  /** The environment that it is sent to, if it needs one of its own. It fails as the other does. */
  lab?: Lab
  bindings?: Record<string, unknown>
  headers?: Record<string, string>
  body?: object
  /** A refusal by which a client that repeats the request learns that its first attempt succeeded. */
  doneStatus?: number
  /** Its effect is only in Redis, which may lose it. */
  isVolatile?: true
  /** Whether the write happened, once nothing is pending. `answer` is the body of the last answer. */
  happened?: (answer: Record<string, string>) => Promise<boolean>
}

const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
const unique = () => crypto.randomUUID().replaceAll('-', '').slice(0, 20)
const PASSWORD = 'correct-horse-battery'
const passwordHash = quickHash(PASSWORD)

const isOne = (rows: unknown[]) => rows.length === 1
const isNone = (rows: unknown[]) => rows.length === 0

/** A post by another user, with one comment, and a signed-in user who reads them. */
async function content(lab: Lab) {
  const [author, me] = await Promise.all([lab.member(), lab.member()])
  const post = await addPost({ authorId: author.id })
  const comment = await addComment({ postId: post.id, authorId: author.id })
  await addFollow(author.id, me.id)
  return { author, me, post, comment, headers: me.headers }
}

async function mine(lab: Lab) {
  const me = await lab.member()
  const post = await addPost({ authorId: me.id })
  const comment = await addComment({ postId: post.id, authorId: me.id })
  return { me, post, comment, headers: me.headers }
}

/** The status of a read by another isolate. */
async function statusOf(lab: Lab, path: string, headers: Record<string, string>): Promise<number> {
  const edge = lab.newIsolate()
  const { status } = await edge.fetch(path, { headers })
  await edge.settle()
  return status
}

async function answerOf<T>(lab: Lab, path: string, headers: Record<string, string>): Promise<T> {
  const edge = lab.newIsolate()
  const answer = await (await edge.fetch(path, { headers })).json<T>()
  await edge.settle()
  return answer
}

/** A token as a mail has it. */
async function newToken(userId: string, email: string, purpose: 'reset' | 'verify'): Promise<string> {
  const token = randomBytes(32).toString('base64url')
  const hash = createHash('sha256').update(token).digest('base64url')
  await db.insert(t.credentialTokens).values({ hash, userId, purpose, email, expiresAt: Date.now() + 600_000 })
  return token
}

/** Sends a request while nothing fails, to prepare another. */
async function ask(lab: Lab, method: string, path: string, headers: Record<string, string>, body?: object) {
  const response = await lab.edge.fetch(path, {
    method,
    headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  })
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
  const text = await response.text()
  await lab.edge.settle()
  return text === '' ? {} : (JSON.parse(text) as Record<string, string>) // what the API answers is an object
}

/** Whether a service request succeeds. */
const accepts = (lab: Lab, method: string, path: string, body: object) =>
  ask(lab, method, path, service, body).then(
    () => true,
    () => false,
  )

/** A like or unlike of a post or comment. Both sides must agree: the rows of D1, and what the API shows the user. */
const like = (kind: 'posts' | 'comments', isLiked: boolean) => async (lab: Lab) => {
  const { post, comment, me, headers } = await content(lab)
  const id = kind === 'posts' ? post.id : comment.id
  if (!isLiked) await ask(lab, 'PUT', `/v1/${kind}/${id}/like`, headers)
  return {
    path: `/v1/${kind}/${id}/like`,
    headers,
    happened: async () => {
      const [row] =
        kind === 'posts'
          ? await db
              .select()
              .from(t.postLikes)
              .where(and(eq(t.postLikes.postId, id), eq(t.postLikes.userId, me.id)))
          : await db
              .select()
              .from(t.commentLikes)
              .where(and(eq(t.commentLikes.commentId, id), eq(t.commentLikes.userId, me.id)))
      const isStored = row?.isLiked ?? false
      const { items } = await answerOf<{ items: { id: string; likesCount: number; likedByMe?: boolean }[] }>(
        lab,
        kind === 'posts' ? `/v1/posts?ids=${id}` : `/v1/posts/${post.id}/comments`,
        headers,
      )
      const shown = items.find((item) => item.id === id)
      if (shown?.likesCount !== Number(isStored))
        throw new Error(`D1 says ${isStored}, the API counts ${shown?.likesCount}`)
      if (kind === 'posts' && shown.likedByMe !== isStored)
        throw new Error(`D1 says ${isStored}, the API ${shown.likedByMe}`)
      return isStored === isLiked
    },
  }
}

/** A block or mute, or taking it back. D1 and what the sessions of the user carry must agree. */
const relate = (kind: 'block' | 'mute', isWanted: boolean) => async (lab: Lab) => {
  const { author, me, post, headers } = await content(lab)
  if (!isWanted) await ask(lab, 'PUT', `/v1/users/${author.id}/${kind}`, headers)
  const { relations } = t
  return {
    path: `/v1/users/${author.id}/${kind}`,
    headers,
    happened: async () => {
      const rows = await db
        .select()
        .from(relations)
        .where(and(eq(relations.userId, me.id), eq(relations.kind, kind), eq(relations.otherId, author.id)))
      const isHidden = (await statusOf(lab, `/v1/posts/${post.id}`, headers)) === 404
      if (isHidden !== (kind === 'block' && isOne(rows))) throw new Error(`D1 has ${rows.length}, hidden: ${isHidden}`)
      return isOne(rows) === isWanted
    },
  }
}

const follow = (isFollowing: boolean) => async (lab: Lab) => {
  const { author, me, headers } = await content(lab)
  if (!isFollowing) await addFollow(me.id, author.id)
  const { follows } = t
  return {
    path: `/v1/users/${author.id}/follow`,
    headers,
    happened: async () => {
      const rows = await db
        .select()
        .from(follows)
        .where(and(eq(follows.followerId, me.id), eq(follows.followedId, author.id)))
      return rows.length === Number(isFollowing)
    },
  }
}

/** A read as a user, of a path made from some content. */
const read =
  (pathOf: (content: { post: string; author: string; username: string }) => string, as: 'user' | 'nobody' = 'nobody') =>
  async (lab: Lab) => {
    const { author, post, headers } = await content(lab)
    return {
      path: pathOf({ post: post.id, author: author.id, username: author.username }),
      headers: as === 'user' ? headers : {},
    }
  }

const fixed =
  (path: string, headers = {}) =>
  async () => ({ path, headers })

async function newWebhook(lab: Lab) {
  const body = { url: receiver().url, channels: [`custom_${unique()}`] }
  return ask(lab, 'POST', '/v1/webhooks', service, body) as Promise<{ id: string }>
}

async function newDelivery() {
  const webhookId = await addWebhookRows()
  await db.update(t.webhooks).set({ url: receiver().url }).where(eq(t.webhooks.id, webhookId))
  const [row] = await db.select().from(t.deliveries).where(eq(t.deliveries.webhookId, webhookId))
  if (!row) throw new Error('there is no delivery')
  return row
}

/** A write to a webhook of its own. */
const webhook =
  (
    action: string,
    more: { before?: string; body?: object; doneStatus?: number; isDone?: (row: Row | undefined) => boolean } = {},
  ) =>
  async (lab: Lab) => {
    const { id } = await newWebhook(lab)
    const { before, isDone, ...rest } = more
    if (before) await ask(lab, 'POST', `/v1/webhooks/${id}/${before}`, service)
    const happened = async () => {
      const [row] = await db.select().from(t.webhooks).where(eq(t.webhooks.id, id))
      return isDone?.(row) ?? true
    }
    return { path: `/v1/webhooks/${id}${action}`, headers: service, happened, ...rest }
  }
type Row = typeof t.webhooks.$inferSelect

/** A write to a service token of its own. */
const serviceToken =
  (
    action: string,
    { isDone, ...rest }: { body?: object; doneStatus?: number; isDone: (row: TokenRow | undefined) => boolean },
  ) =>
  async (lab: Lab) => {
    const { id } = await ask(lab, 'POST', '/v1/service-tokens', service, { name: unique(), scopes: ['locks'] })
    const happened = async () => {
      const [row] = await db
        .select()
        .from(t.serviceTokens)
        .where(eq(t.serviceTokens.id, String(id)))
      return isDone(row)
    }
    return { path: `/v1/service-tokens/${id}${action}`, headers: service, happened, ...rest }
  }
type TokenRow = typeof t.serviceTokens.$inferSelect

const BACKUP = { backup: '2026-01-01T00:00:00Z' }
/** Rows of a backup. */
const RESTORED = {
  columns: ['id', 'username', 'email', 'password_hash', 'display_name', 'created_at', 'updated_at'],
  rows: ['ada', 'bob'].map((name) => [`u_${name}`, name, `${name}@example.test`, 'x', `Restored ${name}`, 1, 1]),
}

/** An empty environment, to restore a backup into. */
async function newEnvironment(lab: Lab) {
  const database = lab.emptyDatabases.pop() ?? expect.fail('there are no more databases')
  await createTables(database)
  const other = newLab(database)
  const readTriggers = () =>
    other.rows.all<{ name: string }>(sql`SELECT name FROM sqlite_schema WHERE type = 'trigger'`)
  const all = await readTriggers()
  /** Whether a restore has begun and has not ended: completely. */
  async function isRestoring(): Promise<boolean> {
    const triggers = await readTriggers()
    const [restoring] = await other.rows.all(sql`SELECT name FROM sqlite_schema WHERE name = 'restoring'`)
    if (triggers.length !== (restoring ? 1 : all.length)) throw new Error(`${triggers.length} triggers`)
    return restoring !== undefined
  }
  return { lab: other, isRestoring }
}

async function newLock(lab: Lab) {
  const [name, owner] = [unique(), unique()]
  await ask(lab, 'POST', `/v1/locks/${name}`, service, { owner, ttlMs: 600_000 })
  return { name, owner, path: `/v1/locks/${name}`, headers: service }
}

/** The times at which a user was reported as online or offline. A repeated report has the same time. */
const reports = ({ hints }: Lab, userId: string, status: 'online' | 'offline') => [
  ...new Set(hints.flatMap(({ data, at }) => (data['userId'] === userId && data['status'] === status ? [at] : []))),
]

/** A valid request of each operation. A route that is not here fails the drill. */
export const calls: Record<string, (lab: Lab) => Promise<Call>> = {
  'GET /healthz': fixed('/healthz'),
  'GET /readyz': fixed('/readyz'),
  'GET /v1/stats': fixed('/v1/stats', service),
  'GET /v1/stats/route': fixed('/v1/stats/route?route=CRON', service),
  'GET /metrics': fixed('/metrics', service),
  'POST /v1/maintenance': fixed('/v1/maintenance', service),
  'GET /v1/rate-limit': fixed('/v1/rate-limit'),
  'POST /v1/backup': fixed('/v1/backup', service),
  'GET /v1/backup/{table}': fixed('/v1/backup/fences', service),
  async 'GET /v1/backup/{date}/{file}'() {
    await env.TEST_BACKUPS.put('2026-01-01/manifest.json', '{}')
    const bindings = { BACKUPS: env.TEST_BACKUPS }
    return { path: '/v1/backup/2026-01-01/manifest.json', headers: service, bindings }
  },
  async 'PUT /v1/restore'(lab) {
    const { lab: other, isRestoring } = await newEnvironment(lab)
    const key = keys.user('u_old')
    await other.edge.sdk.set(key, 1)
    const happened = async () => (await isRestoring()) && (await other.edge.sdk.exists(key)) === 0
    return { lab: other, path: '/v1/restore', headers: service, body: BACKUP, happened }
  },
  async 'POST /v1/restore/{table}'(lab) {
    const { lab: other } = await newEnvironment(lab)
    await ask(other, 'PUT', '/v1/restore', service, BACKUP)
    const happened = async () => {
      const rows = await other.rows.select().from(t.users)
      if (rows.length % RESTORED.rows.length !== 0) throw new Error(`${rows.length} rows`)
      return rows.length > 0
    }
    return { lab: other, path: '/v1/restore/users', headers: service, body: RESTORED, happened }
  },
  async 'DELETE /v1/restore'(lab) {
    const { lab: other, isRestoring } = await newEnvironment(lab)
    await ask(other, 'PUT', '/v1/restore', service, BACKUP)
    await ask(other, 'POST', '/v1/restore/users', service, RESTORED)
    const happened = async () => {
      if (await isRestoring()) return false
      while ((await other.deliver()) > 0);
      const found = await answerOf<{ items: unknown[] }>(other, '/v1/search?q=restored&type=users', {})
      return found.items.length === RESTORED.rows.length
    }
    return { lab: other, path: '/v1/restore', headers: service, happened }
  },

  async 'POST /v1/users'() {
    const username = unique()
    const body = { username, email: `${username}@example.test`, password: PASSWORD, displayName: 'Somebody' }
    const { users } = t
    return {
      path: '/v1/users',
      body,
      doneStatus: 409,
      happened: async () => isOne(await db.select().from(users).where(eq(users.username, username))),
    }
  },
  'GET /v1/users': read(({ author }) => `/v1/users?ids=${author},u_unknown`),
  'GET /v1/users/by-username/{username}': read(({ username }) => `/v1/users/by-username/${username}`),
  'GET /v1/users/{id}': read(({ author }) => `/v1/users/${author}`),
  'GET /v1/users/{id}/posts': read(({ author }) => `/v1/users/${author}/posts`, 'user'),
  'GET /v1/users/{id}/followers': read(({ author }) => `/v1/users/${author}/followers`),
  'GET /v1/users/{id}/followings': read(({ author }) => `/v1/users/${author}/followings`),
  async 'PATCH /v1/users/me'(lab) {
    const { id, headers } = await lab.member()
    const bio = unique()
    const happened = async () =>
      isOne(
        await db
          .select()
          .from(t.users)
          .where(and(eq(t.users.id, id), eq(t.users.bio, bio))),
      )
    return { path: '/v1/users/me', headers, body: { bio }, happened }
  },
  async 'DELETE /v1/users/me'(lab) {
    const { id, headers } = await lab.member({ passwordHash })
    await addPost({ authorId: id })
    const happened = async () => {
      const isGone = isNone(await db.select().from(t.users).where(eq(t.users.id, id)))
      if (isGone !== isNone(await db.select().from(t.posts).where(eq(t.posts.authorId, id))))
        throw new Error('half an account is left')
      return isGone
    }
    return { path: '/v1/users/me', headers, body: { password: PASSWORD }, doneStatus: 401, happened }
  },
  async 'POST /v1/users/me/password'(lab) {
    const { id, headers, sessionEpoch } = await lab.member({ passwordHash })
    const other = await lab.edge.signIn({ id, sessionEpoch })
    await ask(lab, 'GET', '/v1/sessions', other) // Redis holds the session
    const happened = async () => {
      const [row] = await db.select().from(t.users).where(eq(t.users.id, id))
      const isChanged = row?.passwordHash !== passwordHash
      if ((await statusOf(lab, '/v1/sessions', other)) !== (isChanged ? 401 : 200)) throw new Error('half a change')
      if ((await statusOf(lab, '/v1/sessions', headers)) !== 200) throw new Error('this session ended')
      return isChanged
    }
    return {
      path: '/v1/users/me/password',
      headers,
      body: { password: PASSWORD, newPassword: `${PASSWORD}!` },
      happened,
    }
  },
  async 'POST /v1/password-resets'() {
    const { id, email } = await addUser()
    const happened = async () =>
      (await db.select().from(t.credentialTokens).where(eq(t.credentialTokens.userId, id))).length > 0
    return { path: '/v1/password-resets', body: { email }, happened }
  },
  async 'PUT /v1/password-resets'(lab) {
    const { id, email, headers, passwordHash } = await lab.member()
    await ask(lab, 'GET', '/v1/sessions', headers)
    const token = await newToken(id, email, 'reset')
    const happened = async () => {
      const [row] = await db.select().from(t.users).where(eq(t.users.id, id))
      const isChanged = row?.passwordHash !== passwordHash
      if ((await statusOf(lab, '/v1/sessions', headers)) !== (isChanged ? 401 : 200)) throw new Error('half a reset')
      return isChanged
    }
    return { path: '/v1/password-resets', body: { token, password: PASSWORD }, happened }
  },
  async 'POST /v1/email-verifications'(lab) {
    const { id, headers } = await lab.member({ pendingEmail: `${unique()}@example.test` })
    const happened = async () =>
      (await db.select().from(t.credentialTokens).where(eq(t.credentialTokens.userId, id))).length > 0
    return { path: '/v1/email-verifications', headers, body: {}, happened }
  },
  async 'PUT /v1/email-verifications'() {
    const email = `${unique()}@example.test`
    const { id } = await addUser({ pendingEmail: email })
    const token = await newToken(id, email, 'verify')
    const happened = async () => isOne(await db.select().from(t.users).where(eq(t.users.email, email)))
    return { path: '/v1/email-verifications', body: { token }, happened }
  },
  async 'GET /v1/users/me/export'(lab) {
    return { path: '/v1/users/me/export', headers: (await mine(lab)).headers }
  },
  'PUT /v1/users/{id}/follow': follow(true),
  'DELETE /v1/users/{id}/follow': follow(false),
  'PUT /v1/users/{id}/block': relate('block', true),
  'DELETE /v1/users/{id}/block': relate('block', false),
  'PUT /v1/users/{id}/mute': relate('mute', true),
  'DELETE /v1/users/{id}/mute': relate('mute', false),
  'GET /v1/users/me/blocks': read(() => '/v1/users/me/blocks', 'user'),
  'GET /v1/users/me/mutes': read(() => '/v1/users/me/mutes', 'user'),

  async 'POST /v1/sessions'(lab) {
    const { username } = await addUser({ passwordHash })
    return {
      path: '/v1/sessions',
      body: { login: username, password: PASSWORD },
      happened: async ({ token }) =>
        (await statusOf(lab, '/v1/sessions', { Authorization: `Bearer ${token}` })) === 200,
    }
  },
  async 'GET /v1/sessions'(lab) {
    return { path: '/v1/sessions', headers: (await lab.member()).headers }
  },
  async 'DELETE /v1/sessions'(lab) {
    const { headers } = await lab.member()
    const happened = async () => (await statusOf(lab, '/v1/sessions', headers)) === 401
    return { path: '/v1/sessions', headers, doneStatus: 401, happened }
  },
  async 'DELETE /v1/sessions/current'(lab) {
    const { headers } = await lab.member()
    await ask(lab, 'GET', '/v1/sessions', headers) // Redis holds the session
    const happened = async () => (await statusOf(lab, '/v1/sessions', headers)) === 401
    return { path: '/v1/sessions/current', headers, doneStatus: 401, happened }
  },

  async 'POST /v1/posts'(lab) {
    const { headers } = await lab.member()
    const text = unique()
    return {
      path: '/v1/posts',
      headers: { ...headers, 'Idempotency-Key': unique() },
      body: { text },
      async happened() {
        const rows = await db.select().from(t.posts).where(eq(t.posts.text, text))
        const [row] = rows
        if (rows.length > 1) throw new Error(`${rows.length} posts`)
        if (!row) return false
        const events = await db.select().from(t.events).where(eq(t.events.subject, row.id))
        if (!isOne(events)) throw new Error(`${events.length} events of one post`)
        return true
      },
    }
  },
  'GET /v1/posts': read(({ post }) => `/v1/posts?ids=${post},p_unknown`, 'user'),
  'GET /v1/posts/hot': read(() => '/v1/posts/hot?limit=5', 'user'),
  'GET /v1/posts/{id}': read(({ post }) => `/v1/posts/${post}`, 'user'),
  async 'PATCH /v1/posts/{id}'(lab) {
    const { post, headers } = await mine(lab)
    const text = unique()
    const happened = async () => isOne(await db.select().from(t.posts).where(eq(t.posts.text, text)))
    return { path: `/v1/posts/${post.id}`, headers, body: { text }, happened }
  },
  async 'DELETE /v1/posts/{id}'(lab) {
    const { post, headers } = await mine(lab)
    const happened = async () => isNone(await db.select().from(t.posts).where(eq(t.posts.id, post.id)))
    return { path: `/v1/posts/${post.id}`, headers, doneStatus: 404, happened }
  },
  async 'POST /v1/posts/{id}/views'(lab) {
    const { post, headers } = await content(lab)
    const happened = async () => {
      const [row] = await db.select({ views: t.posts.viewsCount }).from(t.posts).where(eq(t.posts.id, post.id))
      return row?.views === 1
    }
    return { path: `/v1/posts/${post.id}/views`, headers, isVolatile: true, happened }
  },
  'GET /v1/posts/{id}/comments': read(({ post }) => `/v1/posts/${post}/comments`),
  async 'POST /v1/posts/{id}/comments'(lab) {
    const { post, headers } = await content(lab)
    const text = unique()
    const happened = async () => {
      const rows = await db.select().from(t.comments).where(eq(t.comments.text, text))
      if (rows.length > 1) throw new Error(`${rows.length} comments`)
      return isOne(rows)
    }
    const path = `/v1/posts/${post.id}/comments`
    return { path, headers: { ...headers, 'Idempotency-Key': unique() }, body: { text }, happened }
  },
  async 'PATCH /v1/comments/{id}'(lab) {
    const { comment, headers } = await mine(lab)
    const text = unique()
    const happened = async () => isOne(await db.select().from(t.comments).where(eq(t.comments.text, text)))
    return { path: `/v1/comments/${comment.id}`, headers, body: { text }, happened }
  },
  async 'GET /v1/comments/{id}/replies'(lab) {
    const { comment, headers } = await mine(lab)
    return { path: `/v1/comments/${comment.id}/replies`, headers }
  },
  async 'DELETE /v1/comments/{id}'(lab) {
    const { comment, headers } = await mine(lab)
    const happened = async () => isNone(await db.select().from(t.comments).where(eq(t.comments.id, comment.id)))
    return { path: `/v1/comments/${comment.id}`, headers, doneStatus: 404, happened }
  },
  'PUT /v1/posts/{id}/like': like('posts', true),
  'DELETE /v1/posts/{id}/like': like('posts', false),
  'PUT /v1/comments/{id}/like': like('comments', true),
  'DELETE /v1/comments/{id}/like': like('comments', false),

  async 'POST /v1/presence/heartbeat'(lab) {
    const { id, headers } = await lab.member()
    return {
      path: '/v1/presence/heartbeat',
      headers,
      isVolatile: true,
      happened: async () => isOne(reports(lab, id, 'online')),
    }
  },
  async 'DELETE /v1/presence'(lab) {
    const { id, headers } = await lab.member()
    await ask(lab, 'POST', '/v1/presence/heartbeat', headers)
    return {
      path: '/v1/presence',
      headers,
      isVolatile: true,
      happened: async () => isOne(reports(lab, id, 'offline')),
    }
  },
  'GET /v1/presence': read(({ author }) => `/v1/presence?ids=${author}`, 'user'),
  async 'PATCH /v1/presence'(lab) {
    const { id, headers } = await lab.member()
    const happened = async () => {
      const [row] = await db.select().from(t.users).where(eq(t.users.id, id))
      return row?.presenceVisibility === 'nobody'
    }
    return { path: '/v1/presence', headers, body: { visibility: 'nobody' }, happened }
  },

  async 'POST /v1/locks/{name}'(lab) {
    const [path, owner] = [`/v1/locks/${unique()}`, unique()]
    const happened = () => accepts(lab, 'PATCH', path, { owner, ttlMs: 600_000 })
    return { path, headers: service, body: { owner, ttlMs: 600_000 }, isVolatile: true, happened }
  },
  async 'PATCH /v1/locks/{name}'(lab) {
    const { path, headers, owner } = await newLock(lab)
    return { path, headers, body: { owner, ttlMs: 600_000 }, isVolatile: true }
  },
  async 'DELETE /v1/locks/{name}'(lab) {
    const { path, headers, owner } = await newLock(lab)
    const happened = () => accepts(lab, 'POST', path, { owner: unique(), ttlMs: 1_000 })
    return { path: `${path}?owner=${owner}`, headers, isVolatile: true, happened }
  },

  'GET /v1/feed': read(() => '/v1/feed', 'user'),
  'GET /v1/notifications': read(() => '/v1/notifications', 'user'),
  async 'POST /v1/notifications/read'(lab) {
    const { headers } = await content(lab)
    const happened = async () =>
      (await answerOf<{ unreadCount: number }>(lab, '/v1/notifications', headers)).unreadCount === 0
    return { path: '/v1/notifications/read', headers, body: {}, happened }
  },
  'GET /v1/recommendations': read(() => '/v1/recommendations', 'user'),
  'GET /v1/search': read(() => '/v1/search?q=hello', 'user'),

  async 'POST /v1/events'() {
    const id = unique()
    const body = { id, channel: 'custom_drill', type: 'thing', data: {} }
    const happened = async () => isOne(await db.select().from(t.events).where(eq(t.events.id, id)))
    return { path: '/v1/events', headers: service, body, happened }
  },
  'POST /v1/listeners/{name}/rebuild': fixed('/v1/listeners/notifications/rebuild', service),
  'GET /v1/events/stream': read(() => '/v1/events/stream?channels=post_events', 'user'),

  async 'POST /v1/webhooks'() {
    const { url } = receiver()
    const happened = async () => (await db.select().from(t.webhooks).where(eq(t.webhooks.url, url))).length > 0
    return { path: '/v1/webhooks', headers: service, body: { url, channels: ['custom_drill_only'] }, happened }
  },
  'GET /v1/webhooks': fixed('/v1/webhooks', service),
  'GET /v1/webhooks/{id}': webhook(''),
  'PATCH /v1/webhooks/{id}': webhook('', {
    body: { description: 'changed' },
    isDone: (row) => row?.description === 'changed',
  }),
  'DELETE /v1/webhooks/{id}': webhook('', { doneStatus: 404, isDone: (row) => row === undefined }),
  'POST /v1/webhooks/{id}/rotate': webhook('/rotate', { isDone: (row) => Boolean(row?.previousSecret) }),
  'POST /v1/webhooks/{id}/pause': webhook('/pause', { isDone: (row) => row?.status === 'paused' }),
  'POST /v1/webhooks/{id}/enable': webhook('/enable', {
    before: 'pause',
    isDone: (row) => row?.status === 'enabled',
  }),
  'POST /v1/webhooks/{id}/test': webhook('/test'),
  'GET /v1/webhooks/{id}/deliveries': webhook('/deliveries'),
  'POST /v1/webhooks/{id}/replay': webhook('/replay', { body: { since: '2026-01-01T00:00:00Z' } }),
  'POST /v1/webhooks/portal-links': async () => ({
    path: '/v1/webhooks/portal-links',
    headers: service,
    body: { tenant: 'acme' },
  }),
  async 'GET /v1/deliveries/{id}'() {
    const { id } = await newDelivery()
    return { path: `/v1/deliveries/${id}`, headers: service }
  },
  async 'POST /v1/deliveries/{id}/replay'() {
    const row = await newDelivery()
    const { deliveries } = t
    const happened = async () => {
      const [now] = await db.select().from(deliveries).where(eq(deliveries.id, row.id))
      return now?.status !== 'dead'
    }
    return { path: `/v1/deliveries/${row.id}/replay`, headers: service, happened }
  },
  async 'POST /v1/reports'(lab) {
    const { post, me, headers } = await content(lab)
    const happened = async () => isOne(await db.select().from(t.reports).where(eq(t.reports.reporterId, me.id)))
    return { path: '/v1/reports', headers, body: { subjectId: post.id, reason: 'spam' }, happened }
  },
  'GET /v1/moderation/reports': fixed('/v1/moderation/reports', service),
  'GET /v1/moderation/log': fixed('/v1/moderation/log', service),
  async 'GET /v1/moderation/contents/{id}'(lab) {
    const { post } = await content(lab)
    return { path: `/v1/moderation/contents/${post.id}`, headers: service }
  },
  async 'POST /v1/moderation/reports/resolve'(lab) {
    const { post, headers } = await content(lab)
    await ask(lab, 'POST', '/v1/reports', headers, { subjectId: post.id, reason: 'spam' })
    const happened = async () => {
      const rows = await db.select().from(t.reports).where(eq(t.reports.subjectId, post.id))
      return rows.every(({ status }) => status === 'dismissed')
    }
    const body = { subjectId: post.id, outcome: 'dismissed', note: 'Fine' }
    return { path: '/v1/moderation/reports/resolve', headers: service, body, happened }
  },
  async 'PUT /v1/moderation/takedowns/{id}'(lab) {
    const { post } = await content(lab)
    const happened = async () => isNone(await db.select().from(t.posts).where(eq(t.posts.id, post.id)))
    return { path: `/v1/moderation/takedowns/${post.id}`, headers: service, body: { note: 'Bad' }, happened }
  },
  async 'DELETE /v1/moderation/takedowns/{id}'(lab) {
    const { post } = await content(lab)
    const path = `/v1/moderation/takedowns/${post.id}`
    await ask(lab, 'PUT', path, service, { note: 'Bad' })
    const happened = async () => isOne(await db.select().from(t.posts).where(eq(t.posts.id, post.id)))
    return { path, headers: service, body: { note: 'Good' }, happened }
  },
  async 'PUT /v1/moderation/suspensions/{id}'(lab) {
    const { id, headers } = await lab.member()
    const happened = async () => (await statusOf(lab, '/v1/sessions', headers)) === 401
    return { path: `/v1/moderation/suspensions/${id}`, headers: service, body: { note: 'Bad' }, happened }
  },
  async 'DELETE /v1/moderation/suspensions/{id}'(lab) {
    const { id } = await lab.member()
    const path = `/v1/moderation/suspensions/${id}`
    await ask(lab, 'PUT', path, service, { note: 'Bad' })
    const happened = async () => isNone(await db.select().from(t.suspensions).where(eq(t.suspensions.userId, id)))
    return { path, headers: service, body: { note: 'Good' }, happened }
  },
  async 'POST /v1/service-tokens'() {
    const name = unique()
    const { serviceTokens } = t
    const happened = async () => isOne(await db.select().from(serviceTokens).where(eq(serviceTokens.name, name)))
    return {
      path: '/v1/service-tokens',
      headers: service,
      body: { name, scopes: ['locks'] },
      doneStatus: 409,
      happened,
    }
  },
  'GET /v1/service-tokens': fixed('/v1/service-tokens', service),
  'POST /v1/service-tokens/{id}/rotate': serviceToken('/rotate', {
    body: {},
    isDone: (row) => row?.rotatedAt !== null,
  }),
  'DELETE /v1/service-tokens/{id}': serviceToken('', { doneStatus: 404, isDone: (row) => row === undefined }),
  async 'POST /v1/cache/invalidate'(lab) {
    const { post, author } = await content(lab)
    return { path: '/v1/cache/invalidate', headers: service, body: { users: [author.id], posts: [post.id], hot: true } }
  },
}
