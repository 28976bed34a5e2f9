import { env } from 'cloudflare:workers'
import { Hono } from 'hono'
import * as v from 'valibot'
import { beforeAll, expect, test, vi } from 'vitest'
import { requireJson, valid } from '../../src/http/openapi.ts'
import { renderError } from '../../src/http/problem.ts'
import { migrate, newEdge, newRoutes } from '../edge.ts'
import { addPost, addUser } from '../rows.ts'

beforeAll(migrate)

/** A Worker with one route, which returns its body. */
const taker = new Hono()
  .onError(renderError)
  .post('/', requireJson, valid('json', v.object({ text: v.string(), likes: v.optional(v.number()) })), (c) =>
    c.json(c.req.valid('json')),
  )
const give = (body: string, type?: string) =>
  taker.request('https://edge.test/', {
    method: 'POST',
    body,
    headers: type === undefined ? {} : { 'Content-Type': type },
  })

/** A body of `sizeBytes` without a declared length. */
const streamOf = (sizeBytes: number) => {
  let left = sizeBytes
  return new ReadableStream<Uint8Array>({
    pull(controller) {
      if (left <= 0) return controller.close()
      controller.enqueue(new Uint8Array(Math.min(left, 400)))
      left -= 400
    },
  })
}

test('an unknown route is a problem', async () => {
  for (const path of ['/nothing', '/v1', '/v1/nothing/here', '/v1/users/u_a/nothing', '//v1/users']) {
    const response = await newEdge().fetch(path)
    expect([path, response.status]).toEqual([path, 404])
    expect(response.headers.get('Content-Type')).toBe('application/problem+json')
    expect(response.headers.get('Cache-Control')).toBe('no-store')
    expect(await response.json()).toEqual({
      type: '/problems/no-such-route',
      title: 'There is no such route',
      status: 404,
      detail: `There is no ${path}`,
      instance: path,
    })
  }
})

test.each(['/healthz', '/readyz', '/v1/posts/hot', '/v1/rate-limit'])(
  'an unsupported method of %s is 405 and lists the supported ones',
  async (path) => {
    const response = await newEdge().fetch(path, { method: 'PURGE' })
    expect(response.status).toBe(405)
    expect(response.headers.get('Allow')?.split(', ')).toEqual(expect.arrayContaining(['GET', 'HEAD']))
    expect(await response.json()).toMatchObject({
      type: '/problems/method-not-allowed',
      detail: `This route supports ${response.headers.get('Allow')}`,
    })
  },
)

test.each(['/v1/posts/hot', '/v1/users', '/healthz', '/nothing'])(
  'a body too large for %s is 413, with or without a declared length',
  async (path) => {
    const edge = newEdge({ MAX_BODY_BYTES: '1000' })
    const declared = { method: 'POST', body: 'x'.repeat(1_001), headers: { 'Content-Length': '1001' } }
    const undeclared = { method: 'POST', body: streamOf(1_001) }
    for (const init of [declared, undeclared]) {
      const response = await edge.fetch(path, init)
      expect(response.status).toBe(413)
      expect(await response.json()).toMatchObject({
        type: '/problems/body-too-large',
        detail: 'A body has at most 1000 bytes',
      })
    }
    const small = { method: 'POST', body: 'x'.repeat(1_000), headers: { 'Content-Length': '1000' } }
    for (const init of [small, { method: 'POST', body: streamOf(1_000) }]) {
      expect((await edge.fetch(path, init)).status).not.toBe(413)
    }
  },
)

test.each(['{', '', '{"text": "a"', "{'text': 'a'}", 'text=a', '\u0000'])('the body %j is malformed', async (body) => {
  const response = await give(body, 'application/json')
  expect(response.status).toBe(400)
  expect(await response.json()).toEqual({
    type: '/problems/malformed-json',
    title: 'The body is not JSON',
    status: 400,
    detail: 'The body is not JSON',
    instance: '/',
  })
})

test.each([undefined, 'text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', 'text/json', 'json'])(
  'a body of type %s is 415',
  async (type) => {
    const response = await give('{"text": "a"}', type)
    expect(response.status).toBe(415)
    expect(await response.json()).toMatchObject({ type: '/problems/unsupported-media-type' })
  },
)

test.each([
  'application/json',
  'application/json; charset=utf-8',
  'application/json;charset=UTF-8',
  'application/json;',
  'application/ld+json',
  'application/vnd.api2+json',
  'Application/JSON',
])('a body of type %s is read', async (type) => {
  const response = await give('{"text": "a"}', type)
  expect([response.status, await response.json()]).toEqual([200, { text: 'a' }])
})

test.each([
  ['{}', 'text'],
  ['{"text": 1}', 'text'],
  ['{"text": "a", "likes": "1"}', 'likes'],
  ['[]', 'text'],
  ['null', ''],
])('the body %s is refused with the field "%s"', async (body, field) => {
  const response = await give(body, 'application/json')
  expect(response.status).toBe(400)
  const problem = await response.json<{ type: string; errors: unknown[] }>()
  expect(problem.type).toBe('/problems/invalid-request')
  expect(problem.errors).toContainEqual({ in: 'body', field, message: expect.any(String) })
})

test('HEAD answers like GET, without the body', async () => {
  const edge = newEdge()
  const path = `/v1/users/${(await addUser()).id}`
  await edge.fetch(path)
  await edge.settle()
  const [get, head] = [await edge.fetch(path), await edge.fetch(path, { method: 'HEAD' })]
  expect([head.status, await head.text()]).toEqual([200, ''])
  for (const name of ['Content-Type', 'ETag', 'Cache-Control'])
    expect(head.headers.get(name)).toBe(get.headers.get(name))
  expect((await edge.fetch('/v1/users/u_nobody', { method: 'HEAD' })).status).toBe(404)
  const etag = get.headers.get('ETag') ?? ''
  expect((await edge.fetch(path, { method: 'HEAD', headers: { 'If-None-Match': etag } })).status).toBe(304)
})

test('an unexpected failure is 500 without details; the log has its code and place, and no values', async () => {
  const edge = newEdge()
  const post = await addPost({ authorId: (await addUser()).id, id: 'p_hidden' })
  await env.DB.exec('ALTER TABLE comments RENAME TO comments_away')
  using log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const response = await edge.fetch(`/v1/posts/${post.id}/comments?cursor=c_private`, {
    headers: { 'X-Request-Id': 'request-7', Authorization: 'Bearer very-secret', Cookie: 'session=very-secret' },
  })
  await edge.settle()
  await env.DB.exec('ALTER TABLE comments_away RENAME TO comments')

  expect(response.status).toBe(500)
  expect(await response.json()).toEqual({
    type: '/problems/internal',
    title: 'Something went wrong on our side',
    status: 500,
    detail: 'Something went wrong on our side',
    instance: '/v1/posts/p_hidden/comments',
  })
  expect(log).toHaveBeenCalledOnce()
  const line = String(log.mock.calls[0]?.[0])
  expect(JSON.parse(line)).toMatchObject({
    level: 'error',
    during: 'request',
    requestId: 'request-7',
    method: 'GET',
    stack: expect.arrayContaining([expect.stringMatching(/^\s+at .*comments\.ts/)]),
  })
  for (const hidden of ['c_private', 'p_hidden', 'very-secret', 'select', 'params', 'no such table']) {
    expect(line).not.toContain(hidden)
  }
})

test('every answer has a request id: that of the caller if it is plain, else a new one', async () => {
  const edge = newEdge()
  const idOf = async (path: string, id?: string) =>
    (await edge.fetch(path, { headers: id === undefined ? {} : { 'X-Request-Id': id } })).headers.get('X-Request-Id')
  for (const path of ['/healthz', '/v1/posts/hot', '/v1/users/x', '/nothing']) {
    expect(await idOf(path, 'abc-123_x')).toBe('abc-123_x')
    for (const id of [undefined, 'a b', '{"a":1}', 'a'.repeat(256)])
      expect(await idOf(path, id)).toMatch(/^[\da-f-]{36}$/)
  }
})

test('every answer has the security headers', async () => {
  const edge = newEdge({ CORS_ORIGINS: 'https://app.example' })
  const preflight = { method: 'OPTIONS', headers: { Origin: 'https://app.example' } }
  for (const response of [
    await edge.fetch('/healthz'),
    await edge.fetch('/v1/posts/hot'),
    await edge.fetch('/v1/users/x'),
    await edge.fetch('/nothing'),
    await edge.fetch('/healthz', { method: 'DELETE' }),
    await edge.fetch('/v1/posts/hot', preflight),
    await newEdge({ SERVICE_TOKEN: undefined }).fetch('/v1/posts/hot'),
  ]) {
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'SAMEORIGIN',
      'cross-origin-resource-policy': 'same-origin',
      'strict-transport-security': expect.stringContaining('max-age='),
    })
    expect(response.headers.has('X-Powered-By')).toBe(false)
  }
})

const CORS = { CORS_ORIGINS: 'https://app.example, https://admin.example' }
const browser = (origin: string, init: RequestInit<IncomingRequestCfProperties> = {}) => ({
  ...init,
  headers: { ...(init.headers as Record<string, string> | undefined), Origin: origin }, // only plain ones are given here
})

test.each(['https://app.example', 'https://admin.example'])('%s may read answers and problems', async (origin) => {
  const edge = newEdge(CORS)
  for (const path of ['/v1/posts/hot', '/v1/users/x', '/v1/users/u_nobody', '/v1/nothing']) {
    const { headers } = await edge.fetch(path, browser(origin))
    expect([path, headers.get('Access-Control-Allow-Origin')]).toEqual([path, origin])
    expect(headers.get('Access-Control-Allow-Credentials')).toBe('true')
    expect(headers.get('Access-Control-Expose-Headers')).toContain('ETag')
    expect(headers.get('Vary')).toContain('Origin')
  }
})

test.each(['https://evil.example', 'https://app.example.evil.example', 'http://app.example', 'null', ''])(
  'the origin "%s" is not allowed, and Vary says that answers differ',
  async (origin) => {
    const edge = newEdge(CORS)
    const answer = await edge.fetch('/v1/posts/hot', browser(origin))
    const preflight = await edge.fetch(
      '/v1/posts/hot',
      browser(origin, { method: 'OPTIONS', headers: { 'Access-Control-Request-Method': 'GET' } }),
    )
    for (const { headers } of [answer, preflight]) {
      expect(headers.has('Access-Control-Allow-Origin')).toBe(false)
      expect(headers.get('Vary')).toContain('Origin')
    }
  },
)

test('no origin is allowed if none is configured', async () => {
  const { headers } = await newEdge().fetch('/v1/posts/hot', browser('https://app.example'))
  expect(headers.has('Access-Control-Allow-Origin')).toBe(false)
})

test('a preflight of an allowed origin is answered and not counted', async () => {
  const edge = newEdge(CORS)
  const response = await edge.fetch(
    '/v1/users/u_a',
    browser('https://app.example', {
      method: 'OPTIONS',
      headers: { 'Access-Control-Request-Method': 'PATCH', 'Access-Control-Request-Headers': 'content-type,if-match' },
    }),
  )
  await edge.settle()
  expect([response.status, await response.text()]).toEqual([204, ''])
  expect(response.headers.get('Access-Control-Allow-Origin')).toBe('https://app.example')
  expect(response.headers.get('Access-Control-Allow-Methods')).toContain('PATCH')
  expect(response.headers.get('Access-Control-Allow-Headers')).toContain('if-match')
  expect(response.headers.get('Access-Control-Max-Age')).toBe('600')
  expect((await edge.redis.counts()).requests).toBe(0)
})

test('a 304 can be read across origins and keeps its request id, limits and cost', async () => {
  const edge = newEdge(CORS)
  const path = `/v1/users/${(await addUser()).id}`
  const etag = (await edge.fetch(path)).headers.get('ETag') ?? ''
  await edge.settle()
  const same = await edge.fetch(path, browser('https://app.example', { headers: { 'If-None-Match': etag } }))
  expect(same.status).toBe(304)
  expect(Object.fromEntries(same.headers)).toMatchObject({
    'access-control-allow-origin': 'https://app.example',
    'access-control-allow-credentials': 'true',
    'x-request-id': expect.any(String),
    'ratelimit-policy': expect.stringContaining('"reads"'),
    ratelimit: expect.stringContaining('"reads"'),
    'server-timing': expect.stringContaining('round trips'),
    'cache-status': expect.stringContaining('memory; hit'),
    vary: expect.stringContaining('Origin'),
  })
})

/** What `wrangler.toml` binds to the Worker and it needs, and the secrets it needs. */
const BOUND = Object.entries(env).flatMap(([name, value]) =>
  typeof value === 'object' && !/^MIGRATIONS$|^ASSETS$|^TEST_|^__VITEST/.test(name) ? [name] : [],
)
const NEEDED = [...BOUND, 'UPSTASH_REDIS_REST_URL', 'UPSTASH_REDIS_REST_TOKEN', 'SERVICE_TOKEN']

test('a Worker without configuration is alive and names what it lacks', async () => {
  expect(BOUND).toContain('DB')
  const edge = newEdge(Object.fromEntries(NEEDED.map((name) => [name, undefined])))
  expect((await edge.fetch('/healthz')).status).toBe(200)
  const described = new Set(['/healthz', '/*'])
  const others = newRoutes().filter(({ path }) => !described.has(path))
  expect(others.map(({ path }) => path)).toContain('/readyz')
  for (const { method, path } of [...others, { method: 'GET', path: '/v1/nothing-here' }]) {
    const response = await edge.fetch(path, { method: method === 'ALL' ? 'GET' : method })
    expect([method, path, response.status]).toEqual([method, path, 503])
    const problem = await response.json<{ type: string; detail: string; variables: Record<string, string> }>()
    expect(problem.type).toBe('/problems/misconfigured')
    expect(problem.variables).toEqual({
      ...Object.fromEntries(BOUND.map((name) => [name, expect.stringMatching(/^expected .+, bound to the Worker$/)])),
      UPSTASH_REDIS_REST_URL: 'expected the URL of the Redis REST API',
      UPSTASH_REDIS_REST_TOKEN: 'expected the token of the Redis REST API',
      SERVICE_TOKEN: 'expected a secret',
    })
    for (const name of Object.keys(problem.variables)) expect(problem.detail).toContain(name)
  }
})

test.each(NEEDED)('a Worker that lacks only %s names it to every event, and once in its log', async (name) => {
  const log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const edge = newEdge({ [name]: undefined })
  for (const path of ['/readyz', '/readyz', '/v1/posts/hot']) {
    const response = await edge.fetch(path)
    expect(response.status).toBe(503)
    expect(await response.json()).toMatchObject({ detail: `Not configured: ${name}` })
  }
  await expect(edge.cron()).rejects.toThrow(`Not configured: ${name}`)
  await expect(edge.deliver([])).rejects.toThrow(`Not configured: ${name}`)
  const lines = log.mock.calls.map(([line]) => JSON.parse(String(line)) as object)
  log.mockRestore()
  expect(lines).toEqual([
    { level: 'error', during: 'configuration', name: 'ConfigError', variables: { [name]: expect.any(String) } },
  ])
})

test.each([
  ['UPSTASH_REDIS_REST_URL', 'not a url', 'expected a URL'],
  ['UPSTASH_REDIS_REST_URL', 'rediss://redis.example.com:6379', 'expected an http or https URL'],
  ['UPSTASH_REDIS_REST_TOKEN', '', 'expected not empty'],
  ['SERVICE_TOKEN', 'short', 'expected at least 16 characters'],
  ['LIMIT_READS', 'many', 'expected a number'],
  ['LIMIT_READS', '', 'expected a number'],
  ['LIMIT_READS', '0', 'expected at least 1'],
  ['LIMIT_READS', '1.5', 'expected a whole number'],
  ['LIMIT_READS_SECONDS', '90.5', 'expected a whole number'],
  ['HOT_DAYS', '32', 'expected at most 31'],
  ['MEMORY_SECONDS', '-1', 'expected at least 0'],
  ['MEMORY_SECONDS', '', 'expected a number'],
  ['REDIS_READ_TIMEOUT_MS', 'Infinity', 'expected at most 10000'],
  ['REDIS_READ_TIMEOUT_MS', '12.5', 'expected a whole number'],
  ['STATS_FLUSH_SECONDS', '26', 'expected at most 25'],
  ['SCAN_COMMANDS', '-1', 'expected at least 0'],
  ['COMMANDS_USD', '', 'expected a number'],
  ['LOG_REQUESTS', 'some', 'expected all, failed or none'],
  ['EVENT_DAYS', '1', 'expected at least the 1.4 days that WEBHOOK_RETRY_SECONDS takes'],
])('%s cannot be "%s": %s', async (name, value, expected) => {
  const response = await newEdge({ [name]: value }).fetch('/readyz')
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ variables: { [name]: expected } })
})

test('fractions of seconds become whole milliseconds in Redis', async () => {
  const edge = newEdge({ USER_FRESH_SECONDS: '90.0005', STALE_SECONDS: '8.0005', LEASE_SECONDS: '5.0005' })
  const { id } = await addUser()
  await edge.fetch(`/v1/users/${id}`)
  await edge.settle()
  const cached = await newEdge({}, edge.token).fetch(`/v1/users/${id}`)
  expect(cached.headers.get('Cache-Status')).toMatch(/^redis; hit/)
})
