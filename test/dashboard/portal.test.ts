import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { createDashboardTokens } from '../../src/dashboard/tokens.ts'
import { events, webhooks } from '../../src/db/schema.ts'
import { type Operation, readOperations } from '../docs/document.ts'
import { type Edge, expectRefused, migrate } from '../edge.ts'
import { addUser, db } from '../rows.ts'
import {
  addWebhook,
  deliverAll,
  newDevEdge,
  publish as publishToServices,
  readDeliveries,
  receiver,
} from '../webhooks/endpoints.ts'
import { expectProblem, newToken, PAGE, ROOT, send, signIn, withCookie } from './world.ts'

beforeAll(migrate)

const newTenant = () => `t-${crypto.randomUUID()}`

/** Creates a link, and answers the token in its fragment. */
async function newLink(edge: Edge, tenant: string, headers: object = ROOT) {
  const response = await send(edge, 'POST', '/v1/webhooks/portal-links', headers, { tenant })
  expect(response.status).toBe(201)
  const { url, expiresAt } = await response.json<{ url: string; expiresAt: string }>()
  const [page, token = ''] = url.split('#portal=')
  expect(page).toBe('https://edge.test/')
  return { token, expiresAt }
}

const enter = async (edge: Edge, tenant: string) => signIn(edge, { link: (await newLink(edge, tenant)).token })

/** Publishes an event that everyone may see, and delivers it. */
async function publish(edge: Edge, channel: string, more: object = { audience: 'everyone' }) {
  const body = { channel, type: 'thing.happened', subject: 'thing', data: { secret: 'of nobody' }, ...more }
  const response = await send(edge, 'POST', '/v1/events', ROOT, body)
  expect(response.status).toBe(202)
  await edge.settle()
  await edge.dispatch()
  await deliverAll(edge)
}

/** An endpoint with a delivery. */
async function newEndpoint(edge: Edge, tenant: string | null) {
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to, { tenant })
  await publish(edge, channel)
  const [delivery] = await readDeliveries(edge, id)
  return { id, channel, to, deliveryId: delivery?.id ?? expect.fail('nothing was delivered') }
}
type Endpoint = Awaited<ReturnType<typeof newEndpoint>>

/** The operations of webhooks, as the document has them: a new one is tested without being named here. */
const operations = [...(await readOperations()).operations].filter(([, operation]) => isOfWebhooks(operation))
function isOfWebhooks({ security = [] }: Operation): boolean {
  return security.some((scheme) => 'serviceToken' in scheme && scheme['serviceToken']?.includes('webhooks:manage'))
}

/** Bodies of the operations that need one. */
const bodies: Record<string, (to: string) => object> = {
  'POST /v1/webhooks': (url) => ({ url, channels: ['custom_portal'] }),
  'PATCH /v1/webhooks/{id}': () => ({ description: 'Changed' }),
  'POST /v1/webhooks/{id}/replay': () => ({ since: '2026-01-01T00:00:00Z', includeDelivered: true }),
  'POST /v1/webhooks/portal-links': () => ({ tenant: 'acme' }),
}

function call(edge: Edge, name: string, { id, deliveryId }: Endpoint, headers: object) {
  const [method = '', pattern = ''] = name.split(' ')
  const path = pattern.replace('{id}', pattern.includes('deliveries/{id}') ? deliveryId : id)
  return send(edge, method, `/dashboard${path}`, headers, bodies[name]?.(receiver().url))
}

test('the matrix covers every operation', () => {
  expect(operations.map(([name]) => name)).toEqual(expect.arrayContaining(Object.keys(bodies)))
  expect(operations).toHaveLength(14)
})

test.each(operations)('portal: %s', async (name) => {
  const edge = newDevEdge()
  const [tenant, other] = [newTenant(), newTenant()]
  const [own, others, nobodys] = [
    await newEndpoint(edge, tenant),
    await newEndpoint(edge, other),
    await newEndpoint(edge, null),
  ]
  const before = JSON.stringify([await stateOf(others.id), await stateOf(nobodys.id)])
  const headers = await enter(edge, tenant)
  const isAboutOne = name.includes('{id}')
  const isRefused = name === 'POST /v1/webhooks/portal-links'
  const statuses: Record<string, number> = {}
  for (const [whose, endpoint] of Object.entries({ others, nobodys, own })) {
    const response = await call(edge, name, endpoint, headers)
    statuses[whose] = response.status
    const text = await response.text()
    if (response.status === 404) expect(text).toContain('/problems/not-found')
    if (response.status === 403) expect(text).toContain('/problems/scope-required')
    for (const hidden of [others, nobodys]) {
      if (endpoint !== hidden) for (const id of [hidden.id, hidden.channel]) expect(text).not.toContain(id)
    }
  }
  const good =
    name === 'POST /v1/webhooks' ? 201 : name.startsWith('DELETE') ? 204 : name.endsWith('/replay') ? 202 : 200
  const everywhere = isRefused ? 403 : good
  expect(statuses).toEqual(
    isAboutOne
      ? { own: good, others: 404, nobodys: 404 }
      : { own: everywhere, others: everywhere, nobodys: everywhere },
  )
  await edge.settle()
  await deliverAll(edge)
  expect(JSON.stringify([await stateOf(others.id), await stateOf(nobodys.id)])).toBe(before)
  expect(await others.to.events()).toHaveLength(1)
  expect(await nobodys.to.events()).toHaveLength(1)

  // Without a session that lasts, nothing.
  const [text = '', tag = ''] = (await newLink(edge, tenant)).token.split('.')
  const claims = { id: 's_a', tokenId: 'root', stamp: '', tenant, expiresAt: Date.now() }
  for (const cookie of [
    createDashboardTokens(env.SERVICE_TOKEN).issue('session', claims), // expired
    `${text}.${tag}`, // a link is no session
    `${text}.${tag.slice(0, -1)}${tag.endsWith('A') ? 'B' : 'A'}`,
  ]) {
    await expectProblem(call(edge, name, own, withCookie(cookie)), 401, 'not-signed-in')
  }
})

/** An endpoint with its deliveries, as services see it. */
async function stateOf(id: string) {
  const edge = newDevEdge()
  const read = async (path: string) => (await send(edge, 'GET', path, ROOT)).json()
  return [await read(`/v1/webhooks/${id}`), await read(`/v1/webhooks/${id}/deliveries`)]
}

test('a list has the endpoints of the tenant only, whatever the query says', async () => {
  const edge = newDevEdge()
  const [tenant, other] = [newTenant(), newTenant()]
  const own = await newEndpoint(edge, tenant)
  await newEndpoint(edge, other)
  const headers = await enter(edge, tenant)
  for (const query of ['', `?tenant=${tenant}`, `?tenant=${other}`, '?limit=100', '?cursor=wh_zzz']) {
    const { items } = await (
      await send(edge, 'GET', `/dashboard/v1/webhooks${query}`, headers)
    ).json<{ items: { id: string }[] }>()
    expect([query, items.map(({ id }) => id)]).toEqual([query, [own.id]])
  }
})

test('a portal reaches nothing but webhooks', async () => {
  const edge = newDevEdge()
  const headers = await enter(edge, newTenant())
  await expectProblem(send(edge, 'GET', '/dashboard/v1/stats', headers), 403, 'scope-required')
  for (const path of ['/v1/webhooks', '/v1/stats', '/v1/service-tokens', '/v1/sessions']) {
    expect((await send(edge, 'GET', path, headers)).status).toBe(401)
  }
  const session = await (await send(edge, 'GET', '/dashboard/session', headers)).json()
  expect(session).toMatchObject({ scopes: ['webhooks:manage'], tenant: expect.any(String) })
})

test('an endpoint that a portal adds belongs to its tenant, which a portal cannot change', async () => {
  const edge = newDevEdge()
  const [tenant, other] = [newTenant(), newTenant()]
  const headers = await enter(edge, tenant)
  const body = { url: receiver().url, channels: ['custom_portal'] }
  const add = (more: object) => send(edge, 'POST', '/dashboard/v1/webhooks', headers, { ...body, ...more })
  const added = await add({})
  expect(added.status).toBe(201)
  const { id, ...webhook } = await added.json<{ id: string; tenant: string }>()
  expect(webhook.tenant).toBe(tenant)
  expect((await add({ tenant })).status).toBe(201)
  await expectRefused(add({ tenant: other }), 'body', 'tenant')
  for (const changed of [other, null]) {
    const path = `/dashboard/v1/webhooks/${id}`
    await expectRefused(send(edge, 'PATCH', path, headers, { tenant: changed }), 'body', 'tenant')
  }
  expect(await db.select().from(webhooks).where(eq(webhooks.tenant, other))).toEqual([])
})

test.each(['mail_events', 'webhook_events', 'moderation_events', 'relation_events'])(
  'an endpoint of a tenant cannot subscribe to %s, in a portal or by a back end',
  async (channel) => {
    const edge = newDevEdge()
    const tenant = newTenant()
    const own = await newEndpoint(edge, tenant)
    const nobodys = await addWebhook(edge, receiver(), { channels: [channel] })
    const portal = await enter(edge, tenant)
    const body = { url: receiver().url, channels: ['post_events', channel] }
    const channels = { channels: [channel] }
    for (const asking of [
      send(edge, 'POST', '/dashboard/v1/webhooks', portal, body),
      send(edge, 'POST', '/v1/webhooks', ROOT, { ...body, tenant }),
      send(edge, 'PATCH', `/dashboard/v1/webhooks/${own.id}`, portal, channels),
      send(edge, 'PATCH', `/v1/webhooks/${own.id}`, ROOT, channels),
      send(edge, 'PATCH', `/v1/webhooks/${nobodys.id}`, ROOT, { tenant }),
    ]) {
      await expectRefused(asking, 'body', 'channels')
    }
  },
)

test('an endpoint of a tenant receives only what everyone may see', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to, { tenant: newTenant() })
  await publish(edge, channel, {}) // for services
  await publish(edge, channel, { audience: ['u_ada'] })
  await publish(edge, channel, { audience: 'followers', subject: 'u_ada' })
  expect(await readDeliveries(edge, id)).toEqual([])
  await publish(edge, channel)
  await send(edge, 'POST', `/v1/webhooks/${id}/replay`, ROOT, { since: '2026-01-01T00:00:00Z', includeDelivered: true })
  await edge.settle()
  await deliverAll(edge)
  const received = await to.events()
  expect(received).toHaveLength(2) // one event, and its replay
  // Strangers count only what they may see.
  for (const { body } of received) expect(JSON.parse(body)).toMatchObject({ sequence: '0000000000000001' })
})

test('an endpoint of a tenant gets the presence that strangers see, and no other endpoint does', async () => {
  const edge = newDevEdge({ LIKES: env.LIKES })
  const [stranger, service] = [receiver(), receiver()]
  const more = { channels: ['user_events'], types: ['user_status_change'] }
  await addWebhook(edge, stranger, { ...more, tenant: newTenant() })
  await addWebhook(edge, service, more)
  const ada = await addUser()
  const headers = await edge.signIn(ada)
  const step = async (method: string, path: string, body?: object) => {
    expect((await send(edge, method, path, headers, body)).status).toBeLessThan(300)
    await edge.settle()
    await edge.dispatch()
    await deliverAll(edge)
  }
  await step('POST', '/v1/presence/heartbeat')
  await step('PATCH', '/v1/presence', { visibility: 'followers' })
  const seen = async (to: typeof stranger) =>
    (await to.events()).map(({ body }) => (JSON.parse(body) as { data: { status: string } }).data.status)
  expect(await seen(stranger)).toEqual(['online', 'offline'])
  expect(await seen(service)).not.toContain('offline')
})

test('a tenant that gets an endpoint learns nothing of private events that it took before', async () => {
  const edge = newDevEdge()
  const to = receiver()
  await to.plan({}, { status: 500 })
  const { id, channel } = await addWebhook(edge, to)
  await publishToServices(edge, channel, { hidden: 'secret' })
  await deliverAll(edge)
  const tenant = newTenant()
  const given = await send(edge, 'PATCH', `/v1/webhooks/${id}`, ROOT, { tenant })
  expect(await given.json()).toMatchObject({ tenant })
  const headers = await enter(edge, tenant)
  const [delivery] = await readDeliveries(edge, id)
  expect(delivery?.status).toBe('pending')

  const read = await send(edge, 'GET', `/dashboard/v1/deliveries/${delivery?.id}`, headers)
  expect(await read.json()).toMatchObject({ request: { body: null } })
  const replay = () => send(edge, 'POST', `/dashboard/v1/deliveries/${delivery?.id}/replay`, headers)
  await expectProblem(replay(), 409, 'event-gone')
  await to.plan({})
  const theirs = receiver()
  await send(edge, 'PATCH', `/dashboard/v1/webhooks/${id}`, headers, { url: theirs.url })
  await edge.settle()
  while (edge.deliveries.sent.length > 0) {
    for (const message of edge.deliveries.sent) message.delaySeconds = 0
    await deliverAll(edge)
  }
  expect(await theirs.events()).toEqual([])
  expect((await readDeliveries(edge, id)).at(0)).toMatchObject({
    status: 'dead',
    attempts: [{ status: 500 }, { error: 'not sent: its event is not public' }],
  })
})

test.each([
  [{}, 'tenant'],
  [{ tenant: '' }, 'tenant'],
  [{ tenant: 'a'.repeat(65) }, 'tenant'],
  [{ tenant: 'a/b' }, 'tenant'],
  [{ tenant: 'a\n' }, 'tenant'],
  [{ tenant: 1 }, 'tenant'],
  [{ tenant: 'a', expiresInSeconds: 59 }, 'expiresInSeconds'],
  [{ tenant: 'a', expiresInSeconds: 86_401 }, 'expiresInSeconds'],
  [{ tenant: 'a', expiresInSeconds: 60.5 }, 'expiresInSeconds'],
  [{ tenant: 'a', scopes: [] }, 'scopes'],
])('a link with %j is refused and names %s', (body, field) =>
  expectRefused(send(newDevEdge(), 'POST', '/v1/webhooks/portal-links', ROOT, body), 'body', field),
)

test.each(['', 'a'.repeat(65), 'a b', 'ä'])('a webhook with the tenant %j is refused and names it', async (tenant) => {
  const edge = newDevEdge()
  const { id } = await addWebhook(edge, receiver())
  const body = { url: receiver().url, channels: ['custom_a'], tenant }
  await expectRefused(send(edge, 'POST', '/v1/webhooks', ROOT, body), 'body', 'tenant')
  await expectRefused(send(edge, 'PATCH', `/v1/webhooks/${id}`, ROOT, { tenant }), 'body', 'tenant')
  await expectRefused(send(edge, 'GET', `/v1/webhooks?tenant=${encodeURIComponent(tenant)}`, ROOT), 'query', 'tenant')
})

test('a back end gives an endpoint to a tenant, lists those of the tenant, and takes it back', async () => {
  const edge = newDevEdge()
  const tenant = newTenant()
  const [one, two] = [await addWebhook(edge, receiver(), { tenant }), await addWebhook(edge, receiver())]
  const change = (id: string, to: string | null) => send(edge, 'PATCH', `/v1/webhooks/${id}`, ROOT, { tenant: to })
  const listed = async () => {
    const response = await send(edge, 'GET', `/v1/webhooks?tenant=${tenant}`, ROOT)
    return (await response.json<{ items: { id: string; tenant: string }[] }>()).items
  }
  expect(await listed()).toMatchObject([{ id: one.id, tenant }])
  await change(two.id, tenant)
  expect((await listed()).map(({ id }) => id)).toEqual([two.id, one.id])
  await change(one.id, null)
  await send(edge, 'PATCH', `/v1/webhooks/${two.id}`, ROOT, { description: 'the tenant stays' })
  expect((await listed()).map(({ id }) => id)).toEqual([two.id])
})

test('a tenant has at most 20 endpoints', async () => {
  const edge = newDevEdge()
  const tenant = newTenant()
  const headers = await enter(edge, tenant)
  const add = () =>
    send(edge, 'POST', '/dashboard/v1/webhooks', headers, { url: receiver().url, channels: ['custom_portal'] })
  const statuses = await Promise.all(Array.from({ length: 22 }, async () => (await add()).status))
  expect(statuses.filter((status) => status === 201)).toHaveLength(20)
  await expectProblem(add(), 409, 'too-many-webhooks')
  expect((await addWebhook(edge, receiver(), { tenant: newTenant() })).status).toBe('enabled')
})

test('a tenant may send 300 requests a minute', async () => {
  const edge = newDevEdge()
  const [headers, others] = [await enter(edge, newTenant()), await enter(edge, newTenant())]
  const read = () => send(edge, 'GET', '/dashboard/v1/webhooks/wh_none', headers)
  for (let i = 0; i < 300; i += 1) expect((await read()).status).toBe(404)
  await expectProblem(read(), 429, 'rate-limited')
  expect((await send(edge, 'GET', '/dashboard/v1/webhooks', others)).status).toBe(200)
})

test('an altered link is refused, each letter of it', async () => {
  const edge = newDevEdge()
  const { token } = await newLink(edge, newTenant())
  const address = () => `192.0.2.${Math.floor(Math.random() * 256)}, ${crypto.randomUUID()}`
  const use = (link: string) =>
    send(edge, 'POST', '/dashboard/session', { ...PAGE, 'CF-Connecting-IP': address() }, { link })
  for (let i = 0; i < token.length; i += 1) {
    const altered = token.slice(0, i) + (token[i] === 'A' ? 'B' : 'A') + token.slice(i + 1)
    const response = await use(altered)
    expect(response.headers.get('Set-Cookie')).toBeNull()
    await expectProblem(response, 401, 'not-signed-in')
  }
  expect((await use(token)).status).toBe(200)
  const claims = { id: 's_a', tokenId: 'root', stamp: '', expiresAt: Date.now() + 60_000 }
  await expectProblem(use(createDashboardTokens(env.SERVICE_TOKEN).issue('session', claims)), 401, 'not-signed-in')
})

test('a link ends when the token that made it is revoked or rotated, with its sessions', async () => {
  const edge = newDevEdge({ SERVICE_TOKEN_SECONDS: '0' })
  const endings = [
    ['DELETE', '', undefined],
    ['POST', '/rotate', {}],
  ] as const
  for (const [method, action, body] of endings) {
    const { id, token } = await newToken(edge, 'webhooks:manage')
    const { token: link } = await newLink(edge, newTenant(), { Authorization: `Bearer ${token}` })
    const headers = await signIn(edge, { link })
    expect((await send(edge, 'GET', '/dashboard/v1/webhooks', headers)).status).toBe(200)
    await send(edge, method, `/v1/service-tokens/${id}${action}`, ROOT, body)
    await expectProblem(send(edge, 'GET', '/dashboard/v1/webhooks', headers), 401, 'not-signed-in')
    await expectProblem(send(edge, 'POST', '/dashboard/session', PAGE, { link }), 401, 'not-signed-in')
  }
})

test('a token without webhooks:manage makes no links', async () => {
  const edge = newDevEdge()
  const { token } = await newToken(edge, 'stats:read')
  const answer = send(edge, 'POST', '/v1/webhooks/portal-links', { Authorization: `Bearer ${token}` }, { tenant: 'a' })
  await expectProblem(answer, 403, 'scope-required')
})

test('each user of a link signs out alone', async () => {
  const edge = newDevEdge({ SERVICE_TOKEN_SECONDS: '0' })
  const { token: link } = await newLink(edge, newTenant())
  const [one, other] = [await signIn(edge, { link }), await signIn(edge, { link })]
  expect((await send(edge, 'DELETE', '/dashboard/session', one)).status).toBe(204)
  await expectProblem(send(edge, 'GET', '/dashboard/session', one), 401, 'not-signed-in')
  expect((await send(edge, 'GET', '/dashboard/session', other)).status).toBe(200)
})

describe('with a clock that the test sets', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }))
  afterEach(() => void vi.useRealTimers())

  test('a link and its sessions end an hour later', async () => {
    const edge = newDevEdge()
    const { token: link, expiresAt } = await newLink(edge, newTenant())
    expect(Date.parse(expiresAt) - Date.now()).toBe(3_600_000)
    const use = () => send(edge, 'POST', '/dashboard/session', PAGE, { link })
    vi.setSystemTime(Date.now() + 3_599_999)
    const headers = await signIn(edge, { link })
    const session = await (await send(edge, 'GET', '/dashboard/session', headers)).json()
    expect(session).toMatchObject({ expiresAt })
    vi.setSystemTime(Date.now() + 1)
    await expectProblem(send(edge, 'GET', '/dashboard/v1/webhooks', headers), 401, 'not-signed-in')
    await expectProblem(use(), 401, 'not-signed-in')
  })
})

test('a delivery shows its request and answers, and no secret', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const answer = { status: 500, body: 'sorry', headers: { 'Retry-After': '7', 'Set-Cookie': 'theirs=1' } }
  const { id, channel } = await addWebhook(edge, to, { headers: { Authorization: 'Bearer theirs' } })
  await to.plan(answer)
  const eventId = await publishToServices(edge, channel, { total: 12 })
  await deliverAll(edge)
  const [delivery] = await readDeliveries(edge, id)
  const response = await send(edge, 'GET', `/v1/deliveries/${delivery?.id}`, ROOT)
  const text = await response.text()
  expect(text).not.toMatch(/theirs|whsec_/)
  const shown = JSON.parse(text) as { request: { headers: Record<string, string | null>; body: string } }
  expect(shown).toMatchObject({
    id: delivery?.id,
    eventId,
    status: 'pending',
    attempts: [
      {
        status: 500,
        error: null,
        durationMs: expect.any(Number),
        answer: 'sorry',
        answerHeaders: { 'retry-after': '7' },
      },
    ],
  })
  const [received] = await to.events()
  expect(shown.request.body).toBe(received?.body)
  for (const [name, value] of Object.entries(shown.request.headers)) {
    if (value === null) expect(received?.headers[name]).toEqual(expect.any(String))
    else if (name !== 'traceparent') expect([name, received?.headers[name]]).toEqual([name, value])
  }
  const secret = Object.entries(shown.request.headers).flatMap(([name, value]) => (value === null ? [name] : []))
  expect(secret.sort()).toEqual(['authorization', 'webhook-signature'])

  await db.delete(events).where(eq(events.id, eventId))
  const later = await send(edge, 'GET', `/v1/deliveries/${delivery?.id}`, ROOT)
  expect(await later.json()).toMatchObject({ type: null, request: { body: null } })
})

test('a message to a user is in no delivery', async () => {
  const edge = newDevEdge()
  const { id, channel } = await addWebhook(edge, receiver())
  const eventId = await publishToServices(edge, channel, { to: 'ada@example.com' })
  await deliverAll(edge)
  await db.update(events).set({ channel: 'mail_events' }).where(eq(events.id, eventId))
  const [delivery] = await readDeliveries(edge, id)
  const response = await send(edge, 'GET', `/v1/deliveries/${delivery?.id}`, ROOT)
  expect(await response.text()).not.toContain('ada@example.com')
})

test('a list shows how well endpoints answer', async () => {
  const edge = newDevEdge({ WEBHOOK_CIRCUIT_FAILURES: '2' })
  const tenant = newTenant()
  const [good, bad] = [receiver(), receiver()]
  const idle = await addWebhook(edge, receiver(), { tenant })
  const one = await addWebhook(edge, good, { tenant })
  const two = await addWebhook(edge, bad, { tenant })
  await bad.plan({}, { status: 500 })
  const startedAt = new Date(Date.now() - 1).toISOString()
  for (let i = 0; i < 3; i += 1) {
    await publish(edge, one.channel)
    await publish(edge, two.channel)
  }
  const response = await send(edge, 'GET', `/v1/webhooks?tenant=${tenant}`, ROOT)
  const { items } = await response.json<{ items: { id: string; health: Record<string, unknown> }[] }>()
  const none = { succeeded: 0, failed: 0, successRate: null, pending: 0, lastSuccessAt: null, lastFailureAt: null }
  expect(items).toMatchObject([
    {
      id: two.id,
      health: {
        circuit: 'open',
        succeeded: 1,
        failed: 2,
        successRate: 1 / 3,
        pending: 2,
        openUntil: expect.any(String),
      },
    },
    {
      id: one.id,
      health: { circuit: 'closed', succeeded: 3, failed: 0, successRate: 1, pending: 0, lastFailureAt: null },
    },
    { id: idle.id, health: { circuit: 'closed', openUntil: null, ...none } },
  ])
  const times = [
    items[0]?.health['lastSuccessAt'],
    items[0]?.health['lastFailureAt'],
    items[1]?.health['lastSuccessAt'],
  ]
  for (const time of times) expect(String(time) > startedAt).toBe(true)
})
