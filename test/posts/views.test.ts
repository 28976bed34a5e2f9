import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { posts } from '../../src/db/schema.ts'
import { interruptedDatabase } from '../database.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

const view = (edge: Edge, postId: string, headers: Record<string, string> = {}) =>
  edge.fetch(`/v1/posts/${postId}/views`, { method: 'POST', headers })
const viewsOf = async (response: Response) => (await response.json<{ views: number }>()).views
const viewsInD1 = async (id: string) => (await db.select().from(posts).where(eq(posts.id, id)))[0]?.viewsCount

test('each user counts once, and so does each anonymous address', async () => {
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

test('a view is one round trip and one script, with session and limit', async () => {
  const edge = newEdge()
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(ada)
  await view(edge, post.id, headers)
  await edge.settle()
  for (const caller of [{ 'CF-Connecting-IP': '192.0.2.2' }, headers]) {
    await edge.redis.reset()
    expect(roundTrips(await view(edge, post.id, caller))).toBe(1)
    await edge.settle()
    expect((await edge.redis.counts()).byCommand).toEqual({ eval: 1 })
  }
})

test('1 000 viewers are counted within 3 %, and written to D1 by the cron', async () => {
  const edge = newEdge({ REDIS_WRITE_TIMEOUT_MS: '10000' })
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

test('after Redis lost everything, a count continues from the value in D1', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  for (const i of [1, 2, 3]) await view(edge, post.id, { 'CF-Connecting-IP': `192.0.2.${i}` })
  await edge.cron()
  await edge.sdk.flushall()
  expect(await viewsOf(await view(edge, post.id, { 'CF-Connecting-IP': '192.0.2.9' }))).toBe(4)
})

test('views that D1 refused are written by the next run', async () => {
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

test('a view of an unknown post answers 404 and leaves nothing in Redis; without Redis it answers 503', async () => {
  const edge = newEdge()
  expect((await view(edge, 'p_unknown')).status).toBe(404)
  await edge.settle()
  expect(await keysOf(edge.sdk, '*p_unknown*')).toEqual([])
  expect((await view(edge, 'x')).status).toBe(400)
  await edge.redis.fault({ kind: 'refuse' })
  expect((await view(edge, 'p_unknown')).status).toBe(503)
})

test.each(['cut', 'delay-after'] as const)(
  'views that the cron read reach D1 though replies are lost (%s)',
  async (kind) => {
    const edge = newEdge()
    const post = await addPost({ authorId: (await addUser()).id })
    await view(edge, post.id)
    // What reads the unwritten views, whatever it is called, loses its replies until the faults are cleared.
    const hasty = newEdge({ REDIS_WRITE_TIMEOUT_MS: '150', REDIS_READ_TIMEOUT_MS: '150' }, edge.token)
    for (const match of ['ZRANGE', 'SPOP']) await edge.redis.fault({ kind, match })
    await hasty.cron().catch(() => {})
    await edge.redis.clearFaults()
    expect(await viewsInD1(post.id)).toBe(0)
    await edge.cron()
    expect(await viewsInD1(post.id)).toBe(1)
    expect(await edge.sdk.zcount('views-unwritten', 1, '+inf')).toBe(0)
  },
)

test('six viewers, an evicted HyperLogLog and one more viewer are seven', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  for (let i = 1; i <= 6; i += 1) await view(edge, post.id, { 'CF-Connecting-IP': `192.0.2.${i}` })
  await edge.sdk.del(`viewers:${post.id}`)
  expect(await viewsOf(await view(edge, post.id, { 'CF-Connecting-IP': '192.0.2.7' }))).toBe(7)
  await edge.cron()
  expect(await viewsInD1(post.id)).toBe(7)
})

test('views whose list was evicted reach D1 with the next run of the cron', async () => {
  const edge = newEdge()
  const author = await addUser()
  const [post, other] = [await addPost({ authorId: author.id }), await addPost({ authorId: author.id, viewsCount: 3 })]
  await view(edge, post.id, { 'CF-Connecting-IP': '192.0.2.1' })
  await edge.cron()
  await view(edge, post.id, { 'CF-Connecting-IP': '192.0.2.2' })
  await view(edge, other.id)
  await edge.redis.evict({ keys: ['views-unwritten'] })
  await edge.cron()
  expect([await viewsInD1(post.id), await viewsInD1(other.id)]).toEqual([2, 4])
  await edge.redis.reset()
  await edge.cron()
  expect((await edge.redis.counts()).byCommand['scan']).toBeUndefined() // the list is complete again
})

test('each loss of everything counts an earlier viewer once more at most, and never goes below D1', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id })
  const viewAll = async () => {
    let views = 0
    for (let i = 1; i <= 6; i += 1)
      views = await viewsOf(await view(edge, post.id, { 'CF-Connecting-IP': `192.0.2.${i}` }))
    return views
  }
  for (let losses = 0; losses < 3; losses += 1) {
    expect(await viewAll()).toBe(6 * (losses + 1))
    expect(await viewAll()).toBe(6 * (losses + 1))
    await edge.cron()
    expect(await viewsInD1(post.id)).toBe(6 * (losses + 1))
    await edge.sdk.flushdb()
  }
})

test('a view in flight while its post is deleted answers 404, and leaves nothing in Redis', async () => {
  const [edge, author] = [newEdge(), await addUser()]
  const headers = await edge.signIn(author)
  const post = await addPost({ authorId: author.id })
  const DB = interruptedDatabase(/select "views_count"/, 1, async () => {
    expect((await edge.fetch(`/v1/posts/${post.id}`, { method: 'DELETE', headers })).status).toBe(204)
  })
  const slow = newEdge({ DB }, edge.token)
  expect((await view(slow, post.id)).status).toBe(404)
  await slow.settle()
  expect((await view(edge, post.id)).status).toBe(404)
  await edge.settle()
  await edge.cron()
  const left = (await keysOf(edge.sdk, `*${post.id}*`)).filter((key) => !key.startsWith('post:'))
  expect(left).toEqual([])
})
