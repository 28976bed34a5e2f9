import { expect, test } from 'vitest'
import { type Edge, newEdge, roundTrips } from '../edge.ts'

const SERVICE = { Authorization: 'Bearer a-service-token-for-tests' }
const OWNER = 'a-random-owner-of-20'

interface Lock {
  name: string
  owner: string
  fence: number
  expiresAt: string
}

const send = (edge: Edge, method: string, path: string, body?: unknown, headers: Record<string, string> = SERVICE) =>
  edge.fetch(`/v1/locks/${path}`, {
    method,
    headers: { ...headers, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })

async function acquire(edge: Edge, name: string, body: unknown = {}) {
  const response = await send(edge, 'POST', name, body)
  expect(response.status).toBe(200)
  return response.json<Lock>()
}

test('a lock is acquired, held against others, extended, released and acquired again', async () => {
  const edge = newEdge()
  const held = await acquire(edge, 'nightly')
  expect(held).toEqual({
    name: 'nightly',
    owner: expect.stringMatching(/^[\w-]{36}$/),
    fence: expect.any(Number),
    expiresAt: expect.stringMatching(/Z$/),
  })
  expect(Math.abs(Date.parse(held.expiresAt) - Date.now() - 10_000)).toBeLessThan(2_000) // the default

  const refused = await send(edge, 'POST', 'nightly', { ttlMs: 500 })
  expect(refused.status).toBe(409)
  expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(7)
  const problem = await refused.text()
  expect(problem).toContain('/problems/lock-held')
  expect(problem).not.toContain(held.owner)

  const extended = await send(edge, 'PATCH', 'nightly', { owner: held.owner, ttlMs: 60_000 })
  expect(extended.status).toBe(200)
  const longer = await extended.json<Lock>()
  expect(longer).toMatchObject({ name: 'nightly', owner: held.owner, fence: held.fence })
  expect(Date.parse(longer.expiresAt) - Date.parse(held.expiresAt)).toBeGreaterThan(40_000)

  for (let i = 0; i < 2; i += 1) {
    expect((await send(edge, 'DELETE', `nightly?owner=${held.owner}`)).status).toBe(204)
  }
  expect((await acquire(edge, 'nightly')).fence).toBeGreaterThan(held.fence)
})

test('only its owner extends or releases a lock', async () => {
  const edge = newEdge()
  const held = await acquire(edge, 'a')
  for (const response of [
    await send(edge, 'PATCH', 'a', { owner: OWNER }),
    await send(edge, 'DELETE', `a?owner=${OWNER}`),
    await send(edge, 'PATCH', 'nobody-holds-this', { owner: OWNER }),
  ]) {
    expect(response.status).toBe(409)
    expect(await response.json()).toMatchObject({ type: '/problems/lock-lost' })
  }
  expect((await send(edge, 'PATCH', 'a', { owner: held.owner })).status).toBe(200)
})

test('a caller that names its owner can repeat a request whose reply was lost', async () => {
  const edge = newEdge()
  const first = await acquire(edge, 'a', { owner: OWNER })
  expect(await acquire(edge, 'a', { owner: OWNER })).toMatchObject({ owner: OWNER, fence: first.fence })

  await edge.redis.fault({ kind: 'cut', times: 1 })
  expect((await send(edge, 'POST', 'b', {})).status).toBe(200)
})

test('acquire waits for a lock up to the given time', async () => {
  const edge = newEdge()
  const held = await acquire(edge, 'a', { ttlMs: 600_000 })
  expect((await send(edge, 'POST', 'a', { waitMs: 50 })).status).toBe(409)
  await edge.redis.reset()
  const waiting = acquire(edge, 'a', { waitMs: 10_000 })
  await expect.poll(async () => (await edge.redis.counts()).requests, { timeout: 15_000 }).toBeGreaterThan(0)
  await send(edge, 'DELETE', `a?owner=${held.owner}`)
  expect((await waiting).fence).toBeGreaterThan(held.fence)
})

test('each route is one round trip', async () => {
  const edge = newEdge()
  const acquired = await send(edge, 'POST', 'a', { owner: OWNER })
  const extended = await send(edge, 'PATCH', 'a', { owner: OWNER })
  const released = await send(edge, 'DELETE', `a?owner=${OWNER}`)
  expect([acquired, extended, released].map(roundTrips)).toEqual([1, 1, 1])
})

test('locks of services never collide with locks of our jobs', async () => {
  const edge = newEdge()
  await edge.sdk.set('lock:presence', '1:a job', { px: 60_000 })
  expect(await acquire(edge, 'presence')).toMatchObject({ name: 'presence' })
})

test.each([
  ['POST', 'Nightly', {}, 'path', 'name'],
  ['POST', '-a', {}, 'path', 'name'],
  ['POST', 'a'.repeat(101), {}, 'path', 'name'],
  ['POST', 'a', { ttlMs: 99 }, 'body', 'ttlMs'],
  ['POST', 'a', { ttlMs: 600_001 }, 'body', 'ttlMs'],
  ['POST', 'a', { ttlMs: '1000' }, 'body', 'ttlMs'],
  ['POST', 'a', { ttlMs: 1_000.5 }, 'body', 'ttlMs'],
  ['POST', 'a', { waitMs: -1 }, 'body', 'waitMs'],
  ['POST', 'a', { waitMs: 10_001 }, 'body', 'waitMs'],
  ['POST', 'a', { owner: 'short' }, 'body', 'owner'],
  ['POST', 'a', { owner: 'a:colon:is:for:us:only' }, 'body', 'owner'],
  ['PATCH', 'a', {}, 'body', 'owner'],
  ['PATCH', 'a', { owner: OWNER, ttlMs: 0 }, 'body', 'ttlMs'],
  ['PATCH', 'A', { owner: OWNER }, 'path', 'name'],
  ['DELETE', 'a', undefined, 'query', 'owner'],
  ['DELETE', 'a?owner=short', undefined, 'query', 'owner'],
  ['DELETE', `A?owner=${OWNER}`, undefined, 'path', 'name'],
])('%s %s %j is refused, naming the %s field %s', async (method, path, body, where, field) => {
  const response = await send(newEdge(), method, path, body)
  expect(response.status).toBe(400)
  const { errors } = await response.json<{ errors: unknown[] }>()
  expect(errors).toContainEqual({ in: where, field, message: expect.any(String) })
})

test('a body that is not JSON is refused', async () => {
  const edge = newEdge()
  const init = { method: 'POST', body: '{' }
  const typed = { ...SERVICE, 'Content-Type': 'application/json' }
  expect((await edge.fetch('/v1/locks/a', { ...init, headers: typed })).status).toBe(400)
  expect((await edge.fetch('/v1/locks/a', { ...init, headers: SERVICE })).status).toBe(415)
})

test.each([{}, { Authorization: 'Bearer a-wrong-token' }, { Authorization: 'Basic a-service-token-for-tests' }])(
  'locks are for services: %j is refused, whatever else is wrong',
  async (headers) => {
    const edge = newEdge()
    const held = await acquire(edge, 'a')
    for (const response of [
      await send(edge, 'POST', 'b', {}, headers),
      await send(edge, 'POST', 'B', { ttlMs: -1 }, headers),
      await send(edge, 'PATCH', 'a', { owner: held.owner }, headers),
      await send(edge, 'DELETE', `a?owner=${held.owner}`, undefined, headers),
    ]) {
      expect(response.status).toBe(401)
      expect(await response.json()).toMatchObject({ type: '/problems/service-token-required' })
    }
    expect(await edge.sdk.exists('lock:service:a', 'lock:service:b')).toBe(1)
  },
)

test.each(['refuse', 'hang', 'status'] as const)('without Redis (%s) locks answer 503', async (kind) => {
  const edge = newEdge({ REDIS_WRITE_TIMEOUT_MS: '250' })
  await edge.redis.fault({ kind })
  for (const response of [
    await send(edge, 'POST', 'a', {}),
    await send(edge, 'PATCH', 'a', { owner: OWNER }),
    await send(edge, 'DELETE', `a?owner=${OWNER}`),
  ]) {
    expect([response.status, response.headers.get('Retry-After')]).toEqual([503, '1'])
    expect(await response.json()).toMatchObject({ type: '/problems/unavailable' })
  }
  await edge.redis.clearFaults()
})
