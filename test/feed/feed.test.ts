import { beforeAll, expect, test } from 'vitest'
import { type Edge, migrate, newEdge, roundTrips } from '../edge.ts'
import { addFollow, addPost, addUser } from '../rows.ts'

beforeAll(migrate)

interface Listed {
  items: { id: string; likesCount: number }[]
  nextCursor: string | null
}

async function newMember(edge: Edge) {
  const user = await addUser()
  const headers = await edge.signIn(user)
  return { ...user, headers, feed: (query = '') => edge.fetch(`/v1/feed${query}`, { headers }) }
}

/** Some authors, followed by `fan`, and their posts, the newest first. */
async function addAuthors(fan: string, authors: number, posts: number): Promise<string[]> {
  const ids: string[] = []
  const followed = await Promise.all(Array.from({ length: authors }, () => addUser()))
  for (const author of followed) await addFollow(fan, author.id)
  for (let i = 0; i < posts; i += 1) {
    const author = followed[(i * i) % authors]
    if (author) ids.unshift((await addPost({ authorId: author.id, createdAt: 1_700_000_000_000 + i })).id)
  }
  return ids
}

test('the feed has the posts of followed users, newest first, each once, even if posts arrive between pages', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  const expected = await addAuthors(ada.id, 5, 17)
  await addPost({ authorId: (await addUser()).id }) // of a stranger
  await addPost({ authorId: ada.id }) // my own
  const author = await addUser()
  await addFollow(ada.id, author.id)

  const seen: string[] = []
  let more = ''
  do {
    const page = await (await ada.feed(`?limit=4${more}`)).json<Listed>()
    expect(page.items.length).toBeLessThanOrEqual(4)
    seen.push(...page.items.map((item) => item.id))
    await addPost({ authorId: author.id })
    more = page.nextCursor === null ? '' : `&cursor=${page.nextCursor}`
  } while (more !== '')
  expect(seen).toEqual(expected)
})

test('the feed shows a post, an edit, a like, a follow and an unfollow at once', async () => {
  const edge = newEdge()
  const [ada, bob] = [await newMember(edge), await newMember(edge)]
  const put = (method: string) => edge.fetch(`/v1/users/${bob.id}/follow`, { method, headers: ada.headers })
  const feed = async () => (await (await ada.feed()).json<Listed>()).items
  expect(await feed()).toEqual([])
  const { id } = await addPost({ authorId: bob.id, likesCount: 2 })
  await put('PUT')
  expect(await feed()).toMatchObject([{ id, likesCount: 2 }])
  const later = await addPost({ authorId: bob.id, createdAt: Date.now() + 1 })
  expect((await feed()).map((post) => post.id)).toEqual([later.id, id])
  await put('DELETE')
  expect(await feed()).toEqual([])
})

test('a page of the feed is two round trips, session and limit included, beside D1', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  await addAuthors(ada.id, 3, 25)
  await ada.feed() // the server learns the scripts
  await edge.settle()
  for (const reader of [edge, newEdge({}, edge.token)]) {
    const response = await reader.fetch('/v1/feed', { headers: ada.headers })
    expect([response.status, roundTrips(response)]).toEqual([200, 2])
    expect(response.headers.get('Cache-Control')).toBe('private, no-cache')
  }
})

test('the feed requires a session and valid parameters', async () => {
  const edge = newEdge()
  const ada = await newMember(edge)
  expect((await edge.fetch('/v1/feed')).status).toBe(401)
  for (const [query, field] of [
    ['?limit=0', 'limit'],
    ['?limit=101', 'limit'],
    ['?cursor=u_1', 'cursor'],
  ]) {
    const response = await ada.feed(query)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ errors: [{ in: 'query', field }] })
  }
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('the feed is read when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' })
  const ada = await newMember(edge)
  const expected = await addAuthors(ada.id, 2, 3)
  await edge.redis.fault({ kind })
  const { items } = await (await ada.feed()).json<Listed>()
  expect(items.map((post) => post.id)).toEqual(expected)
  await edge.settle()
})
