import { eq } from 'drizzle-orm'
import { env, exports } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { deliveries, events } from '../src/db/schema.ts'
import configuration from '../wrangler.toml?raw'
import { migrate, newEdge } from './edge.ts'
import { addPost, addUser, db } from './rows.ts'
import { addWebhook, ask, newDevEdge, publish, receiver } from './webhooks/endpoints.ts'

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

/** Every queue that the Worker consumes, in every environment, dead letters too. */
const queues = [...configuration.matchAll(/queues\.consumers\]\]\nqueue = "(.+)"/g)].map(([, name = '']) => name)
const queuesOf = (kind: string) => queues.filter((name) => name.startsWith(kind))

test('each kind of message has a queue and one of dead letters, in three environments', () => {
  expect(queues.toSorted()).toEqual(
    ['likes', 'events', 'deliveries']
      .flatMap((kind) => [kind, `${kind}-dead`])
      .flatMap((name) => [name, `${name}-staging`, `${name}-production`])
      .toSorted(),
  )
})

test.each(queuesOf('likes'))('the queue %s brings likes', async (queue) => {
  const user = await addUser()
  const post = await addPost({ authorId: user.id })
  const like = { kind: 'post', contentId: post.id, userId: user.id, isLiked: true, changedAt: Date.now() }
  const edge = newEdge()
  expect(await edge.deliver([like], queue)).toEqual({ acked: [0], retried: [] })
  expect(await (await edge.fetch(`/v1/posts/${post.id}`)).json()).toMatchObject({ likesCount: 1 })
})

test.each(queuesOf('events'))('the queue %s brings events to listeners and webhooks', async (queue) => {
  const edge = newDevEdge()
  const { id, channel } = await addWebhook(edge, receiver())
  const event = { id: crypto.randomUUID(), channel, type: 'thing.happened', data: {} }
  expect((await ask(edge, 'POST', '/v1/events', event)).status).toBe(202)
  const bodies = edge.events.take()
  expect(bodies).toMatchObject([{ kind: 'event', id: event.id }])
  expect(await edge.deliver(bodies, queue)).toEqual({ acked: [0], retried: [] })
  expect(await db.select().from(deliveries).where(eq(deliveries.webhookId, id))).toMatchObject([{ eventId: event.id }])
  expect(await db.select().from(events).where(eq(events.id, event.id))).toMatchObject([{ dueAt: null }])
})

test.each(queuesOf('deliveries'))('the queue %s brings deliveries to their endpoints', async (queue) => {
  const edge = newDevEdge()
  const to = receiver()
  const { channel } = await addWebhook(edge, to)
  const eventId = await publish(edge, channel)
  const bodies = edge.deliveries.take()
  expect(await edge.deliver(bodies, queue)).toEqual({ acked: bodies.map((_, i) => i), retried: [] })
  await expect.poll(async () => (await to.events()).map(({ headers }) => headers['webhook-id'])).toEqual([eventId])
})
