import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { beforeAll, expect, test } from 'vitest'
import { events } from '../../src/db/schema.ts'
import { createDispatch, type Listener } from '../../src/events/dispatch.ts'
import { formatSequence, type StoredEvent, toCloudEvent } from '../../src/events/catalog.ts'
import { createOutbox } from '../../src/events/outbox.ts'
import type { EventMessage } from '../../src/events/schema.ts'
import { meteredDatabase } from '../database.ts'
import { expectRefused, migrate, newEdge } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const SERVICE = { Authorization: 'Bearer a-service-token-for-tests', 'Content-Type': 'application/json' }

const about = (subject: string) => db.select().from(events).where(eq(events.subject, subject)).orderBy(events.sequence)

const publish = (edge: ReturnType<typeof newEdge>, body: unknown, headers: Record<string, string> = SERVICE) =>
  edge.fetch('/v1/events', { method: 'POST', headers, body: JSON.stringify(body) })

/** The outbox of an invocation of its own, with what it sent. */
function newOutbox() {
  const sent: EventMessage[] = []
  const waiting: (() => Promise<unknown>)[] = []
  const outbox = createOutbox(
    db,
    async (messages) => void sent.push(...messages),
    (work) => void waiting.push(work),
  )
  const end = async () => {
    for (const work of waiting.splice(0)) await work()
  }
  return { outbox, sent, end }
}

/** The dispatch of an invocation of its own, to `listeners`. */
function newDispatch(listeners: Listener[]) {
  const { outbox, sent, end } = newOutbox()
  const failures: string[] = []
  const later: EventMessage[] = []
  const dispatch = createDispatch({
    db,
    listeners,
    enqueue: async (messages) => void later.push(...messages.map(({ body }) => body)),
    onFailure: (of) => void failures.push(of),
  })
  return { dispatch, outbox, sent, end, failures, later }
}

test('every change records an event, numbered per subject; a request that changes nothing records none', async () => {
  const edge = newEdge()
  const [ada, bob] = [await addUser(), await addUser()]
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  const send = async (method: string, path: string, body?: unknown, more = {}) => {
    const response = await edge.fetch(path, {
      method,
      headers: { ...headers, ...more },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return response
  }
  const { id } = await (await send('POST', '/v1/posts', { text: 'One' })).json<{ id: string }>()
  await send('PATCH', `/v1/posts/${id}`, { text: 'Two' })
  expect((await send('PATCH', `/v1/posts/${id}`, { text: 'Three' }, { 'If-Match': '"1-0-0-0"' })).status).toBe(412)
  await send('DELETE', `/v1/posts/${id}`)
  expect((await send('DELETE', `/v1/posts/${id}`)).status).toBe(404)
  expect(
    (await about(id)).map(({ channel, type, sequence, data, audience }) => ({
      channel,
      type,
      sequence,
      data,
      audience,
    })),
  ).toEqual([
    {
      channel: 'post_events',
      type: 'post_created',
      sequence: 1,
      data: { postId: id, authorId: ada.id, text: 'One', version: 1 },
      audience: 'everyone',
    },
    {
      channel: 'post_events',
      type: 'post_updated',
      sequence: 2,
      data: { postId: id, authorId: ada.id, text: 'Two', version: 2 },
      audience: 'everyone',
    },
    {
      channel: 'post_events',
      type: 'post_deleted',
      sequence: 3,
      data: { postId: id, authorId: ada.id },
      audience: 'everyone',
    },
  ])

  await send('PUT', `/v1/users/${bob.id}/follow`)
  await send('PUT', `/v1/users/${bob.id}/follow`)
  await send('DELETE', `/v1/users/${bob.id}/follow`)
  await send('DELETE', `/v1/users/${bob.id}/follow`)
  await send('PUT', '/v1/users/u_nobody/follow')
  expect((await about(bob.id)).map(({ type, sequence }) => [type, sequence])).toEqual([
    ['user_followed', 1],
    ['user_unfollowed', 2],
  ])
  expect(await about('u_nobody')).toEqual([])

  await send('PATCH', '/v1/users/me', { bio: 'Hi' })
  expect((await send('PATCH', '/v1/users/me', { bio: 'Ho' }, { 'If-Match': '"1-0-0-0"' })).status).toBe(412)
  const [updated, ...none] = await about(ada.id)
  expect(none).toEqual([])
  expect(updated?.data).toEqual({
    userId: ada.id,
    username: ada.username,
    displayName: 'Somebody',
    bio: 'Hi',
    version: 2,
  })

  const post = await addPost({ authorId: bob.id })
  const comment = await (await send('POST', `/v1/posts/${post.id}/comments`, { text: 'Well' })).json<{ id: string }>()
  expect((await send('POST', '/v1/posts/p_none/comments', { text: 'Well' })).status).toBe(404)
  await send('DELETE', `/v1/comments/${comment.id}`)
  expect((await about(post.id)).map(({ type, data }) => [type, data])).toEqual([
    ['comment_created', { commentId: comment.id, postId: post.id, authorId: ada.id, text: 'Well' }],
    ['comment_deleted', { commentId: comment.id, postId: post.id, authorId: ada.id }],
  ])
  expect(await about('p_none')).toEqual([])

  const account = { username: 'grace', email: 'grace@example.test', password: 'correct horse', displayName: 'Grace' }
  const signUp = () =>
    edge.fetch('/v1/users', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(account),
    })
  const { id: graceId } = await (await signUp()).json<{ id: string }>()
  expect((await signUp()).status).toBe(409) // repeated
  const created = await db.select().from(events).where(eq(events.type, 'user_created'))
  expect(created.map(({ data }) => data)).toEqual([
    { userId: graceId, username: 'grace', displayName: 'Grace', bio: '', version: 1 },
  ])
  expect(JSON.stringify(await db.select().from(events))).not.toContain('@example.test')
})

test('an event is enqueued once, after the answer; the cron enqueues what was missed', async () => {
  const edge = newEdge()
  const ada = await addUser()
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  const write = async (at: typeof edge) => {
    const response = await at.fetch('/v1/posts', { method: 'POST', headers, body: '{"text":"Hello"}' })
    await at.settle()
    return (await response.json<{ id: string }>()).id
  }
  const [heard] = await about(await write(edge))
  expect(edge.events.sent).toEqual([{ body: { kind: 'event', id: heard?.id }, delaySeconds: 0 }])
  await edge.dispatch()
  expect((await about(heard?.subject ?? ''))[0]?.dueAt).toBeNull()

  // A Worker that dies between the commit and the queue: the queue takes nothing.
  const refusing = {
    send: async () => {},
    sendBatch: () => Promise.reject(new Error('died')),
    metrics: edge.events.metrics,
  }
  const dying = newEdge({ EVENTS: refusing })
  const id = await write(dying)
  const [unheard] = await about(id)
  expect(unheard?.dueAt).toBeGreaterThan(Date.now())
  await edge.cron(Date.now() + 61_000)
  expect(edge.events.sent.map(({ body }) => body)).toContainEqual({ kind: 'event', id: unheard?.id, isResent: true })
  const [resent] = await about(id)
  expect(resent?.attempts).toBe(1)
  expect(resent?.dueAt).toBeGreaterThan(Date.now() + 61_000 + 60_000)
  await edge.dispatch()
  expect((await about(id))[0]?.dueAt).toBeNull()
})

test('a back end publishes an event once per id; another event with the same id is refused', async () => {
  const edge = newEdge()
  const event = {
    channel: 'custom_orders',
    type: 'order.paid',
    subject: 'o_7',
    data: { total: 12.5, tags: ['a'] },
    id: 'order-7',
  }
  const first = await publish(edge, event)
  expect([first.status, await first.json()]).toEqual([202, { id: 'order-7' }])
  const again = await publish(edge, event)
  expect([again.status, await again.json()]).toEqual([202, { id: 'order-7' }])
  const other = await publish(edge, { ...event, data: { total: 13 } })
  expect([other.status, (await other.json<{ type: string }>()).type]).toEqual([422, '/problems/event-id-reused'])
  expect(await about('o_7')).toMatchObject([{ sequence: 1, data: event.data, audience: 'services' }])
  const next = await publish(edge, { ...event, id: undefined })
  expect((await next.json<{ id: string }>()).id).toMatch(/^ev_[0-9a-z]{26}$/)
  expect((await about('o_7')).map(({ sequence }) => sequence)).toEqual([1, 2])
  await edge.settle()
  expect((await edge.redis.counts()).commands).toBe(0)
})

test('an event that JSON changes in transit is still the same event when it is repeated', async () => {
  const edge = newEdge()
  const text = `{"channel":"custom_json","type":"json","subject":"json","id":"json-1","data":{"a":-0,"b":1e400,"c":"\\ud800"}}`
  for (let time = 0; time < 2; time += 1) {
    const response = await edge.fetch('/v1/events', {
      method: 'POST',
      headers: SERVICE,
      body: text,
    })
    expect([response.status, await response.json()]).toEqual([202, { id: 'json-1' }])
  }
  expect(await about('json')).toMatchObject([{ data: { a: 0, b: null, c: '\ud800' } }])
})

test('a back end that writes D1 itself publishes ids only: listeners read the rest from D1', async () => {
  const edge = newEdge()
  const [ada, bob] = [await addUser({ displayName: 'quoxadaist' }), await addUser()]
  const post = await addPost({ authorId: ada.id, text: 'quoxpostist' })
  const comment = await addComment({ postId: post.id, authorId: bob.id })
  const ofPost = { postId: post.id, authorId: ada.id }
  for (const [channel, type, data] of [
    ['user_events', 'user_created', { userId: ada.id }],
    ['user_events', 'user_updated', { userId: ada.id, displayName: 'quoxadaist' }],
    ['post_events', 'post_created', ofPost],
    ['post_events', 'post_updated', { ...ofPost, version: 2 }],
    ['comment_events', 'comment_created', { commentId: comment.id, postId: post.id, authorId: bob.id }],
  ] as const) {
    expect([type, (await publish(edge, { channel, type, data })).status]).toEqual([type, 202])
  }
  await edge.settle()
  expect(await edge.dispatch()).toBe(0)
  const read = async (path: string, headers = {}) =>
    (await edge.fetch(path, { headers })).json<{ items: Record<string, unknown>[] }>()
  expect(await read('/v1/search?q=quoxpostist')).toMatchObject({ items: [{ post: { id: post.id } }] })
  expect(await read('/v1/search?q=quoxadaist&type=users')).toMatchObject({ items: [{ user: { id: ada.id } }] })
  expect(await read('/v1/notifications', await edge.signIn(ada))).toMatchObject({
    items: [{ type: 'comment', commentId: comment.id }],
  })
  const stored = (await about(post.id)).map(({ type, data }) => [type, data])
  expect(stored).toContainEqual(['post_created', ofPost])

  const nameless = { channel: 'post_events', type: 'post_created', data: { postId: post.id, text: 'Hello' } }
  await expectRefused(publish(edge, nameless), 'body', 'data.authorId')
  const wrong = { channel: 'post_events', type: 'post_created', data: { ...ofPost, version: 'two' } }
  await expectRefused(publish(edge, wrong), 'body', 'data.version')
})

test('publishing requires the service token, a known channel and valid data; the error names the field', async () => {
  const edge = newEdge()
  const good = { channel: 'post_events', type: 'post_deleted', data: { postId: 'p_1', authorId: 'u_1' } }
  expect((await publish(edge, good, { 'Content-Type': 'application/json' })).status).toBe(401)
  expect((await publish(edge, good)).status).toBe(202)
  for (const [field, change] of [
    ['channel', { channel: 'orders' }],
    ['channel', { channel: 'webhook_events' }],
    ['type', { type: 'user_followed' }],
    ['type', { type: 'NOPE!' }],
    ['data.authorId', { data: { postId: 'p_1' } }],
    ['data.postId', { data: { postId: 'u_1', authorId: 'u_1' } }],
    ['data.extra', { data: { ...good.data, extra: 1 } }],
    ['data', { data: 'text' }],
    ['data', { channel: 'custom_x', type: 'big', data: { text: 'é'.repeat(20_000) } }],
    ['subject', { subject: 'p_2' }],
    ['audience', { audience: 'nobody' }],
    ['audience', { audience: 'followers' }],
    ['subject', { channel: 'custom_x', type: 'x', audience: 'followers', subject: 'p_1' }],
    ['id', { id: 'with space' }],
    ['id', { id: 'with.dot' }],
    [
      'data',
      { channel: 'custom_x', type: 'deep', data: { a: JSON.parse('['.repeat(101) + ']'.repeat(101)) as object } },
    ],
    [
      'data',
      { channel: 'custom_x', type: 'deep', data: { a: JSON.parse('['.repeat(9_000) + ']'.repeat(9_000)) as object } },
    ],
    ['subject', { channel: 'custom_x', type: 'x', subject: 'a\ud800' }],
    ['surprise', { surprise: 1 }],
    ...['open', 'error', 'message', 'close', 'reset', 'endpoint.challenge', 'user_status_change', 'post_deleted'].map(
      (type) => ['type', { channel: 'custom_x', type }] as const,
    ),
  ] as const) {
    await expectRefused(publish(edge, { ...good, ...change }), 'body', field)
  }
})

test('a failing listener is retried alone: the others receive its event at most once more, and no other event again', async () => {
  const heard: Record<string, string[]> = { steady: [], moody: [] }
  const note = (name: string) => (happened: StoredEvent[]) =>
    heard[name]?.push(...happened.map((event) => event.subject))
  let isMoody = true
  const { dispatch, outbox, sent, end, failures } = newDispatch([
    { name: 'steady', wants: () => true, handle: async (happened) => void note('steady')(happened) },
    {
      name: 'moody',
      wants: (event) => event.channel === 'custom_a',
      handle: async (happened) => {
        if (isMoody && happened.some((event) => event.subject === 's_2')) throw new Error('not this one')
        note('moody')(happened)
      },
    },
  ])
  for (const subject of ['s_1', 's_2', 's_3']) {
    await outbox.publish({ channel: 'custom_a', type: 'x', data: {}, subject, audience: 'services' })
  }
  await end()
  const messages = sent.splice(0)
  const failed = await dispatch.consume(messages.toReversed()) // in whatever order the queue has them
  expect(heard).toEqual({ steady: ['s_1', 's_2', 's_3'], moody: ['s_1', 's_3'] })
  expect([...failed]).toEqual([messages[1]])
  expect(failures).toEqual(['moody'])

  isMoody = false
  expect([...(await dispatch.consume(messages))]).toEqual([])
  expect(heard).toEqual({ steady: ['s_1', 's_2', 's_3', 's_2'], moody: ['s_1', 's_3', 's_2'] })
  await dispatch.consume(messages)
  expect(heard['moody']).toHaveLength(3)
})

test('a rebuild continues step by step; an unknown listener is an error of its own', async () => {
  const steps: (string | null)[] = []
  const { dispatch, later } = newDispatch([
    {
      name: 'counting',
      wants: () => false,
      handle: async () => {},
      rebuild: async (cursor) => {
        steps.push(cursor)
        return steps.length < 3 ? String(steps.length) : null
      },
    },
  ])
  await dispatch.beginRebuild('counting')
  while (later.length > 0) await dispatch.consume(later.splice(0))
  expect(steps).toEqual([null, '1', '2'])
  await expect(dispatch.beginRebuild('nobody')).rejects.toThrow('No listener nobody keeps data')
  const edge = newEdge()
  expect((await edge.fetch('/v1/listeners/nobody/rebuild', { method: 'POST', headers: SERVICE })).status).toBe(404)
})

test('work that is too much for one step continues through the queue, each part alone; a part that fails is repeated', async () => {
  const steps: string[] = []
  let isDown = true
  const { dispatch, outbox, sent, end, later, failures } = newDispatch([
    {
      name: 'busy',
      wants: (event) => event.channel === 'custom_busy',
      handle: async () => ['a1', 'b1'],
      proceed: async (cursor) => {
        if (cursor === 'b1' && isDown) throw new Error('not now')
        steps.push(cursor)
        return cursor === 'a1' ? ['a2'] : []
      },
    },
  ])
  await outbox.publish({ channel: 'custom_busy', type: 'x', data: {}, subject: 's_busy', audience: 'services' })
  await end()
  await dispatch.consume(sent.splice(0))
  expect((await about('s_busy'))[0]?.dueAt).toBeNull()
  const messages = later.splice(0)
  expect([...(await dispatch.consume(messages))]).toEqual([messages[1]])
  expect(failures).toEqual(['busy'])
  isDown = false
  await dispatch.consume([...later.splice(0), ...messages.slice(1)])
  expect([steps.sort(), later]).toEqual([['a1', 'a2', 'b1'], []])
})

test('dispatched events are purged after some days, those that are not stay', async () => {
  const edge = newEdge()
  await publish(edge, { channel: 'custom_purge', type: 'old', data: {} })
  await edge.settle()
  const { outbox } = newOutbox()
  const later = Date.now() + 1
  await edge.dispatch()
  await publish(edge, { channel: 'custom_purge', type: 'waiting', data: {} })
  const waiting = await outbox.backlog(later)
  expect(await outbox.purge(1_000, later + 1_000)).toBeGreaterThan(0)
  expect((await outbox.backlog(later)).pending).toBe(waiting.pending)
})

test('an event is a CloudEvent that says whose trace it belongs to, with what channel and sequence', async () => {
  const edge = newEdge()
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  const event = { channel: 'custom_trace', type: 'traced', subject: 't_1', data: { a: 1 }, id: 'trace-1' }
  await publish(edge, event, { ...SERVICE, traceparent })
  const [stored] = await about('t_1')
  if (!stored) throw new Error('it was not stored')
  expect(toCloudEvent(stored, '/threads-edge')).toEqual({
    specversion: '1.0',
    id: 'trace-1',
    source: '/threads-edge',
    type: 'traced',
    subject: 't_1',
    time: new Date(stored.createdAt).toISOString(),
    datacontenttype: 'application/json',
    channel: 'custom_trace',
    sequence: '0000000000000001',
    traceparent: expect.stringMatching(/^00-0af7651916cd43dd8448eb211c80319c-(?!b7ad6b7169203331)[0-9a-f]{16}-01$/),
    data: { a: 1 },
  })
})

test('sequences sort as strings like the numbers they are', () => {
  const numbers = [1, 2, 9, 10, 11, 99, 100, 2 ** 31, Number.MAX_SAFE_INTEGER]
  const texts = numbers.map(formatSequence)
  expect(texts.toSorted()).toEqual(texts)
  expect(texts.map(Number)).toEqual(numbers)
})

/** As `HTTP.structured(new CloudEvent({ … }))` of the npm package cloudevents 10 sends it. */
const STRUCTURED = {
  id: 'b0dbfdc0-49fb-4673-96b4-08a260a9d3c9',
  time: '2026-11-28T08:34:20.333Z',
  type: 'order.paid',
  source: '/shop/orders',
  specversion: '1.0',
  subject: 'o_8',
  data: { total: 12.5 },
  channel: 'custom_orders',
  partitionkey: 'o_8',
  traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
}
const CLOUD_EVENT = { ...SERVICE, 'Content-Type': 'application/cloudevents+json; charset=utf-8' }

test('a CloudEvent of an SDK is published as the same event in our own shape; other attributes are ignored', async () => {
  const edge = newEdge()
  const { id, type, subject, data, channel } = STRUCTURED
  const response = await publish(edge, STRUCTURED, CLOUD_EVENT)
  expect([response.status, await response.json()]).toEqual([202, { id }])
  const variants = [
    { id, type, subject, data, channel }, // our own shape
    { ...STRUCTURED, time: '2030-01-01T00:00:00Z', source: 'urn:other', datacontenttype: 'application/json' },
    { ...STRUCTURED, time: null, dataschema: null, datacontenttype: 'application/json; charset=utf-8', audience: null },
  ]
  for (const again of variants) expect((await publish(edge, again, CLOUD_EVENT)).status).toBe(202)
  const [stored, ...others] = await about(subject)
  expect(others).toEqual([])
  if (!stored) throw new Error('it was not stored')
  expect(stored.createdAt).not.toBe(Date.parse(STRUCTURED.time))
  expect(toCloudEvent(stored, '/threads-edge')).toMatchObject({
    id,
    type,
    subject,
    data,
    channel,
    source: '/threads-edge',
  })

  const posted = { ...STRUCTURED, id: 'ce-1', type: 'post_deleted', channel: 'post_events', subject: 'p_ce' }
  const known = { ...posted, data: { postId: 'p_ce', authorId: 'u_ce' }, audience: 'services' }
  expect((await publish(edge, known, CLOUD_EVENT)).status).toBe(202)
  expect(await about('p_ce')).toMatchObject([{ id: 'ce-1', audience: 'services' }])
})

test.each([
  ['specversion', { ...STRUCTURED, specversion: '0.3' }],
  ['specversion', { ...STRUCTURED, specversion: null }],
  ['id', { ...STRUCTURED, id: undefined }],
  ['id', { ...STRUCTURED, id: 'a.b' }],
  ['source', { ...STRUCTURED, source: undefined }],
  ['source', { ...STRUCTURED, source: '' }],
  ['channel', { ...STRUCTURED, channel: undefined }],
  ['type', { ...STRUCTURED, type: 'Order Paid' }],
  ['datacontenttype', { ...STRUCTURED, datacontenttype: 'text/xml' }],
  ['data', { ...STRUCTURED, data: undefined, data_base64: 'e30=' }],
  ['data', { ...STRUCTURED, data: ['paid'] }],
  ['audience', { ...STRUCTURED, audience: 'nobody' }],
  ['time', { channel: 'custom_a', type: 'a', data: {}, time: '2030-01-01T00:00:00Z' }], // not a CloudEvent
  ['', [STRUCTURED]],
])('a CloudEvent is refused for its %s: %j', async (field, event) => {
  await expectRefused(publish(newEdge(), event, CLOUD_EVENT), 'body', field)
})

test('the figure of waiting events reads as many rows as it counts, at most a thousand', async () => {
  await db.run(sql`
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO events (id, channel, type, subject, data, audience, created_at, due_at)
    SELECT 'ev_waiting_' || i, 'custom_waiting', 'x', 's_waiting', '{}', '"services"', i, i FROM n`)
  const { DB, rows } = meteredDatabase()
  const outbox = createOutbox(
    drizzle(DB),
    async () => {},
    () => {},
  )
  expect(await outbox.backlog(5_000)).toEqual({ pending: 1_000, oldestAgeSeconds: 4.999 })
  expect(rows.read).toBeLessThanOrEqual(2_000) // D1 counts the row and its index
})
