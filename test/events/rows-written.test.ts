import { beforeAll, expect, test } from 'vitest'
import { meteredDatabase } from '../database.ts'
import { migrate, newEdge, newQueue } from '../edge.ts'
import { addComment, addFollow, addPost, addUser } from '../rows.ts'

beforeAll(migrate)

/** An edge whose D1 counts the rows it writes, index entries included, as D1 bills them. */
async function newWorld() {
  const { DB, rows } = meteredDatabase()
  const likes = newQueue()
  const edge = newEdge({ DB, LIKES: likes })
  /** Lets everything follow from what was requested: the queues, then a minute of the cron, then the queues. */
  async function settle() {
    await edge.settle()
    const messages = likes.take()
    if (messages.length > 0) expect((await edge.deliver(messages)).retried).toEqual([])
    expect(await edge.dispatch()).toBe(0)
    await edge.cron()
    expect(await edge.dispatch()).toBe(0)
  }
  /** The rows that a change writes, with all that follows from it. */
  async function rowsOf(change: () => Promise<unknown>): Promise<number> {
    await settle()
    rows.written = 0
    await change()
    await settle()
    return rows.written
  }
  /** A user who has made a request: their session is in Redis. */
  async function newMember() {
    const user = await addUser()
    const headers = await edge.signIn(user)
    const send = async (method: string, path: string, body?: object) => {
      const response = await edge.fetch(path, {
        method,
        headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
      })
      expect([method, path, response.ok]).toEqual([method, path, true])
    }
    await send('GET', '/v1/notifications')
    return { ...user, send }
  }
  return { rowsOf, newMember }
}

test('a like writes at most 8 rows with all that follows from it', async () => {
  const { rowsOf, newMember } = await newWorld()
  const [author, ada, bob] = [await newMember(), await newMember(), await newMember()]
  await addFollow(ada.id, author.id)
  const post = await addPost({ authorId: author.id })
  const discussed = await addPost({ authorId: author.id })
  const comment = await addComment({ postId: discussed.id, authorId: author.id })
  const viewed = await addPost({ authorId: author.id, viewsCount: 15 }) // the first like makes it worth a score
  const popular = await addPost({ authorId: author.id, likesCount: 5_000, viewsCount: 90_000 })
  await rowsOf(() => bob.send('PUT', `/v1/posts/${popular.id}/like`)) // the first has a row of its own, for all later ones
  const rows: Record<string, number> = {}
  for (const [name, member, method, path] of [
    ['the first of a post', ada, 'PUT', `posts/${post.id}`],
    ['the second', bob, 'PUT', `posts/${post.id}`],
    ['an unlike', bob, 'DELETE', `posts/${post.id}`],
    ['the same again', bob, 'PUT', `posts/${post.id}`],
    ['the first of a discussed post', ada, 'PUT', `posts/${discussed.id}`],
    ['the second of a discussed post', bob, 'PUT', `posts/${discussed.id}`],
    ['the first of a viewed post', ada, 'PUT', `posts/${viewed.id}`],
    ['one of many', ada, 'PUT', `posts/${popular.id}`],
    ['the first of a comment', ada, 'PUT', `comments/${comment.id}`],
    ['the second of a comment', bob, 'PUT', `comments/${comment.id}`],
  ] as const) {
    rows[name] = await rowsOf(() => member.send(method, `/v1/${path}/like`))
  }
  expect(rows).toEqual({
    'the first of a post': 8, // the like 4, the post 1, its notification 3
    'the second': 8, // the post gets its score 2, its notification 2
    'an unlike': expect.toSatisfy((written) => written <= 8),
    'the same again': expect.toSatisfy((written) => written <= 8),
    'the first of a discussed post': 8, // as the first of a post: the score stays
    'the second of a discussed post': 8,
    'the first of a viewed post': 8,
    'one of many': 8,
    'the first of a comment': 8,
    'the second of a comment': 7,
  })
})

test('a post writes 17 rows, a comment 21 and a reply 25; the first comment of a post 2 more', async () => {
  const { rowsOf, newMember } = await newWorld()
  const [author, ada, bob] = [await newMember(), await newMember(), await newMember()]
  await addFollow(ada.id, author.id)
  const post = await addPost({ authorId: author.id })
  const { id: parentId } = await addComment({ postId: post.id, authorId: ada.id })
  const comments = `/v1/posts/${post.id}/comments`
  const text = 'Hello, this is what I think.'
  const rows: Record<string, number> = {}
  for (const [name, member, path, body] of [
    ['a post', author, '/v1/posts', { text }],
    ['the first comment', bob, comments, { text }],
    ['the second', bob, comments, { text }],
    ['a reply', bob, comments, { text, parentId }],
  ] as const) {
    rows[name] = await rowsOf(() => member.send('POST', path, body))
  }
  expect(rows).toEqual({
    'a post': 17, // the post 4, its event 9, its place in the search index 4
    'the first comment': 23, // the comment 7, the post 2, the event 9, the notification 3, settling the count 2
    'the second': 21, // its event has no sequence of its own to begin
    'a reply': 25, // the comment above gets its count 1, its author a notification 3
  })
})

test('a presence session writes at most 3 rows, whoever watches', async () => {
  const { rowsOf, newMember } = await newWorld()
  const ada = await newMember()
  await addFollow((await newMember()).id, ada.id)
  for (let session = 0; session < 2; session += 1) {
    const rows = await rowsOf(async () => {
      await ada.send('POST', '/v1/presence/heartbeat')
      await ada.send('POST', '/v1/presence/heartbeat')
    })
    expect(rows + (await rowsOf(() => ada.send('DELETE', '/v1/presence')))).toBe(2)
  }
})

test('a viewed post writes at most 4 rows a minute, however often it is viewed', async () => {
  const { rowsOf, newMember } = await newWorld()
  const [author, ada, bob] = [await newMember(), await newMember(), await newMember()]
  const posts: { id: string }[] = []
  for (let i = 0; i < 5; i += 1) posts.push(await addPost({ authorId: author.id, viewsCount: 100 * i }))
  const views = async (count: number) => {
    for (const { id } of posts.slice(0, count)) {
      for (const viewer of [author, ada, bob]) await viewer.send('POST', `/v1/posts/${id}/views`)
    }
  }
  expect(await rowsOf(() => views(5))).toBeLessThanOrEqual(2 * 5 + 2) // and the fence of the cron
  expect(await rowsOf(() => views(0))).toBe(0)
})
