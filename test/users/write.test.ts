import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { users } from '../../src/db/schema.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addFollow, addUser, db } from '../rows.ts'

beforeAll(migrate)

async function newMember(edge: Edge) {
  const user = await addUser({ displayName: 'Ada', bio: 'First' })
  const headers = await edge.signIn(user)
  const patch = (body: unknown, more: Record<string, string> = {}) =>
    edge.fetch('/v1/users/me', {
      method: 'PATCH',
      headers: { ...headers, 'Content-Type': 'application/json', ...more },
      body: JSON.stringify(body),
    })
  return { ...user, headers, patch }
}

test('a profile is changed field by field and written through', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const path = `/v1/users/${ada.id}`
  expect(await (await edge.fetch(path)).json()).toMatchObject({ displayName: 'Ada' })
  await edge.settle()

  const response = await ada.patch({ displayName: ' Ada L. 🦆 ' })
  expect(response.status).toBe(200)
  expect(roundTrips(response)).toBe(2)
  expect(await response.json()).toMatchObject({ displayName: 'Ada L. 🦆', bio: 'First', version: 2, email: ada.email })
  expect(response.headers.get('ETag')).toBe((await edge.fetch(path, { headers: ada.headers })).headers.get('ETag'))
  for (const reader of [edge, newEdge({}, edge.token)]) {
    const read = await reader.fetch(path)
    expect(read.headers.get('Cache-Status')).toContain('hit')
    expect(await read.json()).toMatchObject({ displayName: 'Ada L. 🦆', version: 2 })
  }
  expect(await (await ada.patch({ bio: '' })).json()).toMatchObject({ displayName: 'Ada L. 🦆', bio: '', version: 3 })
})

test.each([
  ['nothing', {}, 'displayName'],
  ['an empty name', { displayName: ' ' }, 'displayName'],
  ['a name of 51 characters', { displayName: 'é'.repeat(51) }, 'displayName'],
  ['a name of two lines', { displayName: 'Ada\nL' }, 'displayName'],
  ['a bio of 161 characters', { bio: 'é'.repeat(161) }, 'bio'],
  ['no bio at all', { bio: null }, 'bio'],
  ['a count', { bio: 'Rich', followersCount: 1_000_000 }, 'followersCount'],
])('%s is refused, and the answer names the field', async (_, body, field) => {
  const ada = await newMember(newEdge())
  const response = await ada.patch(body)
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ errors: [{ in: 'body', field }] })
})

test('changing a profile needs a session', async () => {
  const init = { method: 'PATCH', headers: { 'Content-Type': 'application/json' }, body: '{"bio":"Hi"}' }
  expect((await newEdge().fetch('/v1/users/me', init)).status).toBe(401)
})

test('new followers do not fail If-Match, another edit does', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const etag = (await edge.fetch(`/v1/users/${ada.id}`)).headers.get('ETag') ?? ''
  await addFollow((await addUser()).id, ada.id)
  expect((await ada.patch({ bio: 'Second' }, { 'If-Match': etag })).status).toBe(200)
  const late = await ada.patch({ bio: 'Third' }, { 'If-Match': etag })
  expect(late.status).toBe(412)
  expect(await late.json()).toMatchObject({ type: '/problems/version-changed' })
  expect((await ada.patch({ bio: 'Third' }, { 'If-Match': 'what' })).status).toBe(400)
})

test('If-Match may list more versions than D1 binds', async () => {
  const ada = await newMember(newEdge())
  const tags = Array.from({ length: 110 }, (_, i) => `"${i + 2}-0-0-0"`)
  expect((await ada.patch({ bio: 'Second' }, { 'If-Match': tags.join() })).status).toBe(412)
  expect((await ada.patch({ bio: 'Second' }, { 'If-Match': [...tags, '"1-0-0-0"'].join() })).status).toBe(200)
})

test('a late reply does not bring the old profile back', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const path = `/v1/users/${ada.id}`
  await newEdge({}, edge.token).fetch(path)
  await ada.patch({ bio: 'Second' }) // version 2, in Redis
  const reader = newEdge({}, edge.token)
  const writer = { ...ada, headers: await reader.signIn(ada) }
  await reader.redis.fault({ kind: 'delay-after', times: 1, match: 'MGET' })
  const late = reader.fetch(path)
  await expect.poll(async () => (await reader.redis.counts()).faults).toEqual([])
  const body = JSON.stringify({ bio: 'Third' })
  const headers = { ...writer.headers, 'Content-Type': 'application/json' }
  expect((await reader.fetch('/v1/users/me', { method: 'PATCH', headers, body })).status).toBe(200)
  expect(await (await reader.fetch(path)).json()).toMatchObject({ bio: 'Third', version: 3 })
  await reader.redis.clearFaults()
  expect((await late).status).toBe(200)
  expect(await (await reader.fetch(path)).json()).toMatchObject({ bio: 'Third', version: 3 })
})

test('of two concurrent changes of one version, one succeeds', async () => {
  for (let round = 0; round < 10; round += 1) {
    const edge = newEdge()
    const ada = await newMember(edge)
    const both = await Promise.all(['one', 'two'].map((bio) => ada.patch({ bio }, { 'If-Match': '"1-0-0-0"' })))
    expect(new Set(both.map(({ status }) => status))).toEqual(new Set([200, 412]))
    const [row] = await db.select().from(users).where(eq(users.id, ada.id))
    const won = both[0]?.status === 200 ? 'one' : 'two'
    expect(row).toMatchObject({ bio: won, version: 2 })
    expect(await (await edge.fetch(`/v1/users/${ada.id}`)).json()).toMatchObject({ bio: won })
  }
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('profiles are changed when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' })
  const ada = await newMember(edge)
  await edge.fetch(`/v1/users/${ada.id}`)
  await edge.settle()
  await edge.redis.fault({ kind })
  expect((await ada.patch({ bio: 'Second' })).status).toBe(200)
  expect(await (await edge.fetch(`/v1/users/${ada.id}`)).json()).toMatchObject({ bio: 'Second' })
  await edge.settle()
})
