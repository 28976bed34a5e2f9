import { and, eq, like } from 'drizzle-orm'
import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { readOnlyDatabase } from '../database.ts'
import { readOperations } from '../docs/document.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { keysOf } from '../redis/setup.ts'
import { addUser, db, quickHash } from '../rows.ts'

const PASSWORD = 'correct-horse-battery'
const OTHER = 'staple-of-the-battery'
const passwordHash = quickHash(PASSWORD)
beforeAll(migrate)

/** A message as an Email binding receives it. */
interface Sent {
  to: string
  from: string
  subject: string
  text: string
}

/** A Worker with an Email binding that keeps what it is given. */
function newMailingEdge(bindings: Record<string, unknown> = {}, token?: string) {
  const sent: Sent[] = []
  const EMAIL = { send: async (mail: Sent) => void sent.push(mail) }
  const edge = newEdge({ EMAIL, MAIL_FROM: 'threads@example.test', APP_URL: 'https://app.test/', ...bindings }, token)
  return Object.assign(edge, {
    /** The messages that arrive once the queue is empty; they are taken out. */
    async mails(): Promise<Sent[]> {
      await edge.settle()
      expect(await edge.dispatch()).toBe(0)
      return sent.splice(0)
    },
  })
}

const newUser = (values: Parameters<typeof addUser>[0] = {}) => addUser({ passwordHash, ...values })
const tokenIn = (mail: Sent | undefined) => /#[\w-]+=([\w-]{43})/.exec(mail?.text ?? '')?.[1] ?? ''
const tokensOf = (userId: string) =>
  db.select().from(schema.credentialTokens).where(eq(schema.credentialTokens.userId, userId))

const send = (edge: Edge, method: string, path: string, body: object, headers: Record<string, string> = {}) =>
  edge.fetch(path, {
    method,
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })

const signIn = async (edge: Edge, login: string, password: string) =>
  (await send(edge, 'POST', '/v1/sessions', { login, password })).status
const isSignedIn = async (edge: Edge, headers: Record<string, string>) =>
  (await edge.fetch('/v1/sessions', { headers })).status === 200

const changePassword = (edge: Edge, headers: Record<string, string>, password = PASSWORD, newPassword = OTHER) =>
  send(edge, 'POST', '/v1/users/me/password', { password, newPassword }, headers)

test('a changed password ends the other sessions and keeps this one', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  const [mine, other] = [await edge.signIn(me), await edge.signIn(me)]
  for (const headers of [mine, other]) expect(await isSignedIn(edge, headers)).toBe(true)
  await edge.settle()

  const changed = await changePassword(edge, mine)
  expect([changed.status, roundTrips(changed)]).toEqual([204, 2]) // session and limit; the tombstone
  expect([await isSignedIn(edge, mine), await isSignedIn(edge, other)]).toEqual([true, false])
  expect([await signIn(edge, me.username, PASSWORD), await signIn(edge, me.username, OTHER)]).toEqual([401, 201])
  expect(await edge.mails()).toMatchObject([{ to: me.email, subject: 'Your password was changed' }])
  expect((await changePassword(edge, mine)).status).toBe(204) // repeated
  expect(await edge.mails()).toEqual([])
  expect((await changePassword(edge, mine, 'wrong-password', 'a-third-password')).status).toBe(403)
})

test('a password change that Redis missed ends the other sessions by the cron, and never this one', async () => {
  const edge = newEdge({ SESSION_RECHECK_SECONDS: '0.2' })
  const me = await newUser()
  const [mine, other] = [await edge.signIn(me), await edge.signIn(me)]
  for (const headers of [mine, other]) await isSignedIn(edge, headers)
  await edge.settle()
  await edge.redis.fault({ kind: 'status', status: 500, match: 'SET' })
  expect((await changePassword(edge, mine)).status).toBe(204)
  await edge.settle()
  await edge.redis.clearFaults()
  expect(await db.$count(schema.revocations)).toBeGreaterThan(0)
  await edge.cron()
  await edge.settle()
  const elsewhere = newEdge({}, edge.token)
  expect([await isSignedIn(elsewhere, mine), await isSignedIn(elsewhere, other)]).toEqual([true, false])
  expect(await db.$count(schema.revocations)).toBe(0)
})

test('a repeated password change ends at once what the first attempt missed', async () => {
  const edge = newEdge({ SESSION_RECHECK_SECONDS: '0.2' })
  const me = await newUser()
  const [mine, other] = [await edge.signIn(me), await edge.signIn(me)]
  for (const headers of [mine, other]) await isSignedIn(edge, headers)
  await edge.settle()
  const held = () => edge.sdk.get(`session:${other.Authorization.split('.')[1]}`)
  await edge.redis.fault({ kind: 'status', status: 500, match: 'SET' })
  expect((await changePassword(edge, mine)).status).toBe(204)
  await edge.settle()
  await edge.redis.clearFaults()
  expect(await held()).not.toBe('ended')

  expect((await changePassword(edge, mine)).status).toBe(204)
  expect(await held()).toBe('ended')
  expect(await isSignedIn(edge, mine)).toBe(true)
  await edge.settle()
  expect(await db.$count(schema.revocations)).toBe(0)
})

test('a password change that D1 refuses changes nothing', async () => {
  const me = await newUser()
  const { DB } = readOnlyDatabase()
  const edge = newEdge()
  const [mine, other] = [await edge.signIn(me), await edge.signIn(me)]
  expect((await changePassword(newEdge({ DB }, edge.token), mine)).status).toBe(503)
  expect([await isSignedIn(edge, mine), await isSignedIn(edge, other)]).toEqual([true, true])
  expect(await signIn(edge, me.username, PASSWORD)).toBe(201)
})

test('a reset link works once, ends every session, and is not in D1 or Redis', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  const headers = await edge.signIn(me)
  await isSignedIn(edge, headers)
  const asked = await send(edge, 'POST', '/v1/password-resets', { email: me.email.toUpperCase() })
  expect([asked.status, await asked.json(), roundTrips(asked)]).toEqual([202, {}, 2]) // the limits of network and address
  const [mail, ...more] = await edge.mails()
  expect([mail?.to, mail?.from, more]).toEqual([me.email, 'threads@example.test', []])
  const token = tokenIn(mail)
  expect(mail?.text).toContain(`https://app.test/#reset-password=${token}`)

  const stored = JSON.stringify([await db.select().from(schema.events), await tokensOf(me.id)])
  expect(stored).toContain('mail_requested')
  expect(stored).not.toContain(token)
  for (const key of await keysOf(edge.sdk, 'events:*')) {
    expect(JSON.stringify(await edge.sdk.xrange(key, '-', '+').catch(() => ''))).not.toContain('mail_requested')
  }

  const reset = (password: string) => send(edge, 'PUT', '/v1/password-resets', { token, password })
  expect((await reset(OTHER)).status).toBe(204)
  expect(await isSignedIn(edge, headers)).toBe(false)
  expect([await signIn(edge, me.email, PASSWORD), await signIn(edge, me.email, OTHER)]).toEqual([401, 201])
  expect((await reset(OTHER)).status).toBe(204) // repeated: the answer of the first attempt
  const refused = await reset('another-of-the-battery')
  expect([refused.status, await refused.json()]).toEqual([
    410,
    expect.objectContaining({ type: '/problems/token-expired' }),
  ])
  expect(await tokensOf(me.id)).toMatchObject([{ purpose: 'reset-used' }]) // until it expires
  await changePassword(edge, await edge.signIn({ ...me, sessionEpoch: 1 }), OTHER, 'another-of-the-battery')
  expect((await reset(OTHER)).status).toBe(410)
  expect(await edge.mails()).toMatchObject(
    ['reset', 'change'].map(() => ({ to: me.email, subject: 'Your password was changed' })),
  )
})

test('a reset link expires after 30 minutes, and another link does not end it before', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  for (let i = 0; i < 2; i += 1) await send(edge, 'POST', '/v1/password-resets', { email: me.email })
  const [first, second] = (await edge.mails()).map(tokenIn)
  expect(first).not.toBe(second)
  for (const { expiresAt } of await tokensOf(me.id)) {
    expect(Math.abs(expiresAt - Date.now() - 30 * 60_000)).toBeLessThan(60_000)
  }
  await db
    .update(schema.credentialTokens)
    .set({ expiresAt: Date.now() - 1 })
    .where(eq(schema.credentialTokens.userId, me.id))
  expect((await send(edge, 'PUT', '/v1/password-resets', { token: first, password: OTHER })).status).toBe(410)
  await edge.cron()
  expect(await tokensOf(me.id)).toEqual([])
})

test('a request for a reset does the same for an address with an account and one without', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  const ask = async (email: string) => {
    const { DB, statements } = countedDatabase()
    const asking = newEdge({ DB, EVENTS: edge.events }, edge.token)
    const response = await send(asking, 'POST', '/v1/password-resets', { email })
    const {
      'x-request-id': _id,
      traceresponse: _trace,
      'server-timing': _timing,
      ratelimit: _limit,
      ...headers
    } = Object.fromEntries(response.headers)
    const body = await response.text()
    return { status: response.status, headers, body, roundTrips: roundTrips(response), queries: statements.count }
  }
  await ask('warm-up@example.test')
  const [known, unknown] = [await ask(me.email), await ask('nobody@example.test')]
  expect(known).toEqual(unknown)
  expect(known.queries).toBe(0) // the queue does the rest
  expect((await edge.mails()).map(({ to }) => to)).toEqual([me.email])
})

test('a repeated queue message sends one mail', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  const message = { kind: 'password-reset', id: 'ev_once', email: me.email }
  await edge.deliver([message, message], 'events')
  await edge.deliver([message], 'events')
  const mails = await edge.mails()
  await edge.cron(Date.now() + 120_000) // the outbox resends what its lost message would have
  const all = [...mails, ...(await edge.mails())]
  expect(all.filter(({ to }) => to === me.email)).toHaveLength(1)
  expect(await tokensOf(me.id)).toHaveLength(1)
})

test('messages with links are limited per address, whether it has an account or not', async () => {
  const edge = newMailingEdge({ LIMIT_MAIL: '2' })
  const me = await newUser()
  for (const email of [me.email, 'unknown@example.test']) {
    const seen = []
    for (let i = 0; i < 3; i += 1) seen.push((await send(edge, 'POST', '/v1/password-resets', { email })).status)
    expect(seen).toEqual([202, 202, 429])
  }
  expect(await edge.mails()).toHaveLength(2)
  expect((await keysOf(edge.sdk)).filter((key) => key.includes('@'))).toEqual([])
})

test('sign-up does not show whether an address is taken; the mail does', async () => {
  const edge = newMailingEdge()
  const owner = await newUser()
  const signUp = async (username: string, email: string) => {
    const account = { username, email, password: PASSWORD, displayName: 'New' }
    const response = await send(edge, 'POST', '/v1/users', account)
    const {
      id,
      createdAt: _at,
      username: _name,
      email: _email,
      pendingEmail,
      ...body
    } = await response.json<Record<string, unknown>>()
    expect(pendingEmail).toBe(email)
    return { id: String(id), answer: { status: response.status, body, roundTrips: roundTrips(response) } }
  }
  await signUp('newcomer0', 'warm-up@example.test') // Redis learns the script of the limits
  await edge.mails()
  const free = await signUp('newcomer1', 'free@example.test')
  const [verify] = await edge.mails()
  const taken = await signUp('newcomer2', owner.email)
  const [notice] = await edge.mails()
  expect(taken.answer).toEqual(free.answer)
  expect(verify).toMatchObject({ to: 'free@example.test', subject: 'Confirm your email address' })
  expect(notice).toMatchObject({ to: owner.email, subject: 'You have an account already' })
  expect(notice?.text).toContain(owner.username)

  // An address signs in once it is confirmed: until then nothing distinguishes them either.
  expect(await signIn(edge, 'free@example.test', PASSWORD)).toBe(401)
  expect([await signIn(edge, 'newcomer1', PASSWORD), await signIn(edge, 'newcomer2', PASSWORD)]).toEqual([201, 201])
  const token = tokenIn(verify)
  expect((await send(edge, 'PUT', '/v1/email-verifications', { token })).status).toBe(204)
  expect((await send(edge, 'PUT', '/v1/email-verifications', { token })).status).toBe(204) // repeated
  expect(await signIn(edge, 'free@example.test', PASSWORD)).toBe(201)
  const [row] = await db.select().from(schema.users).where(eq(schema.users.id, free.id))
  expect(row).toMatchObject({ email: 'free@example.test', pendingEmail: null })
})

test('of two users who name an address, the first to confirm it has it', async () => {
  const edge = newMailingEdge()
  const email = 'contested@example.test'
  const tokens = []
  for (const username of ['contender1', 'contender2']) {
    await send(edge, 'POST', '/v1/users', { username, email, password: PASSWORD, displayName: 'New' })
    tokens.push(tokenIn((await edge.mails())[0]))
  }
  const verify = async (token: string | undefined) =>
    (await send(edge, 'PUT', '/v1/email-verifications', { token })).status
  expect([await verify(tokens[1]), await verify(tokens[0])]).toEqual([204, 409])
  await send(edge, 'POST', '/v1/password-resets', { email })
  expect((await edge.mails())[0]?.text).toContain('contender2')
})

test('another address needs the password, replaces the old one once confirmed, and the old one is informed', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  const headers = await edge.signIn(me)
  const email = `new-${me.email}`
  await expectRefused(send(edge, 'POST', '/v1/email-verifications', { email }, headers), 'body', 'password')
  const ask = async (password: string) =>
    (await send(edge, 'POST', '/v1/email-verifications', { email, password }, headers)).status
  expect([await ask('wrong-password'), await ask(PASSWORD)]).toEqual([403, 202])
  const own = await (await edge.fetch(`/v1/users/${me.id}`, { headers })).json()
  expect(own).toMatchObject({ email: me.email, pendingEmail: email })
  const [mail] = await edge.mails()
  expect(mail?.to).toBe(email)
  expect((await send(edge, 'PUT', '/v1/email-verifications', { token: tokenIn(mail) })).status).toBe(204)
  expect(await edge.mails()).toMatchObject([{ to: me.email, subject: 'Your email address was changed' }])
  expect([await signIn(edge, me.email, PASSWORD), await signIn(edge, email, PASSWORD)]).toEqual([401, 201])
})

test('common passwords are refused wherever one is set, in any case, and the field is named', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  const headers = await edge.signIn(me)
  for (const common of ['password1', 'Password123', 'qwertyuiop', 'iloveyou']) {
    const account = { username: 'common', email: 'common@example.test', password: common, displayName: 'C' }
    await expectRefused(send(edge, 'POST', '/v1/users', account), 'body', 'password')
    const change = { password: PASSWORD, newPassword: common }
    await expectRefused(send(edge, 'POST', '/v1/users/me/password', change, headers), 'body', 'newPassword')
    const reset = { token: 'a'.repeat(43), password: common }
    await expectRefused(send(edge, 'PUT', '/v1/password-resets', reset), 'body', 'password')
  }
  await expectRefused(changePassword(edge, headers, PASSWORD, 'short'), 'body', 'newPassword')
  // Without the asset nobody is refused.
  const ASSETS = { fetch: async () => new Response(null, { status: 500 }) }
  expect((await changePassword(newEdge({ ASSETS }, edge.token), headers, PASSWORD, 'password1')).status).toBe(204)
})

test('no read and no sign-in loads the list of common passwords; the first new password of an isolate loads it once', async () => {
  const edge = newMailingEdge()
  const me = await newUser()
  let loads = 0
  const ASSETS = { fetch: async (url: string) => ((loads += 1), env.ASSETS.fetch(url)) }
  const isolate = newEdge({ ASSETS }, edge.token)
  const headers = await edge.signIn(me)
  expect(await signIn(isolate, me.username, PASSWORD)).toBe(201)
  const { operations } = await readOperations()
  for (const name of operations.keys()) {
    const [method, path = ''] = name.split(' ')
    if (method !== 'GET' || path.includes('stream')) continue
    const one = path.replace('{username}', me.username).replaceAll(/\{\w+\}/g, me.id)
    await (await isolate.fetch(one, { headers })).text()
  }
  await isolate.settle()
  expect(loads).toBe(0)
  for (const common of ['password1', 'password2']) {
    await expectRefused(changePassword(isolate, headers, PASSWORD, common), 'body', 'newPassword')
  }
  expect(loads).toBe(1)
})

test('without an Email binding the mailer of a back end receives the link, and no stream does', async () => {
  const edge = newEdge({ APP_URL: 'https://app.test/' })
  const me = await newUser()
  await send(edge, 'POST', '/v1/password-resets', { email: me.email })
  await edge.settle()
  expect(await edge.dispatch()).toBe(0)
  const [event] = await db
    .select()
    .from(schema.events)
    .where(and(eq(schema.events.channel, 'mail_events'), eq(schema.events.subject, me.id)))
  expect(event).toMatchObject({
    type: 'mail_requested',
    audience: 'services',
    data: { to: me.email, template: 'reset' },
  })
  expect(String(event?.data['link'])).toMatch(/^v1\./) // encrypted
})

test('guesses of the password are limited per user, and refused while they cannot be counted', async () => {
  const edge = newEdge({ LIMIT_CREDENTIALS: '2' })
  const me = await newUser()
  const headers = await edge.signIn(me)
  const seen = []
  for (let i = 0; i < 3; i += 1) seen.push((await changePassword(edge, headers, `wrong-password-${i}`)).status)
  expect(seen).toEqual([403, 403, 429])
  await edge.redis.fault({ kind: 'refuse' })
  expect((await changePassword(newEdge({}, edge.token), headers)).status).toBe(503)
  expect(await db.$count(schema.events, like(schema.events.data, `%${me.id}%`))).toBe(0)
})

test('a user may ask again for the link to confirm an address, within the limit of the address', async () => {
  const edge = newMailingEdge({ LIMIT_MAIL: '2' })
  const me = await newUser({ pendingEmail: `p-${crypto.randomUUID()}@example.test` })
  const headers = await edge.signIn(me)
  const seen = []
  for (let i = 0; i < 3; i += 1) seen.push((await send(edge, 'POST', '/v1/email-verifications', {}, headers)).status)
  expect(seen).toEqual([202, 202, 429])
  expect((await edge.mails()).map(({ to }) => to)).toEqual([me.pendingEmail, me.pendingEmail])
})

test('a change of address that the limit of the address refuses changes nothing, and says when to try again', async () => {
  const edge = newMailingEdge({ LIMIT_MAIL: '1', LIMIT_CREDENTIALS_SECONDS: '900' })
  const [me, other] = [await newUser(), await newUser()]
  const email = `busy-${me.email}`
  const ask = async (user: typeof me) =>
    send(edge, 'POST', '/v1/email-verifications', { email, password: PASSWORD }, await edge.signIn(user))
  expect((await ask(other)).status).toBe(202)
  const refused = await ask(me)
  const retryAfter = Number(refused.headers.get('Retry-After'))
  expect([refused.status, retryAfter > 0 && retryAfter <= 1_800]).toEqual([429, true])
  expect(await refused.json()).toMatchObject({ retryAfter, 'violated-policies': ['mail'] })
  const [row] = await db.select().from(schema.users).where(eq(schema.users.id, me.id))
  expect(row).toMatchObject({ email: me.email, pendingEmail: null })
})

test('a message that cannot be sent is sent later, and given up after an hour', async () => {
  const sent: Sent[] = []
  const binding = { isUp: false }
  const EMAIL = {
    async send(mail: Sent) {
      if (!binding.isUp) throw new Error('the mail service is down')
      sent.push(mail)
    },
  }
  const edge = newEdge({ EMAIL })
  const [me, other] = [await newUser(), await newUser()]
  for (const { email } of [me, other]) await send(edge, 'POST', '/v1/password-resets', { email })
  await edge.settle()
  await edge.dispatch()
  expect(sent).toEqual([])
  await db.update(schema.events).set({ createdAt: 1 }).where(eq(schema.events.subject, other.id))
  binding.isUp = true
  await edge.cron(Date.now() + 120_000)
  await edge.dispatch()
  expect(sent.map(({ to }) => to)).toContain(me.email)
  expect(sent.map(({ to }) => to)).not.toContain(other.email)
})

/** The D1 of these tests, which counts statements. */
function countedDatabase() {
  const statements = { count: 0 }
  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') statements.count += 1
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { DB, statements }
}
