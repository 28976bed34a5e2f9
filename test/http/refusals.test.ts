import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { Hono } from 'hono'
import { beforeAll, expect, test, vi } from 'vitest'
import { notificationReads, users } from '../../src/db/schema.ts'
import { limitLocally } from '../../src/http/limit.ts'
import { type Edge, expectRefused, migrate, newEdge } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
const JSON_TYPE = { 'Content-Type': 'application/json' }
const cookieOf = ({ Authorization }: { Authorization: string }) => ({
  Cookie: `__Host-session=${Authorization.replace('Bearer ', '')}`,
})

async function newMember(edge: Edge) {
  const user = await addUser()
  return { user, headers: await edge.signIn(user) }
}

test('If-Match takes 8 KB of entity tags, and names itself when it refuses more', async () => {
  const edge = newEdge()
  const { headers } = await newMember(edge)
  const change = (condition: string) =>
    edge.fetch('/v1/users/me', {
      method: 'PATCH',
      headers: { ...headers, ...JSON_TYPE, 'If-Match': condition },
      body: '{"bio":"Hello"}',
    })
  const tags = (count: number) => Array.from({ length: count }, (_, i) => `"${i + 1}-0-0-0-own"`).join(', ')
  expect((await change(tags(400))).status).toBe(200)
  for (const condition of [tags(500), ','.repeat(98_000), `"${'x'.repeat(8_192)}"`, '"a" "b"', '"1",,"2"', '"1",']) {
    await expectRefused(change(condition), 'header', 'If-Match')
  }
  expect((await change('W/"7-0", "8"')).status).toBe(412)
})

test('If-None-Match: * on a write requires that the resource does not exist', async () => {
  const edge = newEdge()
  const { user, headers } = await newMember(edge)
  const post = await addPost({ authorId: user.id })
  const send = (method: string, path: string, condition: string, body?: string) =>
    edge.fetch(path, {
      method,
      headers: { ...headers, ...JSON_TYPE, 'If-None-Match': condition },
      ...(body === undefined ? {} : { body }),
    })
  expect((await send('PATCH', '/v1/users/me', '*', '{"bio":"Hello"}')).status).toBe(412)
  expect((await send('PATCH', `/v1/posts/${post.id}`, '*', '{"text":"Hello"}')).status).toBe(412)
  expect((await send('DELETE', `/v1/posts/${post.id}`, '*')).status).toBe(412)
  await expectRefused(send('PATCH', '/v1/users/me', '"1"', '{"bio":"Hello"}'), 'header', 'If-None-Match')
  const [row] = await db.select().from(users).where(eq(users.id, user.id))
  expect(row?.bio).toBe('')
})

test.each(['application/x+y+json', 'application/a+b+json; charset=utf-8', 'application/+json', 'application/json+x'])(
  'a body of type %s is refused, not ignored',
  async (type) => {
    const edge = newEdge()
    const { user, headers } = await newMember(edge)
    const response = await edge.fetch('/v1/notifications/read', {
      method: 'POST',
      headers: { ...headers, 'Content-Type': type },
      body: '{"until":"nonsense"}',
    })
    expect(response.status).toBe(415)
    expect(await db.select().from(notificationReads).where(eq(notificationReads.userId, user.id))).toEqual([])
  },
)

test.each([
  ['POST', '/v1/notifications/read', ''],
  ['PATCH', '/v1/users/me', ''],
  ['POST', '/v1/sessions', ''],
])('%s %s refuses a list instead of an object', async (method, path, field) => {
  const edge = newEdge()
  const { headers } = await newMember(edge)
  const send = edge.fetch(path, { method, headers: { ...headers, ...JSON_TYPE }, body: '[]' })
  await expectRefused(send, 'body', field)
})

test.each([
  ['POST', '/v1/locks/refusals', '[]', ''],
  ['POST', '/v1/cache/invalidate', '[]', ''],
  ['POST', '/v1/events', '{"channel":"custom_a","type":"b","data":[]}', 'data'],
  ['POST', '/v1/webhooks', '{"url":"https://a.example","channels":["custom_a"],"headers":[]}', 'headers'],
])('%s %s refuses a list instead of an object: %s', async (method, path, body, field) => {
  const send = newEdge().fetch(path, { method, headers: { ...service, ...JSON_TYPE }, body })
  await expectRefused(send, 'body', field)
})

test('a body that is not UTF-8 is refused, and nothing is stored', async () => {
  const edge = newEdge()
  const { user, headers } = await newMember(edge)
  const body = new Uint8Array([...new TextEncoder().encode('{"bio":"'), 0xff, 0xfe, ...new TextEncoder().encode('"}')])
  const response = await edge.fetch('/v1/users/me', { method: 'PATCH', headers: { ...headers, ...JSON_TYPE }, body })
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({
    type: '/problems/malformed-json',
    detail: 'The body is not UTF-8',
  })
  expect(await db.select().from(users).where(eq(users.id, user.id))).toMatchObject([{ bio: user.bio, version: 1 }])
})

test.each(['\u2800', '\u3164', '\u115f', '\u00ad', '\u200d', '\u2800 \u3164\u200d'])(
  'every route that takes text refuses %j, of which nothing is visible',
  async (text) => {
    const edge = newEdge()
    const { user, headers } = await newMember(edge)
    const post = await addPost({ authorId: user.id })
    const comment = await addComment({ postId: post.id, authorId: user.id })
    const account = { username: 'somebody', email: 'somebody@example.test', password: 'correct-horse-battery' }
    const routes: [string, string, string, object][] = [
      ['POST', '/v1/users', 'displayName', { ...account, displayName: text }],
      ['PATCH', '/v1/users/me', 'displayName', { displayName: text }],
      ['PATCH', '/v1/users/me', 'bio', { bio: text }],
      ['POST', '/v1/posts', 'text', { text }],
      ['PATCH', `/v1/posts/${post.id}`, 'text', { text }],
      ['POST', `/v1/posts/${post.id}/comments`, 'text', { text }],
      ['PATCH', `/v1/comments/${comment.id}`, 'text', { text }],
      ['POST', '/v1/reports', 'text', { subjectId: post.id, reason: 'spam', text }],
      ['POST', '/v1/moderation/reports/resolve', 'note', { subjectId: post.id, outcome: 'dismissed', note: text }],
      ['PUT', `/v1/moderation/takedowns/${post.id}`, 'note', { note: text }],
      ['PUT', `/v1/moderation/suspensions/${user.id}`, 'note', { note: text }],
    ]
    for (const [method, path, field, body] of routes) {
      const as = path.startsWith('/v1/moderation') ? service : headers
      const init = { method, headers: { ...as, ...JSON_TYPE }, body: JSON.stringify(body) }
      await expectRefused(edge.fetch(path, init), 'body', field)
    }
    for (const name of ['\u202eadA', 'a\u2066b', 'a\u202c']) {
      const init = {
        method: 'PATCH',
        headers: { ...headers, ...JSON_TYPE },
        body: JSON.stringify({ displayName: name }),
      }
      await expectRefused(edge.fetch('/v1/users/me', init), 'body', 'displayName')
    }
  },
)

test.each(['%ff%fe', 'a%ff', '%ed%a0%80', '%c0%af', '%f0%9f%98', 'a%e9b'])(
  'a query that is not UTF-8 is refused: %s',
  async (bytes) => {
    const edge = newEdge()
    await expectRefused(edge.fetch(`/v1/search?type=posts&q=${bytes}`), 'query', 'q')
    await expectRefused(edge.fetch(`/v1/users?ids=u_a&x=${bytes}`), 'query', 'x')
  },
)

test.each(['100%25', '100%+sure', '%f0%9f%98%80a', '%C4%91%C3%A0'])(
  'a query that is UTF-8 is read: %s',
  async (query) => {
    expect((await newEdge().fetch(`/v1/search?q=${query}`)).status).toBe(200)
  },
)

test.each(['gzip', 'br', 'deflate, gzip', 'x'])('a body with Content-Encoding: %s is refused', async (encoding) => {
  const response = await newEdge().fetch('/v1/users', {
    method: 'POST',
    headers: { ...JSON_TYPE, 'Content-Encoding': encoding },
    body: '{}',
  })
  expect([response.status, response.headers.get('Accept-Encoding')]).toEqual([415, 'identity'])
})

test.each([
  [{ Origin: 'https://evil.example' }, 403],
  [{ Origin: 'null' }, 403],
  [{ 'Sec-Fetch-Site': 'cross-site' }, 403],
  [{ 'Sec-Fetch-Site': 'same-site' }, 403],
  [{ 'Sec-Fetch-Site': 'cross-site', Origin: 'https://evil.example' }, 403],
  [{ 'Sec-Fetch-Site': 'cross-site', Origin: 'https://app.example' }, 204],
  [{ Origin: 'https://app.example' }, 204],
  [{ Origin: 'https://edge.test' }, 204],
  [{ 'Sec-Fetch-Site': 'same-origin', Origin: 'https://edge.test' }, 204],
  [{ 'Sec-Fetch-Site': 'none' }, 204],
  [{}, 204],
])('a write by cookie with %j answers %i; by token 204', async (browser, status) => {
  const edge = newEdge({ CORS_ORIGINS: 'https://app.example' })
  const { headers } = await newMember(edge)
  const beat = (credential: Record<string, string>) =>
    edge.fetch('/v1/presence/heartbeat', {
      method: 'POST',
      headers: { ...credential, ...browser } as Record<string, string>,
    })
  expect((await beat(cookieOf(headers))).status).toBe(status)
  expect((await beat(headers)).status).toBe(204)
  expect(
    (await edge.fetch('/v1/sessions', { headers: { ...cookieOf(headers), ...browser } as Record<string, string> }))
      .status,
  ).toBe(200)
})

test('every 401 names the scheme', async () => {
  const edge = newEdge()
  const sent: [string, RequestInit<IncomingRequestCfProperties>?][] = [
    ['/v1/sessions'],
    ['/v1/stats'],
    ['/v1/sessions', { headers: { Authorization: 'Bearer forged' } }],
    ['/v1/sessions', { method: 'POST', headers: JSON_TYPE, body: '{"login":"nobody","password":"x"}' }],
  ]
  for (const [path, init] of sent) {
    const response = await edge.fetch(path, init)
    expect([path, response.status, response.headers.get('WWW-Authenticate')]).toEqual([path, 401, 'Bearer'])
  }
})

test('every answer says how long caches may keep it', async () => {
  const edge = newEdge()
  const { headers } = await newMember(edge)
  for (const path of [
    '/v1/feed',
    '/v1/notifications',
    '/v1/recommendations',
    '/v1/sessions',
    '/v1/search?q=a',
    '/healthz',
  ]) {
    const { headers: answered } = await edge.fetch(path, { headers })
    expect([path, answered.get('Cache-Control')]).toEqual([path, expect.stringMatching(/no-store|private/)])
  }
  const beat = await edge.fetch('/v1/presence/heartbeat', { method: 'POST', headers })
  expect(beat.headers.get('Cache-Control')).toBe('no-store')
})

test.each(['Bearer forged', 'Basic YTpi'])(
  'a stream and a write refuse the credential %s; a public read ignores it',
  async (Authorization) => {
    const edge = newEdge()
    const post = await addPost({ authorId: (await addUser()).id })
    const headers = { Authorization }
    expect((await edge.fetch('/v1/events/stream?channels=post_events', { headers })).status).toBe(401)
    expect((await edge.fetch(`/v1/posts/${post.id}/views`, { method: 'POST', headers })).status).toBe(401)
    expect((await edge.fetch(`/v1/posts/${post.id}`, { headers })).status).toBe(200)
  },
)

test('a write refuses an ended session, though it needs none', async () => {
  const edge = newEdge()
  const { headers } = await newMember(edge)
  const post = await addPost({ authorId: (await addUser()).id })
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers })
  expect((await edge.fetch(`/v1/posts/${post.id}/views`, { method: 'POST', headers })).status).toBe(401)
  expect((await edge.fetch(`/v1/posts/${post.id}`, { headers })).status).toBe(200)
})

const WRITES = { LIMIT_WRITES: '3', LIMIT_WRITES_SECONDS: '86400', LIMIT_READS: '3', LIMIT_READS_SECONDS: '86400' }
const from = (address: string, headers: object = {}) => ({ ...headers, 'CF-Connecting-IP': address })

test('requests of an ended session count against the address, not against its user', async () => {
  const edge = newEdge(WRITES)
  const { user, headers: ended } = await newMember(edge)
  const headers = await edge.signIn(user)
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: ended })
  await edge.settle()
  const change = async (credential: object, address: string) => {
    const init = { method: 'PATCH', headers: { ...from(address, credential), ...JSON_TYPE }, body: '{"bio":"Hello"}' }
    const { status } = await edge.fetch('/v1/users/me', init)
    await edge.settle()
    return status
  }
  const read = async (credential: object, address: string) => {
    const { status } = await edge.fetch('/v1/users/u_a', { headers: from(address, credential) })
    await edge.settle()
    return status
  }
  const refused = []
  for (let i = 0; i < 6; i += 1) refused.push(await change(ended, '192.0.2.1'))
  expect(refused).toEqual([401, 401, 401, 429, 429, 429])
  const reads = []
  for (let i = 0; i < 6; i += 1) reads.push(await read(ended, '192.0.2.1'))
  expect(reads).toEqual([404, 404, 404, 404, 429, 429]) // counted after the answer

  // The owner has all of the limit, also from the address that is over it, and in other isolates.
  expect(await change(headers, '192.0.2.1')).toBe(200)
  expect(await change(headers, '192.0.2.2')).toBe(200)
  expect(await read(headers, '192.0.2.1')).toBe(404)
  const other = newEdge(WRITES, edge.token)
  const init = { method: 'PATCH', headers: { ...headers, ...JSON_TYPE }, body: '{"bio":"Hello"}' }
  expect((await other.fetch('/v1/users/me', init)).status).toBe(200)
  expect((await other.fetch('/v1/users/me', init)).status).toBe(429)
})

test('sign-up counts against the address, also with a token', async () => {
  const edge = newEdge(WRITES)
  const seen = []
  for (let i = 0; i < 5; i += 1) {
    const { headers } = await newMember(edge)
    const init = { method: 'POST', headers: { ...from('192.0.2.1', headers), ...JSON_TYPE }, body: '{}' }
    seen.push((await edge.fetch('/v1/users', init)).status)
  }
  expect(seen).toEqual([400, 400, 400, 429, 429])
})

test('a batch counts as many requests as it has ids', async () => {
  const edge = newEdge({ LIMIT_READS: '10', LIMIT_READS_SECONDS: '86400' })
  const ids = (count: number) => Array.from({ length: count }, (_, i) => `u_unknown${i}`).join()
  const read = async (path: string, address: string) => {
    const { status } = await edge.fetch(path, { headers: from(address) })
    await edge.settle()
    return status
  }
  expect(await read(`/v1/users?ids=${ids(9)}`, '192.0.2.1')).toBe(200)
  expect(await read('/v1/users/u_a', '192.0.2.1')).toBe(404)
  expect(await read('/v1/users/u_a', '192.0.2.1')).toBe(404) // counted after the answer
  expect(await read('/v1/users/u_a', '192.0.2.1')).toBe(429)
  expect(await read(`/v1/users?ids=${ids(100)}`, '192.0.2.2')).toBe(200)
  expect(await read('/v1/users/u_a', '192.0.2.2')).toBe(429)
})

test('a limit in memory ends with its minute, and when the clock is set back', async () => {
  const app = new Hono().get('/', limitLocally(2), (c) => c.text('Hello'))
  app.onError((error, c) => c.text(error.message, 429))
  vi.useFakeTimers({ toFake: ['Date'] })
  try {
    const ask = async () => (await app.request('/')).status
    const askThrice = async () => [await ask(), await ask(), await ask()]
    const now = Date.now()
    expect(await askThrice()).toEqual([200, 200, 429])
    vi.setSystemTime(now + 59_999)
    expect(await ask()).toBe(429)
    vi.setSystemTime(now + 60_000)
    expect(await askThrice()).toEqual([200, 200, 429])
    vi.setSystemTime(now - 3_600_000)
    expect(await askThrice()).toEqual([200, 200, 429])
  } finally {
    vi.useRealTimers()
  }
})

test('a condition of a read is honored up to 8 KB, so that a long one costs nothing', async () => {
  const edge = newEdge()
  const user = await addUser()
  const read = async (condition: string) =>
    (await edge.fetch(`/v1/users/${user.id}`, { headers: { 'If-None-Match': condition } })).status
  const tag = (await edge.fetch(`/v1/users/${user.id}`)).headers.get('ETag') ?? ''
  expect([await read(`"a", W/${tag}`), await read('"a"')]).toEqual([304, 200])
  expect(await read(`${','.repeat(8_000)}${tag}`)).toBe(304)
  expect(await read(`${','.repeat(100_000)}${tag}`)).toBe(200)
})
