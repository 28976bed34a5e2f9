import { beforeAll, expect, test } from 'vitest'
import { expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { keysOf } from '../redis/setup.ts'
import { addFollow, addUser } from '../rows.ts'

beforeAll(migrate)

test('a profile read by id contains nothing private', async () => {
  const edge = newEdge()
  const user = await addUser({ username: 'ada', displayName: 'Ada', bio: 'First', followersCount: 7 })
  const response = await edge.fetch(`/v1/users/${user.id}`)

  expect(response.status).toBe(200)
  expect(await response.json()).toEqual({
    id: user.id,
    username: 'ada',
    displayName: 'Ada',
    bio: 'First',
    followersCount: 7,
    followingsCount: 0,
    postsCount: 0,
    createdAt: new Date(user.createdAt).toISOString(),
    version: 1,
  })
})

test('a profile costs no round trip from memory, one from Redis, and at most three on a miss', async () => {
  const user = await addUser()
  const first = newEdge()
  const path = `/v1/users/${user.id}`

  await first.fetch(`/v1/users/${(await addUser()).id}`) // the server learns the scripts
  await first.settle()
  await first.redis.reset()
  const miss = await first.fetch(path)
  await first.settle()
  expect((await first.redis.counts()).requests).toBe(3) // the third has the fill
  expect(miss.headers.get('Cache-Status')).toBe('redis; fwd=uri-miss, memory; fwd=uri-miss')
  expect(roundTrips(miss)).toBe(2)
  await first.redis.reset()

  const fromMemory = await first.fetch(path)
  expect(roundTrips(fromMemory)).toBe(0)
  expect(fromMemory.headers.get('Cache-Status')).toMatch(/^memory; hit; ttl=\d+$/)
  await first.settle()
  expect((await first.redis.counts()).requests).toBe(0)

  const second = newEdge({}, first.token)
  await second.redis.reset()
  const fromRedis = await second.fetch(path)
  expect(roundTrips(fromRedis)).toBe(1)
  expect(fromRedis.headers.get('Cache-Status')).toMatch(/^redis; hit; ttl=[23]\d\d, memory; fwd=uri-miss$/)
  await second.settle()
  expect(await second.redis.counts()).toMatchObject({ requests: 1, byCommand: { mget: 1 } })
})

test('a batch keeps the order of the ids, omits unknown ids and costs one round trip', async () => {
  const [ada, bob] = [await addUser(), await addUser()]
  const warm = newEdge()
  const path = `/v1/users?ids=${bob.id},u_unknown,${ada.id},${bob.id}`
  const response = await warm.fetch(path)
  const { items } = await response.json<{ items: { id: string }[] }>()
  expect(items.map((user) => user.id)).toEqual([bob.id, ada.id])
  await warm.settle()

  const again = await newEdge({}, warm.token).fetch(path)
  expect(roundTrips(again)).toBe(1)
})

test.each(['users', 'posts'])(
  '100 unknown ids of %s cost a command each and ten more, and leave nothing in Redis',
  async (kind) => {
    const edge = newEdge({ LIMIT_READS: '1200' })
    const ids = Array.from({ length: 100 }, (_, i) => `${kind[0]}_unknown${i}`)
    const others = Array.from({ length: 50 }, (_, i) => `u_other${i}`)
    await edge.fetch(`/v1/users?ids=${others.join()}`) // the server learns the script of the limit
    await edge.settle()
    await edge.redis.reset()
    const response = await edge.fetch(`/v1/${kind}?ids=${ids.join()}`)
    expect(await response.json()).toEqual({ items: [], nextCursor: null })
    await edge.settle()
    // The limit calls three commands, the script that ends the leases two. `npm run costs` measures both.
    const { commands, byCommand } = await edge.redis.counts()
    expect(byCommand).toEqual({ mget: 2, set: 100, eval: 1, evalsha: 1 })
    expect(commands + 3 + 2).toBeLessThanOrEqual(110)
    expect(await keysOf(edge.sdk, '*_unknown*')).toEqual([])
  },
)

test('a username is found in upper and lower case', async () => {
  const user = await addUser({ username: 'grace' })
  const response = await newEdge().fetch('/v1/users/by-username/GRACE')
  expect(await response.json()).toMatchObject({ id: user.id })
})

test('an unknown user is a problem, and the cache remembers it', async () => {
  const edge = newEdge()
  for (const path of ['/v1/users/u_nobody', '/v1/users/by-username/nobody', '/v1/users/u_nobody/posts']) {
    const response = await edge.fetch(path)
    expect(response.status).toBe(404)
    expect(response.headers.get('Content-Type')).toBe('application/problem+json')
    expect(await response.json()).toMatchObject({ type: '/problems/not-found', status: 404 })
  }
  await edge.settle()
  await addUser({ id: 'u_nobody' })
  expect((await newEdge({}, edge.token).fetch('/v1/users/u_nobody')).status).toBe(404)
})

test.each([
  ['/v1/users/42', 'path', 'id'],
  ['/v1/users/p_1', 'path', 'id'],
  ['/v1/users/U_ADA', 'path', 'id'],
  [`/v1/users/u_${'a'.repeat(41)}`, 'path', 'id'],
  ['/v1/users', 'query', 'ids'],
  ['/v1/users?ids=', 'query', 'ids.0'],
  ['/v1/users?ids=u_a,x', 'query', 'ids.1'],
  [`/v1/users?ids=${Array.from({ length: 101 }, (_, i) => `u_${i}`).join()}`, 'query', 'ids'],
  ['/v1/users/by-username/a-b', 'path', 'username'],
  ['/v1/users/u_a/posts?limit=0', 'query', 'limit'],
  ['/v1/users/u_a/posts?limit=101', 'query', 'limit'],
  ['/v1/users/u_a/posts?limit=ten', 'query', 'limit'],
  ['/v1/users/u_a/posts?limit=1&limit=2', 'query', 'limit'],
  ['/v1/users/u_a/posts?cursor=c_1', 'query', 'cursor'],
  ['/v1/users/u_a/followers?cursor=u_1', 'query', 'cursor'],
  ['/v1/users/u_a/followings?limit=1.5', 'query', 'limit'],
])('%s is refused, naming the %s field %s', async (path, where, field) => {
  await expectRefused(newEdge().fetch(path), where, field)
})

test('pages of followers and followings list each follow once, latest first, while others are added', async () => {
  const edge = newEdge()
  const star = await addUser()
  const fans = []
  for (let i = 0; i < 5; i += 1) {
    const fan = await addUser()
    await addFollow(fan.id, star.id, 1_700_000_000_000 + i)
    fans.unshift(fan.id)
  }
  const seen: string[] = []
  let more = ''
  do {
    const response = await edge.fetch(`/v1/users/${star.id}/followers?limit=2${more}`)
    const page = await response.json<{ items: { id: string }[]; nextCursor: string | null }>()
    seen.push(...page.items.map((user) => user.id))
    await addFollow((await addUser()).id, star.id)
    more = page.nextCursor === null ? '' : `&cursor=${page.nextCursor}`
  } while (more !== '')
  expect(seen).toEqual(fans)

  const followings = await edge.fetch(`/v1/users/${fans[0]}/followings`)
  expect(await followings.json()).toMatchObject({ items: [{ id: star.id }], nextCursor: null })
})

test('a request with the ETag of an unchanged profile answers 304', async () => {
  const edge = newEdge()
  const user = await addUser()
  const path = `/v1/users/${user.id}`
  const etag = (await edge.fetch(path)).headers.get('ETag') ?? ''
  expect(etag).toMatch(/^"1-/)

  const same = await edge.fetch(path, { headers: { 'If-None-Match': etag } })
  expect([same.status, await same.text(), same.headers.get('ETag')]).toEqual([304, '', etag])
  expect(same.headers.get('Cache-Control')).toMatch(/^public, max-age=\d, /)
  expect((await edge.fetch(path, { headers: { 'If-None-Match': '"2-0-0-0"' } })).status).toBe(200)
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('profiles are readable when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250' })
  const [ada, bob] = [await addUser(), await addUser({ username: `bob_${kind}` })]
  await addFollow(ada.id, bob.id)
  await edge.redis.fault({ kind })
  for (const path of [
    `/v1/users/${ada.id}`,
    `/v1/users?ids=${ada.id},${bob.id}`,
    `/v1/users/by-username/bob_${kind}`,
    `/v1/users/${bob.id}/followers`,
    `/v1/users/${ada.id}/followings`,
    `/v1/users/${ada.id}/posts`,
  ]) {
    const response = await edge.fetch(path)
    expect([path, response.status]).toEqual([path, 200])
  }
  await edge.settle()
})
