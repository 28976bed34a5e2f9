import { and, eq, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { newLab } from '../drills/lab.ts'
import { type Edge, expectRefused, migrate, newEdge, newQueue, roundTrips } from '../edge.ts'
import { addComment, addFollow, addPost, addRelation, addUser, addUsers, db } from '../rows.ts'
import { keysOf } from '../redis/setup.ts'

beforeAll(migrate)

type Headers = Record<string, string>

const statusOf = async (edge: Edge, method: string, path: string, headers: Headers = {}): Promise<number> => {
  const { status } = await edge.fetch(path, { method, headers })
  await edge.settle()
  return status
}

async function read<T>(edge: Edge, path: string, headers: Headers): Promise<T> {
  const response = await edge.fetch(path, { headers })
  expect([path, response.status]).toEqual([path, 200])
  const body = await response.json<T>()
  await edge.settle()
  return body
}
interface Items {
  items: { id: string }[]
  nextCursor: string | null
}
const idsIn = async (edge: Edge, path: string, headers: Headers) =>
  (await read<Items>(edge, path, headers)).items.map(({ id }) => id)

/** Two members with a post each, signed in to one edge. */
async function newWorld(bindings: Record<string, unknown> = {}) {
  const LIKES = newQueue()
  const edge = newEdge({ LIKES, ...bindings })
  const member = async () => {
    const user = await addUser()
    return { ...user, headers: await edge.signIn(user), post: await addPost({ authorId: user.id }) }
  }
  const [ada, bob] = [await member(), await member()]
  const block = (by = ada, of = bob, method = 'PUT') => statusOf(edge, method, `/v1/users/${of.id}/block`, by.headers)
  return { edge, ada, bob, member, block, newIsolate: () => newEdge({ LIKES, ...bindings }, edge.token) }
}

const eventsOf = async (userId: string) => {
  const rows = await db.select().from(t.events)
  return rows
    .filter(({ data }) => Object.values(data).includes(userId))
    .map(({ type, audience }) => [type, audience])
    .sort(([a], [b]) => String(a).localeCompare(String(b)))
}

test('a block ends the follows between two users, once, with exact counts and events', async () => {
  const { edge, ada, bob, block } = await newWorld()
  const carol = await addUser()
  await addFollow(ada.id, bob.id)
  await addFollow(bob.id, ada.id)
  await addFollow(carol.id, ada.id)
  expect([await block(), await block()]).toEqual([200, 200])

  const counts = await db.select({ id: t.users.id, followers: t.users.followersCount }).from(t.users)
  expect(counts.filter(({ id }) => [ada.id, bob.id].includes(id)).map(({ followers }) => followers)).toEqual([1, 0])
  expect(await read(edge, `/v1/users/${ada.id}`, ada.headers)).toMatchObject({ followersCount: 1, followingsCount: 0 })
  expect(await eventsOf(bob.id)).toEqual([
    ['user_blocked', [ada.id]],
    ['user_unfollowed', 'everyone'],
    ['user_unfollowed', 'everyone'],
  ])
  expect(await statusOf(edge, 'PUT', `/v1/users/${ada.id}/follow`, bob.headers)).toBe(404)
  expect(await statusOf(edge, 'PUT', `/v1/users/${bob.id}/follow`, ada.headers)).toBe(404)
  expect(await db.select().from(t.follows).where(eq(t.follows.followerId, bob.id))).toEqual([])

  expect([await block(ada, bob, 'DELETE'), await block(ada, bob, 'DELETE')]).toEqual([200, 200])
  expect(await statusOf(edge, 'PUT', `/v1/users/${ada.id}/follow`, bob.headers)).toBe(200)
})

test('where both block each other, one unblocks in vain', async () => {
  const { edge, ada, bob, block } = await newWorld()
  await block(ada, bob)
  await block(bob, ada)
  await block(ada, bob, 'DELETE')
  expect(await statusOf(edge, 'GET', `/v1/users/${bob.id}`, ada.headers)).toBe(404)
  await block(bob, ada, 'DELETE')
  expect(await statusOf(edge, 'GET', `/v1/users/${bob.id}`, ada.headers)).toBe(200)
})

test('a block of oneself is refused, and one of nobody is not found', async () => {
  const { edge, ada } = await newWorld()
  for (const action of ['block', 'mute']) {
    for (const method of ['PUT', 'DELETE']) {
      const ask = (id: string) => edge.fetch(`/v1/users/${id}/${action}`, { method, headers: ada.headers })
      await expectRefused(ask(ada.id), 'path', 'id')
      expect((await ask('u_nobody')).status).toBe(404)
    }
  }
  expect(await eventsOf('u_nobody')).toEqual([])
})

test('a block holds for the next request in every isolate, also in one that knew of none', async () => {
  const { ada, bob, block, newIsolate } = await newWorld({ MEMORY_SECONDS: '0' })
  const other = newIsolate()
  const sees = async () => [
    await statusOf(other, 'GET', `/v1/posts/${ada.post.id}`, bob.headers),
    await statusOf(other, 'GET', `/v1/users/${ada.id}`, bob.headers),
    await statusOf(other, 'PUT', `/v1/posts/${ada.post.id}/like`, bob.headers),
    await statusOf(other, 'POST', `/v1/posts/${ada.post.id}/views`, bob.headers),
  ]
  expect(await sees()).toEqual([200, 200, 200, 200])
  await block(ada, bob)
  expect(await sees()).toEqual([404, 404, 404, 404])
  await block(ada, bob, 'DELETE')
  expect(await sees()).toEqual([200, 200, 200, 200])
})

test('a like can be taken back after a block, and counts until then', async () => {
  const { edge, ada, bob, block } = await newWorld()
  const like = `/v1/posts/${ada.post.id}/like`
  expect(await statusOf(edge, 'PUT', like, bob.headers)).toBe(200)
  await block()
  expect(await read(edge, `/v1/posts/${ada.post.id}`, ada.headers)).toMatchObject({ likesCount: 1 })
  expect(await statusOf(edge, 'DELETE', like, bob.headers)).toBe(200)
  expect(await read(edge, `/v1/posts/${ada.post.id}`, ada.headers)).toMatchObject({ likesCount: 0 })
})

test('a comment by somebody else on a post of a blocked user cannot be liked', async () => {
  const { edge, ada, bob, block, member } = await newWorld()
  const carol = await member()
  const comment = await addComment({ postId: ada.post.id, authorId: carol.id })
  await block()
  expect(await statusOf(edge, 'PUT', `/v1/comments/${comment.id}/like`, bob.headers)).toBe(404)
  expect(await statusOf(edge, 'PUT', `/v1/comments/${comment.id}/like`, carol.headers)).toBe(200)
})

test('checks of blocks add no round trip and no command, whether a user blocks many or nobody', async () => {
  const { edge, ada, bob, member, newIsolate } = await newWorld()
  const carol = await member()
  for (const id of await addUsers(100)) await addRelation(bob.id, 'block', id)
  await addRelation(bob.id, 'mute', carol.id)
  const budgets: [path: string, trips: number, commands: number][] = [
    [`/v1/posts/${ada.post.id}`, 1, 2],
    [`/v1/posts?ids=${ada.post.id}`, 1, 2],
    ['/v1/notifications', 1, 1],
    ['/v1/recommendations', 2, 3],
  ]
  const costs = async ({ headers }: typeof ada) => {
    const measured = []
    for (const [path] of budgets) {
      await statusOf(newIsolate(), 'GET', path, headers) // Redis learns
      const isolate = newIsolate()
      await statusOf(isolate, 'GET', '/v1/sessions', headers) // a new isolate asks D1 once
      await edge.redis.reset()
      const response = await isolate.fetch(path, { headers })
      const { requests, commands } = await edge.redis.counts()
      await isolate.settle()
      expect([path, response.status, requests]).toEqual([path, 200, roundTrips(response)])
      measured.push([path, requests, commands])
    }
    return measured
  }
  expect(await costs(carol)).toEqual(budgets)
  expect(await costs(bob)).toEqual(budgets)
}, 120_000)

test('a like or view by a user with blocks takes as many round trips as one by any other', async () => {
  const { edge, ada, bob, block, member, newIsolate } = await newWorld()
  const carol = await member()
  await block(bob, await member())
  const post = () => addPost({ authorId: ada.id })
  const comment = async () => addComment({ postId: (await post()).id, authorId: ada.id })
  const readPost = ({ id }: { id: string }) => `/v1/posts?ids=${id}`
  const readComment = ({ postId = '' }: { postId?: string }) => `/v1/posts/${postId}/comments`
  const kinds = [
    ['PUT', (id: string) => `/v1/posts/${id}/like`, post, readPost],
    ['PUT', (id: string) => `/v1/comments/${id}/like`, comment, readComment],
    ['POST', (id: string) => `/v1/posts/${id}/views`, post, readPost],
  ] as const
  /** The round trips of the first writes to new contents, then of repetitions, then where Redis lost something. */
  const tripsOf = async ({ id, headers }: typeof ada) => {
    const measured: unknown[] = []
    for (const [method, pathOf, create, reading] of kinds) {
      for (const isRead of [false, true]) {
        const isolate = newIsolate()
        await statusOf(isolate, 'GET', '/v1/sessions', headers) // a new isolate asks D1 once
        const content = await create()
        if (isRead) await read(isolate, reading(content), headers)
        const write = async (what: string, evicted: string[] = []) => {
          if (evicted.length > 0) await edge.redis.evict({ keys: evicted })
          const response = await isolate.fetch(pathOf(content.id), { method, headers })
          await isolate.settle()
          expect([what, response.status]).toEqual([what, 200])
          measured.push([pathOf('x'), isRead, what, roundTrips(response)])
        }
        await write('first')
        await write('again')
        await write('state lost', [`liked:${id}`])
        const counts = ['likes', 'views'].flatMap((of) => [`count:${of}:${content.id}`, `tally:${of}:${content.id}`])
        await write('counts lost', counts)
        await write('all lost', [...counts, `authors:${content.id}`])
      }
    }
    return measured
  }
  const others = await tripsOf(carol)
  expect(others).toContainEqual(['/v1/posts/x/like', true, 'again', 1])
  expect(await tripsOf(bob)).toEqual(others)
  expect(await block(bob, ada)).toBe(200)
}, 60_000)

test('where Redis lost only the author of a content, D1 decides while the like is loaded', async () => {
  const { edge, ada, bob, block, member } = await newWorld()
  await block(bob, await member())
  const like = async (path = `/v1/posts/${ada.post.id}/like`) => {
    const response = await edge.fetch(path, { method: 'PUT', headers: bob.headers })
    await edge.settle()
    return [response.status, roundTrips(response)]
  }
  await like()
  expect(await keysOf(edge.sdk, 'authors:*')).toEqual([`authors:${ada.post.id}`])
  expect(await like()).toEqual([200, 1])
  for (const lost of [`relations:${bob.id}`, `authors:${ada.post.id}`]) {
    await edge.redis.evict({ keys: [lost] })
    expect([lost, ...(await like())]).toEqual([lost, 200, 2])
    await statusOf(edge, 'GET', '/v1/sessions', bob.headers)
  }
  expect(await like()).toEqual([200, 1])
  expect(await block(ada, bob)).toBe(200)
  await edge.redis.evict({ keys: [`authors:${ada.post.id}`] })
  const before = await read(edge, `/v1/posts/${ada.post.id}`, {})
  expect((await like())[0]).toBe(404)
  expect(await read(edge, `/v1/posts/${ada.post.id}`, {})).toEqual(before)
  expect((await like('/v1/posts/p_nothing/like'))[0]).toBe(404)
})

test('a signed-in read of a profile in memory takes no round trip while the isolate knows the viewer', async () => {
  const { edge, ada, bob } = await newWorld({ MEMORY_SECONDS: '60' })
  const ask = () => edge.fetch(`/v1/users/${ada.id}`, { headers: bob.headers })
  await ask()
  await edge.settle()
  const response = await ask()
  expect([response.status, roundTrips(response)]).toEqual([200, 0])
})

test('of a user who blocks more than a session carries, D1 knows every block', async () => {
  const { edge, ada, bob, block, newIsolate } = await newWorld()
  const many = await addUsers(2_001)
  await db.run(sql`INSERT INTO relations (user_id, kind, other_id, id, created_at)
    SELECT ${bob.id}, 'block', value, 'r_' || value, key FROM json_each(${JSON.stringify(many)})`)
  const isolate = newIsolate()
  expect(await statusOf(isolate, 'PUT', `/v1/posts/${ada.post.id}/like`, bob.headers)).toBe(200)
  expect(await statusOf(isolate, 'GET', `/v1/users/${many[2_000]}`, bob.headers)).toBe(404)
  expect(await block(bob, ada)).toBe(200)
  expect(await edge.sdk.get(`relations:${bob.id}`)).toMatchObject({ hidden: null, muted: [] })
  for (const isolate of [edge, newIsolate()]) {
    expect([
      await statusOf(isolate, 'GET', `/v1/posts/${ada.post.id}`, bob.headers),
      await statusOf(isolate, 'GET', `/v1/users/${ada.id}`, bob.headers),
      await statusOf(isolate, 'PUT', `/v1/posts/${ada.post.id}/like`, bob.headers),
      await statusOf(isolate, 'GET', `/v1/posts/${bob.post.id}`, ada.headers),
    ]).toEqual([404, 404, 404, 404])
  }
})

test('lists without hidden users fill their pages, and their cursors stay', async () => {
  const { edge, ada, bob, block, member } = await newWorld()
  const carol = await member()
  const ids: string[] = []
  for (let i = 0; i < 12; i += 1) {
    const authorId = i % 3 === 0 ? bob.id : carol.id
    const comment = await addComment({ postId: carol.post.id, authorId, createdAt: 1_700_000_000_000 + i })
    if (authorId === carol.id) ids.unshift(comment.id)
  }
  const path = `/v1/posts/${carol.post.id}/comments?limit=3`
  const first = await read<Items>(edge, path, ada.headers)
  await block()
  const after = await read<Items>(edge, `${path}&cursor=${first.nextCursor}`, ada.headers)
  expect(after.items).toHaveLength(3)
  const pages = []
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: Items = await read<Items>(edge, cursor ? `${path}&cursor=${cursor}` : path, ada.headers)
    pages.push(page.items.map(({ id }) => id))
    cursor = page.nextCursor
  }
  expect(pages.flat()).toEqual(ids)
  expect(pages.map((page) => page.length)).toEqual([3, 3, 2])
})

test('the hot feed fills its page in place of hidden posts', async () => {
  const { edge, ada, bob, block, member } = await newWorld()
  await db.delete(t.posts)
  const carol = await member()
  const posts = []
  for (let i = 0; i < 6; i += 1) {
    const authorId = i < 2 ? bob.id : carol.id
    posts.push(await addPost({ authorId, likesCount: 100 - i, createdAt: Date.now() - i }))
  }
  await block()
  const hot = await idsIn(edge, '/v1/posts/hot?limit=3', ada.headers)
  expect(hot).toHaveLength(3)
  expect(posts.slice(0, 2).some(({ id }) => hot.includes(id))).toBe(false)
})

test('the lists of blocked and muted users are mine, latest first, in pages', async () => {
  const { edge, ada, bob, member } = await newWorld()
  const [carol, dan] = [await member(), await member()]
  for (const { id } of [bob, carol, dan]) {
    expect(await statusOf(edge, 'PUT', `/v1/users/${id}/block`, ada.headers)).toBe(200)
    expect(await statusOf(edge, 'PUT', `/v1/users/${id}/mute`, ada.headers)).toBe(200)
    await scheduler.wait(2) // a later id
  }
  await statusOf(edge, 'DELETE', `/v1/users/${carol.id}/mute`, ada.headers)
  const first = await read<Items>(edge, '/v1/users/me/blocks?limit=2', ada.headers)
  expect(first.items.map(({ id }) => id)).toEqual([dan.id, carol.id])
  expect(await idsIn(edge, `/v1/users/me/blocks?limit=2&cursor=${first.nextCursor}`, ada.headers)).toEqual([bob.id])
  expect(await idsIn(edge, '/v1/users/me/mutes', ada.headers)).toEqual([dan.id, bob.id])
  expect(await idsIn(edge, '/v1/users/me/blocks', bob.headers)).toEqual([])
})

test('a mute hides a user from feeds and notifications, and is gone with it', async () => {
  const { edge, ada, bob } = await newWorld()
  await addFollow(ada.id, bob.id, Date.now() - 60_000)
  await statusOf(edge, 'POST', '/v1/sessions', {})
  const post = await addPost({ authorId: bob.id })
  const inbox = async () =>
    (await read<{ items: { postId?: string }[] }>(edge, '/v1/notifications', ada.headers)).items.map(
      ({ postId }) => postId,
    )
  const feed = () => idsIn(edge, '/v1/feed', ada.headers)
  expect([await feed(), await inbox()]).toEqual([[post.id, bob.post.id], expect.arrayContaining([post.id])])
  expect(await statusOf(edge, 'PUT', `/v1/users/${bob.id}/mute`, ada.headers)).toBe(200)
  expect([await feed(), await inbox()]).toEqual([[], []])
  expect(await statusOf(edge, 'GET', `/v1/posts/${post.id}`, ada.headers)).toBe(200)
  expect(await statusOf(edge, 'DELETE', `/v1/users/${bob.id}/mute`, ada.headers)).toBe(200)
  expect([await feed(), await inbox()]).toEqual([[post.id, bob.post.id], expect.arrayContaining([post.id])])
})

/** A lab in which `bob` is blocked by `ada` and Redis knows his session. */
async function newBlockedLab() {
  const lab = newLab()
  const [ada, bob] = [await lab.member(), await lab.member()]
  const post = await addPost({ authorId: ada.id })
  expect(await statusOf(lab.edge, 'GET', `/v1/posts/${post.id}`, bob.headers)).toBe(200)
  expect(await statusOf(lab.edge, 'PUT', `/v1/users/${bob.id}/block`, ada.headers)).toBe(200)
  const reads = async (edge: Edge) => [
    await statusOf(edge, 'GET', `/v1/posts/${post.id}`, bob.headers),
    await statusOf(edge, 'GET', `/v1/users/${ada.id}`, bob.headers),
    await statusOf(edge, 'GET', `/v1/posts?ids=${post.id}`, bob.headers),
  ]
  return { lab, ada, bob, post, reads }
}

test('without Redis D1 knows the blocks', async () => {
  const { lab, reads } = await newBlockedLab()
  await lab.redis.fault({ kind: 'refuse' })
  expect(await reads(lab.newIsolate())).toEqual([404, 404, 200])
})

test('without D1 the blocks in Redis hold, and nothing is answered where Redis has none', async () => {
  const { lab, bob, post, reads } = await newBlockedLab()
  const isolate = lab.newIsolate()
  await reads(isolate)
  lab.database.failure = 'refuses'
  expect(await reads(lab.newIsolate())).toEqual([404, 404, 200])
  await lab.redis.evict({ keys: [`relations:${bob.id}`] })
  expect(await reads(lab.newIsolate())).toEqual([503, 503, 503])
  expect(await statusOf(lab.newIsolate(), 'PUT', `/v1/posts/${post.id}/like`, bob.headers)).toBe(503)
})

test('a block that Redis misses is acknowledged, and holds at once in the isolate that took it and in new ones', async () => {
  const lab = newLab()
  const [ada, bob] = [await lab.member(), await lab.member()]
  const post = await addPost({ authorId: ada.id })
  const asBob = (edge: Edge) => statusOf(edge, 'GET', `/v1/posts/${post.id}`, bob.headers)
  expect(await asBob(lab.edge)).toBe(200)
  await lab.redis.fault({ kind: 'refuse' })
  expect(await statusOf(lab.edge, 'PUT', `/v1/users/${bob.id}/block`, ada.headers)).toBe(200)
  await lab.redis.clearFaults()
  expect([await asBob(lab.edge), await asBob(lab.newIsolate())]).toEqual([404, 404])
  const rows = await db
    .select()
    .from(t.relations)
    .where(and(eq(t.relations.userId, ada.id), eq(t.relations.otherId, bob.id)))
  expect(rows).toHaveLength(1)
})
