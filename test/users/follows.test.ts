import { and, eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { follows, users } from '../../src/db/schema.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addUser, db } from '../rows.ts'

beforeAll(migrate)

async function newMember(edge: Edge) {
  const user = await addUser()
  const headers = await edge.signIn(user)
  return {
    ...user,
    follow: (id: string) => edge.fetch(`/v1/users/${id}/follow`, { method: 'PUT', headers }),
    unfollow: (id: string) => edge.fetch(`/v1/users/${id}/follow`, { method: 'DELETE', headers }),
  }
}

const profileOf = async (edge: Edge, id: string) =>
  (await edge.fetch(`/v1/users/${id}`)).json<{ followersCount: number; followingsCount: number }>()

test('repeated follows count once, and so do repeated unfollows', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  for (const id of [ada.id, bob.id]) await profileOf(edge, id)
  await edge.settle()

  for (let i = 0; i < 2; i += 1) {
    const response = await ada.follow(bob.id)
    expect([response.status, roundTrips(response)]).toEqual([200, 2])
    expect(await response.json()).toEqual({ isFollowing: true, followersCount: 1 })
  }
  for (const reader of [edge, newEdge({}, edge.token)]) {
    expect(await profileOf(reader, bob.id)).toMatchObject({ followersCount: 1, followingsCount: 0 })
    expect(await profileOf(reader, ada.id)).toMatchObject({ followersCount: 0, followingsCount: 1 })
  }
  const followers = await edge.fetch(`/v1/users/${bob.id}/followers`)
  expect(await followers.json()).toMatchObject({ items: [{ id: ada.id }], nextCursor: null })

  for (let i = 0; i < 2; i += 1) {
    expect(await (await ada.unfollow(bob.id)).json()).toEqual({ isFollowing: false, followersCount: 0 })
  }
  expect(await profileOf(newEdge({}, edge.token), bob.id)).toMatchObject({ followersCount: 0 })
})

test('a user cannot follow themselves or an unknown user', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  for (const response of [await ada.follow(ada.id), await ada.unfollow(ada.id), await ada.follow('p_1')]) {
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ errors: [{ in: 'path', field: 'id' }] })
  }
  expect((await ada.follow('u_nobody')).status).toBe(404)
  expect((await ada.unfollow('u_nobody')).status).toBe(404)
  for (const method of ['PUT', 'DELETE']) {
    expect((await edge.fetch(`/v1/users/${ada.id}/follow`, { method })).status).toBe(401)
  }
})

test('counts stay right when a user follows and unfollows another fifty times at once', async () => {
  const edges = [newEdge()]
  const [edge] = edges as [Edge]
  edges.push(newEdge({}, edge.token), newEdge({}, edge.token))
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  const headers = await edge.signIn(ada)
  const responses = await Promise.all(
    Array.from({ length: 50 }, (_, i) =>
      edges[i % 3]!.fetch(`/v1/users/${bob.id}/follow`, { method: i % 2 === 0 ? 'PUT' : 'DELETE', headers }),
    ),
  )
  expect(new Set(responses.map(({ status }) => status))).toEqual(new Set([200]))
  await Promise.all(edges.map((edge) => edge.settle()))

  const pair = and(eq(follows.followerId, ada.id), eq(follows.followedId, bob.id))
  const rows = await db.select().from(follows).where(pair)
  const [row] = await db.select().from(users).where(eq(users.id, bob.id))
  const [mine] = await db.select().from(users).where(eq(users.id, ada.id))
  expect([row?.followersCount, mine?.followingsCount]).toEqual([rows.length, rows.length])
  // Redis has the last state too: it refused the late write-throughs.
  const reader = newEdge({}, edge.token)
  expect(await profileOf(reader, bob.id)).toMatchObject({ followersCount: rows.length })
  expect(await profileOf(reader, ada.id)).toMatchObject({ followingsCount: rows.length })
})

test('a late write-through does not bring an old count back', async () => {
  const edge = newEdge()
  const [ada, bob, star] = [await newMember(edge), await newMember(edge), await addUser()]
  await ada.unfollow(star.id)
  await edge.redis.fault({ kind: 'delay', delayMs: 500, times: 1, match: 'EVAL' })
  const late = ada.follow(star.id)
  await expect
    .poll(() => db.select({ id: follows.id }).from(follows).where(eq(follows.followedId, star.id)))
    .toHaveLength(1)
  await expect.poll(async () => (await edge.redis.counts()).faults).toEqual([])
  expect(await (await bob.follow(star.id)).json()).toMatchObject({ followersCount: 2 })
  expect(await (await late).json()).toMatchObject({ followersCount: 1 })
  for (const reader of [edge, newEdge({}, edge.token)]) {
    const read = await reader.fetch(`/v1/users/${star.id}`)
    expect(read.headers.get('Cache-Status')).toContain('hit')
    expect(await read.json()).toMatchObject({ followersCount: 2 })
  }
})

test('concurrent followers are all counted', async () => {
  const edge = newEdge()
  const star = await addUser()
  const fans = await Promise.all(Array.from({ length: 20 }, () => newMember(edge)))
  await Promise.all(fans.map((fan) => fan.follow(star.id)))
  await edge.settle()
  expect(await profileOf(newEdge({}, edge.token), star.id)).toMatchObject({ followersCount: 20 })
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('a user follows another when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' })
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  await profileOf(edge, bob.id)
  await edge.settle()
  await edge.redis.fault({ kind })
  expect(await (await ada.follow(bob.id)).json()).toEqual({ isFollowing: true, followersCount: 1 })
  expect(await profileOf(edge, bob.id)).toMatchObject({ followersCount: 1 })
  expect(await (await ada.unfollow(bob.id)).json()).toEqual({ isFollowing: false, followersCount: 0 })
  await edge.settle()
})
