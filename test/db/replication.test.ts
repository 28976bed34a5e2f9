import { env } from 'cloudflare:workers'
import { Redis } from '@upstash/redis/cloudflare'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { beforeAll, expect, test } from 'vitest'
import { posts, users } from '../../src/db/schema.ts'
import { type CacheEvent, createCache } from '../../src/redis/cache.ts'
import { createMemory } from '../../src/redis/memory.ts'
import { laggingDatabase } from '../database.ts'
import { migrate, newEdge } from '../edge.ts'
import { asked, isStorable } from '../edge-cache.ts'
import { addComment, addFollow, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const BOOKMARK = /^[\da-f]{8}-[\da-f]{8}-[\da-f]{8}-[\da-f]{32}$/

/** A Worker whose replicas lag, two users, and a post by the first. The replica has them. */
async function setUp(bindings: Record<string, unknown> = { READ_REPLICAS: 'true' }) {
  const [ada, bob] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: ada.id, text: 'The first' })
  const d1 = await laggingDatabase()
  const edge = newEdge({ ...bindings, DB: d1.DB })
  const [asAda, asBob] = [await edge.signIn(ada), await edge.signIn(bob)]
  d1.sessions.length = 0
  const textOf = async (path: string, headers?: HeadersInit) => {
    const response = await edge.fetch(path, headers && { headers })
    expect(response.status).toBe(200)
    return response.text()
  }
  return { ada, bob, post, d1, edge, asAda, asBob, textOf }
}
type Setting = Awaited<ReturnType<typeof setUp>>

const newest = async () =>
  (await db.select().from(posts))
    .map(({ id }) => id)
    .sort()
    .at(-1)

/** Lists that may come from a replica: a write of Bob, and what he then must see there. */
const LISTS: Record<
  string,
  (setting: Setting) => { path: string; write: [string, string, object?]; seen: () => Promise<unknown> }
> = {
  'the followers of a user': ({ ada, bob }) => ({
    path: `/v1/users/${ada.id}/followers`,
    write: ['PUT', `/v1/users/${ada.id}/follow`],
    seen: async () => bob.id,
  }),
  'the users whom a user follows': ({ ada, bob }) => ({
    path: `/v1/users/${bob.id}/followings`,
    write: ['PUT', `/v1/users/${ada.id}/follow`],
    seen: async () => ada.id,
  }),
  'the comments on a post': ({ post }) => ({
    path: `/v1/posts/${post.id}/comments`,
    write: ['POST', `/v1/posts/${post.id}/comments`, { text: 'A remark' }],
    seen: async () => 'A remark',
  }),
  'the posts of a user': ({ bob }) => ({
    path: `/v1/users/${bob.id}/posts`,
    write: ['POST', '/v1/posts', { text: 'The second' }],
    seen: newest,
  }),
  'my feed': ({ ada, post }) => ({
    path: '/v1/feed',
    write: ['PUT', `/v1/users/${ada.id}/follow`],
    seen: async () => post.id,
  }),
}

test.each(Object.entries(LISTS))(
  '%s: a caller sees its own write, by its bookmark or else at the primary',
  async (_, list) => {
    const setting = await setUp()
    const { d1, edge, asAda, asBob, textOf } = setting
    const { path, write, seen } = list(setting)
    const [method, to, body] = write
    // Bob has read before: a bookmark from then must not be enough to miss his write.
    const before = await edge.fetch(path, { headers: asBob })
    const earlier = before.headers.get('X-D1-Bookmark') ?? ''
    expect(earlier).toMatch(BOOKMARK)

    const written = await edge.fetch(to, {
      method,
      headers: { ...asBob, 'Content-Type': 'application/json', 'X-D1-Bookmark': earlier },
      ...(body && { body: JSON.stringify(body) }),
    })
    expect(written.ok).toBe(true)
    const bookmark = written.headers.get('X-D1-Bookmark') ?? ''
    expect(bookmark > earlier).toBe(true)
    await edge.settle()
    const expected = await seen()

    d1.sessions.length = 0
    if (path !== '/v1/feed') {
      expect(await textOf(path)).not.toContain(expected) // the replica lags
      expect(await textOf(path, { ...asAda, 'X-D1-Bookmark': earlier })).not.toContain(expected)
    }
    expect(await textOf(path, asBob)).toContain(expected) // without a bookmark
    expect(d1.sessions.at(-1)).toBe('first-primary')
    expect(await textOf(path, { ...asBob, 'X-D1-Bookmark': 'nonsense' })).toContain(expected)
    expect(await textOf(path, { ...asBob, 'X-D1-Bookmark': bookmark })).toContain(expected)
    expect(d1.sessions.at(-1)).toBe(bookmark)
    await edge.settle()
  },
)

test('a browser gets its bookmark as a cookie beside that of its session', async () => {
  const { ada, bob, edge, asBob, textOf } = await setUp()
  const session = `__Host-session=${asBob.Authorization.replace('Bearer ', '')}`
  const written = await edge.fetch(`/v1/users/${ada.id}/follow`, { method: 'PUT', headers: { Cookie: session } })
  expect([written.status, written.headers.get('X-D1-Bookmark')]).toEqual([200, null])
  const [cookie = ''] = written.headers.getSetCookie()
  expect(cookie).toMatch(/^__Host-bookmark=[\da-f-]{59}; Max-Age=3600; Path=\/; HttpOnly; Secure; SameSite=Lax$/)
  const [pair = ''] = cookie.split(';')
  const path = `/v1/users/${ada.id}/followers`
  expect(await textOf(path)).not.toContain(bob.id)
  expect(await textOf(path, { Cookie: `${session}; ${pair}` })).toContain(bob.id)

  // What the caller has already is not sent again.
  const again = await edge.fetch(path, { headers: { Cookie: `${session}; ${pair}` } })
  expect(again.headers.getSetCookie()).toEqual([])
  await edge.settle()
})

test('searches, and notifications beyond those in Redis, read from a replica too', async () => {
  const { bob, d1, edge, asBob, textOf } = await setUp({ READ_REPLICAS: 'true', INBOX_SIZE: '1' })
  for (const at of [1, 2, 3]) await addFollow((await addUser()).id, bob.id, Date.now() - at)
  const first = JSON.parse(await textOf('/v1/notifications?limit=1', asBob)) as { nextCursor: string }
  expect(d1.sessions).toEqual([]) // the inbox in Redis is loaded from the primary
  const second = `/v1/notifications?limit=1&cursor=${first.nextCursor}`
  expect(JSON.parse(await textOf(second, asBob))).toMatchObject({ items: [{ type: 'follow' }] })
  expect(d1.sessions).toEqual(['first-primary'])
  const bookmark = `${'0'.repeat(7)}0-00000000-00000000-${'0'.repeat(32)}`
  await textOf(second, { ...asBob, 'X-D1-Bookmark': bookmark })
  for (const type of ['posts', 'users']) await textOf(`/v1/search?q=first&type=${type}`)
  expect(d1.sessions).toEqual(['first-primary', bookmark, 'first-unconstrained', 'first-unconstrained'])
  await edge.settle()
})

test('an anonymous read gets no bookmark, and stays storable', async () => {
  const { ada, edge, d1 } = await setUp()
  const path = `/v1/users/${ada.id}/followers`
  const response = await edge.fetch(path)
  expect(d1.sessions).toEqual(['first-unconstrained'])
  expect([response.headers.get('X-D1-Bookmark'), response.headers.getSetCookie()]).toEqual([null, []])
  expect(isStorable(asked(path), response)).toBe(true)
  await edge.settle()
})

test('READ_REPLICAS=false, the default, begins no session', async () => {
  const { ada, bob, edge, d1, asBob, textOf } = await setUp({})
  const written = await edge.fetch(`/v1/users/${ada.id}/follow`, { method: 'PUT', headers: asBob })
  expect([written.status, written.headers.get('X-D1-Bookmark')]).toEqual([200, null])
  expect(await textOf(`/v1/users/${ada.id}/followers`)).toContain(bob.id)
  expect(d1.sessions).toEqual([])
  await edge.settle()
})

test('caches load from the primary, also in a request that reads a replica', async () => {
  const { ada, post, edge, textOf } = await setUp()
  await db.update(users).set({ displayName: 'Ada L.', version: 2, revision: 2 }).where(eq(users.id, ada.id))
  await db.update(posts).set({ text: 'Edited', version: 2 }).where(eq(posts.id, post.id))
  await addComment({ postId: post.id, authorId: ada.id }) // the count of comments is 1 now, by a trigger

  // From the replica: the old text, with the counts of then.
  expect(JSON.parse(await textOf(`/v1/users/${ada.id}/posts`))).toMatchObject({
    items: [{ text: 'The first', commentsCount: 0 }],
  })
  await edge.settle()
  // What it left in Redis is of the primary.
  for (const reader of [edge, newEdge({}, edge.token)]) {
    expect(await (await reader.fetch(`/v1/users/${ada.id}`)).json()).toMatchObject({ displayName: 'Ada L.' })
    expect(await (await reader.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({
      text: 'Edited',
      commentsCount: 1,
    })
    await reader.settle()
  }
})

test('queue consumers and jobs begin no session', async () => {
  const { ada, edge, d1, asBob } = await setUp()
  const headers = { ...asBob, 'Content-Type': 'application/json' }
  expect((await edge.fetch('/v1/posts', { method: 'POST', headers, body: '{"text":"Hi"}' })).status).toBe(201)
  await edge.settle()
  await addFollow(ada.id, (await addUser()).id)
  d1.sessions.length = 0
  expect(await edge.dispatch()).toBe(0)
  await edge.cron()
  expect(d1.sessions).toEqual([])
})

test('a fill that lags is never stored after an invalidation that names the version', async () => {
  const redis = new Redis({
    url: env.UPSTASH_REDIS_REST_URL,
    token: `test-${crypto.randomUUID()}`,
    enableTelemetry: false,
  })
  const { ada, bob, d1 } = await setUp()
  const carol = await addUser() // the replica lacks her
  await db.update(users).set({ bio: 'new', revision: 7 }).where(eq(users.id, ada.id))
  await db.delete(users).where(eq(users.id, bob.id))
  const ids = [ada.id, bob.id, carol.id]

  interface Row {
    bio: string
    revision: number
  }
  /** The cache of an isolate that loads from the replica, which no cache of the Worker does. */
  function newReader() {
    const works: Promise<unknown>[] = []
    const outcomes: string[] = []
    const cache = createCache<Row>(
      {
        redis: () => redis,
        memory: createMemory(100_000),
        defer: (work) => void works.push(work()),
        onEvent: ({ outcome }: CacheEvent) => void outcomes.push(outcome),
      },
      {
        name: 'lagging',
        key: (id) => `lagging:${id}`,
        versionOf: ({ revision }) => revision,
        freshMs: 60_000,
        staleMs: 0,
        staleIfErrorMs: 0,
        negativeMs: 60_000,
        memoryMs: 0,
        softTimeoutMs: 5_000,
        leaseMs: 5_000,
        waitMs: 0,
        maxValueBytes: 10_000,
      },
    )
    const read = async () => {
      const values = await cache.getMany(ids, async (missing) => {
        const rows = await drizzle(env.TEST_REPLICA).select().from(users)
        return missing.map((id) => rows.find((row) => row.id === id) ?? null)
      })
      await Promise.all(works)
      return { values, stored: outcomes.filter((outcome) => outcome === 'store').length }
    }
    return { cache, read }
  }
  await newReader().cache.invalidate(ids, [7, Infinity, 1])
  expect((await newReader().read()).stored).toBe(0)
  expect(await redis.mget(ids.map((id) => `lagging:${id}`))).toEqual(['x7', `x${Number.MAX_SAFE_INTEGER}`, 'x1'])

  await d1.catchUp()
  expect(await newReader().read()).toMatchObject({ values: [{ bio: 'new' }, null, { id: carol.id }], stored: 3 })

  // Without versions a lagging fill is taken for a current one.
  await newReader().cache.invalidate(ids)
  expect((await newReader().read()).stored).toBe(3)
})
