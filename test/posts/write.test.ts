import { eq } from 'drizzle-orm'
import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

interface Post {
  id: string
  text: string
  version: number
  likesCount: number
}

/** A signed-in member, and how they send requests. */
async function newMember(edge: Edge) {
  const user = await addUser()
  const headers = await edge.signIn(user)
  const send = (method: string, path: string, body?: unknown, more: Record<string, string> = {}) =>
    edge.fetch(path, {
      method,
      headers: { ...headers, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...more },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  const post = (text: string, key?: string) =>
    send('POST', '/v1/posts', { text }, key === undefined ? {} : { 'Idempotency-Key': key })
  return { ...user, send, post }
}

const postsOf = (authorId: string) => db.select().from(schema.posts).where(eq(schema.posts.authorId, authorId))
const typeOf = async (response: Response) => {
  const { type } = await response.json<{ type: string }>()
  return [response.status, type.replace('/problems/', '')]
}

test('a post is written, counted, and read from the cache', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  expect(await (await edge.fetch(`/v1/users/${ada.id}`)).json()).toMatchObject({ postsCount: 0 })

  const response = await ada.post('  Good morning ☕️\r\nall ')
  const post = await response.json<Post>()
  expect(response.status).toBe(201)
  expect(response.headers.get('Location')).toBe(`/v1/posts/${post.id}`)
  expect(response.headers.get('Content-Type')).toBe('application/json')
  expect(post).toEqual({
    id: expect.stringMatching(/^p_[0-9a-z]{26}$/),
    authorId: ada.id,
    text: 'Good morning ☕️\nall',
    createdAt: expect.any(String),
    updatedAt: expect.any(String),
    version: 1,
    likesCount: 0,
    commentsCount: 0,
    viewsCount: 0,
    likedByMe: false,
  })

  const read = await ada.send('GET', `/v1/posts/${post.id}`)
  expect(await read.json()).toEqual(post)
  expect(read.headers.get('ETag')).toBe(response.headers.get('ETag'))
  const elsewhere = await newEdge({}, edge.token).fetch(`/v1/posts/${post.id}`)
  expect(elsewhere.headers.get('Cache-Status')).toMatch(/^redis; hit/) // written through
  expect(await (await edge.fetch(`/v1/users/${ada.id}`)).json()).toMatchObject({ postsCount: 1 })
})

test('writing, editing and deleting a post are two round trips each', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  await ada.post('The server learns the scripts')
  await edge.settle()

  const written = await ada.post('Hello')
  const { id } = await written.json<Post>()
  const edited = await ada.send('PATCH', `/v1/posts/${id}`, { text: 'Hello again' })
  const deleted = await ada.send('DELETE', `/v1/posts/${id}`)
  expect([written, edited, deleted].map(roundTrips)).toEqual([2, 2, 2])
  expect([written, edited, deleted].map(({ status }) => status)).toEqual([201, 200, 204])
})

test.each([
  ['no text', {}, 'text'],
  ['text that is none', { text: 7 }, 'text'],
  ['space alone', { text: ' \n ' }, 'text'],
  ['501 characters', { text: '👍🏽'.repeat(501) }, 'text'],
  ['a control character', { text: 'a\u0000b' }, 'text'],
  ['a field that posts do not have', { text: 'Hello', authorId: 'u_other' }, 'authorId'],
])('a post with %s is refused, naming the field', async (_, body, field) => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const { id } = await addPost({ authorId: ada.id })
  for (const response of [
    await ada.send('POST', '/v1/posts', body),
    await ada.send('PATCH', `/v1/posts/${id}`, body),
    await ada.send('POST', `/v1/posts/${id}/comments`, body),
  ]) {
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ errors: [{ in: 'body', field }] })
  }
})

test('a post may have 500 characters of any kind', async () => {
  const ada = await newMember(newEdge())
  expect((await ada.post('👍🏽'.repeat(500))).status).toBe(201)
})

test('who is not signed in writes, edits and deletes nothing', async () => {
  const edge = newEdge()
  const { id } = await addPost({ authorId: (await addUser()).id })
  const init = { headers: { 'Content-Type': 'application/json' }, body: '{"text":"Hello"}' }
  for (const response of [
    await edge.fetch('/v1/posts', { method: 'POST', ...init }),
    await edge.fetch(`/v1/posts/${id}`, { method: 'PATCH', ...init }),
    await edge.fetch(`/v1/posts/${id}`, { method: 'DELETE' }),
  ]) {
    expect(await typeOf(response)).toEqual([401, 'not-signed-in'])
  }
})

test('only its author edits or deletes a post, and only one that is there', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  const { id } = await addPost({ authorId: ada.id, text: 'Mine' })
  expect(await typeOf(await bob.send('PATCH', `/v1/posts/${id}`, { text: 'Yours' }))).toEqual([403, 'not-yours'])
  expect(await typeOf(await bob.send('DELETE', `/v1/posts/${id}`))).toEqual([403, 'not-yours'])
  expect(await (await edge.fetch(`/v1/posts/${id}`)).json()).toMatchObject({ text: 'Mine', version: 1 })
  expect(await typeOf(await ada.send('PATCH', '/v1/posts/p_none', { text: 'Hello' }))).toEqual([404, 'not-found'])
  expect(await typeOf(await ada.send('DELETE', '/v1/posts/p_none'))).toEqual([404, 'not-found'])
  expect((await ada.send('DELETE', '/v1/posts/42')).status).toBe(400)
})

test('an edit is written through, and keeps the counts', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const { id } = await addPost({ authorId: ada.id, likesCount: 3, createdAt: 1_700_000_000_000 })
  await edge.fetch(`/v1/posts/${id}`)
  await edge.settle()

  const response = await ada.send('PATCH', `/v1/posts/${id}`, { text: 'Better' })
  const post = await response.json<Post & { updatedAt: string; createdAt: string }>()
  expect(post).toMatchObject({ text: 'Better', version: 2, likesCount: 3, createdAt: '2023-11-14T22:13:20.000Z' })
  expect(post.updatedAt > post.createdAt).toBe(true)
  expect(response.headers.get('ETag')).toBe('"2-3-0-0-0"')
  for (const reader of [edge, newEdge({}, edge.token)]) {
    const read = await reader.fetch(`/v1/posts/${id}`)
    expect(read.headers.get('Cache-Status')).toContain('hit')
    expect({ ...(await read.json<Post>()), likedByMe: false }).toEqual(post)
  }
})

test('If-Match lets a change pass at that version only, whatever its counts are', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const { id } = await addPost({ authorId: ada.id, version: 3, likesCount: 9 })
  const edit = (match: string) => ada.send('PATCH', `/v1/posts/${id}`, { text: 'Better' }, { 'If-Match': match })

  for (const match of ['"2-9-0-0"', '2', '"4"', '"abc"', '"1", "2-0-0-0"', '"33-0"']) {
    expect([match, ...(await typeOf(await edit(match)))]).toEqual([match, 412, 'version-changed'])
  }
  for (const match of ['"3-0-0-0"', '"4"', '5', 'W/"6-9-0-0"', '"1,-0", "7"', '*']) {
    expect([match, (await edit(match)).status]).toEqual([match, 200])
  }
  for (const match of ['', 'three', '"open', '"a" "b"', '3,4']) {
    const refused = await edit(match)
    expect([match, refused.status]).toEqual([match, 400])
    expect(await refused.json()).toMatchObject({ errors: [{ in: 'header', field: 'If-Match' }] })
  }
  const remove = (match: string) => ada.send('DELETE', `/v1/posts/${id}`, undefined, { 'If-Match': match })
  expect(await typeOf(await remove('"3-0-0-0"'))).toEqual([412, 'version-changed'])
  expect((await remove('"9-0-0-0"')).status).toBe(204)
})

test('of twenty edits at once of one version, one is made', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const { id } = await addPost({ authorId: ada.id })
  const responses = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      ada.send('PATCH', `/v1/posts/${id}`, { text: `Edit ${i}` }, { 'If-Match': '"1-0-0-0"' }),
    ),
  )
  const won = responses.filter(({ status }) => status === 200)
  expect(won).toHaveLength(1)
  expect(responses.filter(({ status }) => status === 412)).toHaveLength(19)
  const { text } = (await won[0]?.json<Post>()) ?? {}
  expect(await (await newEdge({}, edge.token).fetch(`/v1/posts/${id}`)).json()).toMatchObject({ version: 2, text })
})

test('after twenty edits at once the caches hold the last', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const { id } = await addPost({ authorId: ada.id })
  await Promise.all(Array.from({ length: 20 }, (_, i) => ada.send('PATCH', `/v1/posts/${id}`, { text: `Edit ${i}` })))
  await edge.settle()
  const [row] = await db.select().from(schema.posts).where(eq(schema.posts.id, id))
  expect(row?.version).toBe(21)
  for (const reader of [edge, newEdge({}, edge.token)]) {
    const read = await reader.fetch(`/v1/posts/${id}`)
    expect(read.headers.get('Cache-Status')).toContain('hit')
    expect(await read.json()).toMatchObject({ version: 21, text: row?.text })
  }
})

test('a deleted post takes its likes, comments, counts and places in caches and feeds with it', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  const { id } = await (await ada.post('Soon gone')).json<Post>()
  const comment = await addComment({ postId: id, authorId: bob.id })
  await db.insert(schema.postLikes).values({ postId: id, userId: bob.id, isLiked: true, changedAt: 1 })
  await db.insert(schema.commentLikes).values({ commentId: comment.id, userId: bob.id, isLiked: true, changedAt: 1 })
  await bob.send('PUT', `/v1/users/${ada.id}/follow`)
  const paths = [
    `/v1/posts/${id}`,
    `/v1/posts/${id}/comments`,
    '/v1/posts/hot',
    `/v1/users/${ada.id}/posts`,
    '/v1/feed',
  ]
  for (const path of paths) expect(await (await bob.send('GET', path)).text()).toContain(id)
  await edge.settle()
  const counters = ['likes', 'comments', 'views'] as const
  await bob.send('PUT', `/v1/posts/${id}/like`)
  await bob.send('POST', `/v1/posts/${id}/views`)
  const counts = [
    ...counters.map((counter) => keys.count(counter, id)),
    keys.count('likes', comment.id),
    keys.tally('likes', id),
    keys.viewers(id),
    keys.tally('views', id),
  ]
  expect(await edge.sdk.exists(...counts)).toBe(counts.length)
  const generation = await edge.sdk.get(keys.hotGeneration)

  expect((await ada.send('DELETE', `/v1/posts/${id}`)).status).toBe(204)
  expect(await edge.sdk.exists(...counts)).toBe(0)
  expect(await edge.sdk.get(keys.hotGeneration)).toBe(generation) // the hot feed stays cached for everybody
  for (const reader of [edge, newEdge({}, edge.token)]) {
    expect((await reader.fetch(`/v1/posts/${id}`)).status).toBe(404)
    for (const path of paths.slice(2)) {
      const response = await bob.send('GET', path)
      expect(await response.text()).not.toContain(id)
    }
    expect(await (await reader.fetch(`/v1/users/${ada.id}`)).json()).toMatchObject({ postsCount: 0 })
  }
  await edge.settle()
  await edge.dispatch()
  await edge.cron(Date.now() + 600_000) // the comment had a like
  await edge.dispatch()
  for (const [table, column] of [
    [schema.comments, schema.comments.postId],
    [schema.postLikes, schema.postLikes.postId],
  ] as const) {
    expect(await db.select().from(table).where(eq(column, id))).toEqual([])
  }
  const likes = await db.select().from(schema.commentLikes).where(eq(schema.commentLikes.commentId, comment.id))
  expect(likes).toEqual([])
  expect(await typeOf(await ada.send('DELETE', `/v1/posts/${id}`))).toEqual([404, 'not-found'])
})

test('a key posts once, and the first answer is replayed', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const first = await ada.post('Once', '"key-1"')
  const again = await ada.post('Once', 'key-1')

  expect([first.status, again.status]).toEqual([201, 201])
  expect([first, again].map((response) => response.headers.get('Idempotent-Replayed'))).toEqual([null, 'true'])
  for (const header of ['Location', 'ETag', 'Content-Type']) {
    expect(again.headers.get(header)).toBe(first.headers.get(header))
  }
  expect(await again.text()).toBe(await first.text())
  expect(await postsOf(ada.id)).toHaveLength(1)

  expect((await ada.post('Once', 'key-2')).status).toBe(201)
  expect(await postsOf(ada.id)).toHaveLength(2)
})

test('a key belongs to one user and one request', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  const { id } = await (await ada.post('Once', 'k')).json<Post>()
  expect(await typeOf(await ada.post('Twice', 'k'))).toEqual([422, 'idempotency-key-reused'])
  const elsewhere = await ada.send('POST', `/v1/posts/${id}/comments`, { text: 'Once' }, { 'Idempotency-Key': 'k' })
  expect(await typeOf(elsewhere)).toEqual([422, 'idempotency-key-reused'])
  const others = await bob.post('Once', 'k')
  expect([others.status, others.headers.get('Idempotent-Replayed')]).toEqual([201, null])
})

test('twenty requests at once with one key write one post', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const responses = await Promise.all(Array.from({ length: 20 }, () => ada.post('Once', 'k')))
  expect(await postsOf(ada.id)).toHaveLength(1)
  const answers = responses.filter(({ status }) => status === 201)
  expect(new Set(await Promise.all(answers.map((response) => response.text()))).size).toBe(1)
  for (const refusal of responses.filter(({ status }) => status !== 201)) {
    expect(await typeOf(refusal)).toEqual([409, 'idempotency-key-in-use'])
  }
  expect((await ada.post('Once', 'k')).headers.get('Idempotent-Replayed')).toBe('true')
})

test.each([
  ['empty', ''],
  ['empty in quotes', '""'],
  ['too long', 'k'.repeat(256)],
  ['in one quote', '"k'],
  ['of two words', 'a b'],
  ['two keys', 'a, b'],
  ['not ASCII', 'ké'],
])('a key that is %s is refused, naming the header', async (_, key) => {
  const ada = await newMember(newEdge())
  const response = await ada.post('Once', key)
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ errors: [{ in: 'header', field: 'Idempotency-Key' }] })
  expect(await postsOf(ada.id)).toEqual([])
})

test.each(['k'.repeat(255), '"two words"', '"with \\"quotes\\""', '8e03978e-40d5-43e8-bc93-6894a57f9324'])(
  'the key %s will do',
  async (key) => {
    const ada = await newMember(newEdge())
    expect((await ada.post('Once', key)).status).toBe(201)
    expect((await ada.post('Once', key)).headers.get('Idempotent-Replayed')).toBe('true')
  },
)

test('a request that failed can be tried again with its key', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const comment = () => ada.send('POST', '/v1/posts/p_later/comments', { text: 'Hi' }, { 'Idempotency-Key': 'k' })
  expect((await comment()).status).toBe(404)
  await addPost({ id: 'p_later', authorId: ada.id })
  expect((await comment()).status).toBe(201)

  await env.DB.exec(`CREATE TRIGGER boom BEFORE INSERT ON posts BEGIN SELECT RAISE(ABORT, 'boom'); END`)
  expect((await ada.post('Once', 'k2')).status).toBe(500)
  await env.DB.exec('DROP TRIGGER boom')
  expect((await ada.post('Once', 'k2')).status).toBe(201)
  expect(await postsOf(ada.id)).toHaveLength(2)
})

/** D1 that does what it is asked, but loses its answer to the batch of a post: the claim of a key has two statements. */
function forgetfulDatabase() {
  let isForgetful = true
  const DB = new Proxy(env.DB, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      if (name !== 'batch') return value.bind(target)
      return async (statements: D1PreparedStatement[]) => {
        const results = await target.batch(statements)
        if (isForgetful && statements.length > 2) throw new Error('the connection was lost')
        return results
      }
    },
  })
  return { DB, recover: () => void (isForgetful = false) }
}

test('a post whose answer was lost is not written again', async () => {
  const { DB, recover } = forgetfulDatabase()
  const edge = newEdge({ DB })
  const ada = await newMember(edge)
  expect((await ada.post('Once', 'k')).status).toBe(500)
  recover()
  const again = await ada.post('Once', 'k')
  expect([again.status, again.headers.get('Idempotent-Replayed')]).toEqual([201, 'true'])
  expect(await postsOf(ada.id)).toHaveLength(1)
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('posts are written when Redis does "%s"', async (kind) => {
  const variables = { REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' }
  const edge = newEdge(variables)
  const ada = await newMember(edge)
  const { id: old } = await (await ada.post('Before')).json<Post>()
  await edge.redis.fault({ kind })

  const written = await ada.post('During', 'k')
  const { id } = await written.json<Post>()
  expect((await ada.post('During', 'k')).headers.get('Idempotent-Replayed')).toBe('true')
  const edited = await ada.send('PATCH', `/v1/posts/${old}`, { text: 'Edited' })
  expect([written.status, edited.status]).toEqual([201, 200])
  expect(await (await edge.fetch(`/v1/posts/${old}`)).json()).toMatchObject({ text: 'Edited', version: 2 })
  const deleted = await ada.send('DELETE', `/v1/posts/${id}`)
  expect(deleted.status).toBe(204)
  expect((await edge.fetch(`/v1/posts/${id}`)).status).toBe(404)
  await edge.settle()
})

test('an update that Redis missed is repeated when Redis is back', async () => {
  const edge = newEdge({ REDIS_BREAKER_SECONDS: '1' })
  const ada = await newMember(edge)
  const { id } = await (await ada.post('Before')).json<Post>()
  await edge.settle()
  // Admission, the write-through and its second try: the latter two are asked again once.
  await edge.redis.fault({ kind: 'refuse', times: 5 })
  expect((await ada.send('PATCH', `/v1/posts/${id}`, { text: 'After' })).status).toBe(200)
  await expect.poll(async () => (await edge.redis.counts()).faults).toEqual([])
  // Until then other isolates read the old text: what an outage costs.
  await edge.settle()
  const fresh = await newEdge({}, edge.token).fetch(`/v1/posts/${id}`)
  expect(await fresh.json()).toMatchObject({ text: 'After' })
})
