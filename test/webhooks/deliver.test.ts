import { eq } from 'drizzle-orm'
import { Webhook as Verifier } from 'standardwebhooks'
import { beforeAll, expect, test } from 'vitest'
import { deliveries, events, webhooks } from '../../src/db/schema.ts'
import { readRetryAfter } from '../../src/webhooks/sender.ts'
import { migrate, newEdge } from '../edge.ts'
import { db } from '../rows.ts'
import {
  addWebhook,
  ask,
  deliverAll,
  deliverOnce,
  newDevEdge,
  publish,
  readDeliveries,
  readWebhook,
  receiver,
  SERVICE,
  type Webhook,
} from './endpoints.ts'

beforeAll(migrate)

const rowOf = async (id: string) => (await db.select().from(webhooks).where(eq(webhooks.id, id)))[0]
const eventsOn = (channel: string) => db.select().from(events).where(eq(events.channel, channel))
const eventsAbout = async (id: string) =>
  (await db.select().from(events).where(eq(events.subject, id)).orderBy(events.sequence)).map(({ type, data }) => [
    type,
    data,
  ])

test('an event arrives once, as a CloudEvent that the verifier of Standard Webhooks accepts', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel, secret } = await addWebhook(edge, to, { headers: { 'X-Tenant': 'seven' } })
  const eventId = await publish(edge, channel, { total: 12.5, note: 'Ünï — 🧵' })
  expect(edge.deliveries.sent.filter(({ body }) => (body as { kind: string }).kind === 'delivery')).toHaveLength(1)
  await deliverAll(edge)

  const [sent, ...more] = await to.events()
  expect(more).toEqual([])
  expect(sent?.method).toBe('POST')
  expect(sent?.headers).toMatchObject({
    'webhook-id': eventId,
    'webhook-timestamp': expect.stringMatching(/^\d{10}$/),
    'webhook-signature': expect.stringMatching(/^v1,[A-Za-z0-9+/=]{44}$/),
    'content-type': 'application/cloudevents+json',
    'x-tenant': 'seven',
  })
  expect(new Verifier(secret).verify(sent?.body ?? '', sent?.headers ?? {})).toEqual({
    specversion: '1.0',
    id: eventId,
    source: '/threads-edge',
    type: 'thing.happened',
    subject: 'thing',
    time: expect.any(String),
    traceparent: expect.any(String),
    datacontenttype: 'application/json',
    channel,
    sequence: '0000000000000001',
    data: { total: 12.5, note: 'Ünï — 🧵' },
  })
  expect(await readDeliveries(edge, id)).toMatchObject([
    { eventId, status: 'delivered', attempts: [{ status: 200, error: null, answer: 'thanks' }] },
  ])
})

test('each attempt continues the trace of its event, whatever headers the endpoint has; an event without a trace is sent without', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel, secret } = await addWebhook(edge, to)
  const taken = { Traceparent: 'theirs', 'Webhook-Id': 'theirs', 'webhook-signature': 'theirs', 'X-Tenant': 'seven' }
  await db.update(webhooks).set({ headers: taken }).where(eq(webhooks.id, id)) // no route accepts these
  await to.plan({ status: 500 }, {})
  const [traceId, parentId] = ['0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331']
  const response = await edge.fetch('/v1/events', {
    method: 'POST',
    headers: { ...SERVICE, traceparent: `00-${traceId}-${parentId}-01` },
    body: JSON.stringify({ channel, type: 'thing.happened', data: {} }),
  })
  const { id: eventId } = await response.json<{ id: string }>()
  await edge.settle()
  await edge.dispatch()
  await deliverOnce(edge)
  await deliverOnce(edge)

  const sent = await to.events()
  const [event] = await eventsOn(channel)
  const parentIds = sent.map(({ headers, body }) => {
    expect(headers).toMatchObject({ 'webhook-id': eventId, 'x-tenant': 'seven' })
    expect(new Verifier(secret).verify(body, headers)).toMatchObject({ traceparent: event?.traceparent }) // that of the event
    expect(headers['traceparent']).toMatch(new RegExp(`^00-${traceId}-[0-9a-f]{16}-01$`))
    return headers['traceparent']?.split('-')[2]
  })
  expect(parentIds).toHaveLength(2)
  expect(new Set([parentId, event?.traceparent?.split('-')[2], ...parentIds]).size).toBe(4)

  const untraced = await addWebhook(edge, to)
  await publish(edge, untraced.channel)
  await db.update(events).set({ traceparent: null }).where(eq(events.channel, untraced.channel))
  await deliverAll(edge)
  expect((await to.events()).slice(2).map(({ headers }) => headers['traceparent'])).toEqual([undefined])
})

test('published data arrives exactly as it was given, whatever its keys are called', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { channel } = await addWebhook(edge, to, {
    filter: { 'data.constructor': 'acme' },
    headers: JSON.parse('{"constructor":"header","__proto__":"too"}'),
  })
  const data = '{"constructor":"acme","prototype":{"constructor":1},"__proto__":{"a":1},"toString":null,"plain":true}'
  const body = `{"channel":"${channel}","type":"thing.happened","id":"ev:${channel}","data":${data}}`
  for (let time = 0; time < 2; time += 1) {
    const response = await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body })
    expect(response.status).toBe(202) // also when it is repeated
    await edge.settle()
  }
  await edge.dispatch()
  await deliverAll(edge)
  const [sent, ...more] = await to.events()
  expect(more).toEqual([])
  expect(sent?.body).toContain(`"data":${data}`)
  expect(Object.entries(sent?.headers ?? {})).toContainEqual(['constructor', 'header'])
})

test('an endpoint gets the channels, types and fields it subscribed to, and nothing else', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const [a, b] = [crypto.randomUUID(), crypto.randomUUID()].map((id) => `custom_${id.replaceAll('-', '')}`)
  await addWebhook(edge, to, {
    channels: [a, b],
    types: ['order.paid', 'order.sent'],
    filter: { 'data.total': { gte: 10 } },
  })
  for (const [channel, type, data] of [
    [a, 'order.paid', { total: 10, n: 1 }],
    [a, 'order.paid', { total: 9, n: 2 }],
    [a, 'order.lost', { total: 10, n: 3 }],
    [b, 'order.sent', { total: 11, n: 4 }],
    ['custom_other', 'order.paid', { total: 10, n: 5 }],
    [b, 'order.sent', { n: 6 }],
  ]) {
    await ask(edge, 'POST', '/v1/events', { channel, type, data })
  }
  await edge.dispatch()
  await deliverAll(edge)
  const got = (await to.events()).map(({ body }) => (JSON.parse(body) as { data: { n: number } }).data.n)
  expect(got).toEqual([1, 4])
})

test('a sign-up reaches an endpoint that subscribes to its channel', async () => {
  const edge = newDevEdge()
  const to = receiver()
  await addWebhook(edge, to, { channels: ['user_events'], types: ['user_created'] })
  const account = { username: 'hooked', email: 'hooked@example.test', password: 'correct horse', displayName: 'H' }
  await edge.fetch('/v1/users', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(account),
  })
  await edge.settle()
  await edge.dispatch()
  await deliverAll(edge)
  const [sent] = await to.events()
  expect(JSON.parse(sent?.body ?? '')).toMatchObject({ type: 'user_created', data: { username: 'hooked' } })
})

test('events of one batch reach an endpoint in the order they happened, whatever the order of the messages', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { channel } = await addWebhook(edge, to)
  const ids = []
  for (let i = 0; i < 10; i += 1) ids.push(await publish(edge, channel))
  edge.deliveries.sent.reverse()
  await deliverOnce(edge)
  expect((await to.events()).map(({ headers }) => headers['webhook-id'])).toEqual(ids)
})

test('a failed delivery is retried by the schedule, with jitter, then dead; when it is replayed, it arrives under the same id', async () => {
  const edge = newDevEdge({ WEBHOOK_CIRCUIT_FAILURES: '1000' })
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 500, body: 'broken' })
  const eventId = await publish(edge, channel)
  await deliverOnce(edge)
  for (const seconds of [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]) {
    const [delay, ...more] = await deliverOnce(edge)
    expect(more).toEqual([])
    expect(delay).toBeGreaterThanOrEqual(Math.floor(seconds * 0.8))
    expect(delay).toBeLessThanOrEqual(Math.ceil(seconds * 1.2))
  }
  expect(edge.deliveries.sent).toEqual([])
  const [dead, ...others] = await readDeliveries(edge, id, '&status=dead')
  expect(others).toEqual([])
  expect(dead).toMatchObject({ eventId, status: 'dead' })
  expect(dead?.attempts).toHaveLength(8)
  expect(dead?.attempts[7]).toMatchObject({ status: 500, answer: 'broken' })
  await edge.cron(Date.now() + 90_000_000)
  expect(edge.deliveries.sent).toEqual([])

  await to.plan({})
  expect((await ask(edge, 'POST', `/v1/deliveries/${dead?.id}/replay`)).status).toBe(202)
  await deliverAll(edge)
  expect(await readDeliveries(edge, id)).toMatchObject([{ id: dead?.id, status: 'delivered' }])
  const sent = await to.events()
  expect(sent).toHaveLength(9)
  expect(new Set(sent.map(({ headers }) => headers['webhook-id']))).toEqual(new Set([eventId]))
})

test.each([
  ['302', { status: 302, headers: { Location: '/elsewhere' } }, { status: 302, error: null }],
  ['404', { status: 404 }, { status: 404, error: null }],
  ['a closed connection', { isDropping: true }, { status: null, error: 'could not be reached' }],
  ['silence', { isHanging: true }, { status: null, error: 'no answer within 1 s' }],
])('%s is a failure, and is retried', async (_, plan, attempt) => {
  const edge = newDevEdge('isHanging' in plan ? { WEBHOOK_TIMEOUT_SECONDS: '1' } : {})
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan(plan)
  await publish(edge, channel)
  await deliverOnce(edge)
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'pending', attempts: [attempt] }])
  await to.plan({})
  await db.update(webhooks).set({ openUntil: null }).where(eq(webhooks.id, id)) // a timeout opens the circuit at once
  await deliverOnce(edge)
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'delivered', attempts: [attempt, { status: 200 }] }])
})

test('one KB of an endless answer is read', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ isEndless: true })
  await publish(edge, channel)
  await deliverOnce(edge)
  const [delivery] = await readDeliveries(edge, id)
  expect(delivery).toMatchObject({ status: 'delivered', attempts: [{ status: 200, answer: 'x'.repeat(1_024) }] })
})

test('Retry-After is read in seconds or as a date, and bounded', () => {
  const now = Date.parse('2026-11-25T12:00:00Z')
  expect(readRetryAfter('120', now)).toBe(120_000)
  expect(readRetryAfter('Wed, 25 Nov 2026 12:10:00 GMT', now)).toBe(600_000)
  expect(readRetryAfter('Wed, 25 Nov 2026 11:00:00 GMT', now)).toBe(0)
  expect(readRetryAfter('9999999', now)).toBe(86_400_000)
  expect(readRetryAfter('soon', now)).toBeNull()
  expect(readRetryAfter(null, now)).toBeNull()
})

test('Retry-After with 429 stops all deliveries of the endpoint until then', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 429, headers: { 'Retry-After': '600' } }, {})
  for (let i = 0; i < 3; i += 1) await publish(edge, channel)
  await deliverOnce(edge)
  expect(await to.events()).toHaveLength(1)
  expect(edge.deliveries.sent.map(({ delaySeconds }) => delaySeconds)).toEqual([600, 600])
  await publish(edge, channel) // parked at once
  expect(edge.deliveries.sent).toHaveLength(2)
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)

  // After that time one delivery tests it, then the rest is sent.
  const now = Date.now()
  await db
    .update(webhooks)
    .set({ openUntil: now - 1, wakeAt: now - 1 })
    .where(eq(webhooks.id, id))
  edge.deliveries.sent.splice(0)
  await edge.cron(now)
  await deliverOnce(edge) // wakes it
  expect(edge.deliveries.sent).toHaveLength(1)
  await deliverAll(edge)
  await edge.cron(now + 800_000) // enqueues the refused one, whose message was removed above
  await deliverAll(edge)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(4).fill('delivered'))
  expect(await rowOf(id)).toMatchObject({ failures: 0, openUntil: null, wakeAt: null, failingSince: null })
})

test('a wait longer than the delay of a queue is kept in D1 and ended by the cron', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 500, headers: { 'Retry-After': '50000' } }, {})
  await publish(edge, channel)
  await deliverOnce(edge)
  expect(edge.deliveries.sent).toEqual([])
  const [delivery] = await readDeliveries(edge, id)
  const own = () => edge.deliveries.sent.filter(({ body }) => (body as { id?: string }).id === delivery?.id)
  const now = Date.now()
  await edge.cron(now + 49_000_000)
  expect(own()).toEqual([])
  await edge.cron(now + 50_001_000)
  expect(own()).toHaveLength(1)
  await deliverOnce(edge)
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'delivered' }])
})

test('five failures in a row open the circuit: nothing is sent, then one delivery tests it, then all arrive in order', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 500 })
  const ids: string[] = []
  for (let i = 0; i < 8; i += 1) ids.push(await publish(edge, channel))
  await deliverOnce(edge)
  expect(await to.events()).toHaveLength(5)
  ids.push(await publish(edge, channel))
  const wakes = edge.deliveries.sent.filter(({ body }) => (body as { kind: string }).kind === 'wake')
  expect(wakes).toEqual([{ body: { kind: 'wake', webhookId: id }, delaySeconds: 30 }])
  await deliverOnce(edge) // too early: the retries are parked, and the message to wake it changes nothing
  expect(await to.events()).toHaveLength(5)
  expect(edge.deliveries.sent).toEqual([])

  const rest = async () => {
    const { openUntil } = (await rowOf(id)) ?? {}
    const now = Date.now()
    await db
      .update(webhooks)
      .set({ openUntil: now - 1, wakeAt: now - 1 })
      .where(eq(webhooks.id, id))
    return (openUntil ?? 0) - now
  }
  await rest()
  await edge.cron()
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(6) // the test failed: the circuit stays open twice as long
  const longer = await rest()
  expect(longer).toBeGreaterThan(50_000)
  expect(longer).toBeLessThanOrEqual(60_000)

  await to.plan({})
  edge.deliveries.sent.splice(0)
  await edge.cron()
  await deliverAll(edge)
  const arrived = (await to.events()).slice(6).map(({ headers }) => headers['webhook-id'])
  expect(new Set(arrived).size).toBe(arrived.length)
  expect(arrived).toEqual(ids.filter((eventId) => arrived.includes(eventId)))
  await edge.cron(Date.now() + 1_000_000) // the delivery of the failed test has a schedule of its own; its message was removed above
  await deliverAll(edge)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(9).fill('delivered'))
})

test('events for a paused endpoint are stored, and sent in order when it is enabled', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  const ids = [await publish(edge, channel)] // its message is in the queue
  expect((await ask(edge, 'POST', `/v1/webhooks/${id}/pause`)).status).toBe(200)
  await deliverAll(edge)
  for (let i = 0; i < 120; i += 1) {
    const { id: eventId } = await (
      await ask(edge, 'POST', '/v1/events', { channel, type: 'thing.happened', data: { i } })
    ).json<{ id: string }>()
    ids.push(eventId)
  }
  await edge.dispatch()
  expect(edge.deliveries.sent).toEqual([])
  await edge.cron(Date.now() + 3_600_000)
  await deliverAll(edge)
  expect(await to.events()).toEqual([])

  expect((await ask(edge, 'POST', `/v1/webhooks/${id}/enable`)).status).toBe(200)
  await deliverAll(edge)
  const arrived = (await to.events()).map(({ headers }) => headers['webhook-id'])
  expect(arrived).toEqual(ids)
  expect((await rowOf(id))?.wakeAt).toBeNull()
})

test('410 disables at once and records an event; no probe enables it again, its owner does, and parked deliveries are sent', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 410 })
  await publish(edge, channel)
  await publish(edge, channel)
  await deliverOnce(edge)
  expect(await to.events()).toHaveLength(1)
  expect(await readWebhook(edge, id)).toMatchObject({ status: 'disabled', disabledReason: 'gone' })
  const data = { webhookId: id, url: new URL(to.url).origin, reason: 'it answered 410' }
  expect(await eventsAbout(id)).toEqual([['webhook_disabled', data]])
  await publish(edge, channel) // no delivery is stored
  await edge.cron(Date.now() + 6 * 86_400_000)
  await deliverAll(edge)
  expect(await to.all()).toHaveLength(2)

  await to.plan({})
  expect((await ask(edge, 'POST', `/v1/webhooks/${id}/enable`)).status).toBe(200)
  expect(await eventsAbout(id)).toEqual([
    ['webhook_disabled', data],
    ['webhook_enabled', { ...data, reason: 'enabled by request' }],
  ])
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(3)
  // And what was not stored is replayed.
  await ask(edge, 'POST', `/v1/webhooks/${id}/replay`, { since: new Date(Date.now() - 60_000).toISOString() })
  await deliverAll(edge)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(3).fill('delivered'))
  expect(await to.events()).toHaveLength(4)
})

test('failing for days disables and records an event; a probe that is answered enables it again', async () => {
  const edge = newDevEdge({ WEBHOOK_PROBE_SECONDS: '600' })
  const watcher = receiver()
  const to = receiver()
  await addWebhook(edge, watcher, { channels: ['webhook_events'], filter: { 'data.reason': { exists: true } } })
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 500 })
  await publish(edge, channel)
  await deliverOnce(edge)
  expect(await readWebhook(edge, id)).toMatchObject({ status: 'enabled', failingSince: expect.any(String) })
  const day = 86_400_000
  await db
    .update(webhooks)
    .set({ failingSince: Date.now() - 5 * day - 1 })
    .where(eq(webhooks.id, id))
  await deliverOnce(edge)
  expect(await readWebhook(edge, id)).toMatchObject({ status: 'disabled', disabledReason: 'failing' })

  const asked = (await to.all()).length
  const probe = async () => {
    await db
      .update(webhooks)
      .set({ wakeAt: Date.now() - 1 })
      .where(eq(webhooks.id, id))
    await edge.cron()
    await deliverAll(edge)
  }
  await probe()
  expect(await readWebhook(edge, id)).toMatchObject({ status: 'disabled' })
  expect((await to.all()).length).toBe(asked + 1)
  await edge.cron()
  await deliverAll(edge)
  expect((await to.all()).length).toBe(asked + 1) // not before its time
  await to.plan({})
  await probe()
  expect(await readWebhook(edge, id)).toMatchObject({ status: 'enabled', disabledReason: null, failingSince: null })
  expect((await eventsAbout(id)).map(([type]) => type)).toEqual(['webhook_disabled', 'webhook_enabled'])
  await edge.cron(Date.now() + 61_000)
  await edge.dispatch()
  await deliverAll(edge)
  const received = (await watcher.events()).map(({ body }) => JSON.parse(body) as { subject: string; type: string })
  expect(received.filter(({ subject }) => subject === id).map(({ type }) => type)).toEqual([
    'webhook_disabled',
    'webhook_enabled',
  ])
  await edge.cron(Date.now() + 1_000_000)
  await deliverAll(edge)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(['delivered'])
})

test('a replay since a time sends dead and never stored deliveries, with includeDelivered all, and when repeated none', async () => {
  const edge = newDevEdge({ WEBHOOK_RETRY_SECONDS: '0.5' })
  const to = receiver()
  const early = await addWebhook(edge, to)
  const before = new Date(Date.now() - 1_000).toISOString()
  await to.plan({ status: 500 }, { status: 500 }, {})
  const dead = await publish(edge, early.channel)
  await deliverAll(edge)
  expect(await readDeliveries(edge, early.id)).toMatchObject([{ status: 'dead' }])
  for (let i = 0; i < 110; i += 1) {
    await ask(edge, 'POST', '/v1/events', { channel: early.channel, type: 'thing.happened', data: { i } })
  }
  await edge.dispatch()
  await deliverAll(edge)
  const sent = (await to.events()).length
  expect(sent).toBe(112)

  const replay = async (id: string, body: object) => {
    expect((await ask(edge, 'POST', `/v1/webhooks/${id}/replay`, body)).status).toBe(202)
    await deliverAll(edge)
  }
  await replay(early.id, { since: before })
  expect((await to.events()).slice(sent).map(({ headers }) => headers['webhook-id'])).toEqual([dead])
  await replay(early.id, { since: before })
  expect(await to.events()).toHaveLength(sent + 1)
  await replay(early.id, { since: new Date(Date.now() + 60_000).toISOString(), includeDelivered: true })
  expect(await to.events()).toHaveLength(sent + 1)
  await replay(early.id, { since: before, includeDelivered: true })
  const all = (await to.events()).slice(sent + 1).map(({ headers }) => headers['webhook-id'])
  expect(all).toHaveLength(111)
  expect(new Set(all).size).toBe(111)

  // A later endpoint gets earlier events.
  const late = receiver()
  const { id } = await addWebhook(edge, late, { channels: [early.channel] })
  await replay(id, { since: before })
  expect(await late.events()).toHaveLength(111)
})

test('a delivery whose event was purged is neither sent nor replayed', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await publish(edge, channel)
  const eventId = await publish(edge, channel)
  await db.delete(events).where(eq(events.id, eventId))
  await deliverAll(edge)
  const [arrived, gone] = await readDeliveries(edge, id)
  expect(arrived).toMatchObject({ status: 'delivered' })
  expect(gone).toMatchObject({ status: 'dead', attempts: [{ error: 'not sent: its event is not kept any more' }] })
  const response = await ask(edge, 'POST', `/v1/deliveries/${gone?.id}/replay`)
  expect([response.status, (await response.json<{ type: string }>()).type]).toEqual([409, '/problems/event-gone'])
})

test('an address that is no longer allowed gets nothing', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  const strict = newEdge({}, edge.token)
  await publish(edge, channel)
  await strict.deliver(
    edge.deliveries.sent.map(({ body }) => body),
    'deliveries',
  )
  expect(await to.events()).toEqual([])
  expect(await readDeliveries(edge, id)).toMatchObject([
    { status: 'pending', attempts: [{ error: 'not sent: its URL must begin with https://' }] },
  ])
})

test('old deliveries are purged with their attempts, pending ones are not, and the figures count them', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({}, { status: 500 })
  await publish(edge, channel)
  await publish(edge, channel)
  await deliverOnce(edge)
  const stats = await (
    await ask(edge, 'GET', '/v1/stats')
  ).json<{
    webhooks: { id: string }[]
    queues: { queue: string }[]
    series: { deliveriesSucceeded: number[]; deliveriesFailed: number[] }
  }>()
  expect(stats.webhooks.find((webhook) => webhook.id === id)).toEqual({
    id,
    host: new URL(to.url).host,
    isEnabled: true,
    succeeded: 1,
    failed: 1,
    successRate: 0.5,
    pending: 1,
    dead: 0,
  })
  expect(stats.queues.map(({ queue }) => queue)).toContain('deliveries')
  const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0)
  expect([sum(stats.series.deliveriesSucceeded), sum(stats.series.deliveriesFailed)]).toEqual([1, 1])

  const purging = newDevEdge({ EVENT_DAYS: '90' })
  await purging.cron(Date.now() + 8 * 86_400_000)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(['pending'])
  expect(await eventsOn(channel)).toHaveLength(2)
  const left = await db.select().from(deliveries).where(eq(deliveries.webhookId, id))
  expect(left).toHaveLength(1)
})

test('a slow endpoint delays no other, and gets its own deliveries', async () => {
  const edge = newDevEdge()
  const [slow, ...others] = [receiver(), receiver(), receiver(), receiver(), receiver(), receiver(), receiver()]
  const channel = `custom_${crypto.randomUUID().replaceAll('-', '')}`
  const added: Webhook[] = []
  for (const to of [slow, ...others]) if (to) added.push(await addWebhook(edge, to, { channels: [channel] }))
  await slow?.plan({ delayMs: 4_000 })
  await publish(edge, channel)
  await publish(edge, channel)
  await deliverOnce(edge)
  const times = await Promise.all(others.map(async (to) => (await to.events()).map(({ at }) => at)))
  expect(times.map((arrived) => arrived.length)).toEqual(Array(6).fill(2))
  await deliverAll(edge)
  expect((await readDeliveries(edge, added[0]?.id ?? '')).map(({ status }) => status)).toEqual([
    'delivered',
    'delivered',
  ])
})
