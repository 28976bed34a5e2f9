import { eq, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { meteredDatabase } from '../database.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { addComment, addFollow, addLikes, addPost, addUser, addUsers, db } from '../rows.ts'

beforeAll(migrate)

/** A post of `author` that many like and comment on. */
async function newPost(likes: number, comments: number) {
  const author = await addUser()
  const post = await addPost({ authorId: author.id, text: `Ephemeral ${crypto.randomUUID().slice(0, 8)}` })
  const fans = await addUsers(Math.max(likes, 1))
  await addLikes(post.id, fans.slice(0, likes))
  await db.run(sql`
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${comments})
    INSERT INTO comments (id, post_id, author_id, text, created_at)
    SELECT ${`c_${post.id.slice(2)}`} || i, ${post.id}, ${fans[0]}, 'Well said', i FROM n WHERE ${comments} > 0`)
  return { author, post, fans }
}

async function remove(edge: Edge, author: { id: string; sessionEpoch: number }, path: string): Promise<void> {
  const response = await edge.fetch(path, { method: 'DELETE', headers: await edge.signIn(author) })
  expect(response.status).toBe(204)
  await edge.settle()
}

/** What D1 has left of a post. */
const leftOf = async (postId: string) => ({
  likes: await db.$count(schema.postLikes, eq(schema.postLikes.postId, postId)),
  comments: await db.$count(schema.comments, eq(schema.comments.postId, postId)),
  notifications: await db.$count(schema.notifications, eq(schema.notifications.postId, postId)),
  removals: await db.$count(schema.removals),
})

const NOTHING = { likes: 0, comments: 0, notifications: 0, removals: 0 }

test('a deleted post is in no answer at once, though its likes and comments still are in D1', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const author = await addUser()
  const [fan, reader] = [await addUser(), await addUser()]
  await addFollow(reader.id, author.id)
  const asFan = { ...(await edge.signIn(fan)), 'Content-Type': 'application/json' }
  const asAuthor = { ...(await edge.signIn(author)), 'Content-Type': 'application/json' }
  const asReader = await edge.signIn(reader)
  const send = async (method: string, path: string, headers: Record<string, string>, body?: object) => {
    const response = await edge.fetch(path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
    expect([path, response.ok]).toEqual([path, true])
    await edge.settle()
    return response.status === 204 ? { id: '' } : response.json<{ id: string }>()
  }
  const post = await send('POST', '/v1/posts', asAuthor, { text: 'Vanishing words' })
  const comment = await send('POST', `/v1/posts/${post.id}/comments`, asFan, { text: 'Indeed' })
  const ofAuthor = await send('POST', `/v1/posts/${post.id}/comments`, asAuthor, { text: 'Thanks' })
  await db.insert(schema.postLikes).values({ postId: post.id, userId: fan.id, isLiked: true, changedAt: 1 })
  for (const { id } of [comment, ofAuthor]) {
    await edge.deliver([
      { kind: 'comment', contentId: id, userId: fan.id, isLiked: true, changedAt: 1, stateSince: null },
    ])
  }
  await edge.deliver([
    { kind: 'post', contentId: post.id, userId: fan.id, isLiked: true, changedAt: 2, stateSince: null },
  ])
  await edge.dispatch()

  const asked: [string, Record<string, string>][] = [
    [`/v1/posts?ids=${post.id}`, {}],
    ['/v1/posts/hot', {}],
    [`/v1/users/${author.id}/posts`, {}],
    ['/v1/feed', asReader],
    ['/v1/notifications', asReader],
    ['/v1/notifications', asAuthor],
    ['/v1/recommendations', asReader],
    ['/v1/search?q=vanishing', {}],
  ]
  const answers = async () => {
    const texts = []
    for (const [path, headers] of asked) {
      texts.push([path, (await (await edge.fetch(path, { headers })).text()).includes(post.id)])
      await edge.settle()
    }
    return texts
  }
  expect(await answers()).toEqual(asked.map(([path]) => [path, true]))
  await edge.redis.flush() // inboxes and lists are invalidated by the queue, which stands still here

  await remove(edge, author, `/v1/posts/${post.id}`)
  expect(await leftOf(post.id)).toMatchObject({ likes: 1, comments: 2, removals: 1 })
  expect(await answers()).toEqual(asked.map(([path]) => [path, false]))
  const refused: [string, string][] = [
    ['GET', `/v1/posts/${post.id}`],
    ['GET', `/v1/posts/${post.id}/comments`],
    ['PUT', `/v1/posts/${post.id}/like`],
    ['PUT', `/v1/comments/${comment.id}/like`],
    ['DELETE', `/v1/comments/${comment.id}`],
    ['POST', `/v1/posts/${post.id}/views`],
  ]
  for (const [method, path] of refused) {
    const { status } = await edge.fetch(path, { method, headers: asFan })
    expect([method, path, status]).toEqual([method, path, 404])
  }
  const more = await edge.fetch(`/v1/posts/${post.id}/comments`, {
    method: 'POST',
    headers: asFan,
    body: '{"text":"Late"}',
  })
  expect(more.status).toBe(404)

  await edge.settle()
  expect(await edge.dispatch()).toBe(0)
  await edge.cron(Date.now() + 600_000) // the comments had likes
  await edge.dispatch()
  expect(await leftOf(post.id)).toEqual(NOTHING)
  expect(await db.$count(schema.commentLikes)).toBe(0)
})

test('deleting a post writes as many rows for many likes and comments as for one', async () => {
  const cost = async (likes: number, comments: number) => {
    const { author, post } = await newPost(likes, comments)
    const { DB, rows } = meteredDatabase(/posts|removals|likes|comments/)
    const edge = newEdge({ DB })
    await remove(edge, author, `/v1/posts/${post.id}`)
    const { written } = rows
    await edge.dispatch()
    expect(await leftOf(post.id)).toEqual(NOTHING)
    return written
  }
  const [one, many] = [await cost(1, 1), await cost(3_000, 700)]
  expect(one).toBeGreaterThan(0)
  expect(many).toBe(one)
})

test('what belongs to a deleted post goes in steps of at most 10,000 rows, each a message of the queue', async () => {
  const { author, post } = await newPost(15_000, 2_500)
  const edge = newEdge()
  await remove(edge, author, `/v1/posts/${post.id}`)
  let left = 17_500
  const steps: number[] = []
  while (edge.events.sent.length > 0) {
    const [message] = edge.events.sent.splice(0, 1)
    await edge.deliver([message?.body], 'events')
    const { likes, comments } = await leftOf(post.id)
    if (likes + comments < left) steps.push(left - likes - comments)
    left = likes + comments
  }
  expect(steps).toEqual([9_500, 8_000]) // ten statements: three for the comments, seven for likes
  expect(await leftOf(post.id)).toEqual(NOTHING)
}, 60_000)

test('a deletion in D1 by another back end, and one whose message was lost, are completed by the cron', async () => {
  const edge = newEdge()
  const { author, post } = await newPost(3, 3)
  const other = await newPost(3, 3)
  await db.delete(schema.posts).where(eq(schema.posts.id, other.post.id))
  await remove(edge, author, `/v1/posts/${post.id}`)
  edge.events.take()
  await edge.cron(Date.now() + 30_000)
  edge.events.take() // the event is enqueued again only later
  expect(await leftOf(post.id)).toMatchObject({ likes: 3, comments: 3, removals: 2 })

  await edge.cron(Date.now() + 61_000)
  await edge.dispatch()
  expect([await leftOf(post.id), await leftOf(other.post.id)]).toEqual([NOTHING, NOTHING])
})

test('a deleted comment takes its likes along, and leaves those of others', async () => {
  const edge = newEdge()
  const { author, post, fans } = await newPost(5, 0)
  const [gone, kept] = [
    await addComment({ postId: post.id, authorId: author.id }),
    await addComment({ postId: post.id, authorId: author.id }),
  ]
  const likes = [gone, kept].flatMap(({ id }) =>
    fans.map((userId) => ({ commentId: id, userId, isLiked: true, changedAt: 1 })),
  )
  await db.insert(schema.commentLikes).values(likes)
  await remove(edge, author, `/v1/comments/${gone.id}`)
  await edge.dispatch()
  expect(await db.$count(schema.commentLikes, eq(schema.commentLikes.commentId, gone.id))).toBe(0)
  expect(await db.$count(schema.commentLikes, eq(schema.commentLikes.commentId, kept.id))).toBe(5)
  expect(await leftOf(post.id)).toEqual({ likes: 5, comments: 1, notifications: 0, removals: 0 })
})

test('a post that exists loses nothing, though a removal of it is recorded', async () => {
  const edge = newEdge()
  const { post } = await newPost(3, 3)
  await db.insert(schema.removals).values({ contentId: post.id, dueAt: 0 })
  await edge.cron()
  await edge.dispatch()
  expect(await leftOf(post.id)).toMatchObject({ likes: 3, comments: 3, removals: 0 })
})
