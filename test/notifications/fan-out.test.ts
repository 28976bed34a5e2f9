import { env } from 'cloudflare:workers'
import { isNotNull } from 'drizzle-orm'
import { beforeAll, expect, test, vi } from 'vitest'
import { events } from '../../src/db/schema.ts'
import { migrate, newQueue } from '../edge.ts'
import { db } from '../rows.ts'
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

test('a post reaches 100 000 followers in bounded steps, even if the Worker dies between any two of them', async () => {
  const DB = counting(env.DB)
  const EVENTS = newQueue()
  let isQueueUp = true
  const send = async (body: unknown, options?: QueueSendOptions) => {
    if (!isQueueUp) throw new Error('died before the next step was in the queue')
    return EVENTS.send(body, options)
  }
  const { edge, newMember } = newWorld({ DB: DB.database, EVENTS: { ...EVENTS, send } })
  const author = await newMember()
  await addFollowers(author.id, FOLLOWERS)
  const lookers: Member[] = [] // who have an inbox in Redis: at the ends of pages and of steps
  for (const i of [1, 2_000, 2_001, 10_000, 10_001, FOLLOWERS]) lookers.push(await newMember(idOf(i)))
  for (const looker of lookers) expect(await looker.list()).toMatchObject({ items: [], unreadCount: 0 })
  const postId = await author.post()
  await edge.settle()
  await edge.redis.reset()

  using log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const steps: { queries: number; commands: number }[] = []
  for (;;) {
    const [body] = EVENTS.take()
    if (body === undefined) break
    isQueueUp = steps.length === 13 // the last one has none to follow
    expect((await edge.deliver([body], 'events')).retried).toEqual(isQueueUp ? [] : [0])
    await edge.redis.reset()
    isQueueUp = true
    DB.queries = 0
    expect((await edge.deliver([body], 'events')).acked).toEqual([0])
    steps.push({ queries: DB.queries, commands: (await edge.redis.counts()).commands })
    const next = EVENTS.take()
    expect(next.length).toBeLessThanOrEqual(1)
    await edge.deliver([body], 'events') // it died before the step was acknowledged
    if (steps.length > 1) expect(EVENTS.take()).toEqual(next)
    await EVENTS.sendBatch(next.map((body) => ({ body })))
  }
  const [first, ...rest] = steps
  expect(first?.queries).toBeLessThan(25) // its first page takes 4, the rest is what all listeners do with the event
  expect(rest).toEqual([
    ...Array.from({ length: 12 }, () => ({ queries: 4, commands: 4 })),
    { queries: 2, commands: 1 }, // nobody follows after the last
  ])
  expect(log).toHaveBeenCalledTimes(13) // each death but the last, which had nothing to send
  expect(await db.select().from(events).where(isNotNull(events.dueAt))).toEqual([])
  for (const looker of lookers) {
    expect(await looker.list()).toMatchObject({ items: [{ type: 'post', postId, isRead: false }], unreadCount: 1 })
  }

  // And when it is gone, nobody is told of it any more.
  await author.remove(postId)
  await edge.settle()
  for (let body = EVENTS.take(); body.length > 0; body = EVENTS.take()) await edge.deliver(body, 'events')
  for (const looker of lookers) expect(await looker.list()).toMatchObject({ items: [], unreadCount: 0 })
}, 120_000)

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
