import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { serviceTokens } from '../../src/db/schema.ts'
import { createBoundedMap } from '../../src/redis/bounded-map.ts'
import { createServiceTokens } from '../../src/service-tokens/service-tokens.ts'
import { interruptedDatabase } from '../database.ts'
import { newLab } from '../drills/lab.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { db } from '../rows.ts'
import { custom, open, publish } from '../streams/world.ts'
import { newReceiver } from '../webhooks/receiver.ts'

beforeAll(migrate)

const root = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
const bearer = (token: string) => ({ Authorization: `Bearer ${token}` })
const newName = () => `token ${crypto.randomUUID().slice(0, 8)}`

interface Issued {
  id: string
  token: string
  name: string
  scopes: string[]
}

const send = (edge: Edge, method: string, path: string, headers: object, body?: object) =>
  edge.fetch(path, {
    method,
    headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  })

async function create(edge: Edge, ...scopes: string[]): Promise<Issued> {
  const response = await send(edge, 'POST', '/v1/service-tokens', root, { name: newName(), scopes })
  expect(response.status).toBe(201)
  return response.json<Issued>()
}

const useLock = (edge: Edge, token: string) =>
  send(edge, 'POST', `/v1/locks/${crypto.randomUUID().slice(0, 8)}`, bearer(token), { ttlMs: 1_000 })

/** The tokens of one isolate, whose trust and clock the test decides. */
function newIsolate() {
  const deferred: (() => Promise<unknown>)[] = []
  const memory = createBoundedMap<never>(100, () => 1)
  let guesses = 0
  const tokens = createServiceTokens(db, memory, 30_000, (work) => void deferred.push(work))
  return {
    ...tokens,
    isAccepted: async (token: string, now: number) =>
      (await tokens.identify(token, () => void (guesses += 1), now)) !== undefined,
    settle: () => Promise.all(deferred.splice(0).map((work) => work())),
    guesses: () => guesses,
  }
}

test('a token does what its scopes allow, and the 403 names the scope it lacks', async () => {
  const edge = newEdge()
  const { token, ...issued } = await create(edge, 'locks', 'events:publish', 'locks')
  expect(token).toMatch(/^st_[a-z0-9]{26}\.[\w-]{43}$/)
  expect(issued).toMatchObject({ scopes: ['events:publish', 'locks'], lastUsedAt: null, previousUntil: null })
  expect((await useLock(edge, token)).status).toBe(200)

  const refused = await edge.fetch('/v1/backup/users', { headers: bearer(token) })
  expect([refused.status, refused.headers.get('WWW-Authenticate')]).toEqual([
    403,
    'Bearer error="insufficient_scope", scope="backup"',
  ])
  expect(await refused.json()).toMatchObject({
    type: '/problems/scope-required',
    detail: 'This service token lacks the scope backup',
    scope: 'backup',
  })
})

test('only the root token manages tokens', async () => {
  const edge = newEdge()
  const { id, token } = await create(edge, 'backup', 'locks')
  for (const [method, path, body] of [
    ['POST', '/v1/service-tokens', { name: newName(), scopes: ['locks'] }],
    ['GET', '/v1/service-tokens', undefined],
    ['POST', `/v1/service-tokens/${id}/rotate`, {}],
    ['DELETE', `/v1/service-tokens/${id}`, undefined],
    ['PUT', '/v1/restore', { backup: 'a' }],
  ] as const) {
    const response = await send(edge, method, path, bearer(token), body)
    expect([method, path, response.status]).toEqual([method, path, 403])
    expect(await response.json()).toMatchObject({ scope: 'root' })
  }
})

test('the list shows who has a token, and no secret; D1 has hashes only', async () => {
  const edge = newEdge()
  const [older, newer] = [await create(edge, 'locks'), await create(edge, 'stats:read')]
  await useLock(edge, older.token)
  await edge.settle()
  const response = await edge.fetch('/v1/service-tokens?limit=2', { headers: root })
  const text = await response.text()
  expect(JSON.parse(text)).toMatchObject({
    items: [
      { id: newer.id, name: newer.name, scopes: ['stats:read'], lastUsedAt: null },
      { id: older.id, name: older.name, scopes: ['locks'], lastUsedAt: expect.stringMatching(/^20/) },
    ],
  })
  const rows = JSON.stringify(await db.select().from(serviceTokens))
  for (const { token } of [older, newer]) {
    const [, secret = ''] = token.split('.')
    expect(text).not.toContain(secret)
    expect(rows).not.toContain(secret)
  }
})

test('names are unique: a repeated request adds no second token', async () => {
  const edge = newEdge()
  const body = { name: newName(), scopes: ['locks'] }
  const answers = await Promise.all([1, 2].map(() => send(edge, 'POST', '/v1/service-tokens', root, body)))
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201, 409]))
  const rows = await db.select().from(serviceTokens).where(eq(serviceTokens.name, body.name))
  expect(rows).toHaveLength(1)
})

test.each([
  [{ name: '', scopes: ['locks'] }, 'name'],
  [{ name: 'a\nb', scopes: ['locks'] }, 'name'],
  [{ name: 'a', scopes: [] }, 'scopes'],
  [{ name: 'a', scopes: ['root'] }, 'scopes.0'],
  [{ name: 'a', scopes: 'locks' }, 'scopes'],
  [{ name: 'a', scopes: ['locks'], token: 'mine' }, 'token'],
])('creating %j is refused and names %s', async (body, field) => {
  await expectRefused(send(newEdge(), 'POST', '/v1/service-tokens', root, body), 'body', field)
})

test.each([-1, 1.5, 604_801, '60'])('an overlap of %j is refused', async (overlapSeconds) => {
  const edge = newEdge()
  const { id } = await create(edge, 'locks')
  const rotate = send(edge, 'POST', `/v1/service-tokens/${id}/rotate`, root, { overlapSeconds })
  await expectRefused(rotate, 'body', 'overlapSeconds')
})

test('a rotated secret works until its overlap ends, also when the answers of rotations were lost', async () => {
  const [isolate, other] = [newIsolate(), newIsolate()]
  const first = await isolate.create({ name: newName(), scopes: ['locks'] }, 0)
  expect(await other.isAccepted(first.token, 1)).toBe(true)
  const lost = await isolate.rotate(first.id, 60_000, 10_000)
  const second = await isolate.rotate(first.id, 60_000, 20_000)
  expect(second).toMatchObject({ rotatedAt: '1970-01-01T00:00:20.000Z', previousUntil: '1970-01-01T00:01:20.000Z' })

  for (const each of [isolate, other]) {
    // The other isolate holds the first secret: it asks D1 about one that it does not know.
    expect(await each.isAccepted(second.token, 21_000)).toBe(true)
    expect(await each.isAccepted(lost.token, 21_000)).toBe(true)
    expect(await each.isAccepted(first.token, 69_000)).toBe(true)
    expect(await each.isAccepted(first.token, 70_000)).toBe(false) // 60 s after the first rotation
    expect(await each.isAccepted(lost.token, 79_000)).toBe(true)
    expect(await each.isAccepted(lost.token, 80_000)).toBe(false)
    expect(await each.isAccepted(second.token, 80_000)).toBe(true)
  }
})

test('a rotation without overlap ends all previous secrets', async () => {
  const isolate = newIsolate()
  const first = await isolate.create({ name: newName(), scopes: ['locks'] }, 0)
  const second = await isolate.rotate(first.id, 600_000, 1_000)
  const third = await isolate.rotate(first.id, 0, 2_000)
  const accepted = [first, second, third].map(({ token }) => isolate.isAccepted(token, 2_000))
  expect(await Promise.all(accepted)).toEqual([false, false, true])
  expect(third.previousUntil).toBeNull()
})

test('at most five previous secrets work', async () => {
  const isolate = newIsolate()
  const issued = [await isolate.create({ name: newName(), scopes: ['locks'] }, 0)]
  for (let i = 1; i <= 7; i += 1) issued.push({ ...issued[0]!, ...(await isolate.rotate(issued[0]!.id, 600_000, i)) })
  const accepted = await Promise.all(issued.map(({ token }) => isolate.isAccepted(token, 10)))
  expect(accepted).toEqual([false, false, true, true, true, true, true, true])
})

test('a revoked token stops at once in its isolate, within 30 s in others, even if they use it all the time', async () => {
  const [isolate, other] = [newIsolate(), newIsolate()]
  const { id, token } = await isolate.create({ name: newName(), scopes: ['locks'] }, 0)
  expect(await isolate.isAccepted(token, 1_000)).toBe(true)
  expect(await other.isAccepted(token, 1_000)).toBe(true)
  await isolate.revoke(id)
  expect(await isolate.isAccepted(token, 1_001)).toBe(false)
  expect(await other.isAccepted(token, 15_000)).toBe(true)
  expect(await other.isAccepted(token, 17_000)).toBe(true) // and it asks D1 after the answer
  await other.settle()
  expect(await other.isAccepted(token, 17_001)).toBe(false)

  const third = newIsolate()
  const next = await isolate.create({ name: newName(), scopes: ['locks'] }, 0)
  expect(await third.isAccepted(next.token, 0)).toBe(true)
  await isolate.revoke(next.id)
  expect(await third.isAccepted(next.token, 30_000)).toBe(false) // it asks D1 before the answer
})

test('a read that began before a revocation does not bring the token back', async () => {
  const issuer = newEdge()
  const { id, token } = await create(issuer, 'locks')
  const edge: Edge = newEdge({
    DB: interruptedDatabase(/^select .* from "service_tokens"/i, 1, async () => {
      expect((await send(edge, 'DELETE', `/v1/service-tokens/${id}`, root)).status).toBe(204)
    }),
  })
  expect((await useLock(edge, token)).status).toBe(200) // it was valid when the request began
  expect((await useLock(edge, token)).status).toBe(401)
})

test('a token that is in use waits for D1 once per isolate, and D1 learns of its use once in ten minutes', async () => {
  const isolates = [newIsolate(), newIsolate()]
  const { id, token } = await isolates[0]!.create({ name: newName(), scopes: ['locks'] }, 0)
  const usedAt = async () => (await db.select().from(serviceTokens).where(eq(serviceTokens.id, id)))[0]?.lastUsedAt
  for (let now = 1_000_000; now < 1_600_000; now += 10_000) {
    for (const isolate of isolates) {
      expect(await isolate.isAccepted(token, now)).toBe(true)
      await isolate.settle()
    }
    expect(await usedAt()).toBe(1_000_000)
  }
  expect(isolates.map(({ guesses }) => guesses())).toEqual([1, 1])
  expect(await isolates[1]!.isAccepted(token, 1_600_000)).toBe(true)
  await isolates[1]!.settle()
  expect(await usedAt()).toBe(1_600_000)
})

test('a check costs no Redis command', async () => {
  const edge = newEdge()
  const { token } = await create(edge, 'events:publish')
  const response = await send(edge, 'POST', '/v1/events', bearer(token), {
    channel: 'custom_tokens',
    type: 'thing',
    data: {},
  })
  expect([response.status, roundTrips(response)]).toEqual([202, 0])
})

test('without Redis all tokens work', async () => {
  const lab = newLab()
  const { token } = await create(lab.edge, 'webhooks:manage')
  await lab.redis.fault({ kind: 'refuse' })
  for (const headers of [root, bearer(token)]) {
    expect((await lab.newIsolate().fetch('/v1/webhooks', { headers })).status).toBe(200)
  }
  const created = await send(lab.edge, 'POST', '/v1/service-tokens', root, { name: newName(), scopes: ['locks'] })
  expect(created.status).toBe(201)
})

test('without D1 the root token works, and other tokens where they are known', async () => {
  const lab = newLab()
  const { token } = await create(lab.edge, 'locks')
  const isolate = lab.newIsolate({ SERVICE_TOKEN_SECONDS: '0' })
  expect((await useLock(isolate, token)).status).toBe(200)
  await isolate.settle()
  lab.database.failure = 'refuses'
  expect((await useLock(isolate, token)).status).toBe(200)
  expect((await useLock(isolate, env.SERVICE_TOKEN)).status).toBe(200)
  expect((await useLock(isolate, `${token.slice(0, -1)}!`)).status).toBe(401) // no token has this form
  const unknown = await useLock(lab.newIsolate(), token)
  expect([unknown.status, unknown.headers.get('Retry-After')]).toEqual([503, '5'])
  await Promise.all([isolate.settle(), lab.edge.settle()])
})

test('an isolate looks up 60 wrong tokens of a network in a minute, then answers 429', async () => {
  const edge = newEdge()
  const { token } = await create(edge, 'locks')
  const [id = ''] = token.split('.')
  const from = (address: string, forged: string) =>
    edge.fetch('/v1/locks/a', {
      method: 'DELETE',
      headers: { ...bearer(forged), 'CF-Connecting-IP': address },
    })
  expect((await from('192.0.2.7', token)).status).toBe(400) // admitted; it names no owner
  const seen = []
  for (let i = 0; i < 130; i += 1) seen.push((await from('192.0.2.7', `${id}.${'a'.repeat(43)}`)).status)
  expect(seen.slice(0, 60)).toEqual(Array.from({ length: 60 }, () => 401))
  expect(seen).toContain(429) // a minute may end meanwhile
  expect((await from('192.0.2.7', token)).status).toBe(400) // a known token needs no guess
  expect((await from('192.0.2.8', `${id}.${'b'.repeat(43)}`)).status).toBe(401)
})

test('a stream with a service token needs events:read, shows what is for services, and ends with the token', async () => {
  const edge = newEdge({ STREAM_CHECK_SECONDS: '1', SERVICE_TOKEN_SECONDS: '0' })
  const [reader, other] = [await create(edge, 'events:read'), await create(edge, 'stats:read')]
  const refused = await edge.fetch('/v1/events/stream?channels=custom_test', { headers: bearer(other.token) })
  expect(refused.status).toBe(403)
  expect(await refused.json()).toMatchObject({ scope: 'events:read' })

  const stream = await open(edge, bearer(reader.token))
  await publish(edge, custom('for_services', { audience: 'services' }))
  expect((await stream.event()).type).toBe('for_services')
  await send(edge, 'DELETE', `/v1/service-tokens/${reader.id}`, root)
  expect(await stream.next()).toBeUndefined()
  await edge.settle()
})

test('only a token with the scope mail sends messages to users to a webhook, or moves such a webhook', async () => {
  const edge = newEdge({ ALLOW_PRIVATE_WEBHOOKS: 'true' })
  const { url } = newReceiver(env.RECEIVER_URL)
  const [manager, mailer] = [await create(edge, 'webhooks:manage'), await create(edge, 'webhooks:manage', 'mail')]
  const as = ({ token }: Issued) => ({ Authorization: `Bearer ${token}` })
  const add = (who: Issued, channels: string[]) => send(edge, 'POST', '/v1/webhooks', as(who), { url, channels })
  const refused = await add(manager, ['mail_events'])
  expect([refused.status, await refused.json()]).toEqual([403, expect.objectContaining({ scope: 'mail' })])
  const other = await (await add(manager, ['post_events'])).json<{ id: string }>()
  const mails = await (await add(mailer, ['mail_events'])).json<{ id: string }>()
  const change = async (who: Issued, id: string, changes: object) =>
    (await send(edge, 'PATCH', `/v1/webhooks/${id}`, as(who), changes)).status
  expect(await change(manager, other.id, { channels: ['post_events', 'mail_events'] })).toBe(403)
  expect(await change(manager, mails.id, { url: `${url}/elsewhere` })).toBe(403)
  expect(await change(manager, other.id, { channels: ['user_events'] })).toBe(200)
  expect(await change(mailer, mails.id, { channels: ['mail_events', 'user_events'] })).toBe(200)
})
