import { env } from 'cloudflare:workers'
import { beforeAll, expect, test, vi } from 'vitest'
import type { LikeMessage } from '../../src/likes/schema.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { addPost, addUser } from '../rows.ts'

beforeAll(migrate)

interface Line {
  level: string
  message: string
  route: string
  status: number
  durationMs: number
  traceId: string
  requestId: string
  [name: string]: unknown
}

/** Collects everything that is logged. */
function listen() {
  const lines: string[] = []
  const spies = (['log', 'info', 'warn', 'error', 'debug', 'trace'] as const).map((method) =>
    vi.spyOn(console, method).mockImplementation((...said: unknown[]) => void lines.push(said.map(String).join(' '))),
  )
  return {
    lines,
    requests: () => lines.map((line) => JSON.parse(line) as Line).filter(({ message }) => message === 'request'),
    [Symbol.dispose]: () => spies.forEach((spy) => spy.mockRestore()),
  }
}

const newLogging = (bindings: Record<string, unknown> = {}) => newEdge({ LOG_REQUESTS: 'all', ...bindings })
const post = (edge: Edge, path: string, body: unknown, headers: Record<string, string> = {}) =>
  edge.fetch(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736'
const PARENT_ID = '00f067aa0ba902b7'

test('a request logs one line: route pattern, status, time, cost and its own ids', async () => {
  const edge = newLogging()
  const user = await addUser()
  using log = listen()
  const answer = await edge.fetch(`/v1/users/${user.id}?a=private`, { headers: { 'X-Request-Id': 'request-7' } })
  await edge.settle()
  expect(log.lines.length).toBe(1)
  expect(JSON.parse(log.lines[0] ?? '')).toEqual({
    level: 'info',
    message: 'request',
    method: 'GET',
    route: 'GET /v1/users/:id',
    status: 200,
    durationMs: expect.any(Number),
    redis: { commands: 3, roundTrips: 2, waitedMs: expect.any(Number) },
    requestId: 'request-7',
    traceId: expect.stringMatching(/^[\da-f]{32}$/),
    spanId: expect.stringMatching(/^[\da-f]{16}$/),
  })
  expect(answer.headers.get('Traceresponse')).toMatch(/^00-[\da-f]{32}-[\da-f]{16}-00$/)
  expect(log.lines[0]).not.toContain(user.id)
})

test('every kind of answer is logged under its route', async () => {
  const edge = newLogging({ LIMIT_READS: '1', LIMIT_READS_SECONDS: '86400', CORS_ORIGINS: 'https://app.example' })
  using log = listen()
  const etag = (await edge.fetch('/v1/posts/hot')).headers.get('ETag') ?? ''
  await edge.settle()
  await edge.fetch('/v1/posts/hot', { headers: { 'If-None-Match': etag } })
  await edge.settle()
  await edge.fetch('/v1/posts/hot')
  await edge.fetch('/healthz')
  await edge.fetch('/v1/users/x/posts/nothing')
  await edge.fetch('/v1/posts/hot', { method: 'PURGE' })
  await edge.fetch('/v1/posts/p_1', { method: 'DELETE' })
  await edge.fetch('/v1/users/u_1', { method: 'HEAD' })
  await newLogging({ SERVICE_TOKEN: undefined }).fetch('/readyz')
  expect(log.requests().map(({ method, route, status }) => [method, route, status])).toEqual([
    ['GET', 'GET /v1/posts/hot', 200],
    ['GET', 'GET /v1/posts/hot', 304],
    ['GET', 'GET /v1/posts/hot', 429],
    ['GET', 'GET /healthz', 200],
    ['GET', 'unmatched', 404],
    ['PURGE', 'unmatched', 405],
    ['DELETE', 'DELETE /v1/posts/:id', 401],
    ['HEAD', 'GET /v1/users/:id', 429],
    ['GET', 'unmatched', 503], // a Worker without configuration has no routes yet
  ])
})

test.each(['failed', 'none'])('"%s" logs fewer requests', async (which) => {
  const edge = newEdge({ LOG_REQUESTS: which, REDIS_READ_TIMEOUT_MS: '250' })
  using log = listen()
  await edge.fetch('/v1/users/u_nobody')
  await edge.settle()
  await edge.redis.fault({ kind: 'refuse' })
  await edge.fetch('/readyz')
  await edge.settle()
  expect(log.requests().map(({ status, level }) => [status, level])).toEqual(which === 'none' ? [] : [[503, 'error']])
})

test('no line contains a password, token, cookie, address, email, name, text or id of a person', async () => {
  const edge = newLogging()
  const secrets = ['correct horse', 'ada.private@example.test', 'ada_private', 'Ada Private', 'a very private text']
  const [password, email, username, displayName, text] = secrets
  const network = { 'CF-Connecting-IP': '203.0.113.99', 'User-Agent': 'private-agent' }
  using log = listen()

  await post(edge, '/v1/users', { username, email, password, displayName }, network)
  await post(edge, '/v1/users', { username, email, password, displayName }, network) // taken
  await post(edge, '/v1/sessions', { login: email, password: 'wrong horse' }, network)
  const { token, user } = await (
    await post(edge, '/v1/sessions', { login: username, password }, network)
  ).json<{ token: string; user: { id: string } }>()
  const headers = { Authorization: `Bearer ${token}`, Cookie: `__Host-session=${token}`, ...network }
  await edge.fetch(`/v1/users/${user.id}`, { headers })
  await edge.fetch(`/v1/users/by-username/${username}`, { headers })
  await post(edge, '/v1/posts', { text }, headers)
  await post(edge, '/v1/posts', `{"text": "${text}`, headers) // malformed
  await post(edge, '/v1/posts', { text: 'x'.repeat(501), [String(email)]: 1 }, headers)
  await edge.fetch('/v1/stats', { headers: { Authorization: `Bearer ${env.SERVICE_TOKEN}` } })
  await edge.fetch(`/v1/users/${email}`, { headers })
  await edge.fetch(`/${email}?token=${token}`, { headers })
  await edge.fetch('/v1/sessions', { headers })
  await edge.settle()
  await env.DB.exec('ALTER TABLE sessions RENAME TO sessions_away')
  await post(edge, '/v1/sessions', { login: email, password }, network) // fails inside
  await edge.fetch('/v1/sessions', { headers })
  await env.DB.exec('ALTER TABLE sessions_away RENAME TO sessions')
  await edge.redis.fault({ kind: 'status', status: 500, message: `ERR ${email} ${token}` })
  await edge.fetch(`/v1/users/${user.id}`, { headers })
  await post(edge, '/v1/sessions', { login: email, password }, network)
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers })
  await edge.settle()
  await edge.cron().catch(() => {}) // Redis is gone
  await edge.deliver([{ kind: 'post', contentId: 'p_1', userId: user.id, isLiked: true, changedAt: 1 }])

  expect(log.requests().length).toBe(18)
  expect(log.requests().map(({ status }) => status)).toEqual(
    expect.arrayContaining([201, 401, 409, 400, 404, 500, 503]),
  )
  const [sessionId = '', secret = ''] = token.split('.')
  const hidden = [...secrets, token, sessionId, secret, user.id, 'wrong horse', '203.0.113', 'private-agent', '@']
  for (const line of log.lines) {
    for (const each of [...hidden, env.SERVICE_TOKEN, edge.token]) {
      if (each !== '') expect(line.toLowerCase()).not.toContain(each?.toLowerCase())
    }
  }
})

test('the trace of the caller continues in the log, the answer, the messages and their log', async () => {
  const sent: LikeMessage[] = []
  const edge = newLogging({ LIKES: { send: async (message: LikeMessage) => void sent.push(message) } })
  const liked = await addPost({ authorId: (await addUser()).id })
  const headers = await edge.signIn(await addUser())
  using log = listen()
  const answer = await edge.fetch(`/v1/posts/${liked.id}/like`, {
    method: 'PUT',
    headers: { ...headers, traceparent: `00-${TRACE_ID}-${PARENT_ID}-01` },
  })
  await edge.settle()
  const [line] = log.requests()
  expect(line?.traceId).toBe(TRACE_ID)
  const ours = `00-${TRACE_ID}-${String(line?.['spanId'])}-01`
  expect(line?.['spanId']).not.toBe(PARENT_ID)
  expect(answer.headers.get('Traceresponse')).toBe(ours)
  expect(sent).toMatchObject([{ traceparent: ours }])

  expect(await edge.deliver(sent)).toEqual({ acked: [0], retried: [] })
  expect(log.lines.map((each) => JSON.parse(each) as Line).at(-1)).toMatchObject({
    message: 'queue',
    route: 'QUEUE likes',
    messages: 1,
    retried: 0,
    traceIds: [TRACE_ID],
  })
})

test('an unexpected failure is logged with its trace', async () => {
  const edge = newLogging()
  const { id } = await addPost({ authorId: (await addUser()).id })
  await env.DB.exec('ALTER TABLE comments RENAME TO comments_away')
  using log = listen()
  await edge.fetch(`/v1/posts/${id}/comments`, { headers: { traceparent: `00-${TRACE_ID}-${PARENT_ID}-01` } })
  await edge.settle()
  await env.DB.exec('ALTER TABLE comments_away RENAME TO comments')
  const lines = log.lines.map((line) => JSON.parse(line) as Line)
  expect(lines.map(({ level, traceId }) => [level, traceId])).toEqual([
    ['error', TRACE_ID],
    ['error', TRACE_ID],
  ])
})
