import { env } from 'cloudflare:workers'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { readOperations } from '../docs/document.ts'
import { type Call, calls } from '../drills/calls.ts'
import { type Lab, newLab } from '../drills/lab.ts'
import { migrate, newEdge } from '../edge.ts'
import { asked, isStorable, newCachedEdge } from '../edge-cache.ts'
import { addComment, addPost, addUser } from '../rows.ts'

beforeAll(migrate)

const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
const SHARED = 'public, max-age=4, stale-while-revalidate=1, stale-if-error=0'

const statusOf = (response: Response) => response.headers.get('Cf-Cache-Status') ?? 'the Worker'
const asCookie = ({ Authorization }: { Authorization: string }) => ({
  Cookie: `theme=dark; __Host-session=${Authorization.replace('Bearer ', '')}`,
})

const { operations } = await readOperations()

/** A valid request of an operation; of backups and restores, which the drill leaves out, one that is refused. */
async function prepare(name: string, lab: Lab): Promise<Call> {
  const call = await calls[name]?.(lab)
  if (call) return call
  expect(name).toMatch(/backup|restore/)
  const [method = '', pattern = ''] = name.split(' ')
  const path = pattern.replaceAll(/\{\w+\}/g, 'x')
  return { path, headers: SERVICE, ...(method !== 'GET' && method !== 'DELETE' && { body: {} }) }
}

test.each([...operations])('no shared cache may store what %s answers to a credential', async (name, operation) => {
  const lab = newLab()
  const [method = ''] = name.split(' ')
  const schemes = operation.security ?? []
  const isPublic = schemes.length === 0 || schemes.some((scheme) => Object.keys(scheme).length === 0)
  const member = await lab.member()
  const { path, headers: own = {}, body } = await prepare(name, lab)
  const credentials: Record<string, Record<string, string>> = {
    'its own': own,
    'a bearer token': member.headers,
    'a cookie': asCookie(member.headers),
    'a service token': SERVICE,
    'a token that is not genuine': { Authorization: 'Bearer nonsense' },
    'a cookie of something else': { Cookie: 'theme=dark' },
    none: {},
  }
  for (const [whose, headers] of Object.entries(credentials)) {
    const sent = { ...headers, ...(body && { 'Content-Type': 'application/json' }) }
    const response = await lab.edge.fetch(path, { method, headers: sent, ...(body && { body: JSON.stringify(body) }) })
    const isStored = isStorable(asked(path, sent, method), response)
    await response.body?.cancel()
    await lab.edge.settle()
    const hasCredential = 'Authorization' in headers || 'Cookie' in headers
    if (hasCredential || !isPublic) {
      expect([name, whose, response.status, isStored]).toEqual([name, whose, response.status, false])
      expect(response.headers.get('Cache-Tag')).toBeNull()
      expect(response.headers.get('Cache-Control')).toMatch(/\b(private|no-store)\b/)
    } else if (isStored) {
      // Then the next caller with a credential must not get it.
      expect(response.headers.get('Vary')).toMatch(/^Authorization, Cookie\b/)
    }
  }
})

test('shared caches may keep what these operations answer to anonymous callers, and nothing else', async () => {
  const kept: string[] = []
  for (const name of operations.keys()) {
    const [method = ''] = name.split(' ')
    if (method !== 'GET') continue
    const lab = newLab()
    const { path } = await prepare(name, lab)
    const response = await lab.edge.fetch(path)
    if (isStorable(asked(path), response)) kept.push(name)
    await response.body?.cancel()
    await lab.edge.settle()
  }
  expect(kept.sort()).toEqual([
    'GET /v1/comments/{id}/replies',
    'GET /v1/posts',
    'GET /v1/posts/hot',
    'GET /v1/posts/{id}',
    'GET /v1/posts/{id}/comments',
    'GET /v1/search',
    'GET /v1/users',
    'GET /v1/users/by-username/{username}',
    'GET /v1/users/{id}',
    'GET /v1/users/{id}/followers',
    'GET /v1/users/{id}/followings',
    'GET /v1/users/{id}/posts',
  ])
})

describe('with a clock that stands still', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }))
  afterEach(() => void vi.useRealTimers())
  const passMs = (ms: number) => vi.setSystemTime(Date.now() + ms)

  test('a hit does not run the Worker; a stale hit runs it after the answer', async () => {
    const edge = newCachedEdge()
    const user = await addUser()
    const path = `/v1/users/${user.id}`
    const first = await edge.fetch(path)
    expect([statusOf(first), first.headers.get('Cache-Control')]).toEqual(['the Worker', SHARED])
    expect(first.headers.get('Cache-Tag')).toBe(user.id)
    await edge.settle()
    await edge.redis.reset()

    passMs(3_999)
    const hit = await edge.fetch(path)
    expect(statusOf(hit)).toBe('HIT')
    expect(hit.headers.get('X-Request-Id')).toBe(first.headers.get('X-Request-Id'))
    expect(await hit.json()).toEqual(await first.json())
    await edge.settle()
    expect((await edge.redis.counts()).requests).toBe(0)

    passMs(1)
    expect(statusOf(await edge.fetch(path))).toBe('UPDATING')
    await edge.settle()
    passMs(1_000)
    expect(statusOf(await edge.fetch(path))).toBe('the Worker')
    await edge.settle()
  })

  test('an answer from memory is kept no longer than memory may go on to serve it', async () => {
    const edge = newEdge()
    const { id } = await addUser()
    const control = async () => (await edge.fetch(`/v1/users/${id}`)).headers.get('Cache-Control')
    expect(await control()).toBe(SHARED)
    await edge.settle()
    expect(await control()).toBe(SHARED)
    passMs(2_001)
    expect(await control()).toBe('public, max-age=2, stale-while-revalidate=0, stale-if-error=0')
    passMs(2_000)
    expect(await control()).toBe('public, no-cache')
    await edge.settle()
  })

  test.each([0, 500, 999, 2_500, 4_999])(
    'without purges, a post that memory has held for %i ms is gone within MEMORY_SECONDS of its deletion',
    async (heldMs) => {
      const writer = newEdge()
      const edge = newCachedEdge({}, writer.token)
      edge.purging.answer = async () => ({ success: false, errors: [{ code: 10_000, message: 'refused' }] })
      const author = await addUser()
      const post = await addPost({ authorId: author.id })
      const headers = await writer.signIn(author)
      const path = `/v1/posts/${post.id}`
      expect((await edge.fetch(path)).status).toBe(200) // now memory holds it
      await edge.settle()
      edge.forget()
      passMs(heldMs)
      expect((await edge.fetch(path)).status).toBe(200) // now the cache has it from memory
      await edge.settle()
      expect((await writer.fetch(path, { method: 'DELETE', headers })).status).toBe(204)
      await writer.settle()
      for (let passed = 0; passed < 5_000; passed += 200) {
        await (await edge.fetch(path)).body?.cancel() // some ask for the next answer in the background
        await edge.settle()
        passMs(200)
      }
      expect((await edge.fetch(path)).status).toBe(404)
      await edge.settle()
    },
  )

  test('after a refused purge an isolate reports it, and sends none for a minute', async () => {
    const errors = vi.spyOn(console, 'error').mockImplementation(() => {})
    const edge = newCachedEdge()
    edge.purging.answer = async () => ({ success: false, errors: [{ code: 971, message: 'rate limited' }] })
    const headers = await edge.signIn(await addUser())
    async function change(): Promise<number> {
      const response = await edge.fetch('/v1/users/me', {
        method: 'PATCH',
        headers: { ...headers, 'Content-Type': 'application/json' },
        body: '{"bio":"new"}',
      })
      await edge.settle()
      return response.status
    }
    expect([await change(), await change()]).toEqual([200, 200])
    expect(edge.purging.tags).toHaveLength(1)
    expect(errors.mock.calls.map(([line]) => JSON.parse(String(line)) as object)).toEqual([
      expect.objectContaining({ level: 'error', during: 'purge', name: 'Error', code: 'PURGE_REFUSED' }),
    ])
    edge.purging.answer = async () => ({ success: true, errors: [] })
    passMs(60_000)
    expect(await change()).toBe(200)
    expect(edge.purging.tags).toHaveLength(2)
    errors.mockRestore()
  })
})

test('a signed-in reader never gets the answer of others, and never leaves one', async () => {
  const edge = newCachedEdge()
  const [author, reader] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: author.id })
  const headers = await edge.signIn(reader)
  const path = `/v1/posts/${post.id}`
  const read = async (sent?: HeadersInit) => {
    const response = await edge.fetch(path, sent && { headers: sent })
    return [statusOf(response), (await response.json<{ likedByMe?: boolean }>()).likedByMe]
  }
  expect(await read()).toEqual(['the Worker', undefined])
  await edge.settle()
  expect((await edge.fetch(`${path}/like`, { method: 'PUT', headers })).status).toBe(200)
  await edge.settle()
  for (const sent of [headers, asCookie(headers), headers]) expect(await read(sent)).toEqual(['the Worker', true])
  expect(await read()).toEqual(['HIT', undefined])
  expect(await read({ Cookie: 'theme=dark' })).toEqual(['the Worker', undefined])
  const own = await edge.fetch(`/v1/users/${reader.id}`, { headers })
  expect(await own.json()).toMatchObject({ email: reader.email })
  expect(await (await edge.fetch(`/v1/users/${reader.id}`)).json()).not.toHaveProperty('email')
})

test('a change is seen at once where its purge arrives: in the post, and in every list that shows it', async () => {
  const edge = newCachedEdge()
  const [author, commenter] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: author.id, text: 'Kestrels hover' })
  const comment = await addComment({ postId: post.id, authorId: commenter.id })
  const headers = await edge.signIn(author)
  const json = { ...headers, 'Content-Type': 'application/json' }
  const path = `/v1/posts/${post.id}`
  const lists = [`/v1/posts?ids=${post.id}`, `/v1/users/${author.id}/posts`, '/v1/posts/hot?limit=100']
  const profile = `/v1/users/by-username/${author.username}`
  const all = [path, `${path}/comments`, ...lists, profile]
  const texts = async () => {
    const answers = await Promise.all(all.map((one) => edge.fetch(one)))
    await edge.settle()
    return Promise.all(answers.map(async (answer) => [statusOf(answer), answer.status, await answer.text()] as const))
  }
  await texts()
  expect((await texts()).map(([status]) => status)).toEqual(all.map(() => 'HIT'))

  const write = async (method: string, to: string, body?: object) => {
    const response = await edge.fetch(to, { method, headers: json, ...(body && { body: JSON.stringify(body) }) })
    await edge.settle()
    return response.status
  }
  expect(await write('DELETE', `/v1/comments/${comment.id}`)).toBe(204)
  expect((await texts())[1]).toEqual(['the Worker', 200, '{"items":[],"nextCursor":null}'])

  expect(await write('PATCH', path, { text: 'Herons wait' })).toBe(200)
  for (const [i, [status, code, text]] of (await texts()).entries()) {
    if (i !== 1 && i !== 5)
      expect([all[i], status, code, text]).toEqual([all[i], 'the Worker', 200, expect.stringContaining('Herons')])
  }
  expect(await write('PATCH', '/v1/users/me', { displayName: 'Ada L.' })).toBe(200)
  expect((await texts())[5]).toEqual(['the Worker', 200, expect.stringContaining('Ada L.')])

  expect(await write('DELETE', path)).toBe(204)
  const after = await texts()
  expect(after.slice(0, 2).map(([, code]) => code)).toEqual([404, 404])
  for (const [, , text] of after.slice(2, 5)) expect(text).not.toContain(post.id)
  expect(edge.purging.tags).toEqual([[post.id], [post.id], [author.id], [post.id]])
})

test('a service that invalidates caches purges a hundred tags at once', async () => {
  const edge = newCachedEdge()
  const ids = (kind: string) => Array.from({ length: 75 }, (_, i) => `${kind}_invalidated${i}`)
  const response = await edge.fetch('/v1/cache/invalidate', {
    method: 'POST',
    headers: { ...SERVICE, 'Content-Type': 'application/json' },
    body: JSON.stringify({ users: ids('u'), posts: ids('p') }),
  })
  expect(response.status).toBe(204)
  await edge.settle()
  expect(edge.purging.tags.map((tags) => tags.length)).toEqual([100, 50])
  expect(new Set(edge.purging.tags.flat())).toEqual(new Set([...ids('u'), ...ids('p')]))
})

test('a purge delays no answer and costs no Redis command', async () => {
  const [cached, plain] = [newCachedEdge(), newEdge()]
  const purge = Promise.withResolvers<CachePurgeResult>()
  cached.purging.answer = () => purge.promise
  const commands = []
  for (const edge of [plain, cached]) {
    const author = await addUser()
    const post = await addPost({ authorId: author.id })
    const headers = await edge.signIn(author)
    await edge.redis.reset()
    expect((await edge.fetch(`/v1/posts/${post.id}`, { method: 'DELETE', headers })).status).toBe(204) // while it hangs
    purge.resolve({ success: true, errors: [] })
    await edge.settle()
    commands.push((await edge.redis.counts()).commands)
  }
  expect(cached.purging.tags).toHaveLength(1)
  expect(commands[1]).toEqual(commands[0])
})

test('entity tags and 304 work the same with and without a hit', async () => {
  const edge = newCachedEdge()
  const { id } = await addUser()
  const path = `/v1/users/${id}`
  const tag = (await edge.fetch(path)).headers.get('ETag') ?? ''
  await edge.settle()
  const condition = { headers: { 'If-None-Match': tag } }
  const [hit, miss] = [await edge.fetch(path, condition), await newEdge({}, edge.token).fetch(path, condition)]
  for (const [response, from] of [
    [hit, 'HIT'],
    [miss, 'the Worker'],
  ] as const) {
    expect([statusOf(response), response.status, response.headers.get('ETag')]).toEqual([from, 304, tag])
    expect(response.headers.get('Cache-Control')).toMatch(/^public, max-age=\d/)
  }
})

test('EDGE_CACHE=false turns it off: every answer is checked, and nothing is purged', async () => {
  const edge = newCachedEdge({ EDGE_CACHE: 'false' })
  const user = await addUser()
  const path = `/v1/users/${user.id}`
  for (let i = 0; i < 2; i += 1) {
    const response = await edge.fetch(path)
    expect([statusOf(response), response.headers.get('Cache-Control')]).toEqual(['the Worker', 'public, no-cache'])
    await edge.settle()
  }
  const headers = { ...(await edge.signIn(user)), 'Content-Type': 'application/json' }
  expect((await edge.fetch('/v1/users/me', { method: 'PATCH', headers, body: '{"bio":"new"}' })).status).toBe(200)
  await edge.settle()
  expect(edge.purging.tags).toEqual([])
})
