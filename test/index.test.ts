import { env, exports } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { migrate, newEdge } from './edge.ts'
import { addPost, addUser } from './rows.ts'

beforeAll(migrate)

test('the Worker answers as it is deployed', async () => {
  const user = await addUser({ displayName: 'Ada' })
  const post = await addPost({ authorId: user.id, likesCount: 4 })
  const read = async (path: string) => {
    const response = await exports.default.fetch(`https://edge.test${path}`)
    expect([path, response.status]).toEqual([path, 200])
    return response.json()
  }
  expect(await read('/healthz')).toEqual({ status: 'alive' })
  expect(await read('/readyz')).toMatchObject({ isReady: true })
  expect(await read(`/v1/users/${user.id}`)).toMatchObject({ displayName: 'Ada' })
  expect(await read('/v1/posts/hot')).toMatchObject({ items: [{ id: post.id, likesCount: 4 }] })

  const [first, second] = [await read(`/v1/users/${user.id}`), await read(`/v1/users/${user.id}`)]
  expect(second).toEqual(first)
  expect(env.UPSTASH_REDIS_REST_URL).toContain('127.0.0.1')
})

test('all requests of the test share one isolate and its memory', async () => {
  const { id } = await addUser()
  await (await exports.default.fetch(`https://edge.test/v1/users/${id}`)).text()
  const statusOf = async () => {
    const response = await exports.default.fetch(`https://edge.test/v1/users/${id}`)
    await response.text()
    return response.headers.get('Cache-Status') ?? ''
  }
  await expect.poll(statusOf).toMatch(/^memory; hit/)
})

test.each(['likes', 'likes-staging', 'likes-production'])('the queue %s brings likes', async (queue) => {
  const user = await addUser()
  const post = await addPost({ authorId: user.id })
  const like = { kind: 'post', contentId: post.id, userId: user.id, isLiked: true, changedAt: Date.now() }
  const edge = newEdge()
  expect(await edge.deliver([like], queue)).toEqual({ acked: [0], retried: [] })
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ likesCount: 1 })
})
