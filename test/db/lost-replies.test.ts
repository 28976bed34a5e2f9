import { createHash, randomBytes } from 'node:crypto'
import { eq, sql } from 'drizzle-orm'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test, vi } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { hashPassword } from '../../src/sessions/password.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { losing } from '../guarded-d1.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'

const PASSWORD = 'correct-horse-battery'
let passwordHash = ''
beforeAll(async () => {
  await migrate()
  passwordHash = await hashPassword(PASSWORD)
})
beforeEach(() => {
  vi.spyOn(console, 'error').mockImplementation(() => {}) // every fault is logged
})

const unique = () => `x${crypto.randomUUID().slice(0, 8)}`
const root = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

const send = (edge: Edge, method: string, path: string, body?: object, headers: Record<string, string> = {}) =>
  edge.fetch(path, {
    method,
    headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  })

/** An edge over the Redis of `edge` whose D1 executes the next `times` calls that match, and loses their replies. */
function losingEdge(edge: Edge, match: RegExp, times: number) {
  const fault = losing(match, times)
  return Object.assign(newEdge({ DB: fault.DB, EVENTS: edge.events }, edge.token), { hasLost: fault.hasLost })
}

interface Write {
  method: string
  path: string
  body?: object
  headers?: Record<string, string>
  /** The D1 call that writes. */
  match: RegExp
  /** What became of it, the same however often it is sent. */
  effect: () => Promise<unknown>
}

async function newToken(userId: string, email: string, purpose: 'reset' | 'verify') {
  const token = randomBytes(32).toString('base64url')
  const hash = createHash('sha256').update(token).digest('base64url')
  await db.insert(t.credentialTokens).values({ hash, userId, email, purpose, expiresAt: Date.now() + 60_000 })
  return token
}

const eventsOf = async (subject: string) =>
  (await db.select().from(t.events).where(eq(t.events.subject, subject))).map(({ type }) => type).sort()

/** Writes whose success the API may confirm only once, and how to see what they did. */
const writes: Record<string, (edge: Edge) => Promise<Write>> = {
  async 'a sign-up'() {
    const username = unique()
    const body = { username, email: `${username}@example.test`, password: PASSWORD, displayName: 'Somebody' }
    const effect = async () => {
      const [user, ...more] = await db.select().from(t.users).where(eq(t.users.username, username))
      return [user?.displayName, more.length, await eventsOf(user?.id ?? '')]
    }
    return { method: 'POST', path: '/v1/users', body, match: /^insert into "users"/i, effect }
  },
  async 'a reset of a password'() {
    const user = await addUser()
    const token = await newToken(user.id, user.email, 'reset')
    const effect = async () => {
      const [row] = await db.select().from(t.users).where(eq(t.users.id, user.id))
      return [row?.passwordHash !== user.passwordHash, row?.sessionEpoch, await eventsOf(user.id)]
    }
    const body = { token, password: PASSWORD }
    return { method: 'PUT', path: '/v1/password-resets', body, match: /^insert into "revocations"/i, effect }
  },
  async 'a confirmation of an address'() {
    const email = `${unique()}@example.test`
    const { id } = await addUser({ pendingEmail: email })
    const token = await newToken(id, email, 'verify')
    const effect = async () => {
      const [row] = await db.select().from(t.users).where(eq(t.users.id, id))
      return [row?.email === email, row?.pendingEmail]
    }
    return { method: 'PUT', path: '/v1/email-verifications', body: { token }, match: /update "users"/i, effect }
  },
  async 'a deletion of an account'(edge) {
    const user = await addUser({ passwordHash })
    const headers = await edge.signIn(user)
    await send(edge, 'GET', '/v1/sessions', undefined, headers)
    await edge.settle()
    const effect = async () => (await db.select().from(t.users).where(eq(t.users.username, user.username))).length
    return {
      method: 'DELETE',
      path: '/v1/users/me',
      body: { password: PASSWORD },
      headers,
      match: /update "users"/i,
      effect,
    }
  },
  async 'an edit of a post at a version'(edge) {
    const user = await addUser()
    const post = await addPost({ authorId: user.id })
    const headers = { ...(await edge.signIn(user)), 'If-Match': '"1"' }
    const effect = async () => {
      const [row] = await db.select().from(t.posts).where(eq(t.posts.id, post.id))
      return [row?.text, row?.version, await eventsOf(post.id)]
    }
    const body = { text: 'Edited' }
    return { method: 'PATCH', path: `/v1/posts/${post.id}`, body, headers, match: /update "posts"/i, effect }
  },
  async 'an edit of a comment at a version'(edge) {
    const user = await addUser()
    const post = await addPost({ authorId: user.id })
    const comment = await addComment({ postId: post.id, authorId: user.id })
    const headers = { ...(await edge.signIn(user)), 'If-Match': '"1"' }
    const effect = async () => {
      const [row] = await db.select().from(t.comments).where(eq(t.comments.id, comment.id))
      return [row?.text, row?.version, await eventsOf(post.id)]
    }
    const body = { text: 'Edited' }
    return { method: 'PATCH', path: `/v1/comments/${comment.id}`, body, headers, match: /update "comments"/i, effect }
  },
  async 'an edit of a profile at a version'(edge) {
    const user = await addUser()
    const headers = { ...(await edge.signIn(user)), 'If-Match': '"1"' }
    const effect = async () => {
      const [row] = await db.select().from(t.users).where(eq(t.users.id, user.id))
      return [row?.bio, row?.version, await eventsOf(user.id)]
    }
    return { method: 'PATCH', path: '/v1/users/me', body: { bio: 'Edited' }, headers, match: /update "users"/i, effect }
  },
}

test.each(Object.keys(writes))('%s whose reply D1 loses answers a repeated request as the first', async (name) => {
  const edge = newEdge()
  const { method, path, body, headers, match, effect } = await (writes[name] ?? expect.fail())(edge)
  const faulty = losingEdge(edge, match, 2)
  const first = await send(faulty, method, path, body, headers)
  expect([first.status, faulty.hasLost()]).toEqual([503, true])
  const after = await effect()
  const repeated = await send(edge, method, path, body, headers)
  expect(repeated.status).toBeLessThan(300)
  expect(await effect()).toEqual(after)
})

test('a reset with other values, and any second sign-up with a username, is refused', async () => {
  const edge = newEdge()
  const username = unique()
  const account = { username, email: `${username}@example.test`, password: PASSWORD, displayName: 'Somebody' }
  expect((await send(edge, 'POST', '/v1/users', account)).status).toBe(201)
  expect((await send(edge, 'POST', '/v1/users', account)).status).toBe(409)
  const lost = { ...account, username: unique() }
  expect((await send(losingEdge(edge, /^insert into "users"/i, 2), 'POST', '/v1/users', lost)).status).toBe(503)
  for (const other of [{ password: `${PASSWORD}!` }, { email: 'other@example.test' }, { displayName: 'Other' }]) {
    expect((await send(edge, 'POST', '/v1/users', { ...lost, ...other })).status).toBe(409)
  }
  const user = await addUser()
  const token = await newToken(user.id, user.email, 'reset')
  const reset = async (password: string) => (await send(edge, 'PUT', '/v1/password-resets', { token, password })).status
  expect([await reset(PASSWORD), await reset(`${PASSWORD}!`), await reset(PASSWORD)]).toEqual([204, 410, 204])
})

test.each([
  ['a post', '/v1/posts', /^insert into "posts"/i],
  ['a comment', 'comments', /^insert into "comments"/i],
])('%s is written once although D1 loses a reply, with and without an Idempotency-Key', async (_, path, match) => {
  const edge = newEdge()
  const user = await addUser()
  const { id } = await addPost({ authorId: user.id })
  const signedIn = await edge.signIn(user)
  for (const key of [{}, { 'Idempotency-Key': 'one' }]) {
    const text = unique()
    const faulty = losingEdge(edge, match, 1)
    const to = path === 'comments' ? `/v1/posts/${id}/comments` : path
    const headers = { ...signedIn, ...key }
    const written = await send(faulty, 'POST', to, { text }, headers)
    expect([written.status, faulty.hasLost()]).toEqual([201, true])
    const rows = await db.all(
      sql`SELECT id FROM posts WHERE text = ${text} UNION ALL SELECT id FROM comments WHERE text = ${text}`,
    )
    expect(rows).toHaveLength(1)
    if (!('Idempotency-Key' in key)) continue
    const repeated = await send(edge, 'POST', to, { text }, headers)
    expect([repeated.status, repeated.headers.get('Idempotent-Replayed')]).toEqual([201, 'true'])
    expect(await repeated.json()).toEqual(await written.json())
  }
})

test('a key whose claim D1 executed and did not confirm is ours', async () => {
  const edge = newEdge()
  const user = await addUser()
  const headers = { ...(await edge.signIn(user)), 'Idempotency-Key': 'claimed' }
  const faulty = losingEdge(edge, /^insert into "idempotency_keys"/i, 1)
  expect((await send(faulty, 'POST', '/v1/posts', { text: 'Hello' }, headers)).status).toBe(201)
  expect(faulty.hasLost()).toBe(true)
})

test('an attempt whose key another attempt has taken answers that, not an internal error', async () => {
  const edge = newEdge()
  const user = await addUser()
  const headers = { ...(await edge.signIn(user)), 'Idempotency-Key': 'taken' }
  const { DB } = losing(/./, 0, 'after', async (call) => {
    if (!/^insert into "posts"/i.test(call)) return
    await db
      .update(t.idempotencyKeys)
      .set({ createdAt: sql`created_at + 1` })
      .where(eq(t.idempotencyKeys.userId, user.id))
  })
  const refused = await send(newEdge({ DB }, edge.token), 'POST', '/v1/posts', { text: 'Hello' }, headers)
  expect([refused.status, refused.headers.get('Retry-After')]).toEqual([409, '1'])
  expect(await db.$count(t.posts, eq(t.posts.authorId, user.id))).toBe(0)
})

test('a sign-in whose reply D1 loses leaves one device', async () => {
  const edge = newEdge()
  const user = await addUser({ passwordHash })
  const faulty = losingEdge(edge, /^insert into "sessions"/i, 1)
  const signedIn = await send(faulty, 'POST', '/v1/sessions', { login: user.username, password: PASSWORD })
  expect([signedIn.status, faulty.hasLost()]).toEqual([201, true])
  const { token } = await signedIn.json<{ token: string }>()
  expect((await send(edge, 'GET', '/v1/sessions', undefined, { Authorization: `Bearer ${token}` })).status).toBe(200)
  expect(await db.$count(t.sessions, eq(t.sessions.userId, user.id))).toBe(1)
})

test('a service token is created, rotated and revoked although D1 loses a reply', async () => {
  const edge = newEdge()
  const body = { name: unique(), scopes: ['locks'] }
  const creating = losingEdge(edge, /^insert into "service_tokens"/i, 1)
  const created = await send(creating, 'POST', '/v1/service-tokens', body, root)
  expect([created.status, creating.hasLost()]).toEqual([201, true])
  const { id, token } = await created.json<{ id: string; token: string }>()
  expect((await send(edge, 'POST', '/v1/service-tokens', body, root)).status).toBe(409)

  const rotating = losingEdge(edge, /^update "service_tokens"/i, 1)
  const rotated = await send(rotating, 'POST', `/v1/service-tokens/${id}/rotate`, {}, root)
  expect([rotated.status, rotating.hasLost()]).toEqual([200, true])
  const { token: next } = await rotated.json<{ token: string }>()
  for (const bearer of [token, next]) {
    const headers = { Authorization: `Bearer ${bearer}` }
    expect((await send(edge, 'POST', `/v1/locks/${unique()}`, { ttlMs: 100 }, headers)).status).toBe(200)
  }
  const [row] = await db.select().from(t.serviceTokens).where(eq(t.serviceTokens.id, id))
  expect(row?.previous).toHaveLength(1)

  const revoking = losingEdge(edge, /^delete from "service_tokens"/i, 1)
  expect((await send(revoking, 'DELETE', `/v1/service-tokens/${id}`, undefined, root)).status).toBe(204)
  expect(revoking.hasLost()).toBe(true)
})

test.each([
  ['an edit of a post', 'PATCH', '/v1/posts/:post', { text: 'Second' }, /update "posts"/i],
  ['a deletion of a post', 'DELETE', '/v1/posts/:post', undefined, /delete from "posts"/i],
  ['an edit of a profile', 'PATCH', '/v1/users/me', { bio: 'Second' }, /update "users"/i],
  ['a follow', 'PUT', '/v1/users/:other/follow', undefined, /insert into "follows"/i],
  ['a takedown', 'PUT', '/v1/moderation/takedowns/:post', { note: 'Bad' }, /delete from "posts"/i],
])('%s that died after D1 had it, and that nobody repeats, is in the caches after the cron', async (...given) => {
  const [, method, path, body, match] = given
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const [user, other] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: user.id, text: 'First' })
  const headers = path.includes('moderation') ? root : await edge.signIn(user)
  const read = async () => {
    const answers = []
    for (const place of [`/v1/posts/${post.id}`, `/v1/users/${user.id}`, `/v1/users/${other.id}`]) {
      const shown = await edge.fetch(place)
      await edge.settle()
      answers.push(shown.ok ? await shown.json() : shown.status)
    }
    return answers
  }
  const before = await read()
  const faulty = losingEdge(edge, match, 2)
  const to = path.replace(':post', post.id).replace(':other', other.id)
  expect((await send(faulty, method, to, body, headers)).status).toBe(503)
  await faulty.settle()
  expect(await read()).toEqual(before)
  await edge.cron(Date.now() + 61_000)
  await edge.dispatch()
  await edge.settle()
  const after = await read()
  expect(after).not.toEqual(before)
  await edge.redis.flush()
  expect(after).toEqual(await read()) // as D1 has it
})
