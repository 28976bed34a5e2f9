import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { watchedDatabase } from '../database.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

interface Listed {
  items: { id: string; text: string; likesCount: number }[]
  nextCursor: string | null
}

/** Every page of `path`, two items each; `between` runs after each page. */
async function readPages(edge: Edge, path: string, between: () => Promise<unknown>): Promise<string[]> {
  const seen: string[] = []
  let more = ''
  do {
    const response = await edge.fetch(`${path}?limit=2${more}`)
    const page = await response.json<Listed>()
    expect(page.items.length).toBeLessThanOrEqual(2)
    seen.push(...page.items.map((item) => item.id))
    await between()
    more = page.nextCursor === null ? '' : `&cursor=${page.nextCursor}`
  } while (more !== '')
  return seen
}

test('a post is read by id', async () => {
  const author = await addUser()
  const post = await addPost({
    authorId: author.id,
    text: 'Good morning',
    createdAt: 1_700_000_000_000,
    updatedAt: 1_700_000_060_000,
    version: 2,
    likesCount: 3,
    commentsCount: 2,
    viewsCount: 9,
  })
  const response = await newEdge().fetch(`/v1/posts/${post.id}`)

  expect(response.status).toBe(200)
  expect(await response.json()).toEqual({
    id: post.id,
    authorId: author.id,
    text: 'Good morning',
    createdAt: '2023-11-14T22:13:20.000Z',
    updatedAt: '2023-11-14T22:14:20.000Z',
    version: 2,
    likesCount: 3,
    commentsCount: 2,
    viewsCount: 9,
  })
})

test('posts are read by ids in the given order, each once, without unknown ones', async () => {
  const author = await addUser()
  const [one, two] = [
    await addPost({ authorId: author.id, likesCount: 1 }),
    await addPost({ authorId: author.id, likesCount: 2 }),
  ]
  const response = await newEdge().fetch(`/v1/posts?ids=${two.id},p_unknown,${one.id},${two.id}`)
  const page = await response.json<Listed>()
  expect(page.items.map(({ id, likesCount }) => [id, likesCount])).toEqual([
    [two.id, 2],
    [one.id, 1],
  ])
  expect(page.nextCursor).toBeNull()
})

test('100 posts are read at once', async () => {
  const author = await addUser()
  const ids = []
  for (let i = 0; i < 100; i += 1) ids.push((await addPost({ authorId: author.id, likesCount: i })).id)
  const response = await newEdge().fetch(`/v1/posts?ids=${ids.join()}`)
  const { items } = await response.json<Listed>()
  expect(items.map((post) => post.likesCount)).toEqual(ids.map((_, i) => i))
})

test('20 posts warm in Redis are one round trip before the answer, texts and counts together', async () => {
  const author = await addUser()
  const ids = []
  for (let i = 0; i < 20; i += 1) ids.push((await addPost({ authorId: author.id })).id)
  const path = `/v1/posts?ids=${ids.join()}`
  const first = newEdge()
  await first.fetch(path)
  await first.settle()

  await first.redis.reset()
  const second = newEdge({}, first.token)
  const response = await second.fetch(path)
  await second.settle()
  expect((await response.json<Listed>()).items).toHaveLength(20)
  expect(roundTrips(response)).toBe(1)
  expect(await second.redis.counts()).toMatchObject({ requests: 1, commands: 1, byCommand: { mget: 1 } })
})

test('a post in memory still has fresh counts, in one round trip', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id, text: 'Before', likesCount: 3 })
  await edge.fetch(`/v1/posts/${post.id}`)
  await edge.settle()
  await db.update(schema.posts).set({ text: 'After' }).where(eq(schema.posts.id, post.id))
  await edge.sdk.incr(keys.count('likes', post.id))

  const response = await edge.fetch(`/v1/posts/${post.id}`)
  expect(await response.json()).toMatchObject({ text: 'Before', likesCount: 4 })
  expect(roundTrips(response)).toBe(1)
  expect(response.headers.get('Cache-Status')).toMatch(/^memory; hit; ttl=\d+$/)
})

test('the posts of an author come in pages, newest first, each once, even if posts arrive between pages', async () => {
  const edge = newEdge()
  const [author, other] = [await addUser(), await addUser()]
  const ids: string[] = []
  for (let i = 0; i < 5; i += 1) {
    ids.unshift((await addPost({ authorId: author.id, createdAt: 1_700_000_000_000 + i })).id)
    await addPost({ authorId: other.id, createdAt: 1_700_000_000_000 + i })
  }
  expect(await readPages(edge, `/v1/users/${author.id}/posts`, () => addPost({ authorId: author.id }))).toEqual(ids)
})

test('a page that ends the list has no cursor, and that of an author without posts is empty', async () => {
  const author = await addUser()
  const path = `/v1/users/${author.id}/posts`
  expect(await (await newEdge().fetch(path)).json()).toEqual({ items: [], nextCursor: null })

  await addPost({ authorId: author.id })
  await addPost({ authorId: author.id })
  expect((await (await newEdge().fetch(`${path}?limit=2`)).json<Listed>()).nextCursor).toBeNull()
  expect((await (await newEdge().fetch(`${path}?limit=1`)).json<Listed>()).nextCursor).not.toBeNull()
})

test('the comments on a post come in pages, newest first, each once, even if comments arrive between pages', async () => {
  const edge = newEdge()
  const author = await addUser()
  const [post, other] = [await addPost({ authorId: author.id }), await addPost({ authorId: author.id })]
  const ids: string[] = []
  for (let i = 0; i < 5; i += 1) {
    const createdAt = 1_700_000_000_000 + i
    ids.unshift((await addComment({ postId: post.id, authorId: author.id, createdAt })).id)
    await addComment({ postId: other.id, authorId: author.id, createdAt })
  }
  const addAnother = () => addComment({ postId: post.id, authorId: author.id })
  expect(await readPages(edge, `/v1/posts/${post.id}/comments`, addAnother)).toEqual(ids)
})

test('a comment has all its fields, and its likes fresh from Redis', async () => {
  const edge = newEdge()
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  const comment = await addComment({ postId: post.id, authorId: author.id, text: 'True', likesCount: 2 })
  const read = async () => (await edge.fetch(`/v1/posts/${post.id}/comments`)).json()

  expect(await read()).toEqual({
    items: [
      {
        id: comment.id,
        postId: post.id,
        authorId: author.id,
        parentId: null,
        text: 'True',
        createdAt: new Date(comment.createdAt).toISOString(),
        updatedAt: new Date(comment.createdAt).toISOString(),
        version: 1,
        likesCount: 2,
        repliesCount: 0,
        replies: { items: [], nextCursor: null },
      },
    ],
    nextCursor: null,
  })
  await edge.settle()
  expect(await edge.sdk.incr(keys.count('likes', comment.id))).toBe(3)
  expect(await read()).toMatchObject({ items: [{ likesCount: 3 }] })
})

test.each(['/v1/posts/p_nobody', '/v1/posts/p_nobody/comments'])('%s is an unknown post: 404', async (path) => {
  const edge = newEdge()
  const response = await edge.fetch(path)
  expect(response.status).toBe(404)
  expect(await response.json()).toMatchObject({ type: '/problems/not-found', instance: path })
})

test('counts come from Redis where it has them, and from D1 otherwise', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id, likesCount: 5, commentsCount: 6, viewsCount: 7 })
  await edge.sdk.set(keys.count('likes', post.id), 50)
  await edge.sdk.set(keys.count('views', post.id), 0)

  const response = await edge.fetch(`/v1/posts/${post.id}`)
  expect(await response.json()).toMatchObject({ likesCount: 50, commentsCount: 6, viewsCount: 0 })
  await edge.settle()
  const counts = ['likes', 'comments', 'views'] as const
  expect(await edge.sdk.mget(...counts.map((counter) => keys.count(counter, post.id)))).toEqual([50, 6, 0])
  expect(await edge.sdk.ttl(keys.count('comments', post.id))).toBeGreaterThan(86_000)
})

test('a count that appears during the read of D1 is not overwritten', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id, likesCount: 5 })
  const key = keys.count('likes', post.id)
  await edge.fetch(`/v1/posts/${post.id}`)
  await edge.settle()
  await edge.sdk.del(key)
  await edge.redis.fault({ kind: 'delay', delayMs: 300, match: 'set', times: 1 }) // what follows the answer

  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ likesCount: 5 })
  expect(await edge.sdk.incrby(key, 42)).toBe(42)
  await edge.settle()
  expect((await edge.redis.counts()).byCommand).toMatchObject({ set: expect.any(Number) })
  expect(await edge.sdk.get(key)).toBe(42)
})

test('a cached count that is not a number is ignored', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id, likesCount: 5 })
  await edge.sdk.set(keys.count('likes', post.id), 'many')
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ likesCount: 5 })
})

test('a post that nothing has cached is one D1 query, which fills its text and its counts', async () => {
  let queries = 0
  const edge = newEdge({ DB: watchedDatabase(() => (queries += 1)) })
  const post = await addPost({ authorId: (await addUser()).id, likesCount: 7, commentsCount: 2 })
  const cold = await edge.fetch(`/v1/posts/${post.id}`)
  expect(await cold.json()).toMatchObject({ likesCount: 7, commentsCount: 2 })
  await edge.settle()
  expect([roundTrips(cold), queries]).toEqual([2, 1])
  const counts = await edge.sdk.mget(
    keys.post(post.id),
    ...(['likes', 'comments', 'views'] as const).map((counter) => keys.count(counter, post.id)),
  )
  expect(counts).toEqual([expect.anything(), 7, 2, 0])
  const warm = await newEdge({ DB: watchedDatabase(() => expect.fail('nothing is loaded')) }, edge.token).fetch(
    `/v1/posts/${post.id}`,
  )
  expect(await warm.json()).toMatchObject({ likesCount: 7 })
})

test('unknown posts leave no counts in Redis', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  for (const path of ['/v1/posts/p_unknown', `/v1/posts?ids=p_never,${post.id}`, '/v1/posts/p_unknown/comments']) {
    await edge.fetch(path)
    await edge.settle()
  }
  const counted = await keysOf(edge.sdk, 'count:*')
  expect(counted.map((key) => key.split(':').at(-1))).toEqual([post.id, post.id, post.id])
})

test('a request with the ETag of a post answers 304 until a count changes', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id, likesCount: 3 })
  const path = `/v1/posts/${post.id}`
  const etag = (await edge.fetch(path)).headers.get('ETag') ?? ''
  expect(etag).toBe('"1-3-0-0-any"')
  await edge.settle()

  const same = await edge.fetch(path, { headers: { 'If-None-Match': etag } })
  expect([same.status, await same.text(), same.headers.get('ETag')]).toEqual([304, '', etag])

  for (const counter of ['likes', 'comments', 'views'] as const) {
    const before = (await edge.fetch(path)).headers.get('ETag') ?? ''
    await edge.sdk.incr(keys.count(counter, post.id))
    const changed = await edge.fetch(path, { headers: { 'If-None-Match': before } })
    expect([counter, changed.status]).toEqual([counter, 200])
    expect(changed.headers.get('ETag')).not.toBe(before)
  }
})

test('a list answers 304 until something in it changes', async () => {
  const edge = newEdge()
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  for (const path of [`/v1/posts?ids=${post.id}`, `/v1/users/${author.id}/posts`]) {
    const etag = (await edge.fetch(path)).headers.get('ETag') ?? ''
    await edge.settle()
    expect((await edge.fetch(path, { headers: { 'If-None-Match': etag } })).status).toBe(304)
    await edge.sdk.incr(keys.count('likes', post.id))
    expect((await edge.fetch(path, { headers: { 'If-None-Match': etag } })).status).toBe(200)
  }
})

test.each([
  ['/v1/posts/42', 'path', 'id'],
  ['/v1/posts/u_1', 'path', 'id'],
  ['/v1/posts/P_1', 'path', 'id'],
  [`/v1/posts/p_${'a'.repeat(41)}`, 'path', 'id'],
  ['/v1/posts/p_', 'path', 'id'],
  ['/v1/posts/p_%00', 'path', 'id'],
  ['/v1/posts', 'query', 'ids'],
  ['/v1/posts?ids=', 'query', 'ids.0'],
  ['/v1/posts?ids=p_a,', 'query', 'ids.1'],
  ['/v1/posts?ids=p_a,u_b', 'query', 'ids.1'],
  ['/v1/posts?ids=p_a&ids=p_b', 'query', 'ids'],
  [`/v1/posts?ids=${Array.from({ length: 101 }, (_, i) => `p_${i}`).join()}`, 'query', 'ids'],
  ['/v1/posts/hot?limit=0', 'query', 'limit'],
  ['/v1/posts/hot?limit=101', 'query', 'limit'],
  ['/v1/posts/hot?limit=', 'query', 'limit'],
  ['/v1/posts/hot?limit=-1', 'query', 'limit'],
  ['/v1/posts/hot?limit=1e1', 'query', 'limit'],
  ['/v1/posts/p_a/comments?limit=1.5', 'query', 'limit'],
  ['/v1/posts/p_a/comments?cursor=p_1', 'query', 'cursor'],
  ['/v1/posts/x/comments', 'path', 'id'],
])('%s is refused, naming the %s field %s', async (path, where, field) => {
  await expectRefused(newEdge().fetch(path), where, field)
})

test.each(['refuse', 'hang', 'cut', 'cut-mid', 'status', 'delay'] as const)(
  'posts are read, with the counts of D1, when Redis does "%s"',
  async (kind) => {
    const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250' })
    const author = await addUser()
    const post = await addPost({ authorId: author.id, likesCount: 1_000_000 })
    const comment = await addComment({ postId: post.id, authorId: author.id, likesCount: 8 })
    await edge.redis.fault({ kind })
    for (const [path, id, likesCount] of [
      [`/v1/posts/${post.id}`, post.id, 1_000_000],
      [`/v1/posts?ids=${post.id}`, post.id, 1_000_000],
      ['/v1/posts/hot', post.id, 1_000_000],
      [`/v1/users/${author.id}/posts`, post.id, 1_000_000],
      [`/v1/posts/${post.id}/comments`, comment.id, 8],
    ] as const) {
      const response = await edge.fetch(path)
      expect([path, response.status]).toEqual([path, 200])
      const answer = await response.json<Listed | Listed['items'][number]>()
      const items = 'items' in answer ? answer.items : [answer]
      expect(items).toContainEqual(expect.objectContaining({ id, likesCount }))
    }
    await edge.settle()
    await db.delete(schema.posts).where(eq(schema.posts.id, post.id))
  },
)

test('a reply of Redis within the timeout is awaited, because its counts are the current ones', async () => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '2000', REDIS_SOFT_TIMEOUT_MS: '20', MEMORY_SECONDS: '0' })
  const post = await addPost({ authorId: (await addUser()).id, text: 'Before', likesCount: 3 })
  await edge.fetch(`/v1/posts/${post.id}`)
  await edge.settle()
  await edge.sdk.incr(keys.count('likes', post.id))
  await edge.redis.latency(150)
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ text: 'Before', likesCount: 4 })
})

test('with a copy in memory, a Redis too slow costs its hard timeout, and the counts come from D1', async () => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '100', REDIS_SOFT_TIMEOUT_MS: '20', MEMORY_SECONDS: '0' })
  const post = await addPost({ authorId: (await addUser()).id, text: 'Before', likesCount: 3 })
  await edge.fetch(`/v1/posts/${post.id}`)
  await edge.settle()
  await db.update(schema.posts).set({ text: 'After', likesCount: 7 }).where(eq(schema.posts.id, post.id))
  await edge.redis.latency(3_000)

  const startedAt = Date.now()
  const response = await edge.fetch(`/v1/posts/${post.id}`)
  expect(await response.json()).toMatchObject({ text: 'Before', likesCount: 7 })
  expect(Date.now() - startedAt).toBeLessThan(2_900) // Redis answers after 3 s
})

test('with a copy in memory, a user is answered after the soft timeout', async () => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '3000', REDIS_SOFT_TIMEOUT_MS: '20', MEMORY_SECONDS: '0' })
  const user = await addUser()
  await edge.fetch(`/v1/users/${user.id}`)
  await edge.settle()
  await edge.redis.latency(2_000)

  const startedAt = Date.now()
  expect((await edge.fetch(`/v1/users/${user.id}`)).status).toBe(200)
  expect(Date.now() - startedAt).toBeLessThan(2_900) // Redis answers after 3 s
})
