import { eq, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { postLikes, posts } from '../../src/db/schema.ts'
import type { LikeMessage } from '../../src/likes/schema.ts'
import { meteredDatabase } from '../database.ts'
import { migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addLike, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

/** An edge whose queue keeps what is sent, so that a test says when, in which order and how often it arrives. */
function newWorld(bindings: Record<string, unknown> = {}) {
  const sent: LikeMessage[] = []
  let isQueueUp = true
  const LIKES = {
    async send(message: LikeMessage) {
      if (!isQueueUp) throw new Error('the queue is down')
      sent.push(message)
    },
  }
  const edge = newEdge({ LIKES, ...bindings })
  return {
    edge,
    sent,
    queueIs: (up: boolean) => void (isQueueUp = up),
    like: async (headers: Record<string, string>, id: string, method: 'PUT' | 'DELETE' = 'PUT') =>
      edge.fetch(`/v1/${id.startsWith('c_') ? 'comments' : 'posts'}/${id}/like`, { method, headers }),
    /** Delivers all that was sent, as often and in whatever order. */
    drain: () => edge.deliver(sent.splice(0)),
    likesInRedis: (id: string) => edge.sdk.get<number>(`count:likes:${id}`),
    likesInD1: async (id: string) => {
      const [row] = await db.select().from(posts).where(eq(posts.id, id))
      const rows = await db.select().from(postLikes).where(eq(postLikes.postId, id))
      return { count: row?.likesCount, rows: rows.filter((like) => like.isLiked).map((like) => like.userId) }
    },
  }
}

test('a like counts once however often it is repeated, and so does an unlike', async () => {
  const { edge, like } = newWorld()
  const [ada, bob] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: ada.id, likesCount: 5 })
  const [asAda, asBob] = [await edge.signIn(ada), await edge.signIn(bob)]

  for (let i = 0; i < 3; i += 1) expect(await (await like(asAda, post.id)).json()).toEqual({ liked: true, likes: 6 })
  expect(await (await like(asBob, post.id)).json()).toEqual({ liked: true, likes: 7 })
  for (let i = 0; i < 3; i += 1) {
    expect(await (await like(asAda, post.id, 'DELETE')).json()).toEqual({ liked: false, likes: 6 })
  }
  const read = await edge.fetch(`/v1/posts/${post.id}`, { headers: asBob })
  expect(await read.json()).toMatchObject({ likesCount: 6, likedByMe: true })
})

test('a like is one round trip and one script, with session and limit', async () => {
  const { edge, like } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  await like(headers, post.id)
  await edge.settle()
  await edge.redis.reset()

  expect(roundTrips(await like(headers, post.id, 'DELETE'))).toBe(1)
  await edge.settle()
  expect((await edge.redis.counts()).byCommand).toEqual({ eval: 1 })
})

test('comments are liked in the same way', async () => {
  const { edge, like, drain } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const comment = await addComment({ authorId: ada.id, postId: post.id })
  expect(await (await like(await edge.signIn(ada), comment.id)).json()).toEqual({ liked: true, likes: 1 })
  await drain()
  const page = await newEdge().fetch(`/v1/posts/${post.id}/comments`)
  expect(await page.json()).toMatchObject({ items: [{ id: comment.id, likesCount: 1 }] })
})

test('200 parallel likes and unlikes with lost replies are counted exactly, and reach D1', async () => {
  const { edge, like, drain, likesInD1, likesInRedis, sent } = newWorld({ REDIS_BREAKER_FAILURES: '1000' })
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  const members = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const user = await addUser()
      return { user, headers: await edge.signIn(user), wish: false }
    }),
  )
  await edge.redis.fault({ kind: 'cut', match: 'EVAL', times: 60 })
  await Promise.all(
    members.map(async (member, i) => {
      for (let n = 0; n < 10; n += 1) {
        member.wish = (i + n) % 3 !== 0
        // A client that got no answer asks again.
        for (let tries = 0; ; tries += 1) {
          const response = await like(member.headers, post.id, member.wish ? 'PUT' : 'DELETE')
          await response.text()
          if (response.status === 200) break
          expect([response.status, tries < 20]).toEqual([503, true])
        }
      }
    }),
  )
  const wished = members.filter((member) => member.wish).map((member) => member.user.id)
  expect(await likesInRedis(post.id)).toBe(wished.length)

  sent.sort(() => Math.random() - 0.5)
  await edge.deliver([...sent, ...sent.slice(0, 50)])
  const stored = await likesInD1(post.id)
  expect(stored.count).toBe(wished.length)
  expect(stored.rows.toSorted()).toEqual(wished.toSorted())
  await drain()
  expect(await likesInRedis(post.id)).toBe(wished.length)
}, 60_000)

test('the newest state wins in any order of messages, and repeated messages change nothing', async () => {
  const { edge, like, sent, likesInD1 } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  await like(headers, post.id)
  await like(headers, post.id, 'DELETE')
  await like(headers, post.id)
  expect(sent.map((message) => message.isLiked)).toEqual([true, false, true])
  const [first, second, third] = sent

  await edge.deliver([third, third])
  expect(await likesInD1(post.id)).toEqual({ count: 1, rows: [ada.id] })
  await edge.deliver([second])
  await edge.deliver([first, second])
  expect(await likesInD1(post.id)).toEqual({ count: 1, rows: [ada.id] })
})

test('after FLUSHALL in the middle of traffic, D1 and Redis agree once the queue has drained', async () => {
  const { edge, like, sent, likesInD1, likesInRedis } = newWorld()
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  const members = await Promise.all(
    Array.from({ length: 30 }, async () => {
      const user = await addUser()
      return { id: user.id, headers: await edge.signIn(user) }
    }),
  )
  const acknowledged: string[] = []
  const storm = Promise.all(
    members.map(async ({ id, headers }) => {
      const response = await like(headers, post.id)
      if (response.status === 200) acknowledged.push(id)
    }),
  )
  await edge.sdk.flushall()
  await edge.deliver(sent.splice(0, 5))
  await edge.sdk.flushall()
  await storm
  await edge.sdk.flushall()
  const [last] = members
  if (last) await like(last.headers, post.id, 'DELETE')
  await edge.fetch(`/v1/posts/${post.id}`) // somebody loads the count while likes are under way
  await edge.settle()

  sent.sort(() => Math.random() - 0.5)
  while (sent.length > 0) await edge.deliver(sent.splice(0, 7))
  const stored = await likesInD1(post.id)
  expect(stored.count).toBe(29)
  expect(stored.rows.toSorted()).toEqual(acknowledged.filter((id) => id !== last?.id).toSorted())
  expect(await likesInRedis(post.id)).toBe(29)
  for (const { id, headers } of members) {
    const read = await (await edge.fetch(`/v1/posts/${post.id}`, { headers })).json()
    expect(read).toMatchObject({ likesCount: 29, likedByMe: id !== last?.id })
  }
}, 60_000)

test('a like that was counted but not enqueued is not acknowledged, and the retry enqueues it', async () => {
  const { edge, like, queueIs, sent, drain, likesInD1 } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  queueIs(false)
  expect((await like(headers, post.id)).status).toBe(503)
  queueIs(true)
  expect(await (await like(headers, post.id)).json()).toEqual({ liked: true, likes: 1 })
  expect(sent).toHaveLength(1)
  await drain()
  expect((await likesInD1(post.id)).count).toBe(1)
})

test('a poison message is retried alone; a message for a deleted post is discarded', async () => {
  const { edge, likesInD1 } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const good = { kind: 'post', contentId: post.id, userId: ada.id, isLiked: true, changedAt: Date.now() }
  const { acked, retried } = await edge.deliver([
    { nonsense: true },
    good,
    'text',
    { ...good, contentId: 'p_gone' },
    { ...good, userId: 'u_gone' },
    { ...good, changedAt: 'yesterday' },
  ])
  expect(acked).toEqual([1, 3, 4])
  expect(retried).toEqual([0, 2, 5])
  expect((await likesInD1(post.id)).rows).toEqual([ada.id])
})

test('messages are applied while Redis is down, and the cron completes what Redis missed', async () => {
  const { edge, like, drain, likesInRedis } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  await like(await edge.signIn(ada), post.id)
  await edge.sdk.set(`count:likes:${post.id}`, 42) // wrong, for whatever reason
  await edge.redis.fault({ kind: 'refuse' })
  await drain()
  await edge.redis.clearFaults()
  await edge.sdk.del('likes-unwritten') // so that D1 alone knows that Redis missed something
  expect(await likesInRedis(post.id)).toBe(42)
  await edge.cron()
  expect(await likesInRedis(post.id)).toBe(1)
})

test('without Redis a like is refused as unavailable, and nothing is written', async () => {
  const { edge, like, drain, likesInD1 } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  await edge.redis.fault({ kind: 'refuse' })
  const response = await like(headers, post.id)
  expect([response.status, response.headers.get('Retry-After')]).toEqual([503, '5'])
  await edge.redis.clearFaults()
  await drain() // asks Redis whether it counted the like
  await edge.cron()
  expect(await likesInD1(post.id)).toEqual({ count: 0, rows: [] })
})

test('reading unknown posts leaves nothing about the reader in Redis', async () => {
  const { edge } = newWorld()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  await edge.fetch(`/v1/posts?ids=p_1,${post.id},p_2`, { headers })
  await edge.settle()
  expect(await edge.sdk.hgetall(`liked:${ada.id}`)).toEqual({ ':from': 'p_' })
})

test('what a user likes is read from D1 once; older posts than the thousand newest are read each time', async () => {
  const ada = await addUser()
  const liked = await addPost({ authorId: ada.id })
  const other = await addPost({ authorId: ada.id })
  await addLike(ada.id, liked.id)
  for (const [newerLikes, isAgain] of [
    [0, false],
    [999, false],
    [1, true],
  ] as const) {
    const newer = Array.from({ length: newerLikes }, (_, i) => `p_z${newerLikes}_${i}`)
    await db.run(sql`
      INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
      SELECT value, ${ada.id}, true, 1 FROM json_each(${JSON.stringify(newer)})`)
    const { DB, rows } = meteredDatabase(/from "post_likes"/)
    const edge = newEdge({ DB })
    const headers = await edge.signIn(ada)
    const isRead = async (post: { id: string }) => {
      const before = rows.read
      const response = await edge.fetch(`/v1/posts/${post.id}`, { headers })
      expect(await response.json()).toMatchObject({ likedByMe: post === liked })
      await edge.settle()
      return rows.read > before
    }
    expect(await isRead(liked)).toBe(true)
    expect([await isRead(other), await isRead(liked)]).toEqual([isAgain, isAgain])
  }
})

test('a like requires a session and an existing post or comment', async () => {
  const { edge, like } = newWorld()
  const headers = await edge.signIn(await addUser())
  expect((await like({}, 'p_1')).status).toBe(401)
  expect((await like(headers, 'p_unknown')).status).toBe(404)
  expect((await like(headers, 'c_unknown')).status).toBe(404)
  const bad = await edge.fetch('/v1/posts/c_1/like', { method: 'PUT', headers })
  expect(await bad.json()).toMatchObject({ status: 400, errors: [{ in: 'path', field: 'id' }] })
})

test('a like reaches D1 through the real queue', async () => {
  const edge = newEdge() // its LIKES is the real one, and its consumer the Worker of these tests
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  await edge.fetch(`/v1/posts/${post.id}/like`, { method: 'PUT', headers: await edge.signIn(ada) })
  await expect
    .poll(async () => (await db.select().from(posts).where(eq(posts.id, post.id)))[0]?.likesCount, { timeout: 8_000 })
    .toBe(1)
}, 10_000)
