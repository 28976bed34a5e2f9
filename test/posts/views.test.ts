import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { posts } from '../../src/db/schema.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

const view = (edge: Edge, postId: string, headers: Record<string, string> = {}) =>
  edge.fetch(`/v1/posts/${postId}/views`, { method: 'POST', headers })
const viewsOf = async (response: Response) => (await response.json<{ views: number }>()).views
const viewsInD1 = async (id: string) => (await db.select().from(posts).where(eq(posts.id, id)))[0]?.viewsCount

test('each user counts once, and each address that is nobody', async () => {
  const edge = newEdge()
  const [ada, bob] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: ada.id, viewsCount: 100 })
  const [asAda, asBob] = [await edge.signIn(ada), await edge.signIn(bob)]
  const seen = []
  for (const headers of [
    asAda,
    asAda,
    asBob,
    { 'CF-Connecting-IP': '192.0.2.1' },
    { 'CF-Connecting-IP': '192.0.2.1' },
  ]) {
    seen.push(await viewsOf(await view(edge, post.id, headers)))
  }
  expect(seen).toEqual([101, 101, 102, 103, 103])
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ viewsCount: 103 })
})

test('a view is one round trip, and its limit is counted afterwards', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  await view(edge, post.id)
  await edge.settle()
  expect(roundTrips(await view(edge, post.id, { 'CF-Connecting-IP': '192.0.2.2' }))).toBe(1)
})

test('1 000 viewers are counted within 3 %, and written to D1 by the cron', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  for (let i = 0; i < 1_000; i += 50) {
    await Promise.all(
      Array.from({ length: 50 }, (_, j) => view(edge, post.id, { 'CF-Connecting-IP': `10.0.${i / 50}.${j}` })),
    )
  }
  const views = await viewsOf(await view(edge, post.id, { 'CF-Connecting-IP': '10.0.0.0' }))
  expect(Math.abs(views - 1_000)).toBeLessThan(30)
  expect(await viewsInD1(post.id)).toBe(0)
  await edge.cron()
  expect(await viewsInD1(post.id)).toBe(views)
}, 30_000)

test('a count goes on from what D1 has when Redis has lost everything', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  for (const i of [1, 2, 3]) await view(edge, post.id, { 'CF-Connecting-IP': `192.0.2.${i}` })
  await edge.cron()
  await edge.sdk.flushall()
  expect(await viewsOf(await view(edge, post.id, { 'CF-Connecting-IP': '192.0.2.9' }))).toBe(4)
})

test('views that D1 would not take are written the next time', async () => {
  const failing = {
    DB: {
      prepare: () => {
        throw new Error('D1 is down')
      },
      batch: () => Promise.reject(new Error('D1 is down')),
    },
  }
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  await view(edge, post.id)
  await expect(newEdge(failing, edge.token).cron()).rejects.toThrow('jobs failed')
  expect(await viewsInD1(post.id)).toBe(0)
  await edge.cron()
  expect(await viewsInD1(post.id)).toBe(1)
})

test('a view of no post is a problem and leaves nothing in Redis; without Redis it is unavailable', async () => {
  const edge = newEdge()
  expect((await view(edge, 'p_unknown')).status).toBe(404)
  await edge.settle()
  expect(await keysOf(edge.sdk, '*p_unknown*')).toEqual([])
  expect((await view(edge, 'x')).status).toBe(400)
  await edge.redis.fault({ kind: 'refuse' })
  expect((await view(edge, 'p_unknown')).status).toBe(503)
})
