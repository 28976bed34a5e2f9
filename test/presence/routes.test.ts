import { eq } from 'drizzle-orm'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { revocations, users } from '../../src/db/schema.ts'
import type { EventMessage } from '../../src/events/schema.ts'
import { CLAIM_MS } from '../../src/redis/presence.ts'
import { interruptedDatabase } from '../database.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addFollow, addUser, db } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)
// Each test has a Redis of its own, and D1 is one: to the Redis of the next, the users of this one are lost.
beforeEach(() => db.update(users).set({ presenceShownTo: 'nobody' }))

type Headers = Record<string, string>
interface Answer {
  items: { userId: string; isOnline: boolean; lastSeenAt: string | null }[]
  nextCursor: null
}

async function newMember(edge: Edge, values: Parameters<typeof addUser>[0] = {}) {
  const user = await addUser(values)
  return { id: user.id, headers: await edge.signIn(user), onAnotherDevice: () => edge.signIn(user) }
}

/** Beats, and waits for what comes after the answer. */
async function beat(edge: Edge, headers: Headers, query = '') {
  const response = await edge.fetch(`/v1/presence/heartbeat${query}`, { method: 'POST', headers })
  await edge.settle()
  return response
}

const leave = (edge: Edge, headers: Headers, query = '') =>
  edge.fetch(`/v1/presence${query}`, { method: 'DELETE', headers })

const choose = (edge: Edge, headers: Headers, body: unknown) =>
  edge.fetch('/v1/presence', {
    method: 'PATCH',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

async function read(edge: Edge, query: string, headers: Headers = {}) {
  const response = await edge.fetch(`/v1/presence${query}`, { headers })
  expect(response.status).toBe(200)
  return (await response.json<Answer>()).items
}

/** The statuses of a user that were announced, in order. */
async function statusesOf(edge: Edge, userId: string) {
  await edge.settle()
  const hints = edge.events.sent.flatMap(({ body }) => {
    const message = body as EventMessage
    return message.kind === 'hints' ? message.hints : []
  })
  return hints.filter(({ data }) => data['userId'] === userId).map(({ data }) => data['status'])
}

test('a user is online after a beat, and offline after leaving', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  expect((await beat(edge, ada.headers)).status).toBe(204)
  const recent = { userId: ada.id, isOnline: true, lastSeenAt: expect.stringMatching(/^\d{4}-.*Z$/) }
  expect(await read(edge, '')).toEqual([recent])
  expect(await read(edge, `?ids=${bob.id},u_unknown,${ada.id}`)).toEqual([
    { userId: bob.id, isOnline: false, lastSeenAt: null },
    recent,
  ])

  expect((await leave(edge, ada.headers)).status).toBe(204)
  await edge.settle()
  expect(await read(edge, '')).toEqual([])
  expect(await read(edge, `?ids=${ada.id}`)).toEqual([{ ...recent, isOnline: false }])
})

test('a user who leaves before their first beat of a day is recorded stays offline', async () => {
  let left: number | undefined
  const DB = interruptedDatabase(/^select "presence_visibility" from/, 1, async () => {
    left = (await leave(edge, ada.headers)).status
  })
  const edge = newEdge({ DB })
  const ada = await newMember(edge)
  expect((await beat(edge, ada.headers)).status).toBe(204)
  await edge.settle()
  expect([left, await read(edge, '')]).toEqual([204, []])
})

test('a session is a device, and so is each deviceId: the last one to leave goes offline', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const phone = await ada.onAnotherDevice()
  await beat(edge, ada.headers)
  await beat(edge, phone)
  await beat(edge, phone, '?deviceId=tab-1')
  for (const [headers, query, isOnline] of [
    [ada.headers, '', true],
    [phone, '?deviceId=tab-1', true],
    [phone, '', false],
  ] as const) {
    await leave(edge, headers, query)
    expect(await read(edge, `?ids=${ada.id}`)).toMatchObject([{ isOnline }])
  }
  await edge.settle()
})

test('the list is latest first, as long as asked', async () => {
  const edge = newEdge()
  const members = [await newMember(edge), await newMember(edge), await newMember(edge)]
  for (const { headers } of members) {
    await beat(edge, headers)
    await new Promise((resolve) => setTimeout(resolve, 3))
  }
  const latestFirst = members.map(({ id }) => id).toReversed()
  expect((await read(edge, '')).map(({ userId }) => userId)).toEqual(latestFirst)
  expect((await read(edge, '?limit=2')).map(({ userId }) => userId)).toEqual(latestFirst.slice(0, 2))
})

test('a beat is one round trip with session and limit, a first one too; 500 users are one', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  await edge.fetch('/v1/sessions', { headers: ada.headers }) // Redis knows the session
  await edge.settle()
  const first = await edge.fetch('/v1/presence/heartbeat', { method: 'POST', headers: ada.headers })
  expect([first.status, roundTrips(first)]).toEqual([204, 1])
  await edge.settle()

  await edge.redis.reset()
  expect(roundTrips(await beat(edge, ada.headers))).toBe(1)
  expect(await edge.redis.counts()).toMatchObject({ requests: 1, byCommand: { eval: 1 } })
  expect(roundTrips(await leave(edge, ada.headers))).toBe(1)
  await edge.settle()

  const ids = Array.from({ length: 500 }, (_, i) => `u_${i}`).join()
  const many = await edge.fetch(`/v1/presence?ids=${ids}`)
  expect([many.status, roundTrips(many)]).toEqual([200, 1])
  expect(roundTrips(await edge.fetch('/v1/presence'))).toBe(1)
  await edge.settle()
})

test('above the configured size presence is spread over several keys', async () => {
  const edge = newEdge({ PRESENCE_SHARD_USERS: '10000', PRESENCE_MAX_USERS: '25000' })
  const members = await Promise.all(Array.from({ length: 20 }, () => newMember(edge)))
  for (const { headers } of members) await beat(edge, headers)
  expect((await keysOf(edge.sdk, 'presence:?')).sort()).toEqual(['presence:0', 'presence:1', 'presence:2'])
  expect(await read(edge, '')).toHaveLength(20)

  const unsharded = newEdge({ PRESENCE_SHARD_USERS: '1' })
  const problem = await (await unsharded.fetch('/v1/presence')).json()
  expect(problem).toMatchObject({ status: 503, variables: { PRESENCE_SHARD_USERS: 'expected at least 10000' } })
})

test('presence is visible as its owner chose', async () => {
  const edge = newEdge()
  const [ada, fan, stranger] = [await newMember(edge), await newMember(edge), await newMember(edge)]
  await addFollow(fan.id, ada.id)
  await beat(edge, ada.headers)
  const seenBy = async (headers?: Headers) => {
    const [status] = await read(edge, `?ids=${ada.id}`, headers)
    const listed = (await read(edge, '', headers)).some(({ userId }) => userId === ada.id)
    expect(status?.isOnline).toBe(listed)
    expect(status?.lastSeenAt !== null).toBe(listed)
    return listed
  }
  const seen = async () => [
    await seenBy(ada.headers),
    await seenBy(fan.headers),
    await seenBy(stranger.headers),
    await seenBy(),
  ]
  expect(await seen()).toEqual([true, true, true, true])

  const followers = await choose(edge, ada.headers, { visibility: 'followers' })
  expect([followers.status, await followers.json()]).toEqual([200, { visibility: 'followers' }])
  expect(await seen()).toEqual([true, true, false, false])

  await choose(edge, ada.headers, { visibility: 'nobody' })
  await beat(edge, ada.headers)
  expect(await seen()).toEqual([false, false, false, false])

  await choose(edge, ada.headers, { visibility: 'everyone' })
  await beat(edge, ada.headers)
  expect(await seen()).toEqual([true, true, true, true])
  await edge.settle()
})

test.each([
  ['GET', '?limit=0', 'query', 'limit'],
  ['GET', '?limit=101', 'query', 'limit'],
  ['GET', '?limit=many', 'query', 'limit'],
  ['GET', '?ids=', 'query', 'ids.0'],
  ['GET', '?ids=u_a,p_1', 'query', 'ids.1'],
  ['GET', '?ids=u_a&limit=5', 'query', 'limit'],
  ['GET', `?ids=${Array.from({ length: 501 }, (_, i) => `u_${i}`).join()}`, 'query', 'ids'],
  ['POST', '/heartbeat?deviceId=', 'query', 'deviceId'],
  ['POST', '/heartbeat?deviceId=a%20b', 'query', 'deviceId'],
  ['DELETE', `?deviceId=${'a'.repeat(65)}`, 'query', 'deviceId'],
])('%s %s is refused, naming the %s field %s', async (method, path, where, field) => {
  const edge = newEdge()
  const { headers } = await newMember(edge)
  const response = await edge.fetch(`/v1/presence${path}`, { method, headers })
  expect(response.status).toBe(400)
  const problem = await response.json<{ errors: unknown[] }>()
  expect(problem.errors).toContainEqual({ in: where, field, message: expect.any(String) })
  await edge.settle()
})

test('a visibility that does not exist is refused, naming the field', async () => {
  const edge = newEdge()
  const { headers } = await newMember(edge)
  for (const body of [{}, { visibility: 'friends' }, { visibility: null }]) {
    const response = await choose(edge, headers, body)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ errors: [{ in: 'body', field: 'visibility' }] })
  }
  expect((await choose(edge, headers, 'no json')).status).toBe(400)
  expect((await choose(edge, { ...headers, 'Content-Type': 'text/plain' }, '{}')).status).toBe(415)
  await edge.settle()
})

test('a beat needs a session, and never counts for another user', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  await beat(edge, ada.headers, '?deviceId=tab-1')
  for (const headers of [
    {},
    { Authorization: 'Bearer forged' },
    { Authorization: 'Bearer a-service-token-for-tests' },
  ]) {
    expect((await beat(edge, headers)).status).toBe(401)
    expect((await leave(edge, headers)).status).toBe(401)
    expect((await choose(edge, headers, { visibility: 'nobody' })).status).toBe(401)
  }
  await leave(edge, bob.headers, '?deviceId=tab-1') // a device of that name, but not Ada's
  await choose(edge, bob.headers, { visibility: 'nobody' })
  await edge.settle()
  expect(await read(edge, `?ids=${ada.id}`)).toMatchObject([{ isOnline: true }])
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('what holds when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '100' })
  const ada = await newMember(edge, { lastSeenAt: 1_700_000_000_000 })
  await edge.redis.fault({ kind })
  expect(await read(edge, '')).toEqual([])
  expect(await read(edge, `?ids=${ada.id}`)).toEqual([
    { userId: ada.id, isOnline: false, lastSeenAt: '2023-11-14T22:13:20.000Z' },
  ])
  for (const response of [await beat(edge, ada.headers), await leave(edge, ada.headers)]) {
    expect([response.status, response.headers.get('Retry-After')]).toEqual([503, '5'])
    expect(await response.json()).toMatchObject({ type: '/problems/unavailable' })
  }
  const chosen = await choose(edge, ada.headers, { visibility: 'nobody' })
  expect(chosen.status).toBe(200)
  await edge.settle()
  expect(await read(edge, `?ids=${ada.id}`)).toEqual([{ userId: ada.id, isOnline: false, lastSeenAt: null }])

  await edge.redis.clearFaults()
  await edge.settle()
})

test('an arrival, a departure and a change of visibility whose replies are lost are completed by the cron, once', async () => {
  const edge = newEdge({ REDIS_WRITE_TIMEOUT_MS: '5000', REDIS_BREAKER_FAILURES: '1000' })
  const ada = await newMember(edge)
  await beat(edge, ada.headers)
  await leave(edge, ada.headers)
  await edge.settle()
  const statuses = () => statusesOf(edge, ada.id)
  // Executed with the session and the limit, then alone, and repeated once.
  const loseReplies = (times = 3) => edge.redis.fault({ kind: 'cut', times, match: 'EVAL' })
  const expected = ['online', 'offline']
  expect(await statuses()).toEqual(expected)

  await loseReplies()
  expect((await beat(edge, ada.headers)).status).toBe(503)
  expect((await beat(edge, ada.headers)).status).toBe(204)
  for (let run = 0; run < 3; run += 1) await edge.cron()
  expect(await statuses()).toEqual([...expected, 'online'])

  await loseReplies()
  expect((await leave(edge, ada.headers)).status).toBe(503)
  expect((await leave(edge, ada.headers)).status).toBe(204)
  for (let run = 0; run < 3; run += 1) await edge.cron(Date.now() + CLAIM_MS)
  expect(await statuses()).toEqual([...expected, 'online', 'offline'])

  await beat(edge, ada.headers)
  await loseReplies(2)
  expect((await choose(edge, ada.headers, { visibility: 'nobody' })).status).toBe(200)
  await edge.settle()
  for (let run = 0; run < 3; run += 1) await edge.cron(Date.now() + CLAIM_MS)
  expect(await statuses()).toEqual([...expected, 'online', 'offline', 'online', 'offline'])
  expect(await edge.sdk.exists('presence:0', 'presence:0:changes')).toBe(0)
})

const cronLater = (edge: Edge) => edge.cron(Date.now() + CLAIM_MS)

test.each([
  ['/v1/sessions/current', false],
  ['/v1/sessions', false],
  ['/v1/sessions/current', true],
  ['/v1/sessions', true],
] as const)(
  'after DELETE %s without Redis the cron takes the last device offline, once (its replies are lost: %s)',
  async (path, isCut) => {
    const edge = newEdge({ SESSION_RECHECK_SECONDS: '0.2', REDIS_BREAKER_FAILURES: '1000' })
    const ada = await newMember(edge)
    await beat(edge, ada.headers)
    await edge.redis.fault({ kind: 'refuse' })
    expect((await edge.fetch(path, { method: 'DELETE', headers: ada.headers })).status).toBe(204)
    await edge.settle()
    await edge.redis.reset()
    expect(await read(edge, `?ids=${ada.id}`)).toMatchObject([{ isOnline: true }])

    if (isCut) {
      await edge.redis.fault({ kind: 'cut', match: 'EVAL' })
      await edge.cron().catch(() => {})
      await edge.redis.clearFaults()
      await cronLater(edge)
    } else await edge.cron()
    expect(await read(edge, `?ids=${ada.id}`)).toMatchObject([{ isOnline: false }])
    expect(await statusesOf(edge, ada.id)).toEqual(['online', 'offline'])
    await cronLater(edge)
    await cronLater(edge)
    expect(await statusesOf(edge, ada.id)).toEqual(['online', 'offline'])
    expect(await db.select().from(revocations).where(eq(revocations.userId, ada.id))).toEqual([])
  },
)

test.each(['/v1/sessions/current', '/v1/sessions'])(
  'a device that signed in after DELETE %s without Redis keeps its user online',
  async (path) => {
    const edge = newEdge({ SESSION_RECHECK_SECONDS: '0.2', REDIS_BREAKER_FAILURES: '1000' })
    const user = await addUser()
    const old = await edge.signIn(user)
    await beat(edge, old)
    await edge.redis.fault({ kind: 'oom' })
    expect((await edge.fetch(path, { method: 'DELETE', headers: old })).status).toBe(204)
    await edge.redis.reset()
    const [after] = await db.select().from(users).where(eq(users.id, user.id))
    const fresh = await edge.signIn(after ?? expect.fail('the user is gone'))
    expect((await beat(edge, fresh)).status).toBe(204)
    await edge.cron()
    await cronLater(edge)
    expect(await read(edge, `?ids=${user.id}`)).toMatchObject([{ isOnline: true }])
    expect(await statusesOf(edge, user.id)).toEqual(['online'])
    expect((await leave(edge, fresh)).status).toBe(204)
    expect(await statusesOf(edge, user.id)).toEqual(['online', 'offline'])
  },
)

test('a sign-out takes the tabs of its session offline, and no tab of another session', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const phone = await ada.onAnotherDevice()
  await beat(edge, ada.headers, '?deviceId=tab-1')
  await beat(edge, ada.headers, '?deviceId=tab-2')
  await beat(edge, phone, '?deviceId=tab-1')
  for (const [headers, isOnline] of [
    [ada.headers, true],
    [phone, false],
  ] as const) {
    expect((await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers })).status).toBe(204)
    await edge.settle()
    expect(await read(edge, `?ids=${ada.id}`)).toMatchObject([{ isOnline }])
  }
})

test('the cron takes silent users offline, also when it runs twice, unless another cron is running', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  await beat(edge, ada.headers)
  const seenAt = (await read(edge, `?ids=${ada.id}`))[0]?.lastSeenAt
  const later = Date.now() + 301_000

  await edge.sdk.set('lock:cron', '1:another', { px: 60_000 })
  await edge.cron(later)
  expect(await edge.sdk.zscore('presence:0', ada.id)).not.toBeNull()
  await edge.sdk.del('lock:cron')

  await Promise.all([edge.cron(later), newEdge({}, edge.token).cron(later)])
  expect(await edge.sdk.exists('presence:0', 'presence:0:changes', 'lock:cron')).toBe(0)
  await edge.sdk.flushdb()
  expect(await read(edge, `?ids=${ada.id}`)).toEqual([{ userId: ada.id, isOnline: false, lastSeenAt: seenAt }])
  await edge.settle()
})
