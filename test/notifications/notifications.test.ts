import { env } from 'cloudflare:workers'
import { and, eq, sql } from 'drizzle-orm'
import { ulid } from 'ulid'
import { beforeAll, expect, test, vi } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { notifications } from '../../src/db/schema.ts'
import { features } from '../../src/features.ts'
import type { LikeMessage } from '../../src/likes/schema.ts'
import { notificationsService } from '../../src/notifications/notifications.ts'
import { createIsolate, createPlatform } from '../../src/platform.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addFollow, addPost, addUser, db } from '../rows.ts'
import { meteredDatabase } from '../database.ts'
import { type Listed, newLossyD1, newWorld } from './world.ts'

beforeAll(migrate)

const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

async function rebuild(edge: Edge) {
  await edge.fetch('/v1/listeners/notifications/rebuild', { method: 'POST', headers: SERVICE })
  expect(await edge.dispatch()).toBe(0)
}

const brief = ({ items }: Listed) =>
  items.map(({ type, actorIds, postId, commentId }) => ({ type, actorIds, postId, commentId }))

test('authors are notified of likes, comments and follows, followers of posts; nobody of their own actions', async () => {
  const { newMember, deliver } = newWorld()
  const [ada, bob, eve] = [await newMember(), await newMember(), await newMember()]
  await ada.post() // before anybody follows
  await bob.follow(ada.id)
  const postId = await ada.post()
  const commentId = await bob.comment(postId)
  await ada.comment(postId)
  for (const by of [ada, bob, eve]) await by.like(postId)
  for (const by of [ada, bob]) await by.like(commentId)
  await deliver()

  const listed = await ada.list()
  expect(brief(listed)).toEqual([
    { type: 'like', actorIds: [eve.id, bob.id], postId },
    { type: 'comment', actorIds: [bob.id], postId, commentId },
    { type: 'follow', actorIds: [bob.id] },
  ])
  expect(listed).toMatchObject({ nextCursor: null, unreadCount: 3 })
  expect(listed.items[0]).toEqual({
    id: expect.stringMatching(/^n_[0-9a-z]{38}$/),
    type: 'like',
    actorIds: [eve.id, bob.id],
    actorsCount: 2,
    postId,
    createdAt: expect.stringMatching(/^\d{4}-.*Z$/),
    isRead: false,
  })
  const times = listed.items.map(({ createdAt }) => createdAt)
  expect(times).toEqual(times.toSorted().toReversed())
  expect(brief(await bob.list())).toEqual([
    { type: 'like', actorIds: [ada.id], postId, commentId },
    { type: 'post', actorIds: [ada.id], postId },
  ])
  expect(await eve.list()).toEqual({ items: [], nextCursor: null, unreadCount: 0 })
})

test('an undone action removes its notification, also from inboxes that are read meanwhile', async () => {
  const { newMember, deliver } = newWorld()
  const [ada, bob, eve] = [await newMember(), await newMember(), await newMember()]
  await bob.follow(ada.id)
  const postId = await ada.post()
  const commentId = await bob.comment(postId)
  for (const by of [eve, bob]) await by.like(postId)
  await ada.like(commentId)
  await deliver()
  expect(brief(await ada.list()).map(({ type }) => type)).toEqual(['like', 'comment', 'follow'])
  expect(brief(await bob.list()).map(({ type }) => type)).toEqual(['like', 'post'])

  await bob.like(postId, 'DELETE')
  await ada.like(commentId, 'DELETE')
  await deliver()
  expect(brief(await ada.list())[0]).toEqual({ type: 'like', actorIds: [eve.id], postId })
  expect(brief(await bob.list()).map(({ type }) => type)).toEqual(['post'])
  await eve.like(postId, 'DELETE')
  await deliver()
  expect(brief(await ada.list()).map(({ type }) => type)).toEqual(['comment', 'follow'])
  await bob.remove(commentId)
  await deliver()
  expect(brief(await ada.list()).map(({ type }) => type)).toEqual(['follow'])

  await bob.like(postId)
  await ada.like(await bob.comment(postId))
  await deliver()
  expect(brief(await ada.list()).map(({ type }) => type)).toEqual(['comment', 'like', 'follow'])
  expect(brief(await bob.list()).map(({ type }) => type)).toEqual(['like', 'post'])
  await ada.remove(postId)
  await deliver()
  expect(brief(await ada.list()).map(({ type }) => type)).toEqual(['follow'])
  expect(await bob.list()).toEqual({ items: [], nextCursor: null, unreadCount: 0 })
  const ofAda = and(eq(notifications.userId, ada.id), eq(notifications.postId, postId))
  expect(await db.select().from(notifications).where(ofAda)).toEqual([])

  await ada.post()
  await deliver()
  expect((await bob.list()).unreadCount).toBe(1)
  await bob.follow(ada.id, 'DELETE')
  await deliver()
  for (const member of [ada, bob]) expect((await member.list()).items).toEqual([])
})

test('pages continue where the last one ended, from Redis and from D1, even if notifications arrive between them', async () => {
  const { edge, newMember, deliver } = newWorld({ INBOX_SIZE: '10' })
  const ada = await newMember()
  const [author, bob] = [await addUser(), await newMember()]
  const post = await addPost({ authorId: ada.id })
  await addFollow(ada.id, author.id, Date.now() - 2_000_000)
  const expected: string[] = []
  for (let i = 0; i < 27; i += 1) {
    const createdAt = Date.now() - 1_000_000 + i
    const by = { authorId: author.id, createdAt }
    if (i % 3 === 0) expected.unshift((await addPost(by)).id)
    else if (i % 3 === 1) expected.unshift((await addComment({ ...by, postId: post.id })).id)
    else expected.unshift((await addFollow((await addUser()).id, ada.id, createdAt)).followerId)
  }
  await rebuild(edge)
  const seen: (string | undefined)[] = []
  let more = ''
  do {
    const page = await ada.list(`?limit=4${more}`)
    expect(page.unreadCount).toBe(10) // or more
    for (const { type, commentId, postId, actorIds } of page.items) {
      seen.push(type === 'follow' ? actorIds[0] : (commentId ?? postId))
    }
    more = page.nextCursor === null ? '' : `&cursor=${page.nextCursor}`
    await bob.comment(post.id)
    await deliver()
  } while (more !== '')
  expect(seen).toEqual(expected)
  expect((await ada.list('?limit=100')).items).toHaveLength(27 + 7)
})

test('notifications are read up to the mark, later ones are unread, and a mark never moves back', async () => {
  const { newMember, deliver, likes, edge } = newWorld()
  const [ada, bob, eve] = [await newMember(), await newMember(), await newMember()]
  const postId = await ada.post()
  await bob.like(postId)
  const late = likes.splice(0) // still on its way
  await bob.follow(ada.id)
  await bob.comment(postId)
  await eve.comment(postId)
  await deliver()
  const readOf = async () => (await ada.list()).items.map(({ isRead }) => isRead)
  expect(await readOf()).toEqual([false, false, false])
  const [newest, middle] = (await ada.list()).items
  expect(await ada.read(middle?.id)).toEqual({ unreadCount: 1 })
  expect(await readOf()).toEqual([false, true, true])
  expect(await ada.read('n_0')).toEqual({ unreadCount: 1 })
  expect(await ada.list()).toMatchObject({ unreadCount: 1 })
  expect(await ada.read()).toEqual({ unreadCount: 0 })
  expect(await readOf()).toEqual([true, true, true])

  await edge.deliver(late) // it happened before what was read, and is news all the same
  expect(await readOf()).toEqual([true, true, true, false])
  expect(await ada.read(newest?.id)).toEqual({ unreadCount: 0 })
  await eve.like(postId) // one notification for both, up again, and unread again
  await deliver()
  expect(await readOf()).toEqual([false, true, true, true])
  expect(await ada.read(`n_${'z'.repeat(40)}`)).toEqual({ unreadCount: 0 }) // as far as there is anything
  await eve.like(postId, 'DELETE') // which is no news
  await deliver()
  expect(await readOf()).toEqual([true, true, true, true])
  await eve.follow(ada.id)
  const last = await eve.comment(postId)
  await deliver()
  const items = [{ commentId: last, isRead: false }, { type: 'follow', isRead: false }, {}, {}, {}, {}]
  expect(await ada.list()).toMatchObject({ unreadCount: 2, items })
  expect(await ada.read((await ada.list()).items[1]?.id)).toEqual({ unreadCount: 1 })
})

test('marking an older notification as read leaves a newer one unread, wherever it arrived meanwhile', async () => {
  const { newMember, deliver, likes, edge } = newWorld()
  const [ada, bob, eve] = [await newMember(), await newMember(), await newMember()]
  const postId = await ada.post()
  await eve.follow(ada.id)
  const early = await bob.comment(postId)
  await deliver()
  await bob.like(postId)
  const late = likes.splice(0) // still in the queue
  await eve.comment(postId)
  await deliver()
  const [newest, older, oldest] = (await ada.list()).items
  expect(older).toMatchObject({ commentId: early })
  expect(await ada.read(newest?.id)).toEqual({ unreadCount: 0 })

  await edge.deliver(late) // a like between the two comments
  const readOf = async () => (await ada.list()).items.map(({ type, isRead }) => `${type} ${isRead ? 'read' : 'unread'}`)
  const between = ['comment read', 'like unread', 'comment read', 'follow read']
  expect(await readOf()).toEqual(between)
  for (const until of [older?.id, oldest?.id, 'n_0', older?.id]) {
    expect(await ada.read(until)).toEqual({ unreadCount: 1 })
    expect(await readOf()).toEqual(between)
  }
  // What arrived below a later mark is read with it, and stays so.
  const like = (await ada.list()).items[1]
  expect(await ada.read(like?.id)).toEqual({ unreadCount: 0 })
  expect(await ada.read(oldest?.id)).toEqual({ unreadCount: 0 })
  expect(await readOf()).toEqual(['comment read', 'like read', 'comment read', 'follow read'])
})

test('a notification is read if a mark covers it: it stood at or before the mark when the mark was made', async () => {
  const { newMember, deliver, likes, edge } = newWorld()
  const [ada, bob] = [await newMember(), await newMember()]
  const posts: string[] = []
  for (let i = 0; i < 8; i += 1) posts.push(await ada.post())
  const messages: LikeMessage[] = []
  for (const post of posts) {
    await bob.like(post)
    messages.push(...likes.splice(0))
    await new Promise((resolve) => setTimeout(resolve, 2)) // places differ
  }
  const placeOf = new Map<string | undefined, number>()
  const covered = new Set<number>()
  const arrived = new Set<number>()
  const check = async () => {
    const { items } = await ada.list()
    for (const { postId, isRead } of items) {
      const place = posts.indexOf(postId ?? '')
      expect([place, isRead]).toEqual([place, covered.has(place)])
    }
  }
  const deliverLike = async (place: number) => {
    await edge.deliver(messages.slice(place, place + 1))
    arrived.add(place)
    await new Promise((resolve) => setTimeout(resolve, 2))
    for (const { id, postId } of (await ada.list()).items) placeOf.set(id, posts.indexOf(postId ?? ''))
    await check()
  }
  const readUntil = async (place: number) => {
    const [id] = Array.from(placeOf).find(([, at]) => at === place) ?? expect.fail('it has not arrived')
    await ada.read(id)
    await new Promise((resolve) => setTimeout(resolve, 2))
    for (const at of arrived) if (at <= place) covered.add(at)
    await check()
  }
  await deliver()
  for (const place of [7, 3, 0]) await deliverLike(place)
  await readUntil(7)
  for (const place of [5, 1]) await deliverLike(place)
  await readUntil(3) // 1 is read, 5 is not
  for (const place of [2, 4]) await deliverLike(place)
  await readUntil(1) // neither 2, 4 nor 5
  await readUntil(2)
  await deliverLike(6)
  await readUntil(4)
  await readUntil(7)
  expect(covered.size).toBe(8)
})

test('a post that reaches D1 after everything was marked as read is unread, even if it is older than the mark', async () => {
  const { newMember, edge, deliver } = newWorld()
  const [ada, author] = [await newMember(), await newMember()]
  await ada.follow(author.id)
  await author.post()
  await deliver()
  await new Promise((resolve) => setTimeout(resolve, 5))
  const createdAt = Date.now() // it is on its way
  await new Promise((resolve) => setTimeout(resolve, 5))
  expect(await ada.read()).toEqual({ unreadCount: 0 })
  const { id } = await addPost({ authorId: author.id, createdAt })
  await edge.settle()
  expect((await ada.list()).items).toMatchObject([{ postId: id, isRead: false }, { isRead: true }])
})

test.each([
  ['a like', /insert into "notifications"/i],
  ['a comment', /insert into "notifications"/i],
  ['an unlike', /delete from "notifications"/i],
  ['a deleted comment', /delete from "notifications"/i],
  ['a deleted post', /from follows where followed_id/i],
])('%s is in the cached inbox after the retry although D1 lost the first reply', async (what, statement) => {
  const { DB, lose } = newLossyD1(env.DB)
  const { newMember, likes, edge } = newWorld({ DB })
  const [ada, bob] = [await newMember(), await newMember()]
  const postId = await ada.post()
  const commentId = await bob.comment(postId)
  await bob.like(postId)
  const deliverAll = async () => {
    await edge.settle()
    let due: unknown[] = [...likes.splice(0), ...edge.events.take()]
    const isLost = lose.next !== null
    for (let attempt = 0; due.length > 0 && attempt < 5; attempt += 1) {
      const batch = due
      const { retried } = await edge.deliver(batch)
      if (isLost && attempt === 0) expect(retried).not.toEqual([])
      due = retried.map((i) => batch[i])
    }
    await edge.settle()
  }
  await deliverAll()
  const before = await ada.list()
  expect(before.items).toHaveLength(2)
  await edge.settle() // Redis holds it

  using log = vi.spyOn(console, 'error').mockImplementation(() => {})
  if (what === 'a like') await (await newMember()).like(postId)
  if (what === 'a comment') await bob.comment(postId)
  if (what === 'an unlike') await bob.like(postId, 'DELETE')
  if (what === 'a deleted comment') await bob.remove(commentId)
  if (what === 'a deleted post') await ada.remove(postId)
  lose.next = statement
  await deliverAll()
  expect(lose.next).toBeNull()
  expect(log.mock.calls.length).toBeLessThan(10)
  const held = await ada.list()
  expect(held).toEqual(await (await newEdge().fetch('/v1/notifications', { headers: ada.headers })).json())
  expect(held.items).not.toEqual(before.items)
})

test('a repeated like makes no new notification, however it arrives and whatever Redis lost', async () => {
  const { newMember, deliver, likes, edge } = newWorld()
  const [ada, bob, eve] = [await newMember(), await newMember(), await newMember()]
  const postId = await ada.post()
  const commentId = await ada.comment(postId)
  for (const id of [postId, commentId]) for (const by of [bob, eve]) await by.like(id)
  await deliver()
  await bob.comment(postId)
  await deliver()
  await ada.read()
  const listed = await ada.list()
  expect(listed.items.map(({ type, actorsCount }) => [type, actorsCount])).toEqual([
    ['comment', 1],
    ['like', 2],
    ['like', 2],
  ])
  const again = async (...members: (typeof bob)[]) => {
    for (const by of members) for (const id of [postId, commentId]) await by.like(id)
    likes.reverse()
    await deliver()
    expect(await ada.list()).toEqual(listed)
  }
  await again(eve) // the latest of them
  await again(bob, bob, eve)
  await edge.sdk.flushdb()
  await again(bob)
  await edge.sdk.flushdb()
  for (const by of [bob, eve]) await by.send('GET', `/v1/posts/${postId}`) // what they like is read from D1
  await edge.settle()
  await again(bob, eve)
  await rebuild(edge)
  expect(await ada.list()).toEqual(listed)

  for (const method of ['DELETE', 'PUT', 'PUT'] as const) await bob.like(postId, method)
  likes.reverse()
  await deliver()
  const [news, ...others] = (await ada.list()).items
  expect(news).toMatchObject({ type: 'like', postId, actorIds: [bob.id, eve.id], actorsCount: 2, isRead: false })
  expect(others.map((item) => item.isRead)).toEqual([true, true])
})

test('a cached list costs one round trip and one command, session included; other reads have their own budgets', async () => {
  const { newMember, edge } = newWorld()
  const ada = await newMember()
  const ask = async (method = 'GET', path = '', body?: object) => {
    await edge.redis.reset()
    const response = await ada.send(method, `/v1/notifications${path}`, body)
    await edge.settle()
    const { byCommand } = await edge.redis.counts()
    return { roundTrips: roundTrips(response), byCommand }
  }
  await ada.list()
  await edge.settle()
  expect(await ask()).toEqual({ roundTrips: 1, byCommand: { mget: 1 } })
  expect(await ask('GET', '?cursor=n_1')).toEqual({ roundTrips: 1, byCommand: { mget: 1 } })
  expect(await ask('POST', '/read', {})).toEqual({ roundTrips: 2, byCommand: { mget: 1, del: 1, evalsha: 1 } })
  // A lease and a second look; the fill comes after the answer.
  expect(await ask()).toEqual({ roundTrips: 2, byCommand: { mget: 2, set: 1, eval: 1 } })
})

test('without Redis notifications are read from D1 and marked there', async () => {
  const { newMember, deliver, edge } = newWorld({ REDIS_BREAKER_SECONDS: '0.05' })
  const [ada, bob] = [await newMember(), await newMember()]
  const postId = await ada.post()
  await bob.comment(postId)
  await bob.follow(ada.id)
  await deliver()
  const before = await ada.list()
  await edge.redis.fault({ kind: 'refuse' })
  expect(await ada.list()).toEqual(before)
  expect(await ada.list(`?limit=1&cursor=${before.items[0]?.id}`)).toMatchObject({ items: [before.items[1]] })
  expect(await ada.read()).toEqual({ unreadCount: 0 })
  const commentId = await bob.comment(postId)
  await deliver()
  expect(await ada.list()).toMatchObject({ unreadCount: 1, items: [{ commentId, isRead: false }, {}, {}] })
})

test('an update that Redis did not receive is repeated a little later', async () => {
  const { newMember, deliver, edge } = newWorld({ REDIS_BREAKER_SECONDS: '0.05', REDIS_BREAKER_FAILURES: '1000' })
  const [ada, bob] = [await newMember(), await newMember()]
  const postId = await ada.post()
  await deliver()
  await ada.list()
  await edge.settle()
  await edge.redis.fault({ kind: 'refuse', match: 'DEL', times: 4 }) // twice, and twice after that
  const commentId = await bob.comment(postId)
  await deliver()
  expect((await ada.list()).items).toMatchObject([{ commentId }])
})

test('what D1 refuses is retried: likes by their queue, the rest by the queue of events', async () => {
  const { newMember, edge, likes } = newWorld()
  const [ada, bob] = [await newMember(), await newMember()]
  const postId = await ada.post()
  await bob.like(postId)
  await bob.comment(postId)
  await edge.settle()
  const due = [...edge.events.take(), ...likes.splice(0)]
  await env.DB.exec('ALTER TABLE notifications RENAME TO notifications_away')
  using log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const [posted, commented, hinted, liked] = [0, 1, 2, 3]
  expect(await edge.deliver(due)).toEqual({ acked: [posted, hinted], retried: [commented, liked] })
  expect(log).toHaveBeenCalled()
  await env.DB.exec('ALTER TABLE notifications_away RENAME TO notifications')
  expect((await ada.list()).items).toEqual([])
  expect(await edge.deliver(due)).toEqual({ acked: [posted, commented, hinted, liked], retried: [] })
  expect(brief(await ada.list()).map(({ type }) => type)).toEqual(['comment', 'like'])
})

test('another isolate sees at once that notifications were read here', async () => {
  const { newMember, edge, deliver } = newWorld()
  const [ada, bob] = [await newMember(), await newMember()]
  const other = newEdge({}, edge.token)
  const unread = async () =>
    (await (await other.fetch('/v1/notifications', { headers: ada.headers })).json<Listed>()).unreadCount
  await bob.follow(ada.id)
  await deliver()
  expect(await unread()).toBe(1)
  await other.settle()
  await ada.read()
  expect(await unread()).toBe(0)
})

test('expired notifications are neither listed nor kept', async () => {
  const { newMember, edge } = newWorld()
  const [ada, bob] = [await newMember(), await newMember()]
  const old = Date.now() - 31 * 86_400_000
  const post = await addPost({ authorId: ada.id })
  await addFollow(bob.id, ada.id, old)
  await addComment({ postId: post.id, authorId: bob.id, createdAt: old })
  const recent = await addComment({ postId: post.id, authorId: bob.id })
  await addPost({ authorId: ada.id, createdAt: old })
  await rebuild(edge)
  const kept = () => db.select().from(notifications).where(eq(notifications.userId, ada.id))
  expect((await kept()).map(({ contentId }) => contentId)).toEqual([recent.id])
  expect(brief(await ada.list())).toMatchObject([{ commentId: recent.id }])
  expect(brief(await bob.list())).toMatchObject([{ postId: post.id }])
  await edge.cron(Date.now() + 30 * 86_400_000 - 60_000)
  expect(await kept()).toHaveLength(1)
  await edge.cron(Date.now() + 30 * 86_400_000 + 60_000)
  expect(await kept()).toEqual([])
})

test('the purge finds expired notifications in the first rows of a table, and each row that stays once', async () => {
  const author = await addUser()
  const now = 40_000 * 86_400_000 // long after all that other tests have written
  const since = now - 30 * 86_400_000
  const at = (ms: number) => Math.floor(ms / 1_000) * 2 ** 21
  const add = (rowid: number, count: number, createdAt: number) =>
    db.run(sql`
      WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ${count - 1})
      INSERT INTO notifications (rowid, kind, content_id, user_id, post_id, id, actor_ids, actors_count, created_at, noted_at)
      SELECT ${rowid} + i, 'comment', 'c_' || (${rowid} + i), ${author.id}, 'p_1',
        'n_' || ${ulid(createdAt).slice(0, 10).toLowerCase()} || i, '[]', 1, ${createdAt}, 0 FROM n`)
  const found = async () => {
    const places = await db.all<{ second: number; rows: number }>(
      sql`SELECT rowid >> 21 AS second, count(*) AS rows FROM notifications WHERE user_id = ${author.id} GROUP BY 1`,
    )
    return places.map(({ second, rows }) => [second, rows])
  }
  const isolate = createIsolate(readConfig({ ...env }), features)
  const purge = async (most: number) => {
    const { DB, rows } = meteredDatabase()
    const { use } = createPlatform(isolate, { ...env, DB }, { onFailure: () => {}, defer: () => {} })
    return { looked: await use(notificationsService).purge(most, now), ...rows }
  }
  await db.delete(notifications)
  await add(1, 20, since - 1) // from before rowids had an age
  await add(101, 20, since + 9_000)
  await add(at(since - 50_000), 30, since - 50_000)
  await add(at(since - 40_000), 10, now - 1_000) // liked again
  await add(at(since + 5_000), 2_000, since + 5_000)
  expect(await purge(50)).toMatchObject({ looked: 50 })
  expect((await purge(50)).looked).toBe(30)
  const second = (ms: number) => Math.floor(ms / 1_000)
  const left = [
    [second(since + 5_000), 2_000],
    [second(since + 9_000), 20],
    [second(now - 1_000), 10],
  ]
  expect(await found()).toEqual(left)
  expect(await purge(50)).toEqual({ looked: 0, read: expect.toSatisfy((read) => read <= 1), written: 0 })
  expect(await found()).toEqual(left)
})

test('a notification is stored in its second, above all others; a restored one where the purge takes it first', async () => {
  const { newMember, deliver, edge } = newWorld()
  const [ada, bob] = [await newMember(), await newMember()]
  await db.delete(notifications)
  const post = await addPost({ authorId: ada.id })
  const rowids = () =>
    db.all<{ id: string; row: number }>(
      sql`SELECT content_id AS id, rowid AS row FROM notifications WHERE user_id = ${ada.id} ORDER BY rowid`,
    )
  const before = Math.floor(Date.now() / 1_000) * 2 ** 21
  for (let i = 0; i < 3; i += 1) {
    await bob.comment(post.id)
    await deliver()
  }
  const stored = await rowids()
  expect(stored.map(({ row }) => row > before)).toEqual([true, true, true])
  expect(stored.map(({ id }) => id)).toEqual(stored.map(({ id }) => id).toSorted())

  const created = new Map(stored.map(({ id, row }) => [id, Math.floor(row / 2 ** 21)]))
  await db.delete(notifications)
  await rebuild(edge)
  expect((await rowids()).map(({ row }) => row < 2 ** 42)).toEqual([true, true, true])
  await edge.cron()
  for (const { id, row } of await rowids()) {
    expect(Math.abs(Math.floor(row / 2 ** 21) - (created.get(id) ?? 0))).toBeLessThan(60)
  }
})

test('a rebuild runs in bounded queue steps and keeps what is unread', async () => {
  const { newMember, edge } = newWorld()
  const ada = await newMember()
  const [bob, post] = [await addUser(), await addPost({ authorId: ada.id })]
  const numbered = 'WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)'
  const now = Date.now()
  await env.DB.prepare(
    `${numbered} INSERT INTO comments (id, post_id, author_id, text, created_at, likes_changed_at)
    SELECT 'c_' || ?1 || printf('%016d', i), ?2, ?3, 'Well', ?4, ?4 FROM n`,
  )
    .bind(ulid(now).slice(0, 10).toLowerCase(), post.id, bob.id, now)
    .run()
  await ada.read()
  await edge.fetch('/v1/listeners/notifications/rebuild', { method: 'POST', headers: SERVICE })
  let steps = 0
  for (let due = edge.events.take(); due.length > 0; due = edge.events.take()) {
    expect((await edge.deliver(due, 'events')).retried).toEqual([])
    steps += 1
  }
  expect(steps).toBe(1 + 3 + 3) // posts liked, comments liked, comments: 500 each
  expect(await db.select().from(notifications).where(eq(notifications.userId, ada.id))).toHaveLength(1_200)
  expect(await ada.list('?limit=1')).toMatchObject({ unreadCount: 0 })
})

test('notifications require a session and show no more of others than an id', async () => {
  const { newMember, deliver, edge } = newWorld()
  const [ada, bob] = [await newMember(), await newMember()]
  await bob.follow(ada.id)
  await deliver()
  expect(JSON.stringify(await ada.list())).not.toContain('@')
  const body = { method: 'POST', body: '{}', headers: { 'Content-Type': 'application/json' } }
  expect((await edge.fetch('/v1/notifications')).status).toBe(401)
  expect((await edge.fetch('/v1/notifications/read', body)).status).toBe(401)
  const { headers } = ada
  for (const [field, query] of [
    ['limit', '?limit=0'],
    ['cursor', '?cursor=p_1'],
  ] as const) {
    await expectRefused(edge.fetch(`/v1/notifications${query}`, { headers }), 'query', field)
  }
  for (const [field, sent] of [
    ['until', '{"until":"p_1"}'],
    ['surprise', '{"surprise":1}'],
  ] as const) {
    await expectRefused(edge.fetch('/v1/notifications/read', { method: 'POST', headers, body: sent }), 'body', field)
  }
  await ada.send('DELETE', '/v1/sessions/current')
  expect((await edge.fetch('/v1/notifications', { headers })).status).toBe(401)
})

test('a reply below a post whose author blocks me does not notify me', async () => {
  const { newMember, deliver } = newWorld()
  const [ada, bob, carol] = [await newMember(), await newMember(), await newMember()]
  const postId = await ada.post()
  const parentId = await bob.comment(postId)
  await carol.send('POST', `/v1/posts/${postId}/comments`, { text: 'I agree', parentId })
  await deliver()
  const types = async () => (await bob.list()).items.map(({ type }) => type)
  expect(await types()).toEqual(['reply'])
  await ada.send('PUT', `/v1/users/${bob.id}/block`)
  await deliver()
  expect(await types()).toEqual([])
  await ada.send('DELETE', `/v1/users/${bob.id}/block`)
  await deliver()
  expect(await types()).toEqual(['reply'])
})
