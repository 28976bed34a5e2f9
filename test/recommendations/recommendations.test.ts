import { env } from 'cloudflare:workers'
import { eq, isNotNull } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { scoreOf } from '../../src/db/score.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { addLike, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
const DAY_MS = 86_400_000

interface Listed {
  items: { id: string; authorId: string; likedByMe: boolean; likesCount: number }[]
  nextCursor: string | null
}

/** An edge without posts, and an author for those that the test adds. */
async function newWorld() {
  await db.delete(schema.posts)
  return { edge: newEdge(), authorId: (await addUser()).id }
}

async function newMember(edge: Edge) {
  const user = await addUser()
  const headers = await edge.signIn(user)
  const ask = (query = '', at = edge) => at.fetch(`/v1/recommendations${query}`, { headers })
  const ids = async (query = '', at = edge) => {
    const response = await ask(query, at)
    expect(response.status).toBe(200)
    const { items } = await response.json<Listed>()
    expect(items.filter((post) => post.likedByMe || post.authorId === user.id)).toEqual([])
    return items.map((post) => post.id)
  }
  return { id: user.id, headers, ask, ids }
}

async function rebuild(edge: Edge) {
  const response = await edge.fetch('/v1/listeners/recommendations/rebuild', { method: 'POST', headers: SERVICE })
  expect(response.status).toBe(202)
  expect(await edge.dispatch()).toBe(0)
}

/** The posts that have a score. */
const scores = () =>
  db
    .select({ postId: schema.posts.id, score: schema.posts.score })
    .from(schema.posts)
    .where(isNotNull(schema.posts.score))
    .orderBy(schema.posts.id)

test('posts with many likes, comments and views come first, and twice the weight is worth eight hours', async () => {
  const { edge, authorId } = await newWorld()
  const ada = await newMember(edge)
  const now = Date.now()
  const add = async (days: number, likesCount: number, commentsCount = 0, viewsCount = 0) =>
    (await addPost({ authorId, createdAt: now - days * DAY_MS, likesCount, commentsCount, viewsCount })).id
  const liked = await add(0, 1_000)
  const [old, viewed, commented, plain] = [
    await add(1, 989),
    await add(0, 0, 0, 500),
    await add(0, 0, 50),
    await add(0, 90),
  ]
  const [older, dull] = [await add(3, 9_999), await add(0, 0)]
  const own = await addPost({ authorId: ada.id, likesCount: 1_000_000 })
  await addLike(ada.id, liked)
  await rebuild(edge)
  // log2 of the weight, less three a day: 7.2, 6.9, 6.5, 5.7, 4.3, 0
  expect(await ada.ids()).toEqual([commented, old, plain, viewed, older, dull])
  expect((await scores()).map(({ postId }) => postId)).toContain(own.id)
})

test('posts that my neighbours like come first; users who withdrew their like are not neighbours', async () => {
  const { edge, authorId } = await newWorld()
  const [ada, bob, eve, mallory] = [
    await newMember(edge),
    await newMember(edge),
    await newMember(edge),
    await newMember(edge),
  ]
  const now = Date.now()
  const add = async (likesCount = 0, daysAgo = 0) =>
    (await addPost({ authorId, likesCount, createdAt: now - daysAgo * DAY_MS })).id
  const [shared, also, niche, popular, elsewhere] = [
    await add(),
    await add(),
    await add(2, 30),
    await add(900),
    await add(0, 30),
  ]
  await addLike(ada.id, shared, also)
  await addLike(bob.id, shared, also, niche)
  await addLike(eve.id, elsewhere)
  await db.insert(schema.postLikes).values({ userId: mallory.id, postId: shared, isLiked: false, changedAt: 1 })
  await addLike(mallory.id, elsewhere)
  await rebuild(edge)
  expect(await ada.ids()).toEqual([niche, popular, elsewhere])
})

test('posts of closer neighbours come first, and posts that everybody likes count less', async () => {
  const { edge, authorId } = await newWorld()
  const ada = await newMember(edge)
  const add = async (daysAgo: number, likesCount = 0) =>
    (await addPost({ authorId, likesCount, createdAt: 1_600_000_000_000 - daysAgo * DAY_MS })).id
  const [everybody, close, far] = [await add(0, 400), await add(0.1, 2), await add(0.2)]
  const [others, mine] = [
    [await add(30), await add(31)],
    [await add(60), await add(61), await add(62)],
  ]
  await addLike(ada.id, ...mine)
  const near = await addUser()
  const distant = await addUser({ id: 'u_00000000000000000000distant' }) // joined long before
  await addLike(near.id, ...mine, close, everybody)
  await addLike(distant.id, String(mine[0]), far)
  await rebuild(edge)
  expect(await ada.ids()).toEqual([close, everybody, far, ...others])
})

test('posts that I do not like are found behind any number of those that I like', async () => {
  const { edge, authorId } = await newWorld()
  const ada = await newMember(edge)
  const dull = await addPost({ authorId, createdAt: 1_600_000_000_000 })
  const liked = Array.from({ length: 200 }, (_, i) => `p_${i}`)
  await env.DB.prepare(
    'INSERT INTO posts (id, author_id, text, created_at, updated_at) SELECT value, ?, ?, ?, 1 FROM json_each(?)',
  )
    .bind(authorId, 'Hello', Date.now(), JSON.stringify(liked))
    .run()
  await rebuild(edge)
  for (let done = 0; done < 200; done += 20) await addLike(ada.id, ...liked.slice(done, done + 20))
  expect(await ada.ids()).toEqual([dull.id])
})

test('posts that I like later and deleted posts are left out, and the page is still full', async () => {
  const { edge, authorId } = await newWorld()
  const ada = await newMember(edge)
  const ids: string[] = []
  for (let i = 0; i < 70; i += 1) ids.unshift((await addPost({ authorId, createdAt: Date.now() - 100_000 + i })).id)
  await rebuild(edge)
  expect(await ada.ids('?limit=3')).toEqual(ids.slice(0, 3))
  await edge.settle()

  const [gone = '', ...rest] = ids
  await db.delete(schema.posts).where(eq(schema.posts.id, gone))
  for (const id of rest.slice(0, 45)) {
    const liked = await edge.fetch(`/v1/posts/${id}/like`, { method: 'PUT', headers: ada.headers })
    expect(liked.status).toBe(200)
  }
  const other = newEdge({}, edge.token)
  await other.sdk.del(`post:${gone}`)
  expect(await ada.ids('?limit=3', other)).toEqual(rest.slice(45, 48))
  expect((await ada.ids('?limit=50', other)).length).toBe(24)
})

test('a user without likes gets the hot feed, then other posts, with or without scores; without posts the list is empty', async () => {
  const { edge, authorId } = await newWorld()
  expect(await (await newMember(edge)).ids()).toEqual([])
  const now = Date.now()
  const hot = []
  for (const [i, likesCount] of [30, 20, 10].entries()) {
    hot.unshift((await addPost({ authorId, likesCount, createdAt: now - (6 - 2 * i) * DAY_MS })).id)
  }
  const { id: old } = await addPost({ authorId, likesCount: 99, createdAt: now - 30 * DAY_MS })
  const fresh = newEdge() // the first has an empty hot feed in memory
  const [ada, bob] = [await newMember(fresh), await newMember(fresh)]
  const own = await addPost({ authorId: ada.id, likesCount: 25 })
  expect(await ada.ids()).toEqual([...hot, old])
  expect(await bob.ids()).toEqual([own.id, ...hot, old])
  await rebuild(fresh)
  expect(await (await newMember(fresh)).ids()).toEqual([own.id, ...hot, old])
})

test('whatever changes the counts of a post sets its score; few likes make none, and a rebuild changes nothing', async () => {
  const { edge, authorId } = await newWorld()
  const [ada, bob, cy] = [await newMember(edge), await newMember(edge), await newMember(edge)]
  const headers = { ...ada.headers, 'Content-Type': 'application/json' }
  const { id, createdAt } = await addPost({ authorId })
  const other = await addPost({ authorId })
  const expectScore = async (counts: { likes: number; comments: number; views: number } | null) => {
    const found = await scores()
    if (!counts) return expect(found).toEqual([])
    expect(found).toEqual([{ postId: id, score: expect.closeTo(scoreOf({ ...counts, createdAt }), 6) as number }])
    await rebuild(edge)
    expect(await scores()).toEqual(found)
  }
  await addLike(bob.id, id)
  await expectScore(null)
  await addLike(cy.id, id)
  await expectScore({ likes: 2, comments: 0, views: 0 })
  const commented = await edge.fetch(`/v1/posts/${id}/comments`, { method: 'POST', headers, body: '{"text":"Well"}' })
  const comment = await commented.json<{ id: string }>()
  await expectScore({ likes: 2, comments: 1, views: 0 })
  await edge.fetch(`/v1/posts/${id}/views`, { method: 'POST', headers })
  await edge.cron()
  await expectScore({ likes: 2, comments: 1, views: 1 })
  await db.update(schema.postLikes).set({ isLiked: false, changedAt: 2 }).where(eq(schema.postLikes.userId, bob.id))
  await expectScore({ likes: 1, comments: 1, views: 1 })
  await edge.fetch(`/v1/comments/${comment.id}`, { method: 'DELETE', headers })
  await expectScore(null)
  await addLike(ada.id, id)
  await expectScore({ likes: 2, comments: 0, views: 1 })
  await db.delete(schema.users).where(eq(schema.users.id, cy.id)) // with the like
  await expectScore(null)
  await db.update(schema.posts).set({ likesCount: 9 }).where(eq(schema.posts.id, other.id)) // around the triggers
  await rebuild(edge)
  expect((await scores()).map(({ postId }) => postId)).toEqual([other.id])
})

test('the first like of a post leaves the score to the next change, also when a batch brings both', async () => {
  const { authorId } = await newWorld()
  const [ada, bob] = [await addUser(), await addUser()]
  const post = { authorId, commentsCount: 2 }
  const score = (likes: number, createdAt: number) =>
    expect.closeTo(scoreOf({ likes, comments: 2, views: 0, createdAt }), 6) as number
  const one = await addPost({
    ...post,
    createdAt: 1_000,
    score: scoreOf({ likes: 0, comments: 2, views: 0, createdAt: 1_000 }),
  })
  const two = await addPost({ ...post, createdAt: 2_000 })
  await addLike(ada.id, one.id, two.id)
  await addLike(bob.id, two.id)
  expect(await scores()).toEqual(
    [
      { postId: one.id, score: score(0, 1_000) },
      { postId: two.id, score: score(2, 2_000) },
    ].toSorted((a, b) => (a.postId < b.postId ? -1 : 1)),
  )
  await addLike(bob.id, one.id)
  expect((await scores()).find(({ postId }) => postId === one.id)).toEqual({ postId: one.id, score: score(2, 1_000) })
})

test('a rebuild continues step by step until every post has its score', async () => {
  const { edge, authorId } = await newWorld()
  const rows = Array.from({ length: 1_001 }, (_, i) => `p_${String(i).padStart(6, '0')}`)
  await env.DB.prepare(
    `INSERT INTO posts (id, author_id, text, likes_count, created_at, updated_at)
    SELECT value, ?, ?, 2, 1, 1 FROM json_each(?)`,
  )
    .bind(authorId, 'Hello', JSON.stringify(rows))
    .run()
  await rebuild(edge)
  expect((await scores()).map(({ postId }) => postId)).toEqual(rows)
})

test('a list in memory takes one round trip, with the session; a list in Redis takes two', async () => {
  const { edge, authorId } = await newWorld()
  const ada = await newMember(edge)
  for (let i = 0; i < 60; i += 1) await addPost({ authorId })
  await rebuild(edge)
  await ada.ids()
  await edge.settle()
  const other = newEdge({}, edge.token)
  for (const [at, trips, commands, later] of [
    [edge, 1, { mget: 1, eval: 1 }, 0], // session and counts; what I like
    // The list and the texts as well. After the answer a new isolate notes that D1 knows the session.
    [other, 2, { mget: 2, eval: 3 }, 1],
    [other, 1, { mget: 1, eval: 1 }, 0],
  ] as const) {
    await edge.redis.reset()
    const response = await ada.ask('', at)
    expect([response.status, roundTrips(response)]).toEqual([200, trips])
    expect(response.headers.get('Cache-Control')).toBe('private, no-cache')
    await at.settle()
    expect(await edge.redis.counts()).toMatchObject({ requests: trips + later, byCommand: commands })
  }
})

test('a cold page does not wait for its own leases: what it reads twice is loaded once', async () => {
  const { edge, authorId } = await newWorld()
  const ada = await newMember(edge)
  for (let i = 0; i < 30; i += 1) await addPost({ authorId })
  const response = await ada.ask()
  expect((await response.json<Listed>()).items).toHaveLength(20)
  // The list, the hot feed and its posts: a look and a claim each; the counts and likes of the page, with the session.
  expect(roundTrips(response)).toBe(7)
  await edge.settle()
})

test('recommendations need a session and valid parameters', async () => {
  const { edge } = await newWorld()
  const ada = await newMember(edge)
  expect((await edge.fetch('/v1/recommendations')).status).toBe(401)
  await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: ada.headers })
  expect((await ada.ask()).status).toBe(401)
  const bob = await newMember(edge)
  for (const limit of ['0', '51', 'x']) await expectRefused(bob.ask(`?limit=${limit}`), 'query', 'limit')
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('posts are recommended when Redis does "%s"', async (kind) => {
  const { authorId } = await newWorld()
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' })
  const ada = await newMember(edge)
  const liked = await addPost({ authorId })
  const { id } = await addPost({ authorId })
  await addLike(ada.id, liked.id)
  await rebuild(edge)
  await edge.redis.fault({ kind })
  expect(await ada.ids()).toEqual([id])
  await edge.settle()
})
