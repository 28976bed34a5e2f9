import { beforeAll, expect, test } from 'vitest'
import { type Edge, migrate, newEdge, newQueue, roundTrips } from '../edge.ts'
import { addPost, addUser } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

const FROM = { 'CF-Connecting-IP': '192.0.2.1' }
/** Keys that a write leaves, and no check. */
const WRITTEN = ['count:*', 'tally:*', 'liked:*', 'likes-unwritten', 'presence*', 'viewers:*', 'views-unwritten']

/** A member whose session Redis knows, a post, and every write whose script carries the checks. */
async function newWorld(bindings: Record<string, unknown> = {}) {
  const LIKES = newQueue()
  const edge = newEdge({ LIKES, ...bindings })
  const ada = await addUser()
  const post = await addPost({ authorId: ada.id })
  const session = { ...(await edge.signIn(ada)), ...FROM }
  await edge.fetch('/v1/sessions', { headers: session })
  await edge.settle()
  const writes = {
    like: { method: 'PUT', path: `/v1/posts/${post.id}/like` },
    unlike: { method: 'DELETE', path: `/v1/posts/${post.id}/like` },
    heartbeat: { method: 'POST', path: '/v1/presence/heartbeat' },
    leave: { method: 'DELETE', path: '/v1/presence' },
    view: { method: 'POST', path: `/v1/posts/${post.id}/views` },
  }
  return {
    edge,
    LIKES,
    ada,
    post,
    session,
    write: async (name: keyof typeof writes, worker: Edge = edge) => {
      const { method, path } = writes[name]
      const response = await worker.fetch(path, { method, headers: session })
      await worker.settle()
      return response
    },
    written: async () => {
      const found = []
      for (const match of WRITTEN) found.push(...(await keysOf(edge.sdk, match)))
      return found.sort()
    },
  }
}

const NAMES = ['like', 'unlike', 'heartbeat', 'leave', 'view'] as const

test.each([
  ['a sign-out', '/v1/sessions/current'],
  ['a sign-out everywhere', '/v1/sessions'],
])('%s while a write is in flight: 401, and nothing is written', async (_, path) => {
  async function revokeDuring(name: (typeof NAMES)[number]) {
    const { edge, LIKES, session, write, written } = await newWorld({ REDIS_READ_TIMEOUT_MS: '10000' })
    const other = newEdge({}, edge.token)
    await edge.redis.fault({ kind: 'delay', match: 'EVAL', times: 1 })
    const writing = write(name)
    await expect.poll(async () => (await edge.redis.counts()).faults, { timeout: 20_000 }).toEqual([]) // on its way
    const ended = await other.fetch(path, { method: 'DELETE', headers: session })
    await other.settle()
    await edge.redis.clearFaults() // Redis executes the write
    return [name, ended.status, (await writing).status, await written(), LIKES.sent]
  }
  expect(await Promise.all(NAMES.map(revokeDuring))).toEqual(NAMES.map((name) => [name, 204, 401, [], []]))
})

test.each(NAMES)(
  'a %s above the limit: 429, and nothing is written, also in an isolate that knows nothing',
  async (name) => {
    const limits = { LIMIT_WRITES: '1', LIMIT_PRESENCE: '1' }
    const { edge, LIKES, session, write, written } = await newWorld(limits)
    expect((await write(name)).headers.get('RateLimit')).toMatch(/;r=0;/)
    await edge.redis.evict({ keys: await written() })
    LIKES.take()
    const isolate = newEdge({ LIKES, ...limits }, edge.token)
    await isolate.fetch('/v1/sessions', { headers: session }) // a new isolate asks D1 once
    await isolate.settle()
    await edge.redis.reset()
    const refused = await write(name, isolate)
    expect([refused.status, roundTrips(refused)]).toEqual([429, 1])
    expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(0)
    expect((await write(name, isolate)).status).toBe(429)
    expect((await edge.redis.counts()).requests).toBe(1) // the isolate knows it now
    expect(await written()).toEqual([])
    expect(LIKES.sent).toEqual([])
  },
)

test('of many likes at once in several isolates exactly as many pass as the limit allows', async () => {
  const limit = { LIMIT_WRITES: '5' }
  const { edge, LIKES, write } = await newWorld(limit)
  const isolates = Array.from({ length: 4 }, () => newEdge({ LIKES, ...limit }, edge.token))
  const responses = await Promise.all(
    isolates.flatMap((isolate) => Array.from({ length: 4 }, () => write('like', isolate))),
  )
  expect(responses.filter(({ status }) => status === 200)).toHaveLength(5)
  expect(responses.filter(({ status }) => status === 429)).toHaveLength(11)
  expect(LIKES.sent).toHaveLength(5)
})

test.each(NAMES)('a %s with a session that Redis has lost asks D1, and takes two round trips', async (name) => {
  const { edge, write } = await newWorld()
  await write(name)
  await edge.redis.evict({ keys: await keysOf(edge.sdk, 'session:*') })
  const response = await write(name)
  expect(response.status).toBeLessThan(300)
  expect(roundTrips(response)).toBe(2)
  expect(roundTrips(await write(name))).toBe(1)
})

test('a write of an ended session is counted against its address, once, and not against its user', async () => {
  const { edge, session, write, written } = await newWorld({ LIMIT_WRITES: '3' })
  const other = newEdge({}, edge.token)
  await other.fetch('/v1/sessions/current', { method: 'DELETE', headers: session })
  await other.settle()
  const statuses = []
  for (let i = 0; i < 5; i += 1) statuses.push((await write('like')).status)
  expect(statuses).toEqual([401, 401, 401, 429, 429])
  expect(await keysOf(edge.sdk, 'limit:likes:u_*')).toEqual([])
  expect(await written()).toEqual([])
})

test('input that is not valid is counted, and of an ended session it is 401', async () => {
  const { edge, session } = await newWorld({ LIMIT_WRITES: '2' })
  const wrong = async () => {
    const response = await edge.fetch('/v1/posts/nonsense/like', { method: 'PUT', headers: session })
    await edge.settle()
    return response
  }
  const first = await wrong()
  expect([first.status, first.headers.get('RateLimit')?.slice(0, 11)]).toEqual([400, '"likes";r=1'])
  expect([(await wrong()).status, (await wrong()).status]).toEqual([400, 429])

  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: session })
  await edge.settle()
  const ended = newEdge({}, edge.token)
  const refused = await ended.fetch('/v1/posts/nonsense/like', { method: 'PUT', headers: session })
  expect(refused.status).toBe(401)
  expect(await refused.json()).toMatchObject({ type: '/problems/not-signed-in' })
  await ended.settle()
})

test('a like whose reply is lost is repeated alone, and counts once', async () => {
  const { edge, LIKES, write } = await newWorld()
  await edge.redis.fault({ kind: 'cut', match: 'EVAL', times: 1 })
  const response = await write('like')
  expect([response.status, await response.json()]).toEqual([200, { liked: true, likes: 1 }])
  expect(LIKES.sent).toHaveLength(1)
})

test('while Redis cannot be written a like is refused, and a session that has ended is 401', async () => {
  const { edge, session, write, written } = await newWorld()
  await edge.redis.fault({ kind: 'oom' })
  expect((await write('like')).status).toBe(503)
  await edge.redis.clearFaults()
  expect(await written()).toEqual([])
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: session })
  await edge.settle()
  await edge.redis.fault({ kind: 'oom' })
  expect((await write('like')).status).toBe(401)
})
