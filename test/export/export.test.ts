import { env } from 'cloudflare:workers'
import { eq, getTableName, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { meteredDatabase } from '../database.ts'
import { newOther, newRow, references } from '../references.ts'
import { expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addFollow, addLike, addPost, addUser, db, quickHash } from '../rows.ts'

const PASSWORD = 'correct-horse-battery'
beforeAll(migrate)

type Line = { kind: string } & Record<string, unknown>
const linesOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)

test('an export has everything that is stored about me, nothing secret, and an end', async () => {
  const edge = newEdge()
  const [me, other] = [await addUser({ bio: 'Me' }), await addUser()]
  const headers = await edge.signIn(me)
  const [mine, theirs] = [await addPost({ authorId: me.id, text: 'Mine' }), await addPost({ authorId: other.id })]
  const comment = await addComment({ postId: theirs.id, authorId: me.id, text: 'My comment' })
  await addFollow(me.id, other.id)
  await addFollow(other.id, me.id)
  await addLike(me.id, theirs.id)
  await addLike(other.id, mine.id)

  const response = await edge.fetch('/v1/users/me/export', { headers })
  expect([response.status, response.headers.get('Content-Type'), roundTrips(response)]).toEqual([
    200,
    'application/x-ndjson; charset=utf-8',
    1,
  ])
  const text = await response.text()
  const lines = linesOf(text)
  const kinds = ['account', 'following', 'follower', 'session', 'post', 'comment', 'postLike', 'end']
  expect(lines.map(({ kind }) => kind)).toEqual(kinds)
  expect(lines).toMatchObject([
    { id: me.id, email: me.email, bio: 'Me', createdAt: new Date(me.createdAt).toISOString(), lastSeenAt: null },
    { userId: other.id },
    { userId: other.id },
    { userAgent: 'test' },
    { id: mine.id, text: 'Mine', likesCount: 1 },
    { id: comment.id, postId: theirs.id, text: 'My comment' },
    { postId: theirs.id, isLiked: true },
    { next: null },
  ])
  const [session] = await db.select().from(schema.sessions).where(eq(schema.sessions.userId, me.id))
  expect(text).not.toContain(session?.secretHash)
  expect(text).not.toContain('scrypt')
})

/** What the export leaves out, and why. */
const NOT_EXPORTED: Record<string, string> = {
  'relations.other_id': 'who blocks or mutes the user is their own business',
}

test('each column that refers to a user is exported to that user, and emptied with the account', async () => {
  const edge = newEdge()
  const me = await addUser({ passwordHash: quickHash(PASSWORD) })
  const headers = await edge.signIn(me)
  const linesNow = async () => {
    const response = await edge.fetch('/v1/users/me/export', { headers })
    return linesOf(await response.text()).length
  }
  expect(references.length).toBeGreaterThan(16)
  const silent: string[] = []
  for (const { table, column } of references) {
    const before = await linesNow()
    await db.insert(table).values(newRow(table, column, me.id, await newOther()))
    if ((await linesNow()) !== before + 1) silent.push(`${getTableName(table)}.${column.name}`)
  }
  // A table that is new here needs a line in `exports` and `removals.user` of its feature.
  expect(silent).toEqual(Object.keys(NOT_EXPORTED))

  const deleted = await edge.fetch('/v1/users/me', {
    method: 'DELETE',
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: JSON.stringify({ password: PASSWORD }),
  })
  expect(deleted.status).toBe(204)
  for (let minute = 2; minute < 12 && (await db.$count(schema.removals)) > 0; minute += 1) {
    await edge.settle()
    await edge.dispatch()
    await edge.cron(Date.now() + minute * 60_000)
  }
  const left = []
  for (const { table, column } of references) {
    if ((await db.$count(table, eq(column, me.id))) > 0) left.push(`${getTableName(table)}.${column.name}`)
  }
  expect(left).toEqual([])
}, 60_000)

test('an export says what moderators did about the account, and not who reported it', async () => {
  const edge = newEdge()
  const [me, reporter] = [await addUser(), await addUser()]
  const headers = await edge.signIn(me)
  const send = (method: string, path: string, by: Record<string, string>, body: object) =>
    edge.fetch(path, { method, headers: { ...by, 'Content-Type': 'application/json' }, body: JSON.stringify(body) })
  const report = { subjectId: me.id, reason: 'spam', text: 'A secret of the reporter' }
  expect((await send('POST', '/v1/reports', await edge.signIn(reporter), report)).status).toBe(201)
  const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
  const resolution = { subjectId: me.id, outcome: 'dismissed', note: 'A note' }
  expect((await send('POST', '/v1/moderation/reports/resolve', service, resolution)).status).toBe(200)
  const text = await (await edge.fetch('/v1/users/me/export', { headers })).text()
  expect(linesOf(text).filter(({ kind }) => kind === 'moderation')).toEqual([
    { kind: 'moderation', action: 'dismiss-reports', decidedAt: expect.stringMatching(/^\d{4}-.*Z$/) },
  ])
  for (const secret of [reporter.id, report.text, resolution.note]) expect(text).not.toContain(secret)
  await edge.settle()
})

/** The rows of tables that have few, and of the last, empty page of each. */
const OTHER_ROWS = 20

test('an export of 100,000 rows holds one page of a thousand, and loads the next one when the client takes it', async () => {
  const { DB, rows } = meteredDatabase()
  const edge = newEdge({ DB })
  const me = await addUser()
  const headers = await edge.signIn(me)
  await db.run(sql`
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
    INSERT INTO posts (id, author_id, text, created_at, updated_at)
    SELECT 'p_' || substr(${me.id}, 3) || printf('%05d', i), ${me.id}, 'A post of some length, as people write them', i, i FROM n`)
  await db.run(sql`
    INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
    SELECT id, ${me.id}, true, 1 FROM posts WHERE author_id = ${me.id}`)

  const response = await edge.fetch('/v1/users/me/export', { headers })
  const reader = response.body?.getReader()
  if (!reader) throw new Error('no body')
  rows.read = 0
  const decoder = new TextDecoder()
  const startedAt = performance.now()
  const most = { bytes: 0, rowsOfPage: 0 }
  let count = 0
  let tail = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    tail = decoder.decode(value)
    const lines = tail.split('\n').length - 1
    count += lines
    // A slow reader: what the export would load ahead, it loads now. D1 reads a row and its entry of the index.
    if (count < 20_000) await scheduler.wait(5)
    most.bytes = Math.max(most.bytes, value.byteLength)
    most.rowsOfPage = Math.max(most.rowsOfPage, lines)
    expect([count, rows.read]).toEqual([count, expect.toSatisfy((read) => read <= 2 * count + OTHER_ROWS)])
  }
  const ms = Math.round(performance.now() - startedAt)
  console.log(`export of ${count} rows: ${ms} ms, largest page ${most.bytes} bytes, D1 read ${rows.read} rows`)
  expect(count).toBe(100_000 + 3)
  expect(linesOf(tail)).toEqual([{ kind: 'end', next: null }])
  expect(most.rowsOfPage).toBe(1_000)
  expect(most.bytes).toBeLessThan(500_000)
}, 120_000)

test('an export continues from a cursor, and refuses one that it did not answer', async () => {
  const edge = newEdge()
  const me = await addUser()
  const headers = await edge.signIn(me)
  const posts = []
  for (let i = 0; i < 3; i += 1) posts.push(await addPost({ authorId: me.id, id: `p_${me.id.slice(2)}${i}` }))
  const response = await edge.fetch(`/v1/users/me/export?cursor=post:${posts[0]?.id}`, { headers })
  expect(linesOf(await response.text()).map(({ kind, id }) => id ?? kind)).toEqual([posts[1]?.id, posts[2]?.id, 'end'])
  await expectRefused(edge.fetch('/v1/users/me/export?cursor=nothing:1', { headers }), 'query', 'cursor')
})

test('an export works without Redis', async () => {
  const edge = newEdge()
  const me = await addUser()
  const headers = await edge.signIn(me)
  await edge.redis.fault({ kind: 'refuse' })
  const response = await edge.fetch('/v1/users/me/export', { headers })
  expect(linesOf(await response.text()).at(-1)).toEqual({ kind: 'end', next: null })
})
