import { beforeAll, expect, test } from 'vitest'
import { keys } from '../../src/keys.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addPost, addUser } from '../rows.ts'

beforeAll(migrate)

async function newMember(edge: Edge) {
  const user = await addUser()
  const headers = await edge.signIn(user)
  return {
    ...user,
    comment: (post: string, text: string, key?: string) =>
      edge.fetch(`/v1/posts/${post}/comments`, {
        method: 'POST',
        headers: {
          ...headers,
          'Content-Type': 'application/json',
          ...(key === undefined ? {} : { 'Idempotency-Key': key }),
        },
        body: JSON.stringify({ text }),
      }),
    remove: (comment: string) => edge.fetch(`/v1/comments/${comment}`, { method: 'DELETE', headers }),
  }
}

const countOf = async (edge: Edge, post: string) =>
  (await (await edge.fetch(`/v1/posts/${post}`)).json<{ commentsCount: number }>()).commentsCount

test('a comment is written, counted and listed, and gone when deleted', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const post = await addPost({ authorId: (await addUser()).id })
  expect(await countOf(edge, post.id)).toBe(0)
  await edge.settle()

  const response = await ada.comment(post.id, ' Well said\u0021 ')
  expect([response.status, roundTrips(response)]).toEqual([201, 2])
  const comment = await response.json<{ id: string }>()
  expect(response.headers.get('Location')).toBe(`/v1/comments/${comment.id}`)
  expect(comment).toEqual({
    id: expect.stringMatching(/^c_[0-9a-z]{26}$/),
    postId: post.id,
    authorId: ada.id,
    text: 'Well said!',
    createdAt: expect.any(String),
    updatedAt: expect.any(String),
    parentId: null,
    version: 1,
    likesCount: 0,
    repliesCount: 0,
  })
  for (const reader of [edge, newEdge({}, edge.token)]) expect(await countOf(reader, post.id)).toBe(1)
  const list = await edge.fetch(`/v1/posts/${post.id}/comments`)
  expect(await list.json()).toEqual({
    items: [{ ...comment, replies: { items: [], nextCursor: null } }],
    nextCursor: null,
  })
  await edge.settle()
  expect(await edge.sdk.exists(keys.count('likes', comment.id))).toBe(1)

  const removed = await ada.remove(comment.id)
  expect([removed.status, roundTrips(removed)]).toEqual([204, 2])
  expect(await edge.sdk.exists(keys.count('likes', comment.id))).toBe(0)
  for (const reader of [edge, newEdge({}, edge.token)]) expect(await countOf(reader, post.id)).toBe(0)
  expect((await ada.remove(comment.id)).status).toBe(404)
})

test('a comment is deleted by its author or that of the post, and by nobody else', async () => {
  const edge = newEdge()
  const [ada, bob, eve] = [await newMember(edge), await newMember(edge), await newMember(edge)]
  const post = await addPost({ authorId: ada.id })
  const [one, two] = [
    await addComment({ postId: post.id, authorId: bob.id }),
    await addComment({ postId: post.id, authorId: bob.id }),
  ]
  const refused = await eve.remove(one.id)
  expect([refused.status, await refused.json()]).toMatchObject([403, { type: '/problems/not-yours' }])
  expect((await edge.fetch(`/v1/comments/${one.id}`, { method: 'DELETE' })).status).toBe(401)
  expect((await bob.remove(one.id)).status).toBe(204)
  expect((await ada.remove(two.id)).status).toBe(204)
  expect((await bob.remove('p_1')).status).toBe(400)
})

test('a comment needs an existing post and a session', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  expect((await ada.comment('p_none', 'Hello?')).status).toBe(404)
  const post = await addPost({ authorId: ada.id })
  const init = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"text":"Hi"}' }
  expect((await edge.fetch(`/v1/posts/${post.id}/comments`, init)).status).toBe(401)
})

test('twenty concurrent comments are all counted; twenty with one idempotency key are one comment', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const post = await addPost({ authorId: ada.id })
  await Promise.all(Array.from({ length: 20 }, (_, i) => ada.comment(post.id, `Comment ${i}`)))
  expect(await countOf(newEdge({}, edge.token), post.id)).toBe(20)
  await Promise.all(Array.from({ length: 20 }, () => ada.comment(post.id, 'Once', 'k')))
  expect(await countOf(newEdge({}, edge.token), post.id)).toBe(21)
  const again = await ada.comment(post.id, 'Once', 'k')
  expect([again.status, again.headers.get('Idempotent-Replayed')]).toEqual([201, 'true'])
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('comments are written when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' })
  const ada = await newMember(edge)
  const post = await addPost({ authorId: ada.id })
  await edge.redis.fault({ kind })
  const response = await ada.comment(post.id, 'During')
  expect(response.status).toBe(201)
  expect(await countOf(edge, post.id)).toBe(1)
  const { id } = await response.json<{ id: string }>()
  expect((await ada.remove(id)).status).toBe(204)
  expect(await countOf(edge, post.id)).toBe(0)
  await edge.settle()
})

test('the cron settles a count of comments that Redis missed', async () => {
  const edge = newEdge()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const key = `count:comments:${post.id}`
  await edge.sdk.set(key, 0)
  await addComment({ postId: post.id, authorId: ada.id }) // straight to D1: Redis does not know
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ commentsCount: 0 })
  await edge.cron()
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ commentsCount: 1 })
})

test('a comment is deleted only at the version that the request names', async () => {
  const edge = newEdge()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const comment = await addComment({ postId: post.id, authorId: ada.id, version: 2 })
  const signedIn = await edge.signIn(ada)
  const remove = async (match: string) =>
    (await edge.fetch(`/v1/comments/${comment.id}`, { method: 'DELETE', headers: { ...signedIn, 'If-Match': match } }))
      .status
  expect([await remove('"1-0-0"'), await countOf(edge, post.id)]).toEqual([412, 1])
  expect([await remove('"2-0-0"'), await remove('"2-0-0"')]).toEqual([204, 404])
})
