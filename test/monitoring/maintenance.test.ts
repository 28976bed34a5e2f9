import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { beforeAll, expect, test, vi } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { createMaintenance } from '../../src/monitoring/maintenance.ts'
import { type Edge, expectRefused, migrate, newEdge } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
/** Memory would answer for some seconds more: that is declared, and not what is tested here. */
const newForgetful = (bindings: Record<string, unknown> = {}) => newEdge({ MEMORY_SECONDS: '0', ...bindings })

const invalidate = (edge: Edge, body: unknown, headers: Record<string, string> = service) =>
  edge.fetch('/v1/cache/invalidate', {
    method: 'POST',
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  })

const maintain = (edge: Edge, headers: Record<string, string> = service) =>
  edge.fetch('/v1/maintenance', { method: 'POST', headers })

async function read<T>(edge: Edge, path: string): Promise<T> {
  const answer = await (await edge.fetch(path)).json<T>()
  await edge.settle()
  return answer
}

test('maintenance and invalidation are for services', async () => {
  const edge = newEdge()
  for (const headers of [{}, { Authorization: 'Bearer a-wrong-token-for-tests' }] as Record<string, string>[]) {
    expect((await invalidate(edge, { hot: true }, headers)).status).toBe(401)
    expect((await maintain(edge, headers)).status).toBe(401)
  }
  expect((await edge.redis.counts()).requests).toBe(0)
})

test('a profile changed directly in D1 is read again after an invalidation, by id or by name', async () => {
  const edge = newForgetful()
  const user = await addUser({ displayName: 'Before' })
  const paths = [`/v1/users/${user.id}`, `/v1/users/by-username/${user.username}`]
  for (const path of paths) expect(await read(edge, path)).toMatchObject({ displayName: 'Before' })
  await db.update(schema.users).set({ displayName: 'After' }).where(eq(schema.users.id, user.id))
  for (const path of paths) expect(await read(edge, path)).toMatchObject({ displayName: 'Before' })

  await edge.redis.reset()
  expect((await invalidate(edge, { users: [user.id] })).status).toBe(204)
  await edge.settle()
  expect((await edge.redis.counts()).requests).toBe(1)
  for (const path of paths) expect(await read(edge, path)).toMatchObject({ displayName: 'After' })
})

test('an invalidation by user id also clears the remembered absence of their name', async () => {
  const edge = newForgetful()
  expect(await read(edge, '/v1/users/by-username/newcomer')).toMatchObject({ status: 404 })
  const user = await addUser({ username: 'newcomer' })
  expect(await read(edge, '/v1/users/by-username/newcomer')).toMatchObject({ status: 404 })
  await invalidate(edge, { users: [user.id] })
  expect(await read(edge, '/v1/users/by-username/newcomer')).toMatchObject({ id: user.id })
})

test('an invalidated post is read again with the counts of D1, unless a newer like is in the queue', async () => {
  const edge = newForgetful({ LIKES: { send: async () => {} } }) // the queue brings nothing meanwhile
  const [author, fan] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: author.id, text: 'Before' })
  const liked = await addPost({ authorId: author.id, text: 'Before' })
  const readPost = (id: string) => read<{ text: string; likesCount: number }>(edge, `/v1/posts/${id}`)
  for (const { id } of [post, liked]) expect(await readPost(id)).toMatchObject({ text: 'Before', likesCount: 0 })
  const headers = await edge.signIn(fan)
  await edge.fetch(`/v1/posts/${liked.id}/like`, { method: 'PUT', headers })

  await db.update(schema.posts).set({ text: 'After', version: 2 }).where(eq(schema.posts.authorId, author.id))
  await db.insert(schema.postLikes).values({ postId: post.id, userId: fan.id, isLiked: true, changedAt: 5 })
  await addComment({ postId: post.id, authorId: fan.id })
  expect(await readPost(post.id)).toMatchObject({ text: 'Before', likesCount: 0, commentsCount: 0 })

  await edge.redis.reset()
  expect((await invalidate(edge, { posts: [post.id, liked.id] })).status).toBe(204)
  await edge.settle()
  expect((await edge.redis.counts()).requests).toBeLessThanOrEqual(3)
  expect(await readPost(post.id)).toMatchObject({ text: 'After', likesCount: 1, commentsCount: 1 })
  expect(await readPost(liked.id)).toMatchObject({ text: 'After', likesCount: 1 }) // acknowledged: it stays
})

test('an invalidation rebuilds the hot feed', async () => {
  const edge = newForgetful()
  const ids = async () =>
    (await read<{ items: { id: string }[] }>(edge, '/v1/posts/hot?limit=100')).items.map((p) => p.id)
  await ids()
  const post = await addPost({ authorId: (await addUser()).id, likesCount: 1_000 })
  expect(await ids()).not.toContain(post.id)
  await edge.redis.reset()
  expect((await invalidate(edge, { hot: true })).status).toBe(204)
  await edge.settle()
  expect(await edge.redis.counts()).toMatchObject({ requests: 1, commands: 1 })
  expect(await ids()).toContain(post.id)
})

test.each<[unknown, string]>([
  [{}, 'users'],
  [{ hot: false }, 'users'],
  [{ users: [] }, 'users'],
  [{ users: ['p_1'] }, 'users.0'],
  [{ posts: ['p_1', 'x'] }, 'posts.1'],
  [{ posts: 'p_1' }, 'posts'],
  [{ hot: 'yes' }, 'hot'],
  [{ comments: ['c_1'] }, 'comments'],
  [{ users: Array.from({ length: 101 }, (_, i) => `u_${i}`) }, 'users'],
])('%j is refused, naming the field', async (body, field) => {
  await expectRefused(invalidate(newEdge(), body), 'body', field)
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)(
  'without Redis ("%s") an invalidation answers 503 with Retry-After',
  async (kind) => {
    const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250' })
    await edge.redis.fault({ kind })
    const user = await addUser()
    for (const body of [{ users: [user.id] }, { hot: true }]) {
      const response = await invalidate(edge, body)
      expect(response.status).toBe(503)
      expect(response.headers.get('Retry-After')).toBe('5')
      expect(await response.json()).toMatchObject({ type: '/problems/unavailable' })
    }
  },
)

test('expired data is purged on request, and by the cron', async () => {
  const long = Date.now() - 90 * 86_400_000
  const user = await addUser()
  const addOld = async () => {
    await db.insert(schema.sessions).values({
      id: `s_${crypto.randomUUID()}`,
      userId: user.id,
      secretHash: 'x',
      epoch: 0,
      userAgent: 'test',
      createdAt: long,
      lastSeenAt: long,
      expiresAt: long,
    })
    await db
      .insert(schema.idempotencyKeys)
      .values({ userId: user.id, key: crypto.randomUUID(), fingerprint: 'x', createdAt: long })
  }
  const edge = newEdge()
  await addOld()
  const response = await maintain(edge)
  expect(response.status).toBe(200)
  const { purged } = await response.json<{ purged: unknown[] }>()
  expect(purged).toContainEqual({ name: 'sessions', isDone: true, removed: 1, hasMore: false })
  expect(purged).toContainEqual({ name: 'idempotencyKeys', isDone: true, removed: 1, hasMore: false })
  expect(purged).toContainEqual({ name: 'hotFeeds', isDone: true, removed: 0, hasMore: false })
  expect(purged).toContainEqual({ name: 'events', isDone: true, removed: 0, hasMore: false })
  await addOld()
  await edge.cron()
  expect(await db.$count(schema.sessions, eq(schema.sessions.expiresAt, long))).toBe(0)
  expect(await db.$count(schema.idempotencyKeys, eq(schema.idempotencyKeys.createdAt, long))).toBe(0)
})

test('hot feeds of earlier generations are removed, the current one is kept', async () => {
  const edge = newForgetful()
  await read(edge, '/v1/posts/hot')
  const removed = async () => {
    const { purged } = await (await maintain(edge)).json<{ purged: { name: string; removed: number }[] }>()
    return purged.find(({ name }) => name === 'hotFeeds')?.removed
  }
  expect(await removed()).toBe(0)
  expect(await edge.sdk.exists(keys.hotPosts('all'))).toBe(1)
  await invalidate(edge, { hot: true })
  expect(await removed()).toBe(1)
  expect(await edge.sdk.exists(keys.hotPosts('all'))).toBe(0)
  await read(edge, '/v1/posts/hot')
  expect(await removed()).toBe(0)
})

test('without Redis the purge of D1 still runs, and the rest is reported as not done', async () => {
  const edge = newEdge()
  await edge.redis.fault({ kind: 'refuse' })
  using log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const { purged } = await (await maintain(edge)).json<{ purged: { name: string; isDone: boolean }[] }>()
  expect(purged.filter(({ isDone }) => !isDone).map(({ name }) => name)).toEqual(['hotFeeds'])
  expect(log).toHaveBeenCalledOnce()
})

test('purges run until nothing is left or the budget is used up, each in turn, and one that fails fails alone', async () => {
  const failure = new Error('gone')
  const left = { endless: Infinity, large: 25, small: 3 }
  const ran: string[] = []
  const from = (name: keyof typeof left) => async (most: number, now: number) => {
    expect(now).toBe(7)
    ran.push(name)
    const removed = Math.min(most, left[name])
    left[name] -= removed
    return removed
  }
  const maintenance = createMaintenance({
    endless: from('endless'),
    failing: async () => {
      throw failure
    },
    large: from('large'),
    small: from('small'),
  })
  expect(await maintenance({ stepRows: 10, steps: 10, ms: 60_000 }, 7)).toEqual({
    endless: { removed: 50, hasMore: true },
    failing: { error: failure },
    large: { removed: 25, hasMore: false },
    small: { removed: 3, hasMore: false },
  })
  expect(ran.slice(0, 5)).toEqual(['endless', 'large', 'small', 'endless', 'large'])
  expect(await maintenance({ stepRows: 10, steps: 10, ms: -1 }, 7)).toMatchObject({
    small: { removed: 0, hasMore: true },
  })
})
