import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { setTimeout as sleep } from 'node:timers/promises'
import { Webhook as Verifier } from 'standardwebhooks'
import { beforeAll, expect, test } from 'vitest'
import { events, webhooks } from '../../src/db/schema.ts'
import { expectRefused, migrate, newEdge } from '../edge.ts'
import { createVault } from '../../src/webhooks/vault.ts'
import { db } from '../rows.ts'
import {
  addWebhook,
  ask,
  deliverAll,
  newDevEdge,
  publish,
  readDeliveries,
  readWebhook,
  receiver,
  SERVICE,
  type Webhook,
} from './endpoints.ts'

beforeAll(migrate)

const vault = createVault([env.SERVICE_TOKEN])

test('an endpoint that answers the challenge is enabled; its secret is shown once, and the challenge is signed', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const created = await addWebhook(edge, to, { headers: { Authorization: 'Bearer theirs' }, description: 'Orders' })
  expect(created).toMatchObject({
    id: expect.stringMatching(/^wh_[a-z0-9]{26}$/),
    status: 'enabled',
    secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/=]{44}$/),
    headerNames: ['Authorization'],
    challenge: { status: 200, error: null },
  })
  const [challenge, ...more] = await to.all()
  expect(more).toEqual([])
  expect(challenge?.headers).toMatchObject({ authorization: 'Bearer theirs', 'content-type': 'application/json' })
  expect(new Verifier(created.secret).verify(challenge?.body ?? '', challenge?.headers ?? {})).toEqual({
    type: 'endpoint.challenge',
    challenge: expect.stringMatching(/^[\w-]{32}$/),
  })
  const read = JSON.stringify([
    await readWebhook(edge, created.id),
    await (await ask(edge, 'GET', '/v1/webhooks')).json(),
    await (await ask(edge, 'PATCH', `/v1/webhooks/${created.id}`, { description: 'All orders' })).json(),
  ])
  expect(read).not.toContain('whsec_')
  expect(read).not.toContain('theirs')
})

test.each([
  ['says something else', { body: '{"challenge":"guess"}' }],
  ['is no JSON', { body: 'ok' }],
  ['is not 200', { status: 202 }],
  ['is a redirect', { status: 302, headers: { Location: 'https://example.com/' } }],
  ['does not come', { isDropping: true }],
])('an endpoint whose answer to the challenge %s stays unverified and gets nothing', async (_, plan) => {
  const edge = newDevEdge()
  const to = receiver()
  await to.plan(plan)
  const created = await addWebhook(edge, to)
  expect(created.status).toBe('unverified')
  await to.plan({})
  await publish(edge, created.channel)
  await deliverAll(edge)
  expect(await to.events()).toEqual([])
  expect(await readDeliveries(edge, created.id)).toEqual([])
  expect((await ask(edge, 'POST', `/v1/webhooks/${created.id}/test`)).status).toBe(409)
  expect((await ask(edge, 'POST', `/v1/webhooks/${created.id}/pause`)).status).toBe(409)
  expect((await ask(edge, 'POST', `/v1/webhooks/${created.id}/replay`, { since: '2026-01-01T00:00:00Z' })).status).toBe(
    409,
  )

  expect((await ask(edge, 'POST', `/v1/webhooks/${created.id}/enable`)).status).toBe(200)
  await publish(edge, created.channel)
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)
})

test('concurrent requests cannot add more webhooks than allowed; a refused one gets no challenge', async () => {
  const { length } = await db.select().from(webhooks)
  const edge = newDevEdge({ WEBHOOK_MAX_ENDPOINTS: String(length + 2) })
  const receivers = Array.from({ length: 6 }, receiver)
  const add = ({ url }: { url: string }) => ask(edge, 'POST', '/v1/webhooks', { url, channels: ['post_events'] })
  const answers = await Promise.all(receivers.map(add))
  const added = answers.filter(({ status }) => status === 201)
  const refused = answers.filter(({ status }) => status === 409)
  expect([added.length, refused.length]).toEqual([2, 4])
  expect(await refused[0]?.json()).toMatchObject({
    type: '/problems/too-many-webhooks',
    detail: `There are at most ${length + 2} webhooks (WEBHOOK_MAX_ENDPOINTS): delete one first`,
  })
  expect(await db.select().from(webhooks)).toHaveLength(length + 2)
  expect((await Promise.all(receivers.map((to) => to.all()))).flat()).toHaveLength(2)

  const [first] = await Promise.all(added.map((response) => response.json<Webhook>()))
  const url = `/v1/webhooks/${first?.id}`
  expect((await ask(edge, 'PATCH', url, { description: 'still mine' })).status).toBe(200)
  expect((await ask(edge, 'DELETE', url)).status).toBe(204)
  expect((await add(receiver())).status).toBe(201)
  expect((await add(receiver())).status).toBe(409)
})

test('enabling an endpoint that fails the challenge changes nothing, and returns its answer', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id } = await addWebhook(edge, to)
  await to.plan({ status: 500, body: 'sorry' })
  const response = await ask(edge, 'POST', `/v1/webhooks/${id}/enable`)
  expect(response.status).toBe(422)
  expect(await response.json()).toMatchObject({
    type: '/problems/challenge-failed',
    challenge: { status: 500, answer: 'sorry' },
  })
  expect((await readWebhook(edge, id)).status).toBe('enabled')
})

test('another URL is sent the challenge; other changes send none', async () => {
  const edge = newDevEdge()
  const [to, next] = [receiver(), receiver()]
  const { id, channel } = await addWebhook(edge, to)
  const change = async (changes: unknown) => {
    const response = await ask(edge, 'PATCH', `/v1/webhooks/${id}`, changes)
    expect(response.status).toBe(200)
    return response.json<Webhook>()
  }
  expect(await change({ url: to.url, types: ['thing.happened'], filter: { 'data.a': 1 } })).toMatchObject({
    status: 'enabled',
  })
  expect(await to.all()).toHaveLength(1)

  await next.plan({ status: 404 })
  expect(await change({ url: next.url })).toMatchObject({ status: 'unverified', challenge: { status: 404 } })
  await publish(edge, channel, { a: 1 })
  await deliverAll(edge)
  expect(await next.events()).toEqual([])
  await next.plan({})
  expect(await change({ url: to.url })).toMatchObject({ status: 'enabled', url: to.url })
  await publish(edge, channel, { a: 1 })
  await publish(edge, channel, { a: 2 })
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)
})

test('a rotated secret is shown once, and both sign for a day', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const before = await addWebhook(edge, to, { secret: `whsec_${btoa('x'.repeat(24))}` })
  expect(before.secret).toBe(`whsec_${btoa('x'.repeat(24))}`)
  const after = await (await ask(edge, 'POST', `/v1/webhooks/${before.id}/rotate`)).json<Webhook>()
  expect(after.secret).not.toBe(before.secret)
  await publish(edge, before.channel)
  await deliverAll(edge)
  const [sent] = await to.events()
  expect(sent?.headers['webhook-signature']?.split(' ')).toHaveLength(2)
  for (const { secret } of [before, after]) new Verifier(secret).verify(sent?.body ?? '', sent?.headers ?? {})
  expect(() => new Verifier(`whsec_${btoa('y'.repeat(24))}`).verify(sent?.body ?? '', sent?.headers ?? {})).toThrow(
    'No matching signature',
  )

  const now = Date.now()
  const [row] = await db.select().from(webhooks).where(eq(webhooks.id, before.id))
  expect(row?.previousSecretUntil).toBeGreaterThan(now + 86_390_000)
  await db.update(webhooks).set({ previousSecretUntil: now }).where(eq(webhooks.id, before.id))
  await publish(edge, before.channel)
  await deliverAll(edge)
  const [, later] = await to.events()
  expect(() => new Verifier(before.secret).verify(later?.body ?? '', later?.headers ?? {})).toThrow(
    'No matching signature',
  )
  new Verifier(after.secret).verify(later?.body ?? '', later?.headers ?? {})
})

test('secrets of several rotations in a day all sign, up to three before the last', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, secret, channel } = await addWebhook(edge, to)
  const secrets = [secret]
  for (let time = 0; time < 4; time += 1) {
    secrets.push((await (await ask(edge, 'POST', `/v1/webhooks/${id}/rotate`)).json<Webhook>()).secret)
    await publish(edge, channel)
    await deliverAll(edge)
    const sent = (await to.events()).at(-1)
    const signing = secrets.filter((secret) => {
      try {
        return new Verifier(secret).verify(sent?.body ?? '', sent?.headers ?? {})
      } catch {
        return false
      }
    })
    expect(signing).toEqual(secrets.slice(-4))
  }
  await Promise.all([0, 1].map(() => ask(edge, 'POST', `/v1/webhooks/${id}/rotate`)))
  const [row] = await db.select().from(webhooks).where(eq(webhooks.id, id))
  expect(row?.previousSecret?.split(' ')).toHaveLength(3)
  const previous = row?.previousSecret?.split(' ').map((value) => vault.open(value, id))
  expect(previous).toContain(secrets.at(-1)) // two concurrent rotations have both kept it
})

test('a paused endpoint stays paused when it moves or answers a challenge; enabling a disabled one records an event', async () => {
  const edge = newDevEdge()
  const [to, next] = [receiver(), receiver()]
  const { id, channel } = await addWebhook(edge, to)
  const change = async (url: string) => (await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { url })).json<Webhook>()
  const pause = async () => (await ask(edge, 'POST', `/v1/webhooks/${id}/pause`)).json<Webhook>()
  expect(await pause()).toMatchObject({ status: 'paused' })
  await publish(edge, channel)
  expect(await change(next.url)).toMatchObject({ status: 'paused', challenge: { status: 200 } })
  await deliverAll(edge)
  expect(await next.events()).toEqual([])
  expect(await (await ask(edge, 'POST', `/v1/webhooks/${id}/enable`)).json()).toMatchObject({ status: 'enabled' })
  await deliverAll(edge)
  expect(await next.events()).toHaveLength(1)

  await next.plan({ isHeld: true })
  const before = (await next.all()).length
  const enabling = ask(edge, 'POST', `/v1/webhooks/${id}/enable`)
  while ((await next.all()).length === before) await sleep(20)
  expect(await pause()).toMatchObject({ status: 'paused' })
  await next.plan({})
  expect(await (await enabling).json()).toMatchObject({ status: 'paused' })

  await db.update(webhooks).set({ status: 'disabled', disabledReason: 'gone' }).where(eq(webhooks.id, id))
  expect(await change(to.url)).toMatchObject({ status: 'enabled', disabledReason: null })
  const enabled = await db.select().from(events).where(eq(events.type, 'webhook_enabled'))
  expect(enabled.filter(({ data }) => data['webhookId'] === id)).toHaveLength(1)
})

test('a sample is sent once, signed, and its answer shown', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, secret } = await addWebhook(edge, to)
  await to.plan({ status: 500, body: 'x'.repeat(5_000) })
  const response = await ask(edge, 'POST', `/v1/webhooks/${id}/test`)
  expect(await response.json()).toMatchObject({
    isDelivered: false,
    status: 500,
    answer: 'x'.repeat(1_024),
    sample: { specversion: '1.0', type: 'webhook_test' },
  })
  const [sample, ...more] = await to.events()
  expect(more).toEqual([])
  expect(new Verifier(secret).verify(sample?.body ?? '', sample?.headers ?? {})).toMatchObject({ type: 'webhook_test' })
  expect(edge.deliveries.sent.filter(({ body }) => (body as { kind: string }).kind === 'delivery')).toEqual([])
})

test('webhooks are listed in pages, the newest first; a deleted one is gone with its pending deliveries', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const added = [await addWebhook(edge, to), await addWebhook(edge, to), await addWebhook(edge, to)]
  const ids: string[] = []
  let cursor: string | null = null
  do {
    const path: string = `/v1/webhooks?limit=2${cursor ? `&cursor=${cursor}` : ''}`
    const page: { items: Webhook[]; nextCursor: string | null } = await (await ask(edge, 'GET', path)).json()
    ids.push(...page.items.map(({ id }) => id))
    cursor = page.nextCursor
  } while (cursor !== null)
  expect(ids.filter((id) => added.some((webhook) => webhook.id === id))).toEqual(added.map(({ id }) => id).toReversed())
  expect(ids).toEqual([...ids].sort().toReversed())

  const [gone] = added
  await publish(edge, gone?.channel ?? '')
  expect((await ask(edge, 'DELETE', `/v1/webhooks/${gone?.id}`)).status).toBe(204)
  for (const [method, path, body] of [
    ['GET', ''],
    ['PATCH', '', { description: 'x' }],
    ['DELETE', ''],
    ['POST', '/rotate'],
    ['POST', '/pause'],
    ['POST', '/enable'],
    ['POST', '/test'],
    ['GET', '/deliveries'],
    ['POST', '/replay', { since: '2026-01-01T00:00:00Z' }],
  ] as const) {
    expect([path, (await ask(edge, method, `/v1/webhooks/${gone?.id}${path}`, body)).status]).toEqual([path, 404])
  }
  expect((await ask(edge, 'POST', '/v1/deliveries/dl_none/replay')).status).toBe(404)
  await deliverAll(edge)
  expect(await to.events()).toEqual([])
})

const fine = { url: 'https://example.com/hook', channels: ['post_events'] }

test.each([
  ['url', { ...fine, url: 'https://169.254.169.254/' }],
  ['url', { ...fine, url: 'https://edge.test/v1/events' }],
  ['url', { ...fine, url: 'https://own.example.com/' }],
  ['url', { ...fine, url: 'http://127.0.0.1:9000/' }],
  ['url', { channels: ['post_events'] }],
  ['channels', { ...fine, channels: [] }],
  ['channels', { ...fine, channels: ['post_events', 'post_events'] }],
  ['channels.0', { ...fine, channels: ['nothing'] }],
  ['types.0', { ...fine, types: ['NOT A TYPE'] }],
  ['types', { ...fine, types: [] }],
  ['types', { ...fine, types: ['user_created'] }],
  ['filter.data', { ...fine, filter: { data: 1 } }],
  ['filter.data.a', { ...fine, filter: { 'data.a': {} } }],
  ['description', { ...fine, description: 'x'.repeat(201) }],
  ['headers.webhook-id', { ...fine, headers: { 'webhook-id': 'x' } }],
  ['headers.TraceParent', { ...fine, headers: { TraceParent: 'x' } }],
  ['headers.tracestate', { ...fine, headers: { tracestate: 'a=b' } }],
  ['headers.Host', { ...fine, headers: { Host: 'x' } }],
  ['headers.Content-Type', { ...fine, headers: { 'Content-Type': 'text/plain' } }],
  ['headers.X-A', { ...fine, headers: { 'X-A': 'a\r\nHost: b' } }],
  ['filter.constructor', { ...fine, filter: { constructor: 1 } }],
  ['filter', { ...fine, filter: [] }],
  ['headers', { ...fine, headers: [] }],
  ['headers.constructor', { ...fine, headers: { constructor: 'a\nb' } }],
  ['headers.X A', { ...fine, headers: { 'X A': 'a' } }],
  ['headers', { ...fine, headers: { 'X-A': 'a', 'x-a': 'b' } }],
  ['headers', { ...fine, headers: Object.fromEntries(Array.from({ length: 11 }, (_, i) => [`x-${i}`, 'a'])) }],
  ['secret', { ...fine, secret: 'whsec_short' }],
  ['extra', { ...fine, extra: true }],
])('the field %s of %j is refused', async (field, body) => {
  const edge = newEdge({ PUBLIC_HOSTS: 'own.example.com' })
  const post = (path: string, method: string, body: unknown) =>
    edge.fetch(path, { method, headers: SERVICE, body: JSON.stringify(body) })
  await expectRefused(post('/v1/webhooks', 'POST', body), 'body', field)
})

test('a change is validated like a creation', async () => {
  const edge = newDevEdge({ PUBLIC_HOSTS: 'own.example.com' })
  const { id } = await addWebhook(edge, receiver())
  for (const [field, body] of [
    ['url', { url: 'https://10.0.0.1/' }],
    ['url', { url: 'https://own.example.com/' }],
    ['channels', { channels: [] }],
    ['types', { channels: ['post_events'], types: ['user_created'] }],
    ['headers.host', { headers: { host: 'x' } }],
    ['headers.traceparent', { headers: { traceparent: 'x' } }],
    ['status', { status: 'enabled' }],
    ['', {}],
  ] as const) {
    await expectRefused(ask(edge, 'PATCH', `/v1/webhooks/${id}`, body), 'body', field)
  }
  for (const since of ['yesterday', '2026-01-01', '2026-01-01T00:00:00+05']) {
    await expectRefused(ask(edge, 'POST', `/v1/webhooks/${id}/replay`, { since }), 'body', 'since')
  }
})

test.each([
  ['GET', '/v1/webhooks'],
  ['POST', '/v1/webhooks'],
  ['GET', '/v1/webhooks/wh_1'],
  ['PATCH', '/v1/webhooks/wh_1'],
  ['DELETE', '/v1/webhooks/wh_1'],
  ['POST', '/v1/webhooks/wh_1/rotate'],
  ['POST', '/v1/webhooks/wh_1/pause'],
  ['POST', '/v1/webhooks/wh_1/enable'],
  ['POST', '/v1/webhooks/wh_1/test'],
  ['GET', '/v1/webhooks/wh_1/deliveries'],
  ['POST', '/v1/webhooks/wh_1/replay'],
  ['POST', '/v1/deliveries/dl_1/replay'],
])('%s %s is for services', async (method, path) => {
  const response = await newEdge().fetch(path, { method, headers: { Authorization: 'Bearer a-wrong-token-of-length' } })
  expect(response.status).toBe(401)
})

test('no route uses Redis', async () => {
  const edge = newDevEdge()
  await edge.redis.fault({ kind: 'refuse' })
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await publish(edge, channel)
  await deliverAll(edge)
  const [delivery] = await readDeliveries(edge, id)
  const { requests } = await edge.redis.counts() // by the other listeners
  for (const [method, path, body] of [
    ['GET', '/v1/webhooks'],
    ['GET', `/v1/webhooks/${id}`],
    ['PATCH', `/v1/webhooks/${id}`, { description: 'x' }],
    ['POST', `/v1/webhooks/${id}/rotate`],
    ['POST', `/v1/webhooks/${id}/test`],
    ['POST', `/v1/webhooks/${id}/pause`],
    ['POST', `/v1/webhooks/${id}/enable`],
    ['POST', `/v1/webhooks/${id}/replay`, { since: '2026-01-01T00:00:00Z' }],
    ['POST', `/v1/deliveries/${delivery?.id}/replay`],
    ['GET', `/v1/webhooks/${id}/deliveries`],
    ['DELETE', `/v1/webhooks/${id}`],
  ] as const) {
    const response = await ask(edge, method, path, body)
    expect([path, response.ok, response.headers.get('Server-Timing')]).toEqual([
      path,
      true,
      expect.stringContaining('0 commands, 0 round trips'),
    ])
  }
  expect((await edge.redis.counts()).requests).toBe(requests)
  expect(await db.select().from(events).where(eq(events.channel, channel))).toHaveLength(1)
})
