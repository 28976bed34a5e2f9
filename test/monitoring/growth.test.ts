import { eq, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { migrate, newEdge } from '../edge.ts'
import { addPost, addUser, addUsers, db } from '../rows.ts'

beforeAll(migrate)

const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
/** What one purge deleted per minute when each minute had one step. */
const STEP = 1_000
/** Longer than anything is kept. */
const KEPT_MS = 91 * DAY_MS

const DIGITS = '0123456789abcdefghjkmnpqrstvwxyz'
/** A time as the beginning of an id. */
const encoded = (ms: number) =>
  Array.from({ length: 10 }, (_, i) => DIGITS[Math.floor(ms / 32 ** (9 - i)) % 32]).join('')

/**
 * Adds what is expired at `at` (Unix ms): `events` events, each about a subject of its own, and a tenth as many rows in every
 * other table that grows with use.
 */
async function addRows(events: number, at: number, { userId, postId }: { userId: string; postId: string }) {
  const numbers = (rows: number) =>
    sql.raw(`(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rows}) SELECT i FROM n)`)
  const others = numbers(events / 10)
  const unique = sql`hex(randomblob(8))`
  const time = encoded(at)
  const statements = [
    sql`INSERT INTO events (id, channel, type, subject, data, audience, created_at)
      SELECT 'ev_' || ${unique}, 'custom_a', 'paid', 'order ' || ${unique}, '{}', '"services"', ${at} FROM ${numbers(events)}`,
    sql`INSERT INTO deliveries (id, event_id, webhook_id, status)
      SELECT ${`dl_${time}`} || ${unique}, ${unique}, 'wh_1', 'delivered' FROM ${others}`,
    sql`INSERT INTO delivery_attempts (delivery_id, at, duration_ms, status)
      SELECT id, ${at}, 5, 200 FROM deliveries WHERE id > ${`dl_${time}`} AND id < ${`dl_${time}~`}`,
    sql`INSERT INTO notifications (kind, content_id, user_id, post_id, id, actor_ids, actors_count, created_at, noted_at)
      SELECT 'comment', 'c_' || ${unique}, ${userId}, 'p_1', ${`n_${time}`} || ${unique}, '[]', 1, ${at}, ${at} FROM ${others}`,
    sql`INSERT INTO idempotency_keys (user_id, key, fingerprint, created_at)
      SELECT ${userId}, ${unique}, '', ${at} FROM ${others}`,
    sql`INSERT INTO sessions (id, user_id, secret_hash, epoch, user_agent, created_at, last_seen_at, expires_at)
      SELECT 's_' || ${unique}, ${userId}, '', 0, '', ${at}, ${at}, ${at} FROM ${others}`,
    sql`INSERT INTO sign_in_sources (user_id, source, seen_at) SELECT ${userId}, ${unique}, ${at} FROM ${others}`,
    sql`INSERT INTO webhook_hours (hour, webhook_id, succeeded, failed)
      SELECT ${Math.floor(at / 3_600_000)}, ${unique}, 1, 0 FROM ${others}`,
    // Users who took back a like.
    sql`INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
      SELECT ${postId}, id, false, ${at} FROM users LIMIT ${events / 10}`,
  ]
  for (const statement of statements) await db.run(statement)
}

const TABLES = [
  'events',
  'event_sequences',
  'deliveries',
  'delivery_attempts',
  'notifications',
  'idempotency_keys',
  'sessions',
  'sign_in_sources',
  'webhook_hours',
  'post_likes',
]

async function sizes(): Promise<Record<string, number>> {
  const counts = TABLES.map((table) => db.get<{ n: number }>(sql`SELECT count(*) AS n FROM ${sql.identifier(table)}`))
  return Object.fromEntries((await Promise.all(counts)).map(({ n }, i) => [TABLES[i] ?? '', n]))
}

test('two hours at twice the rate of one step per minute leave every table as large as before', async () => {
  const edge = newEdge()
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  const start = Date.now() + KEPT_MS
  const empty = await sizes()
  // Each run of the cron has as much to purge as expires in a quarter of an hour.
  const minutes = 15
  const events = 2 * STEP * minutes
  await addUsers(events / 10)
  for (let minute = 0; minute < 120; minute += minutes) {
    const now = start + minute * MINUTE_MS
    await addRows(events, now - KEPT_MS, { userId: author.id, postId: post.id })
    expect(await sizes()).toMatchObject({ events, event_sequences: events, post_likes: events / 10 }) // the last run finished
    await edge.cron(now)
  }
  expect(await sizes()).toEqual(empty)
}, 120_000)

test('a sequence lives as long as the events of its subject, and counts on while there are any', async () => {
  const edge = newEdge()
  const now = Date.now() + 3 * KEPT_MS
  const add = (id: string, subject: string, createdAt: number) =>
    db.run(sql`INSERT INTO events (id, channel, type, subject, data, audience, created_at)
      VALUES (${id}, 'custom_b', 'paid', ${subject}, '{}', '"services"', ${createdAt})`)
  const sequences = () =>
    db.all(sql`SELECT subject, sequence FROM event_sequences WHERE channel = 'custom_b' ORDER BY subject`)
  await add('ev_old_1', 'active', now - KEPT_MS)
  await add('ev_old_2', 'silent', now - KEPT_MS)
  await add('ev_new_1', 'active', now)
  await edge.cron(now)
  expect(await sequences()).toEqual([{ subject: 'active', sequence: 2 }])
  await add('ev_new_2', 'active', now)
  await add('ev_new_3', 'silent', now)
  expect(await sequences()).toEqual([
    { subject: 'active', sequence: 3 },
    { subject: 'silent', sequence: 1 },
  ])
})

test('a like that was taken back stays for a month, and a like for ever', async () => {
  const edge = newEdge()
  const now = Date.now()
  const [author, a, b] = [await addUser(), await addUser(), await addUser()]
  const post = await addPost({ authorId: author.id })
  const add = (userId: string, isLiked: boolean, changedAt: number) =>
    db.insert(schema.postLikes).values({ postId: post.id, userId, isLiked, changedAt })
  await add(author.id, false, now - 31 * DAY_MS)
  await add(a.id, false, now - 29 * DAY_MS)
  await add(b.id, true, now - 31 * DAY_MS)
  await edge.cron(now)
  const left = await db
    .select({ userId: schema.postLikes.userId })
    .from(schema.postLikes)
    .where(eq(schema.postLikes.postId, post.id))
  expect(new Set(left.map(({ userId }) => userId))).toEqual(new Set([a.id, b.id]))
})
