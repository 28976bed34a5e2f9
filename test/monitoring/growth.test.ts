import { env } from 'cloudflare:workers'
import { eq, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { migrate, newEdge } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      GROWTH_RUNS: string
    }
  }
}

beforeAll(migrate)

const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
/** What one purge deleted per minute when each minute had one step. */
const STEP = 1_000
/** Longer than anything is kept. */
const KEPT_MS = 366 * DAY_MS

const DIGITS = '0123456789abcdefghjkmnpqrstvwxyz'
/** A time as the beginning of an id. */
const encoded = (ms: number) =>
  Array.from({ length: 10 }, (_, i) => DIGITS[Math.floor(ms / 32 ** (9 - i)) % 32]).join('')

/** Every table whose rows expire, and how to add `ROWS` that expired at `AT`, with `ID` for what must be unique. */
const GROWING: Record<string, string> = {
  events: `(id, channel, type, subject, data, audience, created_at)
    SELECT 'ev_' || ID, 'custom_a', 'paid', 'order ' || ID, '{}', '"services"', AT FROM ROWS`,
  deliveries: `(id, event_id, webhook_id, status) SELECT 'dl_TIME' || ID, ID, 'wh_1', 'delivered' FROM ROWS`,
  delivery_attempts: `(delivery_id, at, duration_ms, status)
    SELECT id, AT, 5, 200 FROM deliveries WHERE id > 'dl_TIME' AND id < 'dl_TIME~'`,
  notifications: `(rowid, kind, content_id, user_id, post_id, id, actor_ids, actors_count, created_at, noted_at)
    SELECT (AT / 1000 << 21) + i, 'comment', 'c_' || ID, 'USER', 'p_1', 'n_TIME' || ID, '[]', 1, AT, AT FROM ROWS`,
  idempotency_keys: `(user_id, key, fingerprint, created_at) SELECT 'USER', ID, '', AT FROM ROWS`,
  sessions: `(id, user_id, secret_hash, epoch, user_agent, created_at, last_seen_at, expires_at)
    SELECT 's_' || ID, 'USER', '', 0, '', AT, AT, AT FROM ROWS`,
  sign_in_sources: `(user_id, source, seen_at) SELECT 'USER', ID, AT FROM ROWS`,
  credential_tokens: `(hash, user_id, purpose, email, expires_at) SELECT ID, 'USER', 'reset', '', AT FROM ROWS`,
  dashboard_sign_outs: `(session_id) SELECT 's_TIME' || ID FROM ROWS`,
  webhook_hours: `(hour, webhook_id, succeeded, failed) SELECT AT / 3600000, ID, 1, 0 FROM ROWS`,
  reports: `(id, subject_id, reporter_id, reason, text, status, created_at, resolved_at)
    SELECT 'rp_' || ID, 'p_' || ID, 'USER', 'spam', '', 'acted', AT, AT FROM ROWS`,
  post_likes: `(post_id, user_id, is_liked, changed_at) SELECT 'p_' || ID, 'USER', false, AT FROM ROWS`,
  comment_likes: `(comment_id, user_id, is_liked, changed_at) SELECT 'c_' || ID, 'USER', false, AT FROM ROWS`,
}

/** Adds `rows` to each table that expired at `at` (Unix ms). */
async function addRows(rows: number, at: number, userId: string): Promise<void> {
  const series = `(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rows}) SELECT i FROM n)`
  for (const [table, statement] of Object.entries(GROWING)) {
    const filled = statement
      .replaceAll('ROWS', series)
      .replaceAll('AT', String(at))
      .replaceAll('ID', `printf('%s${encoded(at)}%07d', hex(randomblob(2)), i)`)
      .replaceAll('USER', userId)
      .replaceAll('TIME', encoded(at))
    await db.run(sql.raw(`INSERT INTO ${table} ${filled}`))
  }
}

/** Adds the figures of the `count` minutes before `minute`, which the cron writes at one row a minute. */
const addMinutes = (minute: number, count: number) =>
  db
    .insert(schema.statMinutes)
    .select(
      sql`SELECT ${minute} - 1 - key, 0, NULL, '[]', '{}', '{}' FROM json_each(${JSON.stringify(Array(count).fill(0))})`,
    )

const TABLES = [...Object.keys(GROWING), 'event_sequences', 'stat_minutes']

async function sizes(): Promise<Record<string, number>> {
  const counts = TABLES.map((table) => db.get<{ n: number }>(sql`SELECT count(*) AS n FROM ${sql.identifier(table)}`))
  return Object.fromEntries((await Promise.all(counts)).map(({ n }, i) => [TABLES[i] ?? '', n]))
}

test('over two hours at twice the rate of one step per minute, each run of the cron leaves every table as large as before', async () => {
  const edge = newEdge({ STATS_FLUSH_SECONDS: '0.1' })
  const { id: userId } = await addUser()
  const runs = Number(env.GROWTH_RUNS)
  const start = Math.ceil((Date.now() + KEPT_MS) / MINUTE_MS)
  await addMinutes(start, 121)
  const before = await sizes()
  const sum = (rows: Record<string, number>) => Object.values(rows).reduce((a, b) => a + b)
  console.log('| minute | rows of a table | minutes of figures | all rows | rows after the cron | ms of the cron |')
  for (let run = 0; run < runs; run += 1) {
    const passed = Math.floor((run * 120) / runs)
    const minute = start + passed
    await addRows(2 * STEP, minute * MINUTE_MS - KEPT_MS, userId)
    if (run > 0) await addMinutes(minute, passed - Math.floor(((run - 1) * 120) / runs) - 1)
    const { stat_minutes: figures = 0, ...grown } = await sizes()
    expect(new Set(Object.values(grown))).toEqual(new Set([2 * STEP]))
    const began = Date.now()
    await edge.cron(minute * MINUTE_MS)
    const ms = Date.now() - began
    const after = await sizes()
    console.log('|', [passed, 2 * STEP, figures, sum(grown) + figures, sum(after), ms].join(' | '), '|')
    expect(after).toEqual(before)
  }
}, 900_000)

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

test('a report stays for a year after it was resolved, and an open one until then', async () => {
  const edge = newEdge()
  const now = Date.now()
  const reporter = await addUser()
  const long = now - 800 * DAY_MS
  const add = (id: string, resolvedAt: number | null) =>
    db.insert(schema.reports).values({
      id,
      subjectId: `p_${id}`,
      reporterId: reporter.id,
      reason: 'spam',
      text: '',
      status: resolvedAt === null ? 'open' : 'acted',
      createdAt: long,
      resolvedAt,
    })
  await add('rp_open', null)
  await add('rp_recent', now - 364 * DAY_MS)
  await add('rp_old', now - 366 * DAY_MS)
  await edge.cron(now)
  const left = await db.select({ id: schema.reports.id }).from(schema.reports)
  expect(left.map(({ id }) => id).toSorted()).toEqual(['rp_open', 'rp_recent'])
})
