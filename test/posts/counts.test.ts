import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { interruptedDatabase, meteredDatabase } from '../database.ts'
import { migrate, newEdge } from '../edge.ts'
import { addComment, addLikes, addPost, addUser, addUsers, db } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

/** Longer than any retry, shorter than the sessions of these tests. */
const OUTAGE_MS = 50 * 60_000

/** An author, who is signed in, and a post whose counts Redis has. */
async function newWorld() {
  const edge = newEdge({
    LIKES: { send: async () => {} },
    REDIS_BREAKER_FAILURES: '1000',
    REDIS_BREAKER_SECONDS: '0.05',
  })
  const author = await addUser()
  const headers = { ...(await edge.signIn(author)), 'Content-Type': 'application/json' }
  const post = await addPost({ authorId: author.id })
  const send = (method: string, path: string, body?: object) =>
    edge.fetch(path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
  const comment = async () => {
    const response = await send('POST', `/v1/posts/${post.id}/comments`, { text: 'Indeed' })
    return (await response.json<{ id: string }>()).id
  }
  const countsNow = async () => {
    const reader = newEdge({}, edge.token)
    const response = await reader.fetch(`/v1/posts/${post.id}`)
    await reader.settle()
    return response.json<{ likesCount: number; commentsCount: number; viewsCount: number }>()
  }
  /** Runs `work` while Redis is away, for so long that every retry has been made. */
  const withoutRedis = async (work: () => Promise<unknown>) => {
    await edge.redis.fault({ kind: 'refuse' })
    await work()
    await edge.settle()
    await edge.redis.clearFaults()
  }
  const keysLeft = async () =>
    (await keysOf(edge.sdk)).filter((key) => /^(count|tally|viewers|views-base|counts):/.test(key))
  return { edge, author, post, send, comment, countsNow, withoutRedis, keysLeft }
}

test('comments that were written and deleted in a long outage are counted right after it', async () => {
  const { edge, send, comment, countsNow, withoutRedis } = await newWorld()
  const [first] = [await comment(), await comment()]
  expect(await countsNow()).toMatchObject({ commentsCount: 2 })
  await withoutRedis(async () => {
    await comment()
    expect((await send('DELETE', `/v1/comments/${first}`)).status).toBe(204)
    await comment()
    await comment()
  })
  await edge.cron(Date.now() + OUTAGE_MS)
  expect(await countsNow()).toMatchObject({ commentsCount: 4 })

  await withoutRedis(async () => {
    for (const { id } of await db.select({ id: schema.comments.id }).from(schema.comments)) {
      expect((await send('DELETE', `/v1/comments/${id}`)).status).toBe(204)
    }
  })
  await edge.cron(Date.now() + OUTAGE_MS)
  expect(await countsNow()).toMatchObject({ commentsCount: 0 })
}, 60_000)

test('likes that D1 got in a long outage are counted right after it', async () => {
  const { edge, post, send, countsNow } = await newWorld()
  await send('PUT', `/v1/posts/${post.id}/like`)
  await edge.cron()
  const bob = await addUser()
  // Written long after it was said, as from a queue that could not be delivered.
  await db
    .insert(schema.postLikes)
    .values({ postId: post.id, userId: bob.id, isLiked: true, changedAt: Date.now() - 5 * OUTAGE_MS })
  await edge.cron(Date.now() + OUTAGE_MS)
  expect(await countsNow()).toMatchObject({ likesCount: 2 })
})

test('the counts of what was deleted in an outage are evicted after it, those of its comments too', async () => {
  const { edge, post, send, comment, withoutRedis, keysLeft } = await newWorld()
  const id = await comment()
  await send('PUT', `/v1/posts/${post.id}/like`)
  await send('PUT', `/v1/comments/${id}/like`)
  await send('POST', `/v1/posts/${post.id}/views`)
  await send('GET', `/v1/posts/${post.id}`)
  await edge.settle()
  expect((await keysLeft()).length).toBeGreaterThan(5)
  await withoutRedis(async () => expect((await send('DELETE', `/v1/posts/${post.id}`)).status).toBe(204))
  await edge.dispatch() // the comments go in steps
  await edge.cron(Date.now() + OUTAGE_MS)
  expect(await keysLeft()).toEqual([])
  expect((await send('POST', `/v1/posts/${post.id}/views`)).status).toBe(404)
  expect((await send('PUT', `/v1/posts/${post.id}/like`)).status).toBe(404)
})

test('a post that goes with its author leaves no counts', async () => {
  const { edge, author, post, send, keysLeft } = await newWorld()
  await send('PUT', `/v1/posts/${post.id}/like`)
  await send('POST', `/v1/posts/${post.id}/views`)
  await db.delete(schema.users).where(eq(schema.users.id, author.id))
  await edge.cron()
  expect(await keysLeft()).toEqual([])
})

test('a like or a read in flight while its post is deleted leaves nothing in Redis', async () => {
  for (const [method, path, pattern, nth, isCached] of [
    ['PUT', '/like', /select "likes_count", "likes_changed_at"|select "likes_count" from "posts"/, 1, false],
    ['GET', '', /"comments_count", "views_count"/, 1, false],
    ['GET', '', /"comments_count", "views_count"/, 1, true],
    ['GET', '', /"comments_count", "views_count"/, 2, true],
  ] as const) {
    const { edge, post, author, send, keysLeft } = await newWorld()
    if (isCached) {
      const other = newEdge({}, edge.token)
      await (await other.fetch(`/v1/posts/${post.id}`)).text()
      await other.settle()
      await edge.sdk.del(keys.count('likes', post.id))
    }
    const DB = interruptedDatabase(pattern, nth, async () => {
      expect((await send('DELETE', `/v1/posts/${post.id}`)).status).toBe(204)
    })
    const slow = newEdge({ DB, LIKES: { send: async () => {} } }, edge.token)
    const headers = await slow.signIn(author)
    await (await slow.fetch(`/v1/posts/${post.id}${path}`, { method, headers })).text()
    await slow.settle()
    expect(await db.select().from(schema.posts).where(eq(schema.posts.id, post.id))).toEqual([])
    expect([method, nth, isCached, await keysLeft()]).toEqual([method, nth, isCached, []])
  }
})

test('the cron visits each change once, and what changes meanwhile again', async () => {
  const { edge, post, comment } = await newWorld()
  const noted = () => db.select().from(schema.unsettledCounts)
  await comment()
  expect(await noted()).toContainEqual({ contentId: post.id })
  const DB = interruptedDatabase(/select "id", "likes_count", "comments_count", "counts_revision"/, 1, () =>
    addComment({ postId: post.id, authorId: post.authorId }),
  )
  await newEdge({ DB }, edge.token).cron()
  expect(await noted()).toContainEqual({ contentId: post.id })
  await edge.cron()
  expect(await noted()).toEqual([])
})

test('the cron reads as many rows for a post with many likes as for one with few', async () => {
  const cost = async (likes: number) => {
    const { edge, post, countsNow } = await newWorld()
    const fans = await addUsers(likes)
    await addLikes(post.id, fans)
    const { DB, rows } = meteredDatabase(/unsettled_counts|"counts_revision"/)
    await newEdge({ DB }, edge.token).cron()
    expect(await countsNow()).toMatchObject({ likesCount: likes })
    expect(await db.select().from(schema.unsettledCounts)).toEqual([])
    return rows.read
  }
  const [few, many] = [await cost(2), await cost(2_000)]
  expect(few).toBeGreaterThan(0)
  expect(many).toBe(few)
})
