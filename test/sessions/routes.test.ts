import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { revocations, sessions, signInSources, users } from '../../src/db/schema.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { guardedD1 } from '../guarded-d1.ts'
import { addPost, addUser, db, quickHash } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

const json = (body: unknown, headers: Record<string, string> = {}) => ({
  method: 'POST',
  headers: { 'Content-Type': 'application/json', ...headers },
  body: JSON.stringify(body),
})

const PASSWORD = 'correct horse'
const newName = () => `m${crypto.randomUUID().slice(0, 8)}`

/** Signs a new member up, over HTTP. */
async function signUp(edge: Edge, username = newName()) {
  const account = { username, email: `${username}@example.test`, password: PASSWORD, displayName: 'Member' }
  const signedUp = await edge.fetch('/v1/users', json(account))
  expect(signedUp.status).toBe(201)
  const { id } = await signedUp.json<{ id: string }>()
  await db.update(users).set({ email: account.email, pendingEmail: null }).where(eq(users.id, id)) // confirmed
  return { id, ...account, signIn: () => signIn(edge, username) }
}

/** A member whose password is checked in no time. */
async function newMember(edge: Edge) {
  const username = newName()
  const { id, email } = await addUser({
    username,
    email: `${username}@example.test`,
    passwordHash: quickHash(PASSWORD),
  })
  return { id, username, email, signIn: () => signIn(edge, username) }
}

async function signIn(edge: Edge, login: string, headers: Record<string, string> = {}) {
  const response = await edge.fetch('/v1/sessions', json({ login, password: PASSWORD }, headers))
  expect(response.status).toBe(201)
  const { token } = await response.json<{ token: string }>()
  return { token, response, headers: { Authorization: `Bearer ${token}` } }
}

const isSignedIn = async (edge: Edge, headers: Record<string, string>) =>
  (await edge.fetch('/v1/sessions', { headers })).status === 200

test('a member can sign in by username or email, and sees their own email', async () => {
  const edge = newEdge()
  const member = await signUp(edge)
  for (const login of [member.username, member.email, member.username.toUpperCase()]) {
    const { response, headers } = await signIn(edge, login)
    expect(response.headers.get('Set-Cookie')).toMatch(
      /^__Host-session=u_\w+\.s_\w+\.[\w-]+\.[\w-]+; Path=\/; Expires=.*; HttpOnly; Secure; SameSite=Lax$/,
    )
    const own = await edge.fetch(`/v1/users/${member.id}`, { headers })
    expect(await own.json()).toMatchObject({ id: member.id, email: member.email })
    expect(own.headers.get('Cache-Control')).toBe('private, no-cache')
  }
  const anyones = await edge.fetch(`/v1/users/${member.id}`)
  expect(await anyones.json()).not.toHaveProperty('email')
})

test('a new username is found at once, even if its absence was cached', async () => {
  const edge = newEdge()
  expect((await edge.fetch('/v1/users/by-username/newcomer')).status).toBe(404)
  await edge.settle()
  await signUp(edge, 'newcomer')
  expect((await edge.fetch('/v1/users/by-username/newcomer')).status).toBe(200)
  expect((await newEdge({}, edge.token).fetch('/v1/users/by-username/newcomer')).status).toBe(200)
})

test('a cookie authenticates like a bearer token', async () => {
  const edge = newEdge()
  const { signIn } = await newMember(edge)
  const { token } = await signIn()
  expect(await isSignedIn(edge, { Cookie: `__Host-session=${token}` })).toBe(true)
})

test('neither D1 nor Redis holds a token or a password', async () => {
  const edge = newEdge()
  const member = await signUp(edge)
  const { token } = await member.signIn()
  await isSignedIn(edge, { Authorization: `Bearer ${token}` })
  await edge.settle()

  const secret = token.split('.')[2] ?? ''
  const stored = JSON.stringify([
    await db.select().from(sessions).where(eq(sessions.userId, member.id)),
    await db.select().from(users).where(eq(users.id, member.id)),
    await edge.sdk.get(`session:${token.split('.')[1]}`),
  ])
  expect(stored).toContain('seenAt') // all three are stored
  expect(stored).not.toContain(secret)
  expect(stored).not.toContain('correct horse')
})

test('a session check is one round trip, together with the limit, and none for a forged token', async () => {
  const edge = newEdge()
  const { signIn } = await newMember(edge)
  const { token, headers } = await signIn()
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: (await signIn()).headers })
  await edge.settle()
  await edge.redis.reset()

  expect(roundTrips(await edge.fetch('/v1/sessions', { headers }))).toBe(1)
  await edge.settle()
  await edge.redis.reset()
  const signedOut = await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers })
  expect(signedOut.status).toBe(204)
  await edge.settle()
  // Limit and session in one, then the tombstone. After the answer the device leaves presence.
  expect(roundTrips(signedOut)).toBe(2)
  expect((await edge.redis.counts()).byCommand).toEqual({ mget: 1, evalsha: 1, set: 1, eval: 1 })

  await edge.redis.reset()
  const forged = token.replace(/.$/, (last) => (last === 'A' ? 'B' : 'A'))
  const refused = await edge.fetch('/v1/sessions', { headers: { Authorization: `Bearer ${forged}` } })
  expect([refused.status, roundTrips(refused)]).toEqual([401, 0])
})

test.each(['nobody', 'known'])('a wrong password for the login "%s" gets the same answer', async (who) => {
  const edge = newEdge()
  await addUser({ username: 'known', passwordHash: 'scrypt$16384$8$5$AAAA$AAAA' }).catch(() => {})
  const response = await edge.fetch('/v1/sessions', json({ login: who, password: 'wrong' }))
  expect(response.status).toBe(401)
  expect(await response.json()).toEqual({
    type: '/problems/wrong-credentials',
    title: 'Login or password is wrong',
    status: 401,
    detail: 'Login or password is wrong',
    instance: '/v1/sessions',
  })
})

test('guesses are limited per account and source, per account from all new sources, and per network', async () => {
  const limits = { LIMIT_SIGN_IN: '2', LIMIT_SIGN_IN_ADDRESS: '4', LIMIT_SIGN_IN_ACCOUNT: '5' }
  const edge = newEdge({ ...limits, LIMIT_SIGN_IN_SECONDS: '86400', LIMIT_SIGN_IN_ACCOUNT_SECONDS: '86400' })
  const guess = async (login: string, address: string) => {
    const response = await edge.fetch('/v1/sessions', json({ login, password: 'x' }, { 'CF-Connecting-IP': address }))
    const problem = await response.json<{ 'violated-policies'?: string[] }>()
    return problem['violated-policies']?.[0] ?? response.status
  }
  const guesses = async (login: string, addresses: string[]) => {
    const seen = []
    for (const address of addresses) seen.push(await guess(login, address))
    return seen
  }
  const [a, b, c] = ['192.0.2.1', '192.0.2.2', '192.0.2.3']
  // Refusals by source do not spend the limit of the account.
  expect(await guesses('ada', [a, a, a, a, a])).toEqual([401, 401, 'sign-in', 'sign-in', 'sign-in'])
  expect(await guesses('ADA', [b, b, c])).toEqual([401, 401, 401])
  expect(await guesses('ada', [c, '192.0.2.4'])).toEqual(['sign-in-account', 'sign-in-account'])
  const many = '192.0.2.9'
  expect(await guesses('b', [many, many])).toEqual([401, 401])
  expect(await guesses('c', [many, many])).toEqual([401, 401])
  expect(await guesses('d', [many])).toEqual(['sign-in-address'])
})

test('without Redis sessions stay live, sign-out works, and sign-in is unavailable', async () => {
  const edge = newEdge(RECHECKS_SOON)
  const member = await newMember(edge)
  const { headers } = await member.signIn()
  await edge.redis.fault({ kind: 'refuse' })

  expect(await isSignedIn(edge, headers)).toBe(true)
  const refused = await edge.fetch('/v1/sessions', json({ login: member.username, password: 'correct horse' }))
  expect(refused.status).toBe(503)
  expect((await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers })).status).toBe(204)
  expect(await isSignedIn(edge, headers)).toBe(false)
})

test('a session survives a flush of Redis', async () => {
  const edge = newEdge()
  const { headers } = await (await newMember(edge)).signIn()
  await edge.sdk.flushdb()
  expect(await isSignedIn(edge, headers)).toBe(true)
  await edge.settle()
  expect(await keysOf(edge.sdk, 'session:*')).toHaveLength(1)
})

test('sign-out ends one session, sign-out everywhere ends all, and a flush brings none back', async () => {
  const edge = newEdge()
  const member = await newMember(edge)
  const [phone, laptop, tablet] = [await member.signIn(), await member.signIn(), await member.signIn()]
  const all = async () => Promise.all([phone, laptop, tablet].map(({ headers }) => isSignedIn(edge, headers)))

  expect(await all()).toEqual([true, true, true])
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: phone.headers })
  expect(await all()).toEqual([false, true, true])
  await edge.sdk.flushdb()
  expect(await all()).toEqual([false, true, true])

  expect((await edge.fetch('/v1/sessions', { method: 'DELETE', headers: laptop.headers })).status).toBe(204)
  expect(await all()).toEqual([false, false, false])
  await edge.sdk.flushdb()
  expect(await all()).toEqual([false, false, false])
  expect(await isSignedIn(edge, (await member.signIn()).headers)).toBe(true)
})

test('a sign-in ends the session that it presents', async () => {
  const edge = newEdge()
  const member = await newMember(edge)
  const first = await member.signIn()
  await signIn(edge, member.username, first.headers)
  expect(await isSignedIn(edge, first.headers)).toBe(false)
})

test('the device list names each device and marks the current one', async () => {
  const edge = newEdge()
  const member = await newMember(edge)
  await signIn(edge, member.username, { 'User-Agent': 'Phone' })
  const { headers } = await signIn(edge, member.username, { 'User-Agent': 'x'.repeat(500) })
  const { items } = await (await edge.fetch('/v1/sessions', { headers })).json<{ items: unknown[] }>()
  expect(items).toMatchObject([
    { userAgent: 'x'.repeat(200), isCurrent: true },
    { userAgent: 'Phone', isCurrent: false },
  ])
})

test('a taken username is a problem that names the field, and nothing is stored', async () => {
  const edge = newEdge()
  const member = await signUp(edge)
  const account = { username: 'fresh', email: 'fresh@example.test', password: 'correct horse', displayName: 'F' }
  const response = await edge.fetch('/v1/users', json({ ...account, username: member.username.toUpperCase() }))
  expect(response.status).toBe(409)
  expect(await response.json()).toMatchObject({ errors: [{ in: 'body', field: 'username' }] })
  expect(await db.select().from(users).where(eq(users.pendingEmail, account.email))).toEqual([])
})

test.each([
  ['/v1/users', {}, ['username', 'email', 'password', 'displayName']],
  [
    '/v1/users',
    { username: 'a-b', email: 'x', password: 'short', displayName: ' ' },
    ['username', 'email', 'password', 'displayName'],
  ],
  [
    '/v1/users',
    { username: 1, email: null, password: [], displayName: {} },
    ['username', 'email', 'password', 'displayName'],
  ],
  ['/v1/sessions', {}, ['login', 'password']],
  ['/v1/sessions', { login: '', password: '' }, ['login', 'password']],
])('POST %s with %j names the invalid fields %j', async (path, body, fields) => {
  const response = await newEdge().fetch(path, json(body))
  expect(response.status).toBe(400)
  const { errors } = await response.json<{ errors: { in: string; field: string }[] }>()
  expect(errors.map((error) => error.field)).toEqual(fields)
  expect(errors.every((error) => error.in === 'body')).toBe(true)
})

test.each(['GET /v1/sessions', 'DELETE /v1/sessions', 'DELETE /v1/sessions/current'])(
  '%s requires a session',
  async (route) => {
    const [method = '', path = ''] = route.split(' ')
    expect((await newEdge().fetch(path, { method })).status).toBe(401)
  },
)

const sessionIdOf = ({ Authorization = '' }: Record<string, string>) => Authorization.split('.')[1] ?? ''

const signOut = (edge: Edge, headers: Record<string, string>, path = '/v1/sessions/current') =>
  edge.fetch(path, { method: 'DELETE', headers })

/** The revocations of these subjects that Redis has not confirmed. */
const waiting = async (...subjects: string[]) =>
  (await db.select().from(revocations)).filter(({ subjectId }) => subjects.includes(subjectId))

/** A sign-out that Redis misses answers this much later. */
const RECHECKS_SOON = { SESSION_RECHECK_SECONDS: '0.3' }

test.each([
  ['/v1/sessions/current', 'refuse'],
  ['/v1/sessions', 'refuse'],
  ['/v1/sessions/current', 'oom'],
  ['/v1/sessions', 'oom'],
  ['/v1/sessions/current', 'readonly'],
  ['/v1/sessions', 'cut'],
] as const)('DELETE %s while Redis does "%s" ends the session, also when Redis is back', async (path, kind) => {
  const edge = newEdge({ REDIS_BREAKER_FAILURES: '1000', ...RECHECKS_SOON })
  const member = await newMember(edge)
  const { token, headers } = await member.signIn()
  expect(await isSignedIn(edge, headers)).toBe(true)
  await edge.settle()
  const subject = path === '/v1/sessions' ? member.id : (token.split('.')[1] ?? '')

  await edge.redis.fault({ kind })
  expect((await signOut(edge, headers, path)).status).toBe(204)
  expect((await signOut(edge, headers, path)).status).toBe(401)
  await edge.settle()
  expect(await waiting(subject)).toHaveLength(1)

  await edge.redis.reset()
  expect(await isSignedIn(edge, headers)).toBe(false)
  expect(await isSignedIn(newEdge({}, edge.token), headers)).toBe(false)
  await edge.cron()
  expect(await waiting(subject)).toEqual([])
  const [userId = '', sessionId = ''] = token.split('.')
  const held = await edge.sdk.mget(`session:${sessionId}`, `epoch:${userId}`)
  expect(path === '/v1/sessions' ? held[1] : held[0]).toBe(path === '/v1/sessions' ? 1 : 'ended')
})

const NO_REDIS = { UPSTASH_REDIS_REST_URL: 'http://127.0.0.1:1' }

test.each([
  ['DELETE', '/v1/sessions/current', undefined],
  ['DELETE', '/v1/sessions', undefined],
  ['PUT', '/v1/moderation/suspensions/USER', { note: 'spam' }],
] as const)(
  'once %s %s has answered without Redis, isolates that saw no failure refuse every write of the session',
  async (method, path, body) => {
    const edge = newEdge(RECHECKS_SOON)
    const cutOff = newEdge({ ...RECHECKS_SOON, ...NO_REDIS }, edge.token)
    const member = await newMember(edge)
    const { headers } = await member.signIn()
    const post = await addPost({ authorId: (await addUser()).id })
    const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
    const writes = () => {
      const write = (verb: string, to: string, init: { body?: string } = {}) =>
        edge.fetch(to, { ...init, method: verb, headers: { ...headers, 'Content-Type': 'application/json' } })
      return Promise.all([
        write('POST', '/v1/posts', { body: JSON.stringify({ text: 'Hello' }) }),
        write('PUT', `/v1/posts/${post.id}/like`),
        write('PUT', `/v1/users/${post.authorId}/follow`),
        write('POST', '/v1/presence/heartbeat'),
        write('GET', '/v1/sessions'),
      ]).then((answers) => answers.map(({ status }) => status))
    }
    for (let i = 0; i < 2; i += 1) {
      expect(await writes()).not.toContain(401)
      await edge.settle() // the second time Redis holds the session, and D1 has confirmed it
    }
    const held = await edge.sdk.get<{ confirmedAt: number }>(`session:${sessionIdOf(headers)}`)
    expect(held?.confirmedAt).toBeGreaterThan(Date.now() - 50_000) // the isolate would trust it for longer

    const ended = await cutOff.fetch(path.replace('USER', member.id), {
      method,
      headers: { ...(body ? service : headers), 'Content-Type': 'application/json' },
      body: body ? JSON.stringify(body) : null,
    })
    expect(ended.ok).toBe(true)
    expect(await edge.sdk.get(`session:${sessionIdOf(headers)}`)).toEqual(held) // Redis missed it
    expect(await writes()).toEqual([401, 401, 401, 401, 401])
  },
)

test('an isolate asks D1 once in a while for the ends that Redis missed, which reads one row', async () => {
  const asked: string[] = []
  const DB = guardedD1((sql, work) => {
    asked.push(sql)
    return work()
  })
  const edge = newEdge({ DB, SESSION_RECHECK_SECONDS: '20' })
  const { headers } = await (await newMember(edge)).signIn()
  const post = await addPost({ authorId: (await addUser()).id })
  const like = () => edge.fetch(`/v1/posts/${post.id}/like`, { method: 'PUT', headers })
  for (let i = 0; i < 2; i += 1) {
    await like()
    await edge.settle() // the isolate has the list, and Redis the session that D1 confirmed
  }
  expect(asked.filter((sql) => /from "revocations"/i.test(sql))).toHaveLength(1)

  asked.length = 0
  for (let i = 0; i < 5; i += 1) {
    const liked = await like()
    expect([liked.status, roundTrips(liked)]).toEqual([200, 1])
  }
  await edge.settle()
  expect(asked).toEqual([])

  await db.delete(revocations)
  const { meta } = await env.DB.prepare('SELECT subject_id FROM revocations WHERE created_at > 0 LIMIT 1001').run()
  expect(meta.rows_read).toBe(1) // the end of the index
})

test('a sign-out leaves no revocation in D1 once Redis has confirmed it', async () => {
  const edge = newEdge()
  const member = await newMember(edge)
  const [phone, laptop] = [await member.signIn(), await member.signIn()]
  await signOut(edge, phone.headers)
  await signOut(edge, laptop.headers, '/v1/sessions')
  await edge.settle()
  expect(await waiting(member.id, phone.token.split('.')[1] ?? '')).toEqual([])
})

test('the cron keeps a revocation while Redis refuses it, and fails alone', async () => {
  const edge = newEdge({ REDIS_BREAKER_FAILURES: '1000', ...RECHECKS_SOON })
  const member = await newMember(edge)
  const { headers } = await member.signIn()
  await edge.redis.fault({ kind: 'readonly' })
  await signOut(edge, headers, '/v1/sessions')
  await expect(edge.cron()).rejects.toThrow('send revocations')
  expect(await waiting(member.id)).toHaveLength(1)
})

test('a sign-in during a sign-out everywhere answers a token that works', async () => {
  const edge = newEdge()
  const member = await signUp(edge)
  const { headers } = await member.signIn()
  // The password check takes so long that the sign-out happens meanwhile.
  const [begun, ended] = await Promise.all([member.signIn(), signOut(edge, headers, '/v1/sessions')])
  expect(ended.status).toBe(204)
  await edge.settle()
  const isListed = (await db.select().from(sessions).where(eq(sessions.userId, member.id))).length > 0
  expect(await isSignedIn(edge, begun.headers)).toBe(isListed)
})

test('the epoch of a new session is that of the moment it is stored', async () => {
  const { id } = await addUser({ passwordHash: quickHash(PASSWORD) })
  const edge = newEdge()
  const account = await db.select().from(users).where(eq(users.id, id))
  const raised = Promise.withResolvers<void>()
  const stored = Promise.withResolvers<void>()
  const slow = newEdge({ DB: delayBatches(env.DB, raised.promise, stored.resolve) }, edge.token)
  const signingIn = signIn(slow, account[0]?.username ?? '')
  await stored.promise
  await db.update(users).set({ sessionEpoch: 7 }).where(eq(users.id, id))
  raised.resolve()
  expect(await isSignedIn(edge, (await signingIn).headers)).toBe(true)
})

/** D1 whose batches wait for `gate`. */
function delayBatches(database: D1Database, gate: Promise<void>, onWaiting = () => {}): D1Database {
  return new Proxy(database, {
    get(target, name) {
      if (name === 'batch') {
        return async (statements: D1PreparedStatement[]) => {
          onWaiting()
          await gate
          return target.batch(statements)
        }
      }
      const member: unknown = Reflect.get(target, name)
      return typeof member === 'function' ? member.bind(target) : member
    },
  })
}

test('the device list has no sessions that idled out or belong to an older epoch', async () => {
  const edge = newEdge()
  const user = await addUser({ sessionEpoch: 2 })
  const headers = await edge.signIn(user)
  await edge.signIn({ ...user, sessionEpoch: 1 })
  const idle = await edge.signIn(user)
  const idleId = idle.Authorization.split('.')[1] ?? ''
  await db
    .update(sessions)
    .set({ lastSeenAt: Date.now() - 4_000_000 })
    .where(eq(sessions.id, idleId))
  const { items } = await (await edge.fetch('/v1/sessions', { headers })).json<{ items: { isCurrent: boolean }[] }>()
  expect(items).toMatchObject([{ isCurrent: true }])
})

test.each(['/v1/sessions/current', '/v1/sessions'])('DELETE %s takes the device offline', async (path) => {
  const edge = newEdge()
  const member = await newMember(edge)
  const { headers } = await member.signIn()
  await edge.fetch('/v1/presence/heartbeat', { method: 'POST', headers })
  await edge.settle()
  const isOnline = async () => {
    const response = await edge.fetch(`/v1/presence?ids=${member.id}`)
    return (await response.json<{ items: { isOnline: boolean }[] }>()).items[0]?.isOnline
  }
  expect(await isOnline()).toBe(true)
  expect((await signOut(edge, headers, path)).status).toBe(204)
  await edge.settle()
  expect(await isOnline()).toBe(false)
})

test('a sign-out deletes the cookie, also of a session that has ended; a refused one keeps it', async () => {
  const edge = newEdge()
  const { token } = await (await newMember(edge)).signIn()
  const cookie = { Cookie: `__Host-session=${token}` }
  const deleted = /^__Host-session=; Max-Age=0; Path=\//
  for (const status of [204, 401]) {
    const response = await signOut(edge, cookie)
    expect([response.status, response.headers.get('Set-Cookie')]).toEqual([status, expect.stringMatching(deleted)])
  }
  const refused = await signOut(edge, { ...cookie, Origin: 'https://evil.example' })
  expect([refused.status, refused.headers.get('Set-Cookie')]).toEqual([403, null])
})

const guessing = {
  LIMIT_SIGN_IN: '3',
  LIMIT_SIGN_IN_SECONDS: '86400',
  LIMIT_SIGN_IN_ACCOUNT: '5',
  LIMIT_SIGN_IN_ACCOUNT_SECONDS: '86400',
}
const attempt = async (edge: Edge, login: string, address: string, password = 'wrong', headers = {}) =>
  (await edge.fetch('/v1/sessions', json({ login, password }, { 'CF-Connecting-IP': address, ...headers }))).status

test('one network of an attacker does not lock out the user, whose network is new too', async () => {
  const edge = newEdge(guessing)
  const member = await newMember(edge)
  const guesses = []
  for (let i = 0; i < 12; i += 1) guesses.push(await attempt(edge, member.username, '198.51.100.1'))
  expect(guesses.filter((status) => status === 401)).toHaveLength(3)
  expect(await attempt(edge, member.username, '192.0.2.1', 'correct horse')).toBe(201)
})

test('guesses from many networks are bounded, and do not lock out networks and devices that are known', async () => {
  const edge = newEdge(guessing)
  const member = await newMember(edge)
  expect(await attempt(edge, member.username, '192.0.2.1', 'correct horse')).toBe(201) // one of the five of new sources
  const { headers } = await signIn(edge, member.username, { 'CF-Connecting-IP': '192.0.2.1' })
  const guesses = []
  for (let i = 0; i < 7; i += 1) guesses.push(await attempt(edge, member.username, `198.51.100.${i}`))
  expect(guesses).toEqual([401, 401, 401, 401, 429, 429, 429])

  expect(await attempt(edge, member.username, '198.51.100.9', 'correct horse')).toBe(429)
  expect(await attempt(edge, member.username, '192.0.2.1', 'correct horse')).toBe(201)
  const elsewhere = newEdge(guessing, edge.token)
  // A device on a new network, which still presents its token. The sign-in ends that session.
  expect(await attempt(elsewhere, member.email, '198.51.100.9', 'correct horse', headers)).toBe(201)
  expect(await isSignedIn(elsewhere, headers)).toBe(false)
  expect(await attempt(elsewhere, member.email, '198.51.100.10', 'correct horse', headers)).toBe(201)
})

test('guesses from a known network, or with a token of the account, have a limit of their own', async () => {
  const edge = newEdge(guessing)
  const member = await newMember(edge)
  const { headers } = await signIn(edge, member.username, { 'CF-Connecting-IP': '192.0.2.1' })
  const [fromNetwork, fromDevice] = [[] as number[], [] as number[]]
  for (let i = 0; i < 5; i += 1) {
    fromNetwork.push(await attempt(edge, member.username, '192.0.2.1'))
    fromDevice.push(await attempt(edge, member.username, `198.51.100.${i}`, 'wrong', headers))
  }
  expect(fromNetwork).toEqual([401, 401, 429, 429, 429]) // the first sign-in came from there
  expect(fromDevice).toEqual([401, 401, 401, 429, 429])
})

test('a token of another account does not make a device known', async () => {
  const edge = newEdge(guessing)
  const [member, attacker] = [await newMember(edge), await newMember(edge)]
  const { headers } = await attacker.signIn()
  const guesses = []
  for (let i = 0; i < 7; i += 1) {
    guesses.push(await attempt(edge, member.username, `198.51.100.${i}`, 'wrong', headers))
  }
  expect(guesses).toEqual([401, 401, 401, 401, 401, 429, 429])
})

test('guesses count per account, however it is named', async () => {
  const edge = newEdge(guessing)
  const member = await newMember(edge)
  const logins = [member.username, member.email, member.username.toUpperCase(), member.email.toUpperCase()]
  const seen = []
  for (const login of logins) seen.push(await attempt(edge, login, '192.0.2.1'))
  expect(seen).toEqual([401, 401, 401, 429])
})

test('D1 holds no address of a user', async () => {
  const edge = newEdge()
  const member = await newMember(edge)
  await attempt(edge, member.username, '192.0.2.77', 'correct horse')
  const sources = await db.select().from(signInSources).where(eq(signInSources.userId, member.id))
  expect(sources).toHaveLength(1)
  expect(JSON.stringify(sources)).not.toContain('192.0.2.77')
})

test('networks without a sign-in for 90 days are purged', async () => {
  const edge = newEdge()
  const { id } = await addUser()
  const now = Date.now()
  await db.insert(signInSources).values([
    { userId: id, source: 'old', seenAt: now - 91 * 86_400_000 },
    { userId: id, source: 'new', seenAt: now - 89 * 86_400_000 },
  ])
  await edge.cron(now)
  const left = await db.select().from(signInSources).where(eq(signInSources.userId, id))
  expect(left.map(({ source }) => source)).toEqual(['new'])
})
