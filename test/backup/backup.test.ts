import { reset } from 'cloudflare:test'
import { eq, sql } from 'drizzle-orm'
import { beforeEach, expect, test } from 'vitest'
import { continueBackup } from '../../src/backup/archive.ts'
import * as schema from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { type Edge, migrate, newEdge, newQueue } from '../edge.ts'
import { addComment, addFollow, addLike, addPost, addUser, addWebhookRows, db } from '../rows.ts'
import { ask, backUp, newStore, restore, restoreParts, rowsOf, SERVICE, sourceOf } from './world.ts'

beforeEach(async () => {
  await reset()
  await migrate()
})

/** Empties D1, as in a new environment. */
async function emptyDatabase(): Promise<void> {
  await reset()
  await migrate()
}

const readSchema = () =>
  db.all<{ type: string; name: string; sql: string }>(
    sql`SELECT type, name, sql FROM sqlite_schema ORDER BY type, name`,
  )

/** A Worker whose queues deliver only when the test says so: nothing changes during a backup. */
function newSource() {
  const likes = newQueue()
  return { ...newEdge({ LIKES: likes }), likes }
}

/** Data of every kind, through the API where that is the way in. */
async function fill(edge: ReturnType<typeof newSource>) {
  const [ada, bob] = [await addUser({ displayName: 'Ada Lovelace' }), await addUser()]
  const [asAda, asBob] = [await edge.signIn(ada), await edge.signIn(bob)]
  const send = async (method: string, path: string, headers: Record<string, string>, body?: unknown) => {
    const json = body === undefined ? {} : { body: JSON.stringify(body) }
    const all = { ...headers, 'Content-Type': 'application/json', 'Idempotency-Key': crypto.randomUUID() }
    const response = await edge.fetch(path, { method, headers: all, ...json })
    expect([path, response.status]).toEqual([path, expect.toBeOneOf([200, 201, 204])])
    await edge.settle()
    return response.status === 204 ? undefined : response.json<{ id: string }>()
  }
  const texts = ['A "quoted" text', 'Zoë 👩‍👩‍👧 1e3', '007', 'line\nend \\ {"json":1}', 'null']
  const posts = []
  for (const text of texts) posts.push(await send('POST', '/v1/posts', asAda, { text }))
  const [post] = posts
  if (!post) throw new Error('there is no post')
  const comment = await send('POST', `/v1/posts/${post.id}/comments`, asBob, { text: 'Well said' })
  await send('POST', '/v1/posts', asBob, { text: `Hello @${ada.username}` })
  await send('PUT', `/v1/users/${(await addUser()).id}/block`, asBob)
  await send('PUT', `/v1/posts/${post.id}/like`, asBob)
  await send('PUT', `/v1/comments/${comment?.id}/like`, asAda)
  await send('POST', `/v1/posts/${post.id}/views`, asBob)
  await addFollow(bob.id, ada.id)
  await addWebhookRows()
  await db.insert(schema.webhookHours).values({ hour: 1, webhookId: 'wh_1', succeeded: 2, failed: 3 })
  const bad = await send('POST', '/v1/posts', asBob, { text: 'Bad' })
  await ask(edge, 'PUT', `/v1/moderation/takedowns/${bad?.id}`, { note: 'Against the rules' })
  await send('POST', '/v1/reports', asBob, { subjectId: post.id, reason: 'spam' })
  await db.insert(schema.suspensions).values({ userId: (await addUser()).id, note: 'Against the rules', createdAt: 1 })
  await ask(edge, 'POST', '/v1/service-tokens', { name: 'importer', scopes: ['locks'] })
  await db.insert(schema.fences).values({ name: 'cron', fence: 1_764_000_000_000_001 })
  await db.insert(schema.revocations).values({ subjectId: 's_1', createdAt: 1 })
  await db.insert(schema.dashboardSignOuts).values({ sessionId: 's_2' })
  await db
    .insert(schema.credentialTokens)
    .values({ hash: 'a hash', userId: ada.id, purpose: 'verify', email: ada.email, expiresAt: 1 })
  await db.insert(schema.signInSources).values({ userId: ada.id, source: 'a network', seenAt: 1 })
  await db.insert(schema.notificationReads).values({ userId: ada.id, readUntil: 'n_1', readAt: 1 })
  await db.insert(schema.counterChanges).values({ contentId: 'p_gone', counterType: 'likes', changedAt: 1 })
  await db.insert(schema.removals).values({ contentId: 'p_gone', dueAt: Date.now() + 3_600_000 })
  await edge.dispatch()
  expect((await edge.deliver(edge.likes.take())).acked).toHaveLength(2)
  await edge.dispatch()
  return { ada, bob, post, asAda, asBob }
}

test('a restored environment has everything: each row, the triggers, sessions, and the search index', async () => {
  const edge = newSource()
  const { ada, post, asAda } = await fill(edge)
  await edge.sdk.set(keys.fence('service:import'), 1_764_000_000_000_002, { px: 60_000 })
  await edge.sdk.set(keys.epoch(ada.id), 3)
  const schemaBefore = await readSchema()
  const saved = await backUp(edge, 3)
  const tables = saved.manifest.tables
  for (const table of tables) expect([table, (await rowsOf(saved, table)).length > 0]).toEqual([table, true])

  await emptyDatabase()
  const fresh = newEdge({ MEMORY_SECONDS: '0' })
  await restore(fresh, saved)

  expect(await readSchema()).toEqual(schemaBefore)
  const again = await backUp(fresh, 3)
  for (const table of tables.slice(1)) expect(await rowsOf(again, table)).toEqual(await rowsOf(saved, table))
  const sumsOf = ({ manifest }: typeof saved) =>
    manifest.parts.filter(({ table }) => table !== 'redis').map(({ file, sha256 }) => [file, sha256])
  expect(sumsOf(again)).toEqual(sumsOf(saved))
  const redis = async (backup: typeof saved) =>
    new Map((await rowsOf(backup, 'redis')).map(({ key, value }) => [key, value] as const))
  const ownFence = keys.fence('backup') // rises with each backup
  const before = await redis(saved)
  expect([...before.keys()].map((key) => String(key).split(':')[0])).toEqual(
    expect.arrayContaining(['session', 'fence', 'epoch']),
  )
  expect(before.delete(ownFence)).toBe(true)
  expect([...(await redis(again))]).toEqual(expect.arrayContaining([...before]))
  expect(await fresh.dispatch()).toBe(0)
  const found = await (await fresh.fetch('/v1/search?q=quoted')).json<{ items: { id: string }[] }>()
  expect(JSON.stringify(found)).toContain(post.id)
  const read = async (path: string) => (await fresh.fetch(path, { headers: asAda })).json<unknown>()
  expect(await read(`/v1/posts/${post.id}`)).toMatchObject({ likesCount: 1, commentsCount: 1, viewsCount: 1 })
  expect((await fresh.sdk.pttl(keys.fence('service:import'))) > 0).toBe(true)
  expect(await fresh.sdk.pttl(keys.epoch(ada.id))).toBe(-1)
})

test('a session goes on in the restored environment, with Redis and without it', async () => {
  const edge = newEdge()
  const ada = await addUser()
  const headers = await edge.signIn(ada)
  const isSignedIn = async (edge: Edge) => (await edge.fetch('/v1/sessions', { headers })).status === 200
  expect(await isSignedIn(edge)).toBe(true)
  await edge.settle()
  const saved = await backUp(edge)
  expect((await rowsOf(saved, 'redis')).map(({ key }) => String(key).split(':')[0])).toContain('session')
  await emptyDatabase()
  const fresh = newEdge()
  await restore(fresh, saved)
  expect(await isSignedIn(fresh)).toBe(true)
  await fresh.redis.fault({ kind: 'refuse' })
  expect(await isSignedIn(fresh)).toBe(true)
})

test('likes and views that only Redis has are in the backup', async () => {
  const edge = newEdge({ LIKES: { send: async () => {} } }) // the queue loses them
  const [ada, bob] = [await addUser(), await addUser()]
  const [liked, unliked, old] = [
    await addPost({ authorId: ada.id }),
    await addPost({ authorId: ada.id }),
    await addPost({ authorId: ada.id }),
  ]
  const comment = await addComment({ postId: liked.id, authorId: ada.id })
  await addLike(bob.id, unliked.id, old.id)
  const headers = await edge.signIn(bob)
  const send = (method: string, path: string) => edge.fetch(path, { method, headers })
  for (const path of [`/v1/posts/${liked.id}`, `/v1/comments/${comment.id}`]) await send('PUT', `${path}/like`)
  await send('DELETE', `/v1/posts/${unliked.id}/like`)
  await send('POST', `/v1/posts/${liked.id}/views`)
  await send('GET', `/v1/posts/${old.id}`) // Redis holds what D1 has
  await edge.settle()

  const saved = await backUp(edge)
  const likes = (await rowsOf(saved, 'post_likes')).map(({ post_id, is_liked }) => [post_id, is_liked])
  expect(new Map(likes as [string, number][])).toEqual(
    new Map([
      [liked.id, 1],
      [unliked.id, 0],
      [old.id, 1],
    ]),
  )
  expect(await rowsOf(saved, 'comment_likes')).toMatchObject([{ comment_id: comment.id, user_id: bob.id, is_liked: 1 }])
  const posts = new Map((await rowsOf(saved, 'posts')).map((row) => [row['id'], row]))
  expect(posts.get(liked.id)).toMatchObject({ likes_count: 1, views_count: 1 })
  expect(posts.get(unliked.id)).toMatchObject({ likes_count: 0 })
})

test('what changes during a backup is restored without orphans, and with counts that match the rows', async () => {
  const edge = newEdge()
  const [ada, bob] = [await addUser(), await addUser()]
  const [kept, gone] = [await addPost({ authorId: ada.id }), await addPost({ authorId: ada.id })]
  await addLike(bob.id, kept.id, gone.id)
  const source = sourceOf(edge)
  const store = newStore()
  const changed = {
    ...source,
    async read(table: string, after: string | undefined) {
      if (table === 'posts' && after === undefined) {
        await db.delete(schema.posts).where(eq(schema.posts.id, gone.id)) // its likes have been read
        await addLike((await addUser()).id, kept.id)
        await addComment({ postId: kept.id, authorId: bob.id })
      }
      return source.read(table, after)
    },
  }
  const manifest = await continueBackup(changed, store, { maxParts: Infinity, saveEveryMs: 0 })
  const saved = { manifest, files: store.files }
  expect(await rowsOf(saved, 'post_likes')).toHaveLength(2)
  expect(await rowsOf(saved, 'posts')).toMatchObject([{ id: kept.id, likes_count: 2, comments_count: 1 }])

  await emptyDatabase()
  const fresh = newEdge({ MEMORY_SECONDS: '0' })
  await restore(fresh, saved)
  expect(await fresh.dispatch()).toBe(0)
  expect(await db.select().from(schema.postLikes)).toMatchObject([{ postId: kept.id, userId: bob.id }])
  expect(await db.select().from(schema.posts)).toMatchObject([{ id: kept.id, likesCount: 1, commentsCount: 0 }])
  expect(await (await fresh.fetch(`/v1/posts/${kept.id}`)).json()).toMatchObject({ likesCount: 1, commentsCount: 0 })
})

test('the listener `counts` corrects every count, also those that Redis has', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const [ada, bob] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: ada.id })
  const comment = await addComment({ postId: post.id, authorId: bob.id })
  await addLike(bob.id, post.id)
  await addFollow(bob.id, ada.id)
  const right = await Promise.all([schema.users, schema.posts, schema.comments].map((table) => db.select().from(table)))
  await db.update(schema.users).set({ followersCount: 7, followingsCount: 7, postsCount: 7 })
  await db.update(schema.posts).set({ likesCount: 7, commentsCount: 7 })
  await db.update(schema.comments).set({ likesCount: 7 }).where(eq(schema.comments.id, comment.id))
  const read = async () => (await edge.fetch(`/v1/posts/${post.id}`)).json()
  expect(await read()).toMatchObject({ likesCount: 7, commentsCount: 7 })
  await edge.settle()

  await ask(edge, 'POST', '/v1/listeners/counts/rebuild')
  expect(await edge.dispatch()).toBe(0)
  await edge.cron() // settles Redis
  expect(await read()).toMatchObject({ likesCount: 1, commentsCount: 1 })
  const counts = (rows: object[]) =>
    rows.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => name.endsWith('Count'))))
  const now = await Promise.all([schema.users, schema.posts, schema.comments].map((table) => db.select().from(table)))
  expect(now.map(counts)).toEqual(right.map(counts))
})

test('a backup that was interrupted continues, and replaces a damaged part', async () => {
  const edge = newEdge()
  for (let i = 0; i < 7; i += 1) await addUser()
  const store = newStore()
  const source = sourceOf(edge, 2)
  const first = await continueBackup(source, store, { maxParts: 3, saveEveryMs: Infinity })
  expect(first.completedAt).toBe(null)
  expect(first.parts.map(({ table }) => table)).toEqual(['redis', 'users', 'users'])
  const [, intact, damaged] = first.parts
  if (!intact || !damaged) throw new Error('there are no parts')
  store.files.get(damaged.file)?.set([0], 20)

  source.reads.length = 0
  const second = await continueBackup(source, store, { maxParts: Infinity, saveEveryMs: 0 })
  expect(source.reads.filter((read) => read.startsWith('users'))).toEqual(['users 2', 'users 4', 'users 6', 'users 7'])
  expect(second.parts.filter(({ table }) => table === 'users').reduce((sum, { rows }) => sum + rows, 0)).toBe(7)
  expect(second.completedAt).not.toBe(null)
  source.reads.length = 0
  await continueBackup(source, store, { maxParts: Infinity, saveEveryMs: 0 })
  expect(source.reads).toEqual([])

  await emptyDatabase()
  const fresh = newEdge()
  await restore(fresh, { manifest: second, files: store.files })
  expect(await db.select().from(schema.users)).toHaveLength(7)
})

test('a page is limited in bytes, and has at least one row', async () => {
  const edge = newEdge()
  const [small, large] = ['x'.repeat(100_000), 'x'.repeat(1_200_000)]
  for (const bio of [small, small, large, large, ...Array.from({ length: 12 }, () => small)]) await addUser({ bio })
  const { manifest } = await backUp(edge)
  const parts = manifest.parts.filter(({ table }) => table === 'users')
  expect(parts.map(({ rows }) => rows)).toEqual([3, 1, 10, 2])
})

test('an interrupted restore starts again from its beginning, and no other backup continues it', async () => {
  const edge = newSource()
  await fill(edge)
  const saved = await backUp(edge)
  await emptyDatabase()
  const fresh = newEdge()
  const begin = (backup: string) =>
    fresh.fetch('/v1/restore', { method: 'PUT', headers: SERVICE, body: JSON.stringify({ backup }) })
  expect((await begin(saved.manifest.startedAt)).status).toBe(204)
  await restoreParts(fresh, saved, ['users', 'posts'])

  const other = await begin('another')
  expect([other.status, await other.json()]).toMatchObject([409, { type: '/problems/not-empty' }])
  await restore(fresh, saved)
  const again = await backUp(fresh)
  for (const table of saved.manifest.tables.slice(1)) {
    expect(await rowsOf(again, table)).toEqual(await rowsOf(saved, table))
  }
})

test('a restore needs an empty database, and rows need a restore', async () => {
  const edge = newEdge()
  const begin = () => edge.fetch('/v1/restore', { method: 'PUT', headers: SERVICE, body: '{"backup":"a"}' })
  const send = (columns: string[], rows: unknown[][], table = 'fences') =>
    edge.fetch(`/v1/restore/${table}`, { method: 'POST', headers: SERVICE, body: JSON.stringify({ columns, rows }) })
  expect(await (await send(['name', 'fence'], [['a', 1]])).json()).toMatchObject({
    status: 409,
    detail: 'Begin a restore first',
  })
  const ada = await addUser()
  expect(await (await begin()).json()).toMatchObject({ status: 409, detail: 'The database has users' })
  await db.delete(schema.users).where(eq(schema.users.id, ada.id))
  expect((await begin()).status).toBe(204)
  expect((await send(['name', 'fence'], [['a', 1]])).status).toBe(200)
  expect((await send(['name', 'fence', 'other'], [['a', 1, 1]])).status).toBe(400)
  expect((await send(['place', 'id'], [[1, 'p_1']], 'search_documents')).status).toBe(404)
  expect((await send(['key', 'value', 'expires_at'], [['user:u_1', '{}', null]], 'redis')).status).toBe(400)
})

test('during a restore events cannot be published, and caches of another database are gone', async () => {
  const edge = newEdge()
  await edge.sdk.mset({
    [keys.user('u_a')]: '{}',
    [keys.count('likes', 'p_a')]: 7,
    [keys.fence('a')]: 5,
    'other:app': 1,
  })
  await ask(edge, 'PUT', '/v1/restore', { backup: 'a' })
  expect(await edge.sdk.mget(keys.user('u_a'), keys.count('likes', 'p_a'), keys.fence('a'), 'other:app')).toEqual([
    null,
    null,
    5,
    1,
  ])
  const publish = () =>
    edge.fetch('/v1/events', {
      method: 'POST',
      headers: SERVICE,
      body: JSON.stringify({ channel: 'custom_a', type: 'a', subject: 'a', data: {} }),
    })
  expect((await publish()).status).toBe(500)
  await ask(edge, 'DELETE', '/v1/restore')
  expect((await publish()).status).toBe(202)
})

test('every table is in a backup, or a listener rebuilds it', async () => {
  const { tables } = await ask<{ tables: string[] }>(newEdge(), 'POST', '/v1/backup')
  const stored = await db.all<{ name: string }>(sql`SELECT name FROM sqlite_schema WHERE type = 'table'`)
  const others = /^(sqlite_|_cf_|d1_migrations$|(post|user)_words(_|$))/ // the words are rebuilt with search_documents
  const expected = stored.map(({ name }) => name).filter((name) => !others.test(name))
  expect([...tables.slice(1), 'search_documents', 'post_scores', 'listener_versions', 'stat_minutes'].sort()).toEqual(
    expected.sort(),
  )
  // A restore inserts them in the reverse order. So each must come before those that it refers to.
  const place = new Map(tables.map((table, i) => [table, i]))
  for (const table of tables.slice(1)) {
    const parents = await db.all<{ table: string }>(sql`SELECT "table" FROM pragma_foreign_key_list(${table})`)
    for (const parent of parents) expect(place.get(table)).toBeLessThan(place.get(parent.table) ?? -1)
  }
  expect(place.get('events')).toBeLessThan(place.get('event_sequences') ?? -1)
  expect(place.get('events')).toBeLessThan(place.get('webhooks') ?? -1)
  expect(place.get('deliveries')).toBeLessThan(place.get('events') ?? -1)
})

test('backups are for services, and need no more than a valid request', async () => {
  const edge = newEdge()
  const requests = [
    ['POST', '/v1/backup'],
    ['GET', '/v1/backup/users'],
    ['GET', '/v1/backup/2026-01-01/manifest.json'],
    ['PUT', '/v1/restore'],
    ['POST', '/v1/restore/users'],
    ['DELETE', '/v1/restore'],
  ] as const
  const user = await edge.signIn(await addUser())
  for (const headers of [{}, user]) {
    for (const [method, path] of requests) {
      expect([method, path, (await edge.fetch(path, { method, headers })).status]).toEqual([method, path, 401])
    }
  }
  const read = async (path: string) => (await edge.fetch(path, { headers: SERVICE })).status
  expect(await read('/v1/backup/users?after=x')).toBe(400)
  expect(await read('/v1/backup/sqlite_schema')).toBe(404)
  expect(await read('/v1/backup/2026-01-01/manifest.json')).toBe(404)
  await edge.redis.fault({ kind: 'refuse' })
  expect((await edge.fetch('/v1/backup', { method: 'POST', headers: SERVICE })).status).toBe(503)
  expect(await read('/v1/backup/redis')).toBe(503)
  expect(await read('/v1/backup/users')).toBe(200)
})
