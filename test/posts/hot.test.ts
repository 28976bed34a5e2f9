import { env } from 'cloudflare:workers'
import { eq, inArray, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { readConfig } from '../../src/config.ts'
import * as schema from '../../src/db/schema.ts'
import { scoreOf } from '../../src/db/score.ts'
import { features } from '../../src/features.ts'
import { keys } from '../../src/keys.ts'
import { createIsolate, createPlatform } from '../../src/platform.ts'
import { postsService } from '../../src/posts/posts.ts'
import { meteredDatabase } from '../database.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const DAY_MS = 86_400_000

/** The hot feed is about every post there is: takes those of other tests away, and answers an author for new ones. */
async function newAuthor() {
  await db.delete(schema.posts)
  return (await addUser()).id
}

async function readHot(edge: Edge, query = '') {
  const response = await edge.fetch(`/v1/posts/hot${query}`)
  expect(response.status).toBe(200)
  const { items } = await response.json<{ items: { id: string; text: string; likesCount: number }[] }>()
  return { response, items, ids: items.map((post) => post.id) }
}

/** An edge whose listener has scored all posts. */
async function scoredEdge(): Promise<Edge> {
  const edge = newEdge()
  const headers = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
  await edge.fetch('/v1/listeners/recommendations/rebuild', { method: 'POST', headers })
  await edge.dispatch()
  return edge
}

/** The ids of the hot feed at `now`, as a new isolate over an empty Redis has them. */
async function hotAt(now: number, variables: Record<string, string> = {}, DB = env.DB) {
  const patience = { REDIS_READ_TIMEOUT_MS: '5000' } // D1 answers for a Redis that is late, and costs more rows
  const token = `test-${crypto.randomUUID()}`
  const config = readConfig({ ...env, ...patience, UPSTASH_REDIS_REST_TOKEN: token, ...variables })
  const works: Promise<unknown>[] = []
  const { use } = createPlatform(
    createIsolate(config, features),
    { ...env, DB },
    {
      onFailure: () => {},
      defer: (work) => void works.push(work()),
    },
  )
  const hot = await use(postsService).hot(100, undefined, now)
  await Promise.all(works)
  return hot.map((post) => post.id)
}

test('the hot feed ranks posts of the last 7 days by likes and age; an older one is out however liked', async () => {
  const authorId = await newAuthor()
  const now = Date.now()
  const HOUR_MS = 3_600_000
  // Twice the weight (1 + likes) makes up for eight hours.
  const [fresh, doubled, liked] = [
    await addPost({ authorId, likesCount: 1, createdAt: now - 1_000 }),
    await addPost({ authorId, likesCount: 2, createdAt: now - 8 * HOUR_MS }),
    await addPost({ authorId, likesCount: 99, createdAt: now - 24 * HOUR_MS }),
  ]
  const popular = await addPost({ authorId, likesCount: 99_000_000, createdAt: now - 7 * DAY_MS + 60_000 })
  await addPost({ authorId, likesCount: 1_000_000_000, createdAt: now - 7 * DAY_MS - 60_000 })
  for (const edge of [newEdge(), await scoredEdge()]) {
    const { items, response } = await readHot(edge)
    expect(items.map(({ id, likesCount }) => [id, likesCount])).toEqual([
      [popular.id, 99_000_000],
      [liked.id, 99],
      [fresh.id, 1],
      [doubled.id, 2],
    ])
    expect(response.headers.get('Cache-Control')).toMatch(/^public, max-age=\d, /)
  }
})

test('the score in D1 is the one in the Worker', async () => {
  const authorId = await newAuthor()
  const values = { likesCount: 12, commentsCount: 3, viewsCount: 45, createdAt: Date.now() }
  await addPost({ authorId, ...values })
  await scoredEdge()
  const [row] = await db.select().from(schema.posts)
  const { likesCount: likes, commentsCount: comments, viewsCount: views, createdAt } = values
  expect(row?.score).toBeCloseTo(scoreOf({ likes, comments, views, createdAt }), 6)
})

test('the list costs D1 as many rows for many posts as for some, at noon and just before midnight', async () => {
  const authorId = await newAuthor()
  const midnight = Date.parse('2026-03-11T00:00:00.000Z')
  const addMany = (count: number) =>
    db.run(sql`
      WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})
      INSERT INTO posts (id, author_id, text, likes_count, created_at, updated_at)
      SELECT 'p_' || lower(hex(randomblob(8))), ${authorId}, 'Hello', i % 100, at, at
      FROM (SELECT i, ${midnight - 8 * DAY_MS} + i * ${Math.floor((8 * DAY_MS) / count)} AS at FROM n)`)
  const cost = async (now: number) => {
    const { DB, rows } = meteredDatabase()
    expect(await hotAt(now, {}, DB)).toHaveLength(100)
    return rows.read
  }
  const costs: number[] = []
  for (const count of [2_000, 20_000]) {
    await db.delete(schema.posts)
    await addMany(count)
    await scoredEdge()
    for (const now of [midnight - DAY_MS / 2, midnight - 1]) costs.push(await cost(now))
  }
  expect(Math.max(...costs)).toBeLessThan(2_500)
  expect(Math.max(...costs) - Math.min(...costs)).toBeLessThan(300)
}, 60_000)

test('a deletion leaves the list cached for everybody, and the page full', async () => {
  const author = await addUser()
  await db.delete(schema.posts)
  for (let i = 0; i < 30; i += 1) await addPost({ authorId: author.id, likesCount: 1_000 - i })
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const { ids } = await readHot(edge)
  await edge.settle()
  const headers = await edge.signIn(author)
  for (const id of ids.slice(0, 3)) await edge.fetch(`/v1/posts/${id}`, { method: 'DELETE', headers })
  await edge.settle()

  const { DB, rows } = meteredDatabase(/"posts"."created_at" > \?/) // what a new list would ask
  const after = await readHot(newEdge({ MEMORY_SECONDS: '0', DB }, edge.token))
  expect(rows.read).toBe(0)
  expect(after.ids).toHaveLength(20)
  expect(after.ids.slice(0, 17)).toEqual(ids.slice(3))
})

test('a changed count and its order are visible at once, although texts and the list are cached', async () => {
  const authorId = await newAuthor()
  const edge = newEdge()
  const [first, second] = [
    await addPost({ authorId, likesCount: 10, text: 'First' }),
    await addPost({ authorId, likesCount: 5, text: 'Second' }),
  ]
  expect((await readHot(edge)).ids).toEqual([first.id, second.id])
  await edge.settle()

  await db.update(schema.posts).set({ text: 'Changed', likesCount: 0 }).where(eq(schema.posts.id, second.id))
  await edge.sdk.set(keys.count('likes', second.id), 11)
  for (const reader of [edge, newEdge({}, edge.token)]) {
    const { items } = await readHot(reader)
    expect(items).toMatchObject([
      { id: second.id, text: 'Second', likesCount: 11 },
      { id: first.id, text: 'First', likesCount: 10 },
    ])
  }
})

test('of posts with as many likes the newest comes first', async () => {
  const authorId = await newAuthor()
  const now = Date.now()
  const ids: string[] = []
  // Days apart: each day is read by itself.
  for (const daysAgo of [5, 3, 3, 1, 0]) {
    const createdAt = now - daysAgo * DAY_MS - 1_000 + ids.length
    ids.unshift((await addPost({ authorId, likesCount: 4, createdAt })).id)
  }
  expect((await readHot(newEdge())).ids).toEqual(ids)
})

test('the feed has the best 20 posts, or up to 100 on request', async () => {
  const authorId = await newAuthor()
  const now = Date.now()
  const ids = []
  for (let i = 0; i < 105; i += 1) {
    const post = await addPost({ authorId, likesCount: 1_000 - i, createdAt: now - i * 1_000 })
    ids.push(post.id)
  }
  const edge = newEdge()
  expect((await readHot(edge)).ids).toEqual(ids.slice(0, 20))
  expect((await readHot(edge, '?limit=3')).ids).toEqual(ids.slice(0, 3))
  expect((await readHot(edge, '?limit=100')).ids).toEqual(ids.slice(0, 100))
})

test('a signed-in user can read a hundred at once', async () => {
  const author = await addUser()
  await db.delete(schema.posts)
  for (let i = 0; i < 100; i += 1) await addPost({ authorId: author.id, likesCount: i })
  const edge = newEdge()
  const headers = await edge.signIn(author)
  const hot = await edge.fetch('/v1/posts/hot?limit=100', { headers })
  const { items } = await hot.json<{ items: { id: string }[] }>()
  expect([hot.status, items.length]).toEqual([200, 100])
  const byIds = await newEdge().fetch(`/v1/posts?ids=${items.map((post) => post.id).join()}`, { headers })
  expect([byIds.status, (await byIds.json<{ items: unknown[] }>()).items.length]).toEqual([200, 100])
})

test('a feed without posts is empty', async () => {
  await newAuthor()
  const edge = newEdge()
  expect((await readHot(edge)).ids).toEqual([])
  await edge.settle()
  expect((await readHot(edge)).ids).toEqual([])
})

test('a deleted post leaves the feed at once although the cached list still has it', async () => {
  const authorId = await newAuthor()
  const edge = newEdge()
  const [gone, kept] = [await addPost({ authorId, likesCount: 2 }), await addPost({ authorId, likesCount: 1 })]
  await readHot(edge)
  await edge.settle()
  await db.delete(schema.posts).where(inArray(schema.posts.id, [gone.id]))
  await edge.sdk.del(keys.post(gone.id))

  const other = newEdge({}, edge.token)
  const { ids, response } = await readHot(other)
  expect(ids).toEqual([kept.id])
  expect(response.headers.get('Cache-Status')).toContain('redis; fwd=partial')
})

test('a hot feed of 20 is 2 round trips from Redis, and 1 when memory has the list', async () => {
  const authorId = await newAuthor()
  for (let i = 0; i < 20; i += 1) await addPost({ authorId, likesCount: i })
  const first = newEdge()
  await readHot(first)
  await first.settle()

  const second = newEdge({}, first.token)
  await second.redis.reset()
  const { response, ids } = await readHot(second)
  await second.settle()
  expect(ids).toHaveLength(20)
  expect(roundTrips(response)).toBe(2)
  // List and generation; texts and counts.
  expect(await second.redis.counts()).toMatchObject({ requests: 2, byCommand: { mget: 2 } })

  await second.redis.reset()
  const again = await readHot(second)
  await second.settle()
  expect(again.ids).toEqual(ids)
  expect(roundTrips(again.response)).toBe(1)
  expect(await second.redis.counts()).toMatchObject({ requests: 1, byCommand: { mget: 1 } })

  // Session and counts are one command. What the reader likes is the other, in the same round trip.
  const headers = await second.signIn(await addUser())
  for (const costs of [{}, { requests: 1, byCommand: { mget: 1, eval: 1 } }]) {
    await second.redis.reset()
    const response = await second.fetch('/v1/posts/hot?limit=20', { headers })
    expect((await response.json<{ items: unknown[] }>()).items).toHaveLength(20)
    await second.settle()
    expect(await second.redis.counts()).toMatchObject(costs)
  }
})

test.each([
  ['midnight', '2026-03-10T00:00:00.000Z'],
  ['the last moment of a day', '2026-03-10T23:59:59.999Z'],
  ['noon', '2026-03-10T12:00:00.000Z'],
])('at %s the feed reaches back 7 days to the millisecond', async (_, time) => {
  const authorId = await newAuthor()
  const now = Date.parse(time)
  await addPost({ authorId, likesCount: 9, createdAt: now - 7 * DAY_MS })
  const oldest = await addPost({ authorId, likesCount: 5, createdAt: now - 7 * DAY_MS + 1 })
  const midnight = await addPost({ authorId, likesCount: 4, createdAt: Date.parse('2026-03-08T00:00:00.000Z') })
  const lastMoment = await addPost({ authorId, likesCount: 3, createdAt: Date.parse('2026-03-07T23:59:59.999Z') })
  const newest = await addPost({ authorId, likesCount: 2, createdAt: now })
  expect(await hotAt(now)).toEqual([newest.id, midnight.id, lastMoment.id, oldest.id])
})

test('the window is as many days as configured', async () => {
  const authorId = await newAuthor()
  const now = Date.parse('2026-03-10T12:00:00.000Z')
  const today = await addPost({ authorId, createdAt: now - DAY_MS + 1 })
  const lastMonth = await addPost({ authorId, createdAt: now - 31 * DAY_MS + 1 })
  expect(await hotAt(now, { HOT_DAYS: '1' })).toEqual([today.id])
  expect(await hotAt(now, { HOT_DAYS: '31' })).toEqual([today.id, lastMonth.id])
})

test('raising the generation renews every hot feed at once', async () => {
  const authorId = await newAuthor()
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const old = await addPost({ authorId, likesCount: 1 })
  await readHot(edge)
  await edge.settle()
  const added = await addPost({ authorId, likesCount: 2 })
  expect((await readHot(edge)).ids).toEqual([old.id])
  await edge.settle()
  await edge.sdk.incr(keys.hotGeneration)
  expect((await readHot(edge)).ids).toEqual([added.id, old.id])
})
