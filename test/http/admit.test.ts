import { env } from 'cloudflare:workers'
import { Hono } from 'hono'
import { beforeAll, expect, test } from 'vitest'
import { createControl } from '../../emulator/control.ts'
import { type LimitPolicy, readConfig } from '../../src/config.ts'
import { features } from '../../src/features.ts'
import type { AppEnv } from '../../src/http/context.ts'
import { admit } from '../../src/http/admit.ts'
import { networkOf } from '../../src/http/limit.ts'
import { follow } from '../../src/http/log.ts'
import { renderError } from '../../src/http/problem.ts'
import { createIsolate, createPlatform } from '../../src/platform.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addUser } from '../rows.ts'

beforeAll(migrate)

const FROM = { headers: { 'CF-Connecting-IP': '192.0.2.1' } }
const from = (address: string) => ({ headers: { 'CF-Connecting-IP': address } })

/** Two reads an hour. */
const newLimited = (bindings = {}, token?: string) =>
  newEdge({ LIMIT_READS: '2', LIMIT_READS_SECONDS: '86400', ...bindings }, token)

/** Sends requests one after another. Each is counted before the next. */
async function statuses(edge: Edge, path: string, ...inits: RequestInit<IncomingRequestCfProperties>[]) {
  const seen = []
  for (const init of inits) {
    seen.push((await edge.fetch(path, init)).status)
    await edge.settle()
  }
  return seen
}

/** A Worker with one route, limited by `policy`. `calls` counts the calls of its handler. */
function newLimitedRoute(policy: Partial<LimitPolicy>, readTimeoutMs = 5_000) {
  const token = `test-${crypto.randomUUID()}`
  const defaults = readConfig({ ...env, UPSTASH_REDIS_REST_TOKEN: token, REDIS_READ_TIMEOUT_MS: readTimeoutMs })
  const reads: LimitPolicy = { limit: 2, windowSeconds: 86_400, isStrict: true, onOutage: 'closed', ...policy }
  const config = { ...defaults, limits: { ...defaults.limits, reads } }
  const isolate = createIsolate(config, features)
  const works: Promise<unknown>[] = []
  const calls = { count: 0 }
  const app = new Hono<AppEnv>()
    .onError(renderError)
    .use(follow)
    .use(async (c, next) => {
      const defer = (work: () => Promise<unknown>) => void works.push(work())
      c.set('config', config)
      c.set('defer', defer)
      c.set('use', createPlatform(isolate, env, { onFailure: () => {}, defer }).use)
      await next()
    })
    .get('/', admit('reads', { session: 'none' }), (c) => {
      calls.count += 1
      return c.text('done')
    })
  return {
    calls,
    redis: createControl(env.UPSTASH_REDIS_REST_URL, token),
    fetch: async (init: RequestInit = FROM) => app.request('/', init),
    settle: () => Promise.all(works.splice(0)),
  }
}

test('the 429 names the policy and says when to try again', async () => {
  const edge = newLimited()
  const path = `/v1/users/${(await addUser()).id}`
  expect(await statuses(edge, path, FROM, FROM, FROM)).toEqual([200, 200, 200]) // counted after the answer: one too many

  const response = await edge.fetch(path, FROM)
  expect(response.status).toBe(429)
  expect(response.headers.get('Content-Type')).toBe('application/problem+json')
  const problem = await response.json<{ retryAfter: number }>()
  expect(problem).toEqual({
    type: '/problems/rate-limited',
    title: 'Too many requests',
    status: 429,
    detail: `Try again in ${problem.retryAfter} s`,
    instance: path,
    retryAfter: expect.any(Number),
    'violated-policies': ['reads'],
  })
  expect(response.headers.get('Retry-After')).toBe(String(problem.retryAfter))
  expect(problem.retryAfter).toBeGreaterThan(0)
  expect(problem.retryAfter).toBeLessThanOrEqual(86_400 + 28_801) // three requests in this window, of which two may count
  expect(response.headers.get('RateLimit')).toBe(`"reads";r=0;t=${problem.retryAfter}`)
})

test('every answer has the policy, and what remains as far as the isolate knows', async () => {
  const edge = newLimited()
  const path = `/v1/users/${(await addUser()).id}`
  const headersSeen = []
  for (let i = 0; i < 3; i += 1) {
    const { headers } = await edge.fetch(path, FROM)
    await edge.settle()
    expect(headers.get('RateLimit-Policy')).toBe('"reads";q=2;w=86400')
    headersSeen.push(headers.get('RateLimit')?.replace(/t=\d+$/, 't='))
  }
  expect(headersSeen).toEqual(['"reads";r=2;t=', '"reads";r=1;t=', '"reads";r=0;t='])
})

test('RateLimit has the seconds until the window ends', async () => {
  const edge = newLimited()
  await statuses(edge, '/v1/users/u_a', FROM)
  const { headers } = await edge.fetch('/v1/users/u_a', FROM)
  const leftSeconds = 86_400 - ((Date.now() / 1_000) % 86_400)
  const seconds = Number(/t=(\d+)$/.exec(headers.get('RateLimit') ?? '')?.[1])
  expect(Math.abs(seconds - leftSeconds)).toBeLessThan(5)
  await edge.settle()
})

test('a refused caller costs no round trip in an isolate that knows it', async () => {
  const edge = newLimited()
  const path = `/v1/users/${(await addUser()).id}`
  await statuses(edge, path, FROM, FROM, FROM)
  await edge.redis.reset()

  expect(await statuses(edge, path, FROM, FROM, FROM)).toEqual([429, 429, 429])
  expect(await edge.redis.counts()).toMatchObject({ requests: 0, commands: 0 })

  const other = newLimited({}, edge.token)
  expect(await statuses(other, path, FROM, FROM)).toEqual([200, 429])
})

test('a user has one quota for all addresses, and costs no round trip when it is spent', async () => {
  const edge = newLimited()
  const user = await addUser()
  const headers = await edge.signIn(user)
  const asUser = (address: string) => ({ headers: { ...headers, 'CF-Connecting-IP': address } })
  const everywhere = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'].map(asUser)
  expect(await statuses(edge, '/v1/sessions', ...everywhere)).toEqual([200, 200, 200, 429])

  await edge.redis.reset()
  expect(await statuses(edge, '/v1/sessions', ...everywhere)).toEqual([429, 429, 429, 429])
  expect((await edge.redis.counts()).requests).toBe(0)
  expect(await statuses(edge, '/v1/posts/hot', FROM)).toEqual([200])
})

test('each address has its own quota', async () => {
  const edge = newLimited()
  const path = `/v1/users/${(await addUser()).id}`
  await statuses(edge, path, FROM, FROM, FROM)
  expect(await statuses(edge, path, FROM, from('192.0.2.2'))).toEqual([429, 200])
})

test('an IPv6 /64 shares a quota, and so does an IPv4 address with its mapped form', async () => {
  const edge = newLimited()
  const path = `/v1/users/${(await addUser()).id}`
  const neighbours = ['2001:db8::1', '2001:db8::2', '2001:db8:0:0:ffff::', '2001:db8::3', '2001:db8:0:1::1'].map(from)
  expect(await statuses(edge, path, ...neighbours)).toEqual([200, 200, 200, 429, 200])

  const forms = ['192.0.2.7', '::ffff:192.0.2.7', '::FFFF:192.0.2.7', '192.0.2.7', '192.0.2.8'].map(from)
  expect(await statuses(edge, path, ...forms)).toEqual([200, 200, 200, 429, 200])
})

test.each([
  ['192.0.2.1', '192.0.2.1'],
  ['::ffff:192.0.2.1', '192.0.2.1'],
  ['::FFFF:192.0.2.1', '192.0.2.1'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:DB8:1:2::', '2001:db8:1:2::/64'],
  ['2001:0db8:0001:0002:0003::1', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['2001:db8::1:2:3:4:5', '2001:db8:0:1::/64'],
  ['::1', '0:0:0:0::/64'],
  ['::', '0:0:0:0::/64'],
  ['1::', '1:0:0:0::/64'],
  ['1:2:3:4:5:6:7::', '1:2:3:4::/64'],
  ['::2:3:4:5:6:7:8', '0:2:3:4::/64'],
  ['0000:0000:0000:0000:0000:0000:0000:0001', '0:0:0:0::/64'],
  ['unknown', 'unknown'],
])('the network of %s is %s', (address, network) => {
  expect(networkOf(address)).toBe(network)
})

test('a read does not wait for its limit: it is counted after the answer', async () => {
  const edge = newLimited({ REDIS_READ_TIMEOUT_MS: '2000' })
  const path = `/v1/users/${(await addUser()).id}`
  await statuses(edge, path, FROM)
  await edge.redis.reset()
  await edge.redis.latency(1_000)

  const startedAt = Date.now()
  const response = await edge.fetch(path, FROM)
  expect(Date.now() - startedAt).toBeLessThan(800)
  expect([response.status, roundTrips(response)]).toEqual([200, 0])
  await edge.settle()
  expect(await edge.redis.counts()).toMatchObject({ requests: 1, byCommand: { evalsha: 1 } })
})

test('invalid requests and those that find nothing count too', async () => {
  const edge = newLimited()
  const paths = ['/v1/users/x', '/v1/users/u_nobody', '/v1/posts/hot?limit=0', '/v1/posts/hot']
  const seen = []
  for (const path of paths) seen.push(...(await statuses(edge, path, FROM)))
  expect(seen).toEqual([400, 404, 400, 429])
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('reads stay open when Redis does "%s"', async (kind) => {
  const edge = newLimited({ REDIS_READ_TIMEOUT_MS: '250' })
  const path = `/v1/users/${(await addUser()).id}`
  await edge.redis.fault({ kind })
  expect(await statuses(edge, path, FROM, FROM, FROM, FROM, FROM)).toEqual([200, 200, 200, 200, 200])
})

test('a strict policy admits exactly the quota of simultaneous requests, and runs no handler for the others', async () => {
  const route = newLimitedRoute({ limit: 5 })
  const responses = await Promise.all(Array.from({ length: 20 }, () => route.fetch()))
  const seen = responses.map((response) => response.status)
  expect(seen.filter((status) => status === 200)).toHaveLength(5)
  expect(seen.filter((status) => status === 429)).toHaveLength(15)
  expect(route.calls.count).toBe(5)
})

test('a strict policy counts before the work, so the first answer says what remains', async () => {
  const route = newLimitedRoute({})
  expect((await route.fetch()).headers.get('RateLimit')).toMatch(/^"reads";r=1;t=\d+$/)
  expect((await route.fetch()).headers.get('RateLimit')).toMatch(/^"reads";r=0;t=\d+$/)
  expect((await route.fetch()).status).toBe(429)
  // Three, one for the first use of the script, and one that reads when a place is free.
  expect((await route.redis.counts()).requests).toBe(5)
  expect((await route.fetch()).status).toBe(429)
  expect((await route.redis.counts()).requests).toBe(5)
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)(
  'a strict and closed policy answers 503, never 429, when Redis does "%s"',
  async (kind) => {
    const route = newLimitedRoute({ limit: 1 }, 100)
    await route.redis.fault({ kind })
    for (let i = 0; i < 7; i += 1) {
      const response = await route.fetch()
      expect(response.status).toBe(503)
      expect(response.headers.get('Retry-After')).toBe('5')
      expect(response.headers.has('RateLimit')).toBe(false)
      expect(await response.json()).toMatchObject({ type: expect.stringMatching(/unavailable$/), retryAfter: 5 })
    }
    expect(route.calls.count).toBe(0)
  },
)

test('a strict and open policy admits all requests without Redis, and does not say what remains', async () => {
  const route = newLimitedRoute({ limit: 1, onOutage: 'open' })
  await route.redis.fault({ kind: 'refuse' })
  for (let i = 0; i < 7; i += 1) {
    const response = await route.fetch()
    expect(response.status).toBe(200)
    expect(response.headers.get('RateLimit-Policy')).toBe('"reads";q=1;w=86400')
    expect(response.headers.has('RateLimit')).toBe(false)
  }
})

interface Limits {
  items: { policy: string; limit: number; windowSeconds: number; remaining: number; resetsAt: string }[]
}

test('GET /v1/rate-limit spends none of the limits it shows', async () => {
  const edge = newLimited()
  const ask = async (init = FROM) => {
    const response = await edge.fetch('/v1/rate-limit', init)
    expect([response.status, response.headers.get('Cache-Control')]).toEqual([200, 'no-store'])
    const { items } = await response.json<Limits>()
    return items.find(({ policy }) => policy === 'reads')
  }
  expect(await ask()).toMatchObject({ limit: 2, windowSeconds: 86_400, remaining: 2 })
  await statuses(edge, '/v1/users/u_a', FROM)
  for (let i = 0; i < 4; i += 1) expect(await ask()).toMatchObject({ remaining: 1 })

  await statuses(edge, '/v1/users/u_a', FROM, FROM, FROM)
  const left = await ask() // not limited itself
  expect(left?.remaining).toBe(0)
  expect(Date.parse(left?.resetsAt ?? '')).toBeGreaterThan(Date.now())
  expect(await ask(from('192.0.2.2'))).toMatchObject({ remaining: 2 })
})

test('GET /v1/rate-limit shows every configured limit in one round trip', async () => {
  const edge = newLimited()
  await edge.fetch('/v1/rate-limit') // the server learns the script
  const response = await edge.fetch('/v1/rate-limit')
  const { items } = await response.json<Limits>()
  expect(items.map(({ policy }) => policy)).toEqual(Object.keys(readConfig(env).limits))
  expect(roundTrips(response)).toBe(1)
})

test('GET /v1/rate-limit answers 503 without Redis', async () => {
  const edge = newLimited()
  await edge.redis.fault({ kind: 'refuse' })
  const response = await edge.fetch('/v1/rate-limit', FROM)
  expect(response.status).toBe(503)
  expect(response.headers.get('Retry-After')).toBe('5')
  expect(await response.json()).toMatchObject({ type: '/problems/unavailable', retryAfter: 5 })
})
