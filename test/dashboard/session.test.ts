import { env } from 'cloudflare:workers'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { dashboardSignOuts } from '../../src/db/schema.ts'
import { createDashboardTokens } from '../../src/dashboard/tokens.ts'
import { readOperations } from '../docs/document.ts'
import { interruptedDatabase } from '../database.ts'
import { newLab } from '../drills/lab.ts'
import { type Edge, expectRefused, migrate, newEdge, newRoutes, roundTrips } from '../edge.ts'
import { asked, isStorable } from '../edge-cache.ts'
import { db } from '../rows.ts'
import { cookieIn, expectProblem, newToken, PAGE, ROOT, send, signIn, withCookie } from './world.ts'

beforeAll(migrate)

const TOKEN = { token: env.SERVICE_TOKEN }

test('signing in sets a cookie for the dashboard alone, which does not contain the token', async () => {
  const edge = newEdge()
  const response = await send(edge, 'POST', '/dashboard/session', PAGE, TOKEN)
  expect(response.status).toBe(200)
  const [cookie = '', ...attributes] = (response.headers.get('Set-Cookie') ?? '').split('; ')
  expect(attributes.filter((attribute) => !attribute.startsWith('Expires=')).sort()).toEqual([
    'HttpOnly',
    'Path=/dashboard',
    'SameSite=Strict',
    'Secure',
  ])
  const claims = Buffer.from(cookieIn(response).split('.')[0] ?? '', 'base64url').toString()
  expect(`${cookie} ${claims} ${await response.clone().text()}`).not.toContain(env.SERVICE_TOKEN)
  const session = await response.json<{ expiresAt: string }>()
  expect(session).toMatchObject({ name: 'root', scopes: expect.arrayContaining(['stats:read']), tenant: null })
  const lifeMs = Date.parse(session.expiresAt) - Date.now()
  expect(lifeMs).toBeGreaterThan(3 * 3_600_000)
  expect(lifeMs).toBeLessThanOrEqual(4 * 3_600_000)

  const headers = withCookie(cookieIn(response))
  expect(await (await send(edge, 'GET', '/dashboard/session', headers)).json()).toEqual(session)
  const stats = await send(edge, 'GET', '/dashboard/v1/stats?minutes=1', headers)
  expect(await stats.json()).toMatchObject({ dependencies: { d1: { isUp: true } } })
})

test('sessions cost no Redis command', async () => {
  const edge = newEdge()
  const { token } = await newToken(edge, 'webhooks:manage')
  for (const body of [TOKEN, { token }]) {
    const headers = await signIn(edge, body)
    for (const [method, path] of [
      ['GET', '/dashboard/session'],
      ['GET', '/dashboard/v1/webhooks'],
      ['DELETE', '/dashboard/session'],
    ] as const) {
      expect([path, roundTrips(await send(edge, method, path, headers))]).toEqual([path, 0])
    }
  }
})

test('every route below /dashboard is a documented service route', async () => {
  const { operations } = await readOperations()
  const routes = newRoutes()
    .filter(({ method, path }) => method !== 'ALL' && path.startsWith('/dashboard/v1'))
    .map(({ method, path }) => `${method} ${path.replace('/dashboard', '').replaceAll(/:(\w+)/g, '{$1}')}`)
  expect(routes).toContain('GET /v1/stats')
  for (const route of routes) {
    expect([route, operations.get(route)?.security]).toEqual([route, [{ serviceToken: [expect.any(String)] }]])
  }
})

test('no other route accepts the cookie, and no route below /dashboard accepts a bearer token', async () => {
  const edge = newEdge()
  const cookie = await signIn(edge, TOKEN)
  for (const [name, { security = [] }] of (await readOperations()).operations) {
    const [method = '', pattern = ''] = name.split(' ')
    if (security.length === 0 || security.some((scheme) => Object.keys(scheme).length === 0)) continue // open to all
    const path = pattern.replaceAll(/\{\w+\}/g, 'wh_a')
    const response = await send(edge, method, path, cookie, method === 'GET' || method === 'DELETE' ? undefined : {})
    expect([name, response.status]).toEqual([name, 401])
    await response.body?.cancel()
    const below = await send(edge, method, `/dashboard${path}`, { ...PAGE, ...ROOT })
    if (below.status !== 404) expect([name, below.status]).toEqual([name, 401])
    await below.body?.cancel()
  }
})

test('a session has the scopes of its token, and the 403 names the missing one', async () => {
  const edge = newEdge()
  const { token, name } = await newToken(edge, 'webhooks:manage')
  const headers = await signIn(edge, { token })
  expect(await (await send(edge, 'GET', '/dashboard/session', headers)).json()).toMatchObject({
    name,
    scopes: ['webhooks:manage'],
    tenant: null,
  })
  expect((await send(edge, 'GET', '/dashboard/v1/webhooks', headers)).status).toBe(200)
  const refused = await send(edge, 'GET', '/dashboard/v1/stats', headers)
  expect([refused.status, await refused.json()]).toEqual([403, expect.objectContaining({ scope: 'stats:read' })])
})

describe('the session ends', () => {
  const trusting = { SERVICE_TOKEN_SECONDS: '0' }

  test('when its token is revoked', async () => {
    const [edge, other] = [newEdge(trusting), newEdge(trusting)]
    const { id, token } = await newToken(edge, 'webhooks:manage')
    const headers = await signIn(edge, { token })
    await send(edge, 'DELETE', `/v1/service-tokens/${id}`, ROOT)
    for (const isolate of [edge, other]) {
      await expectProblem(send(isolate, 'GET', '/dashboard/v1/webhooks', headers), 401, 'not-signed-in')
    }
  })

  test('when its token is rotated, also while the previous secret still works', async () => {
    const edge = newEdge(trusting)
    const { id, token } = await newToken(edge, 'webhooks:manage')
    const headers = await signIn(edge, { token })
    await send(edge, 'POST', `/v1/service-tokens/${id}/rotate`, ROOT, {})
    await expectProblem(send(edge, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
    const again = await signIn(edge, { token }) // the previous secret
    expect((await send(edge, 'GET', '/dashboard/session', again)).status).toBe(200)
  })

  test('when SERVICE_TOKEN changes, whatever token began it', async () => {
    const edge = newEdge()
    const after = newEdge({ SERVICE_TOKEN: 'another root token' })
    const { token } = await newToken(edge, 'webhooks:manage')
    for (const body of [TOKEN, { token }]) {
      const headers = await signIn(edge, body)
      await expectProblem(send(after, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
    }
  })

  test('when it is signed out, for whoever has a copy of the cookie', async () => {
    const [edge, other] = [newEdge(), newEdge(trusting)]
    const headers = await signIn(edge, TOKEN)
    expect((await send(other, 'GET', '/dashboard/session', headers)).status).toBe(200)
    const response = await send(edge, 'DELETE', '/dashboard/session', headers)
    expect(response.status).toBe(204)
    expect(response.headers.get('Set-Cookie')).toMatch(/^__Secure-dashboard=; Max-Age=0; Path=\/dashboard; HttpOnly/)
    for (const isolate of [edge, other]) {
      await expectProblem(send(isolate, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
      await expectProblem(send(isolate, 'GET', '/dashboard/v1/stats', headers), 401, 'not-signed-in')
    }
    expect((await send(edge, 'DELETE', '/dashboard/session', headers)).status).toBe(204)
    const another = await signIn(edge, TOKEN)
    expect((await send(edge, 'GET', '/dashboard/session', another)).status).toBe(200)
  })
})

describe('with a clock that the test sets', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }))
  afterEach(() => void vi.useRealTimers())

  test('the session ends after four hours, and its sign-out is purged', async () => {
    const edge = newEdge()
    const headers = await signIn(edge, TOKEN)
    vi.setSystemTime(Date.now() + 4 * 3_600_000 - 1)
    expect((await send(edge, 'GET', '/dashboard/session', headers)).status).toBe(200)
    expect((await send(edge, 'DELETE', '/dashboard/session', headers)).status).toBe(204)
    vi.setSystemTime(Date.now() + 1)
    await expectProblem(send(edge, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
    const ended = await db.select().from(dashboardSignOuts)
    vi.setSystemTime(Date.now() + 86_400_000)
    await edge.cron()
    const left = await db.select().from(dashboardSignOuts)
    expect([ended.length > 0, left.length]).toEqual([true, 0])
  })
})

test('an altered cookie, and a token for another purpose, are refused', async () => {
  const edge = newEdge()
  const { Cookie } = await signIn(edge, TOKEN)
  const cookie = Cookie.split('=').at(-1) ?? ''
  const claims = { id: 's_a', tokenId: 'root', stamp: '', expiresAt: Date.now() + 1_000 }
  const [text = '', tag = ''] = cookie.split('.')
  const other = Buffer.from(JSON.stringify(claims)).toString('base64url')
  const altered = [
    ...Array.from(cookie, (letter, i) => cookie.slice(0, i) + (letter === 'A' ? 'B' : 'A') + cookie.slice(i + 1)),
    `${text}.`,
    `.${tag}`,
    text,
    `${other}.${tag}`,
    `${cookie}A`,
    '',
    'a'.repeat(100_000),
    env.SERVICE_TOKEN,
    createDashboardTokens(env.SERVICE_TOKEN).issue('link', claims),
    createDashboardTokens('another root token').issue('session', claims),
    createDashboardTokens(env.SERVICE_TOKEN).issue('session', { ...claims, expiresAt: Date.now() }),
  ]
  for (const value of altered) {
    await expectProblem(send(edge, 'GET', '/dashboard/session', withCookie(value)), 401, 'not-signed-in')
  }
  const genuine = createDashboardTokens(env.SERVICE_TOKEN).issue('session', claims)
  expect((await send(edge, 'GET', '/dashboard/session', withCookie(genuine))).status).toBe(200)
})

test.each([
  ['its own page', { 'Sec-Fetch-Site': 'same-origin', 'X-Dashboard': '1' }, 200, 204],
  ['its own page, in an old browser', { Origin: 'https://edge.test', 'X-Dashboard': '1' }, 200, 204],
  ['a program', { 'X-Dashboard': '1' }, 200, 204],
  ['a form of its own page', { 'Sec-Fetch-Site': 'same-origin' }, 200, 403],
  ['the address bar', { 'Sec-Fetch-Site': 'none', 'X-Dashboard': '1' }, 200, 403],
  ['another site', { 'Sec-Fetch-Site': 'cross-site', 'X-Dashboard': '1' }, 403, 403],
  ['a subdomain', { 'Sec-Fetch-Site': 'same-site', Origin: 'https://app.edge.test', 'X-Dashboard': '1' }, 403, 403],
  ['an origin of CORS_ORIGINS', { 'Sec-Fetch-Site': 'same-site', Origin: 'https://app.example' }, 403, 403],
  ['the same, in an old browser', { Origin: 'https://app.example', 'X-Dashboard': '1' }, 403, 403],
  ['a sandboxed page', { Origin: 'null', 'X-Dashboard': '1' }, 403, 403],
])('CSRF: what %s may do with the cookie', async (_, headers, read, write) => {
  const edge = newEdge({ CORS_ORIGINS: 'https://app.example' })
  const { Cookie } = await signIn(edge, TOKEN)
  for (const path of ['/dashboard/session', '/dashboard/v1/webhooks']) {
    const response = await send(edge, 'GET', path, { ...headers, Cookie })
    expect([path, response.status]).toEqual([path, read])
  }
  const signing = await send(edge, 'POST', '/dashboard/session', headers, TOKEN)
  expect([signing.status, cookieIn(signing) !== '']).toEqual(write === 204 ? [200, true] : [403, false])
  const { status } = await send(edge, 'DELETE', '/dashboard/v1/webhooks/wh_none', { ...headers, Cookie })
  expect(status).toBe(write === 204 ? 404 : 403)
  expect((await send(edge, 'DELETE', '/dashboard/session', { ...headers, Cookie })).status).toBe(write)
})

test.each([
  [{}, 'token'],
  [{ token: 'a', link: 'b' }, 'token'],
  [{ token: 1 }, 'token'],
  [{ token: 'a'.repeat(1_001) }, 'token'],
  [{ link: 'a'.repeat(2_001) }, 'link'],
  [{ token: 'a', remember: true }, 'remember'],
])('signing in with %j is refused and names %s', (body, field) =>
  expectRefused(send(newEdge(), 'POST', '/dashboard/session', PAGE, body), 'body', field),
)

test('wrong tokens are refused, and a network may be wrong 30 times a minute', async () => {
  const edge = newEdge()
  const from = (address: string) => ({ ...PAGE, 'CF-Connecting-IP': address })
  const guess = (address: string, i: number) =>
    send(edge, 'POST', '/dashboard/session', from(address), { token: i % 2 ? `wrong ${i}` : `st_a.${'a'.repeat(43)}` })
  for (let i = 0; i < 30; i += 1) await expectProblem(guess('192.0.2.1', i), 401, 'service-token-required')
  await expectProblem(guess('192.0.2.1', 30), 429, 'rate-limited')
  await expectProblem(send(edge, 'POST', '/dashboard/session', from('192.0.2.1'), TOKEN), 429, 'rate-limited')
  await expectProblem(guess('192.0.2.2', 0), 401, 'service-token-required')
})

test('the dashboard of SERVICE_TOKEN works without Redis and without D1, but for signing out', async () => {
  const lab = newLab()
  await lab.edge.redis.fault({ kind: 'refuse' })
  lab.database.failure = 'refuses'
  const headers = await signIn(lab.edge, TOKEN)
  expect((await send(lab.edge, 'GET', '/dashboard/session', headers)).status).toBe(200)
  const stats = await send(lab.edge, 'GET', '/dashboard/v1/stats', headers)
  expect(await stats.json()).toMatchObject({ dependencies: { redis: { isUp: false }, d1: { isUp: false } } })
  const refused = await send(lab.edge, 'DELETE', '/dashboard/session', headers)
  expect(refused.headers.get('Set-Cookie')).toBeNull()
  await expectProblem(refused, 503, 'unavailable')
  lab.database.failure = 'none'
  expect((await send(lab.edge, 'GET', '/dashboard/session', headers)).status).toBe(200)
})

test('a sign-out whose reply is lost answers 503, and has ended the session', async () => {
  const lab = newLab()
  const headers = await signIn(lab.edge, TOKEN)
  lab.database.failure = 'loses answers'
  await expectProblem(send(lab.edge, 'DELETE', '/dashboard/session', headers), 503, 'unavailable')
  lab.database.failure = 'none'
  await expectProblem(send(lab.edge, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
})

test('no shared cache may store an answer of the dashboard', async () => {
  const edge = newEdge()
  const headers = await signIn(edge, TOKEN)
  const paths = newRoutes().flatMap(({ method, path }) =>
    method === 'GET' && path.startsWith('/dashboard') ? [path.replaceAll(/:\w+/g, 'wh_a')] : [],
  )
  expect(paths).toContain('/dashboard/session')
  for (const path of [...paths, '/dashboard/v1/nothing']) {
    for (const sent of [headers, PAGE, {}]) {
      const response = await send(edge, 'GET', path, sent)
      expect([path, isStorable(asked(path, sent), response)]).toEqual([path, false])
      expect(response.headers.get('Cache-Control')).toBe('no-store')
      await response.body?.cancel()
    }
  }
})

test('a request that began before a sign-out does not bring the session back', async () => {
  const issuer = newEdge()
  const headers = await signIn(issuer, TOKEN)
  const edge: Edge = newEdge({
    DB: interruptedDatabase(/^select .* from "dashboard_sign_outs"/i, 1, async () => {
      expect((await send(edge, 'DELETE', '/dashboard/session', headers)).status).toBe(204)
    }),
  })
  await expectProblem(send(edge, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
  await expectProblem(send(edge, 'GET', '/dashboard/session', headers), 401, 'not-signed-in')
})
