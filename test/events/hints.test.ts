import { eq, inArray, sql } from 'drizzle-orm'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { deliveries, events, unsettledCounts, users, webhooks } from '../../src/db/schema.ts'
import type { EventMessage, Hint } from '../../src/events/schema.ts'
import { type Edge, migrate, newEdge, newQueue } from '../edge.ts'
import { addComment, addLikes, addPost, addUser, addUsers, db } from '../rows.ts'
import { open, publish } from '../streams/world.ts'
import { addWebhook, ask, deliverAll, newDevEdge, receiver } from '../webhooks/endpoints.ts'

beforeAll(migrate)
beforeEach(async () => {
  await db.delete(webhooks)
  await db.delete(events)
})

const like = (userId: string, contentId: string, isLiked = true, changedAt = 1) => ({
  kind: contentId.startsWith('p_') ? 'post' : 'comment',
  contentId,
  userId,
  isLiked,
  changedAt,
})

const countHint = (contentId: string, value: number, at: number): Hint => ({
  id: `ev_${crypto.randomUUID()}`,
  type: 'counter_update',
  data: { contentId, contentType: 'post', counterType: 'likes', value },
  audience: 'everyone',
  at,
})

/** The hints in the queue, which stay there. */
const waiting = (edge: Edge) =>
  edge.events.sent.flatMap(({ body }) => {
    const message = body as EventMessage
    return message.kind === 'hints' ? message.hints : []
  })
const countsOf = (hints: { data: Record<string, unknown> }[]) =>
  hints.map(({ data }) => `${String(data['contentId'])} ${String(data['counterType'])} ${String(data['value'])}`)

const storedHints = () =>
  db
    .select()
    .from(events)
    .where(inArray(events.type, ['counter_update', 'user_status_change']))

/** A queue that refuses while it `isDown`. */
function newFragileQueue() {
  const queue = { ...newQueue(), isDown: false }
  const { send, sendBatch } = queue
  queue.send = async (...sent) => {
    if (queue.isDown) throw new Error('the queue is down')
    return send(...sent)
  }
  queue.sendBatch = async (...sent) => {
    if (queue.isDown) throw new Error('the queue is down')
    return sendBatch(...sent)
  }
  return queue
}

test('a batch of likes sends one hint for each content, with its latest count, and stores none', async () => {
  const edge = newEdge()
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  const comment = await addComment({ postId: post.id, authorId: author.id })
  const fans = await addUsers(20)
  const stream = await open(edge, {}, 'channels=counter_events')
  await edge.deliver(fans.flatMap((id) => [like(id, post.id), like(id, comment.id)]))
  await edge.deliver([like(fans[0] ?? '', post.id, false, 2)])
  expect(countsOf(waiting(edge))).toEqual([`${post.id} likes 20`, `${comment.id} likes 20`, `${post.id} likes 19`])
  expect(await edge.dispatch()).toBe(0) // in one batch
  const [first, second] = [await stream.event(), await stream.event()]
  expect(countsOf([first, second])).toEqual([`${comment.id} likes 20`, `${post.id} likes 19`])
  expect(first).toMatchObject({ type: 'counter_update', channel: 'counter_events', subject: comment.id })
  expect(first).not.toHaveProperty('sequence')
  expect(await storedHints()).toEqual([])
  await stream.close()
  await edge.settle()
})

test('of the hints of a batch the latest counts, in whatever order they arrive', async () => {
  const edge = newEdge()
  const now = Date.now()
  const status = (userId: string, status: 'online' | 'offline', audience: Hint['audience'], at: number): Hint => ({
    id: `ev_${crypto.randomUUID()}`,
    type: 'user_status_change',
    data: { userId, status, at: new Date(at).toISOString() },
    audience,
    at,
  })
  const stream = await open(edge, {}, 'channels=counter_events,user_events')
  await edge.deliver(
    [
      { kind: 'hints', hints: [countHint('p_1', 3, now - 1), countHint('p_2', 1, now - 9)] },
      { kind: 'hints', hints: [status('u_1', 'offline', 'others', now), status('u_1', 'online', 'everyone', now - 5)] },
      { kind: 'hints', hints: [countHint('p_1', 2, now - 2), status('u_1', 'offline', 'everyone', now - 7)] },
    ],
    'events',
  )
  const seen = []
  for (let i = 0; i < 4; i += 1) {
    const { data } = await stream.event()
    seen.push(data['value'] ?? data['status'])
  }
  expect(seen).toEqual([1, 'online', 3, 'offline']) // by their times; a stranger sees both statuses
  await stream.close()
  await edge.settle()
})

test('a hint is stored and delivered if an endpoint takes it, once although its message arrives twice', async () => {
  const edge = newDevEdge()
  const to = receiver()
  await addWebhook(edge, to, { channels: ['counter_events'], filter: { 'data.value': { gte: 3 } } })
  const author = await addUser()
  const [one, three] = [await addPost({ authorId: author.id }), await addPost({ authorId: author.id })]
  const fans = await addUsers(3)
  await edge.deliver([like(fans[0] ?? '', one.id), ...fans.map((id) => like(id, three.id))])
  const [stored, ...others] = await storedHints()
  expect(others).toEqual([])
  expect(stored).toMatchObject({ subject: three.id, sequence: 0, publicSequence: 0 })
  const messages = edge.events.take()
  for (let i = 0; i < 2; i += 1) expect((await edge.deliver(messages, 'events')).retried).toEqual([])
  expect(await storedHints()).toMatchObject([{ id: stored?.id, dueAt: null }])
  await deliverAll(edge)
  const [sent, ...more] = await to.events()
  expect(more).toEqual([])
  expect(sent?.headers['webhook-id']).toBe(stored?.id)
  const event = JSON.parse(sent?.body ?? '{}') as Record<string, unknown>
  expect(event).toMatchObject({ type: 'counter_update', subject: three.id, data: { value: 3 } })
  expect(event).not.toHaveProperty('sequence')
  expect(event['time']).toBe(new Date(stored?.createdAt ?? 0).toISOString())
})

test('an endpoint that subscribes gets hints at once, one that is deleted or not on the channel gets none', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const post = await addPost({ authorId: (await addUser()).id })
  const isStored = async () => {
    const before = (await storedHints()).length
    const [fan] = await addUsers(1)
    await edge.deliver([like(fan ?? '', post.id)])
    return (await storedHints()).length > before
  }
  await addWebhook(edge, to, { channels: ['user_events', 'post_events'] })
  expect(await isStored()).toBe(false)
  const { id } = await addWebhook(edge, to, { channels: ['counter_events'], types: ['counter_update'] })
  expect(await isStored()).toBe(true)
  await ask(edge, 'POST', `/v1/webhooks/${id}/pause`)
  expect(await isStored()).toBe(true)
  await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { channels: ['custom_a'], types: null })
  expect(await isStored()).toBe(false)
  await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { channels: ['counter_events'] })
  expect(await isStored()).toBe(true)
  await ask(edge, 'DELETE', `/v1/webhooks/${id}`)
  expect(await isStored()).toBe(false)
})

test('a status is stored for an endpoint too, but not what only strangers see', async () => {
  const edge = newDevEdge()
  const ada = await addUser({ presenceVisibility: 'followers' })
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  await addWebhook(edge, receiver(), { channels: ['user_events'] })
  await edge.fetch('/v1/presence/heartbeat', { method: 'POST', headers })
  await edge.settle()
  await edge.fetch('/v1/presence', { method: 'PATCH', headers, body: '{"visibility":"everyone"}' }) // the others: online
  await edge.settle()
  expect(await storedHints()).toMatchObject([{ audience: 'followers', data: { status: 'online' } }])
  expect(waiting(edge)).toMatchObject([{ audience: 'others', data: { status: 'online' } }])
})

test('if D1 cannot store a hint, the like is repeated; if its message is lost, the cron repeats it; the latest is delivered', async () => {
  const edge = newDevEdge()
  await addWebhook(edge, receiver(), { channels: ['counter_events'] })
  const post = await addPost({ authorId: (await addUser()).id })
  const [first, second] = await addUsers(2)
  const deliver = (userId = '') => edge.deliver([like(userId, post.id)])
  await db.run(sql.raw(`CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'D1 is full'); END`))
  expect((await deliver(first)).retried).toEqual([0])
  await db.run(sql`DROP TRIGGER refuse`)
  expect((await deliver(first)).acked).toEqual([0])
  expect((await deliver(second)).acked).toEqual([0])
  edge.events.take() // lost
  await db.delete(unsettledCounts) // which makes the cron send hints of its own
  await edge.cron(Date.now() + 61_000)
  expect(await edge.dispatch()).toBe(0)
  const stored = await db.select().from(events).where(eq(events.subject, post.id)).orderBy(events.createdAt)
  expect(stored.map(({ data, dueAt }) => [data['value'], dueAt])).toEqual([
    [1, null],
    [2, null],
  ])
  const delivered = await db
    .select({ eventId: deliveries.eventId })
    .from(deliveries)
    .where(
      inArray(
        deliveries.eventId,
        stored.map(({ id }) => id),
      ),
    )
  expect(delivered).toEqual([{ eventId: stored[1]?.id }])
})

test('whoever changes a count repeats a hint that the queue refused', async () => {
  const EVENTS = newFragileQueue()
  const likes = newQueue()
  const edge = newEdge({ EVENTS, LIKES: likes })
  const counts = () => {
    const messages = EVENTS.sent.map(({ body }) => body as EventMessage)
    EVENTS.sent.splice(0)
    return countsOf(messages.flatMap((message) => (message.kind === 'hints' ? message.hints : [])))
  }
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  const whileDown = async (work: () => Promise<unknown>) => {
    EVENTS.isDown = true
    await work()
    await edge.settle()
    EVENTS.isDown = false
    expect(counts()).toEqual([])
  }

  // A like: the queue repeats its message.
  await edge.fetch(`/v1/posts/${post.id}/like`, { method: 'PUT', headers })
  const messages = likes.take()
  await whileDown(async () => expect((await edge.deliver(messages)).retried).toEqual([0]))
  expect((await edge.deliver(messages)).acked).toEqual([0])
  expect(counts()).toEqual([`${post.id} likes 1`])

  // A view: it stays in Redis.
  await edge.fetch(`/v1/posts/${post.id}/views`, { method: 'POST', headers })
  await whileDown(() => expect(edge.cron()).rejects.toThrow('jobs failed'))
  await edge.cron()
  expect(counts()).toContain(`${post.id} views 1`)

  // A comment: D1 remembers the post.
  await whileDown(() =>
    edge.fetch(`/v1/posts/${post.id}/comments`, { method: 'POST', headers, body: '{"text":"Well"}' }),
  )
  await whileDown(() => expect(edge.cron()).rejects.toThrow('jobs failed'))
  await edge.cron()
  expect(counts()).toContain(`${post.id} comments 1`)

  // What goes with an account.
  const fans = await addUsers(3)
  await addLikes(post.id, fans)
  await edge.cron()
  counts()
  await db.delete(users).where(eq(users.id, fans[0] ?? ''))
  await edge.cron()
  expect(counts()).toContain(`${post.id} likes 3`)
})

test('a hint that a back end publishes is stored, and has no sequence either', async () => {
  const edge = newDevEdge()
  const to = receiver()
  await addWebhook(edge, to, { channels: ['counter_events'] })
  const stream = await open(edge, {}, 'channels=counter_events')
  const { data } = countHint('p_5', 5, 0)
  await publish(edge, { channel: 'counter_events', type: 'counter_update', data })
  const event = await stream.event()
  expect(event).toMatchObject({ type: 'counter_update', data })
  expect(event).not.toHaveProperty('sequence')
  await stream.close()
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)
  await edge.settle()
})
