import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { afterEach, beforeAll, expect, test, vi } from 'vitest'
import type { Fault } from '../../emulator/control.ts'
import { postLikes, posts, users } from '../../src/db/schema.ts'
import type { LikeMessage, UnansweredLike } from '../../src/likes/schema.ts'
import { interruptedDatabase, readOnlyDatabase } from '../database.ts'
import { migrate, newEdge } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)
afterEach(() => void vi.restoreAllMocks())

/** An edge whose queue of likes is delivered by the test, and a post that a user may like. */
async function newWorld(bindings: Record<string, unknown> = {}) {
  const sent: (LikeMessage | UnansweredLike)[] = []
  let isQueueUp = true
  const LIKES = {
    async send(message: LikeMessage | UnansweredLike) {
      if (!isQueueUp) throw new Error('the queue is down')
      sent.push(message)
    },
  }
  const edge = newEdge({ LIKES, ...bindings })
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  const like = async (isLiked = true) => {
    const response = await edge.fetch(`/v1/posts/${post.id}/like`, { method: isLiked ? 'PUT' : 'DELETE', headers })
    return { status: response.status, ...(await response.json<{ likes?: number }>()) }
  }
  const deliver = () => edge.deliver(sent.splice(0).toReversed())
  return {
    edge,
    sent,
    ada,
    post,
    headers,
    queueIs: (up: boolean) => void (isQueueUp = up),
    like,
    deliver,
    /** Says (not) to like the post, through a Worker that `fault` keeps from the reply; answers what it sent to the queue. */
    likeUnanswered: async (fault: Fault, isLiked = true) => {
      for (const before of [isLiked, !isLiked]) await like(before) // Redis has what the like needs
      await deliver()
      const hasty = newEdge({ REDIS_READ_TIMEOUT_MS: '100', REDIS_WRITE_TIMEOUT_MS: '150', LIKES }, edge.token)
      await edge.redis.fault(fault)
      const refused = await hasty.fetch(`/v1/posts/${post.id}/like`, { method: isLiked ? 'PUT' : 'DELETE', headers })
      await edge.redis.clearFaults()
      expect(refused.status).toBe(503)
      return sent.pop() ?? expect.fail('nothing is in the queue')
    },
    /** What the API says, as a new isolate reads it. */
    read: async () => {
      const reader = newEdge({}, edge.token)
      const response = await reader.fetch(`/v1/posts/${post.id}`, { headers })
      await reader.settle()
      const { likesCount, likedByMe } = await response.json<{ likesCount: number; likedByMe: boolean }>()
      return { likesCount, likedByMe }
    },
    readD1: async () => {
      const [row] = await db.select().from(posts).where(eq(posts.id, post.id))
      const likes = await db.select().from(postLikes).where(eq(postLikes.postId, post.id))
      return { likesCount: row?.likesCount, likedByMe: likes.some((like) => like.isLiked) }
    },
  }
}

const LIKED = { likesCount: 1, likedByMe: true }
const NOT_LIKED = { likesCount: 0, likedByMe: false }

test.each([
  ['is late twice', { kind: 'delay-after', match: 'EVAL', times: 2 }],
  ['is cut three times', { kind: 'cut', match: 'EVAL', times: 3 }],
] as const)('a like whose reply %s is refused, and completed by the cron', async (_, fault) => {
  const { edge, read, readD1, likeUnanswered } = await newWorld()
  await likeUnanswered(fault)
  expect(await edge.sdk.zcard('likes-unwritten')).toBe(1)
  await edge.cron()
  expect([await readD1(), await read()]).toEqual([LIKED, LIKED])
})

test.each([[true], [false]])(
  'a like (%s) whose reply is lost is completed, even where Redis loses it too',
  async (isLiked) => {
    const { edge, read, readD1, likeUnanswered } = await newWorld()
    const message = await likeUnanswered({ kind: 'cut', match: 'EVAL', times: 3 }, isLiked)
    await edge.sdk.del('likes-unwritten')
    await edge.cron()
    expect(await readD1()).toEqual(isLiked ? NOT_LIKED : LIKED)
    expect((await edge.deliver([message, message])).acked).toEqual([0, 1])
    await edge.cron()
    const wanted = isLiked ? LIKED : NOT_LIKED
    expect([await readD1(), await read()]).toEqual([wanted, wanted])
  },
)

test('a like whose reply is lost, and of which Redis keeps no more than the count, did not happen', async () => {
  const { edge, post, ada, read, readD1, likeUnanswered } = await newWorld()
  const message = await likeUnanswered({ kind: 'cut', match: 'EVAL', times: 3 })
  await edge.sdk.del('likes-unwritten', `liked:${ada.id}`)
  expect(await edge.sdk.get(`count:likes:${post.id}`)).toBe(1)
  await edge.deliver([message])
  await edge.cron()
  expect([await readD1(), await read()]).toEqual([NOT_LIKED, NOT_LIKED])
})

test('a like whose reply is lost, and that was said again since, is as it was said last', async () => {
  const { edge, like, deliver, read, readD1, likeUnanswered } = await newWorld()
  const message = await likeUnanswered({ kind: 'cut', match: 'EVAL', times: 3 })
  await like()
  await like(false)
  await edge.sdk.del('likes-unwritten')
  await edge.deliver([message])
  await edge.cron()
  await deliver()
  expect([await readD1(), await read()]).toEqual([NOT_LIKED, NOT_LIKED])
})

test('while Redis is down, only likes that may have reached it are recovered', async () => {
  const { edge, like, sent } = await newWorld({ REDIS_BREAKER_FAILURES: '1' })
  await edge.redis.fault({ kind: 'cut' })
  expect((await like()).status).toBe(503)
  expect(sent.splice(0)).toHaveLength(1)
  expect((await like()).status).toBe(503)
  expect(sent).toEqual([])
})

test('a like that the queue refuses is completed by the cron, and so is an unlike', async () => {
  const { edge, like, read, readD1, queueIs } = await newWorld()
  queueIs(false)
  expect((await like()).status).toBe(503)
  await edge.cron()
  expect([await readD1(), await read()]).toEqual([LIKED, LIKED])
  expect((await like(false)).status).toBe(503)
  await edge.cron()
  expect([await readD1(), await read()]).toEqual([NOT_LIKED, NOT_LIKED])
})

test('a like that the cron writes to D1, and whose notification D1 refuses, is notified by the next run', async () => {
  const { edge, post, headers: author, queueIs } = await newWorld()
  const headers = await edge.signIn(await addUser())
  queueIs(false)
  expect((await edge.fetch(`/v1/posts/${post.id}/like`, { method: 'PUT', headers })).status).toBe(503)
  await env.DB.exec(`CREATE TRIGGER refuse BEFORE INSERT ON notifications BEGIN SELECT RAISE(ABORT, 'no'); END`)
  await expect(edge.cron()).rejects.toThrow('complete likes')
  await env.DB.exec('DROP TRIGGER refuse')
  await edge.cron()
  const inbox = await newEdge({}, edge.token).fetch('/v1/notifications', { headers: author })
  expect(await inbox.json()).toMatchObject({ items: [{ type: 'like', postId: post.id, actorsCount: 1 }] })
})

test('a like that the cron completed keeps its beginning, and its message changes nothing', async () => {
  const { edge, like, readD1, sent, post } = await newWorld()
  await like()
  await edge.deliver(sent.splice(0))
  const stateSince = async () => {
    const [row] = await db.select().from(postLikes).where(eq(postLikes.postId, post.id))
    return row?.since ?? row?.changedAt
  }
  const first = await stateSince()
  await like() // said again
  await edge.cron()
  await edge.deliver(sent.splice(0))
  expect(await stateSince()).toBe(first)
  expect(await readD1()).toEqual(LIKED)
})

test('while D1 cannot be written, likes wait in Redis and in the queue, and arrive when it is back', async () => {
  const { DB, recover } = readOnlyDatabase()
  const { edge, like, read, readD1, sent } = await newWorld({ DB })
  expect((await like()).status).toBe(200)
  const { acked, retried } = await edge.deliver(sent.splice(0)) // retried until it is a dead letter, say
  expect([acked, retried]).toEqual([[], [0]])
  await expect(edge.cron()).rejects.toThrow('jobs failed')
  expect(await read()).toEqual({ ...LIKED })
  recover()
  await edge.cron(Date.now() + 3 * 3_600_000)
  expect([await readD1(), await read()]).toEqual([LIKED, LIKED])
})

test('after a flush, a like of an isolate whose clock is ahead does not undo a later unlike', async () => {
  const { edge, like, deliver, read, readD1 } = await newWorld()
  const now = Date.now()
  const clock = vi.spyOn(Date, 'now').mockReturnValue(now + 3_000)
  expect((await like()).status).toBe(200)
  clock.mockRestore()
  await edge.sdk.flushdb()
  expect((await like(false)).status).toBe(200)
  await deliver()
  expect([await readD1(), await read()]).toEqual([NOT_LIKED, NOT_LIKED])
})

test('a fill from before a like and a flush does not hide the like', async () => {
  const { edge, like, deliver, read, post, headers } = await newWorld()
  const COUNTS = /^select "id", "likes_count"/
  // What the user likes is loaded once, and so are the counts that come with a text. Where the text is cached, a fill loads
  // them again after the answer.
  for (const [query, nth, isCached] of [
    [/from "post_likes" where/, 1, false] as const,
    [/^select "id", "author_id"/, 1, false] as const,
    [COUNTS, 1, true] as const,
    [COUNTS, 2, true] as const,
  ]) {
    if (isCached) {
      const other = newEdge({}, edge.token)
      await (await other.fetch(`/v1/posts/${post.id}`)).text()
      await other.settle()
      await edge.sdk.del(...['count', 'tally'].map((of) => `${of}:likes:${post.id}`))
    }
    let isInterrupted = false
    const late = interruptedDatabase(query, nth, async () => {
      isInterrupted = true
      await like()
      await deliver()
      await edge.sdk.flushdb()
    })
    const reader = newEdge({ DB: late }, edge.token)
    await (await reader.fetch(`/v1/posts/${post.id}`, { headers })).text()
    await reader.settle()
    expect([isInterrupted, nth, isCached, await read()]).toEqual([true, nth, isCached, LIKED])
    await like(false)
    await deliver()
    await edge.sdk.flushdb()
  }
})

test('a like, an evicted count and an unlike are 0, at once and when the queue is empty', async () => {
  const { edge, like, deliver, read, readD1, post } = await newWorld()
  expect(await like()).toMatchObject({ likes: 1 })
  await edge.sdk.del(`count:likes:${post.id}`)
  expect(await like(false)).toMatchObject({ likes: 0 })
  expect(await read()).toEqual(NOT_LIKED)
  await deliver()
  expect([await readD1(), await read()]).toEqual([NOT_LIKED, NOT_LIKED])
})

test('a message of a user who is gone does not leave the count too high', async () => {
  const { edge, like, deliver, post } = await newWorld()
  const bob = await addUser()
  const asBob = await edge.signIn(bob)
  await like()
  await edge.fetch(`/v1/posts/${post.id}/like`, { method: 'PUT', headers: asBob })
  await db.delete(users).where(eq(users.id, bob.id))
  await deliver()
  const read = await edge.fetch(`/v1/posts/${post.id}`)
  expect(await read.json()).toMatchObject({ likesCount: 1 })
})

test('a message that is applied while Redis is down is retried, until the state in Redis is right too', async () => {
  const { edge, like, sent } = await newWorld()
  await like()
  const messages = sent.splice(0)
  await edge.redis.fault({ kind: 'refuse' })
  expect((await edge.deliver(messages)).retried).toEqual([0])
  await edge.redis.clearFaults()
  expect((await newEdge({}, edge.token).deliver(messages)).acked).toEqual([0])
  expect(await edge.sdk.zcard('likes-unwritten')).toBe(0)
})

test('a like stays unwritten until its count is sent as a hint', async () => {
  let isEventsUp = false
  const hints = vi.fn<() => Promise<void>>(async () => {
    if (!isEventsUp) throw new Error('the queue is down')
  })
  const { edge, like, deliver, readD1 } = await newWorld({ EVENTS: { send: hints, sendBatch: hints } })
  await like()
  expect((await deliver()).retried).toEqual([0])
  expect(await readD1()).toEqual(LIKED)
  await expect(edge.cron()).rejects.toThrow('complete likes')
  isEventsUp = true
  hints.mockClear()
  await edge.cron()
  expect(hints).toHaveBeenCalledWith(expect.objectContaining({ kind: 'hints' }), expect.anything())
  expect(await edge.sdk.zcard('likes-unwritten')).toBe(0)
})

test('a like that D1 refuses fails alone; where D1 refuses every like, few are tried', async () => {
  const { edge, like, sent, readD1, post } = await newWorld()
  await like()
  const [message = expect.fail('one like')] = sent.splice(0)
  const others = await Promise.all(Array.from({ length: 10 }, () => addUser()))
  const messages = [message, ...others.map(({ id }) => ({ ...message, userId: id }))]
  const refused = others[4]?.id
  await env.DB.exec(
    `CREATE TRIGGER refuse BEFORE INSERT ON post_likes WHEN NEW.user_id = '${refused}' BEGIN SELECT RAISE(ABORT, 'no'); END`,
  )
  expect((await edge.deliver(messages)).retried).toEqual([5])
  await env.DB.exec('DROP TRIGGER refuse')
  expect(await readD1()).toMatchObject({ likesCount: 10 })

  let tried = 0
  const { DB } = readOnlyDatabase(() => (tried += 1))
  await db.delete(postLikes).where(eq(postLikes.postId, post.id))
  expect((await newEdge({ DB }, edge.token).deliver(messages)).retried).toHaveLength(11)
  expect(tried).toBe(4)
})
