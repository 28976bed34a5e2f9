import { env } from 'cloudflare:workers'
import { isNotNull } from 'drizzle-orm'
import { beforeAll, expect, test, vi } from 'vitest'
import { events } from '../../src/db/schema.ts'
import { readConfig } from '../../src/config.ts'
import type { StoredEvent } from '../../src/events/catalog.ts'
import { createMentions } from '../../src/notifications/mentions.ts'
import { createNotifications, type Inbox } from '../../src/notifications/notifications.ts'
import { createCache } from '../../src/redis/cache.ts'
import { createMemory } from '../../src/redis/memory.ts'
import { createWriteThrough } from '../../src/redis/write-through.ts'
import { migrate, newQueue } from '../edge.ts'
import { newKeyspace } from '../redis/setup.ts'
import { addFollow, addUser, db } from '../rows.ts'
import { type Member, newWorld } from './world.ts'

beforeAll(migrate)

/** Lets so many new users follow `authorId`, straight in D1. */
async function addFollowers(authorId: string, count: number): Promise<void> {
  const { results } = await env.DB.prepare("SELECT sql FROM sqlite_master WHERE name = 'follows_insert'").all<{
    sql: string
  }>()
  await env.DB.exec('DROP TRIGGER follows_insert') // a hundred thousand counts one by one would take a minute
  const numbered = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)`
  const id = `printf('%026d', i)`
  await env.DB.batch([
    env.DB.prepare(
      `${numbered} INSERT INTO users (id, username, email, password_hash, display_name, created_at, updated_at)
      SELECT 'u_' || ${id}, ${id}, ${id}, '', '', 1, 1 FROM n`,
    ).bind(count),
    env.DB.prepare(
      `${numbered} INSERT INTO follows (follower_id, followed_id, id, created_at)
      SELECT 'u_' || ${id}, ?2, 'f_' || ${id}, 1 FROM n`,
    ).bind(count, authorId),
  ])
  await env.DB.exec(String(results[0]?.sql).replaceAll('\n', ' '))
}

const FOLLOWERS = 100_000
const idOf = (i: number) => `u_${String(i).padStart(26, '0')}`

test('a post reaches 100 000 followers in two hops of the queue, whatever dies, in any order', async () => {
  const DB = counting(env.DB)
  const EVENTS = newQueue()
  let isQueueUp = true
  const send = async (messages: Iterable<MessageSendRequest>) => {
    if (!isQueueUp) throw new Error('died before the steps were in the queue')
    return EVENTS.sendBatch(messages)
  }
  const { edge, newMember } = newWorld({ DB: DB.database, EVENTS: { ...EVENTS, sendBatch: send } })
  const author = await newMember()
  await addFollowers(author.id, FOLLOWERS)
  const lookers: Member[] = [] // who have an inbox in Redis: at the ends of pages and of steps
  for (const i of [1, 2_000, 2_001, 10_000, 10_001, 98_000, 98_001, FOLLOWERS]) lookers.push(await newMember(idOf(i)))
  for (const looker of lookers) expect(await looker.list()).toMatchObject({ items: [], unreadCount: 0 })
  const postId = await author.post()
  await edge.settle()

  using log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const [event] = EVENTS.take()
  isQueueUp = false
  expect((await edge.deliver([event], 'events')).retried).toEqual([0])
  isQueueUp = true
  DB.queries = 0
  const begunAt = Date.now()
  expect((await edge.deliver([event], 'events')).acked).toEqual([0])
  const dividedAt = Date.now()
  expect(DB.queries).toBeLessThan(25) // its first page and the division take 5, the rest is what all listeners do
  expect(log).toHaveBeenCalledTimes(1)
  expect(await db.select().from(events).where(isNotNull(events.dueAt))).toEqual([])
  expect(EVENTS.sent.every(({ delaySeconds }) => delaySeconds === 0)).toBe(true)

  const steps = EVENTS.take()
  expect(steps).toHaveLength(13)
  const costs = []
  const steppedAt = Date.now()
  for (const body of [steps[0], ...steps.toReversed()]) {
    DB.queries = 0
    await edge.redis.reset()
    expect((await edge.deliver([body], 'events')).acked).toEqual([0])
    costs.push([DB.queries, (await edge.redis.counts()).commands])
  }
  console.log(
    `${FOLLOWERS} followers: ${dividedAt - begunAt} ms to divide them, ${Date.now() - steppedAt} ms for ${costs.length} steps`,
  )
  expect(costs).toEqual([[4, 4], [2, 1], ...Array.from({ length: 12 }, () => [4, 4])]) // the last of them has 2 000 followers
  expect(EVENTS.take()).toEqual([])
  for (const looker of lookers) {
    expect(await looker.list()).toMatchObject({ items: [{ type: 'post', postId, isRead: false }], unreadCount: 1 })
  }

  // And when it is gone, nobody is notified of it any more.
  await author.remove(postId)
  await edge.settle()
  for (let body = EVENTS.take(); body.length > 0; body = EVENTS.take()) await edge.deliver(body, 'events')
  for (const looker of lookers) expect(await looker.list()).toMatchObject({ items: [], unreadCount: 0 })
}, 120_000)

test.each([0, 1, 4, 5, 16, 17, 47, 48, 49, 50, 100])(
  'the followers after the first page are divided into steps and portions without gaps: %i of them',
  async (count) => {
    const redis = newKeyspace().connect()
    const author = await addUser()
    const followers: string[] = []
    for (let i = 0; i < 4 + count; i += 1) {
      const { id } = await addUser()
      await addFollow(id, author.id)
      followers.push(id)
    }
    const kind = {
      ...readConfig({ ...env }).caches.inboxes,
      name: 'inbox',
      key: (id: string) => `inbox:${id}`,
      versionOf: () => 0,
    }
    const inboxes = createCache<Inbox>(
      { redis: () => redis, memory: createMemory(0), defer: () => {}, onEvent: () => {} },
      kind,
    )
    const invalidated: string[][] = []
    const drop = async (ids: string[]) => {
      invalidated.push(ids)
      await inboxes.drop(ids)
    }
    const { listener } = createNotifications(
      {
        db,
        mentions: createMentions(db),
        replica: () => db,
        inboxes: { get: inboxes.get.bind(inboxes), drop },
        writeThrough: createWriteThrough(() => {}, 1),
        inboxSize: 10,
        keptMs: 1_000,
      },
      { page: 4, pages: 3, steps: 4 },
    )
    const cursors = (await listener.handle([created(author.id)])) ?? []
    const delays: number[] = []
    for (let cursor = cursors.shift(); cursor !== undefined; cursor = cursors.shift()) {
      if (typeof cursor !== 'string') delays.push(cursor.delaySeconds)
      const before = invalidated.length
      cursors.push(...((await listener.proceed?.(typeof cursor === 'string' ? cursor : cursor.cursor)) ?? []))
      expect(invalidated.length - before).toBeLessThanOrEqual(3)
      expect(cursors.length).toBeLessThanOrEqual(5)
    }
    expect(invalidated.flat().sort()).toEqual(followers.sort()) // each once
    expect(delays).toEqual(Array.from({ length: Math.floor(count / 48) }, () => 10))
  },
)

test('an event whose first step died is delivered again, by the cron if necessary', async () => {
  const { edge, newMember } = newWorld()
  const [author, fan] = [await newMember(), await newMember()]
  await fan.follow(author.id)
  expect((await fan.list()).items).toEqual([])
  const postId = await author.post()
  await edge.settle()
  edge.events.take() // the queue loses it
  expect((await fan.list()).items).toEqual([])
  await edge.cron(Date.now() + 61_000)
  await edge.dispatch()
  expect((await fan.list()).items).toMatchObject([{ postId }])
})

/** What the listener reads of the event of a new post. */
const created = (authorId: string) => ({ type: 'post_created', data: { authorId } }) as unknown as StoredEvent

/** A D1 that counts the statements it is asked. */
function counting(database: D1Database) {
  const counted = {
    queries: 0,
    database: new Proxy(database, {
      get(target, name) {
        if (name === 'prepare') counted.queries += 1
        const member: unknown = Reflect.get(target, name)
        return typeof member === 'function' ? member.bind(target) : member
      },
    }),
  }
  return counted
}
