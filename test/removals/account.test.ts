import { env } from 'cloudflare:workers'
import { eq, sql } from 'drizzle-orm'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { newId } from '../../src/ids.ts'
import { meteredDatabase, watchedDatabase } from '../database.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { keysOf } from '../redis/setup.ts'
import { newOther, newRow, references } from '../references.ts'
import { addFollow, addLikes, addPost, addUser, addUsers, db, quickHash } from '../rows.ts'

const PASSWORD = 'correct-horse-battery'
const passwordHash = quickHash(PASSWORD)
beforeAll(migrate)

/** What a cache writes in place of a forgotten value. */
const TOMBSTONE = 'x'

type User = Awaited<ReturnType<typeof addUser>>
const newUser = (values: Partial<User> = {}) => addUser({ passwordHash, ...values })

const jsonHeaders = (headers: Record<string, string>) => ({ ...headers, 'Content-Type': 'application/json' })

async function send(edge: Edge, method: string, path: string, headers: Record<string, string>, body?: object) {
  const response = await edge.fetch(path, {
    method,
    headers: jsonHeaders(headers),
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  expect([method, path, response.status]).toEqual([method, path, expect.toBeOneOf([200, 201, 202, 204])])
  const text = await response.text()
  await edge.settle()
  return text === '' ? { id: '' } : (JSON.parse(text) as { id: string })
}

const deleteAccount = (edge: Edge, headers: Record<string, string>, password = PASSWORD) =>
  edge.fetch('/v1/users/me', {
    method: 'DELETE',
    headers: jsonHeaders(headers),
    body: JSON.stringify({ password }),
  })

/** Every row of every table that contains one of `needles`, but for `user_deleted` and its sequence. */
async function rowsWith(needles: string[]): Promise<string[]> {
  const tables = await db.all<{ name: string }>(
    sql`SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\' AND name NOT LIKE 'sqlite%'
      AND name NOT IN ('post_words', 'user_words', 'd1_migrations')`,
  )
  const found = []
  for (const { name } of tables) {
    for (const row of await db.all<Record<string, unknown>>(sql`SELECT * FROM ${sql.identifier(name)}`)) {
      if (row['type'] === 'user_deleted' || (name === 'event_sequences' && row['channel'] === 'user_events')) continue
      const text = JSON.stringify(row)
      if (needles.some((needle) => text.includes(needle))) found.push(`${name}: ${text}`)
    }
  }
  return found
}

/**
 * Every key of Redis that contains one of `needles`, or whose value does. Two things may stay: the entry of `user_deleted`
 * on the stream log, and for ten seconds the mark that refuses late values of what a cache has forgotten.
 */
async function keysWith({ sdk }: Edge, needles: string[]): Promise<string[]> {
  const found = []
  for (const key of await keysOf(sdk)) {
    const type: string = await sdk.type(key) // the SDK does not know streams
    const value: unknown =
      type === 'hash'
        ? await sdk.hgetall(key)
        : type === 'zset'
          ? await sdk.zrange(key, 0, -1)
          : type === 'stream'
            ? Object.values(await sdk.xrange(key, '-', '+')).filter(
                (entry) => !JSON.stringify(entry).includes('user_deleted'),
              )
            : await sdk.get(key)
    if (value === null) continue // it has expired meanwhile
    if (value === TOMBSTONE && (await sdk.pttl(key)) <= 10_000) continue
    const text = `${key} ${JSON.stringify(value)}`
    if (needles.some((needle) => text.includes(needle))) found.push(text)
  }
  return found
}

/** Lets the queue and the cron do everything that is left. */
async function finish(edge: Edge, at = Date.now() + 120_000): Promise<void> {
  for (let minute = 0; minute < 12; minute += 1) {
    await edge.settle()
    await edge.dispatch()
    await edge.cron(at + minute * 60_000)
    await edge.dispatch()
    if ((await db.$count(schema.removals)) === 0) break
  }
  await edge.cron(at + 900_000) // presence and counts that the last steps left to the cron
  await edge.settle()
}

/** Whether every count in D1 is the number of its rows. */
async function wrongCounts() {
  return db.all(sql`
    SELECT id FROM users WHERE followers_count <> (SELECT count(*) FROM follows WHERE followed_id = users.id)
      OR followings_count <> (SELECT count(*) FROM follows WHERE follower_id = users.id)
      OR posts_count <> (SELECT count(*) FROM posts WHERE author_id = users.id)
    UNION ALL SELECT id FROM posts WHERE likes_count <> (SELECT count(*) FROM post_likes WHERE post_id = posts.id AND is_liked)
      OR comments_count <> (SELECT count(*) FROM comments WHERE post_id = posts.id AND deleted_at IS NULL)
    UNION ALL SELECT id FROM comments
      WHERE likes_count <> (SELECT count(*) FROM comment_likes WHERE comment_id = comments.id AND is_liked)
        OR replies_count <> (SELECT count(*) FROM comments AS reply WHERE reply.parent_id = comments.id)`)
}

/** A user who has used everything there is, and another with whom the user has to do. */
async function newWorld(edge: Edge) {
  const name = `gone${crypto.randomUUID().slice(0, 8)}`
  const word = `xyzzy${name}`
  const me = await newUser({ username: name, email: `${name}@example.test`, displayName: word, bio: `Bio ${word}` })
  const other = await newUser()
  const [asMe, asOther] = [await edge.signIn(me), await edge.signIn(other)]
  const mine = await send(
    edge,
    'POST',
    '/v1/posts',
    { ...asMe, 'Idempotency-Key': name },
    { text: `Post ${word} @${other.username}` },
  )
  const theirs = await send(edge, 'POST', '/v1/posts', asOther, { text: 'Theirs' })
  const myComment = await send(edge, 'POST', `/v1/posts/${theirs.id}/comments`, asMe, { text: `Comment ${word}` })
  const theirComment = await send(edge, 'POST', `/v1/posts/${mine.id}/comments`, asOther, { text: 'Well said' })
  const ownComment = await send(edge, 'POST', `/v1/posts/${theirs.id}/comments`, asOther, { text: 'Own' })
  await send(edge, 'PUT', `/v1/users/${other.id}/follow`, asMe)
  await send(edge, 'PUT', `/v1/users/${me.id}/follow`, asOther)
  // Redis remembers who wrote what a user with blocks likes.
  await send(edge, 'PUT', `/v1/users/${(await newUser()).id}/block`, asOther)
  for (const [headers, path] of [
    [asMe, `posts/${theirs.id}`],
    [asMe, `comments/${ownComment.id}`],
    [asOther, `posts/${mine.id}`],
    [asOther, `comments/${myComment.id}`],
    [asOther, `comments/${theirComment.id}`],
  ] as const) {
    const kind = path.startsWith('posts') ? ('post' as const) : ('comment' as const)
    await send(edge, 'PUT', `/v1/${path}/like`, headers)
    const userId = headers === asMe ? me.id : other.id
    await edge.deliver([
      { kind, contentId: path.split('/')[1], userId, isLiked: true, changedAt: Date.now(), stateSince: null },
    ])
  }
  const third = await newUser()
  const asThird = await edge.signIn(third)
  await send(edge, 'PUT', `/v1/users/${me.id}/block`, asThird)
  await send(edge, 'PUT', `/v1/users/${me.id}/mute`, asThird)
  await send(edge, 'PUT', `/v1/users/${third.id}/mute`, asMe)
  await db.insert(schema.mentions).values({
    contentId: theirs.id,
    userId: me.id,
    id: newId('m'),
    postId: theirs.id,
    createdAt: Date.now(),
    isNamed: true,
  })
  const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
  await send(edge, 'POST', '/v1/reports', asOther, { subjectId: me.id, reason: 'spam' })
  const resolution = { subjectId: me.id, outcome: 'dismissed', note: `About ${word}` }
  await send(edge, 'POST', '/v1/moderation/reports/resolve', service, resolution)
  await send(edge, 'POST', `/v1/posts/${theirs.id}/views`, asMe)
  await send(edge, 'POST', `/v1/posts/${mine.id}/views`, asOther)
  await send(edge, 'POST', '/v1/presence/heartbeat', asMe)
  await send(edge, 'PATCH', '/v1/users/me', asMe, { bio: `Bio ${word} again` })
  await edge.dispatch()
  const headers = asMe
  for (const path of [
    'feed',
    'notifications',
    'recommendations',
    'sessions',
    `users/by-username/${name}`,
    'posts/hot',
  ]) {
    await send(edge, 'GET', `/v1/${path}`, headers)
    await send(edge, 'GET', `/v1/${path}`, asOther)
  }
  await send(edge, 'GET', `/v1/users?ids=${me.id},${other.id}`, {})
  await send(edge, 'GET', `/v1/posts?ids=${mine.id},${theirs.id}`, asMe)
  await edge.dispatch()
  // Ids of contents stay in events of others about them, until these expire.
  const needles = [me.id, name]
  return { me, other, asMe, asOther, mine, theirs, myComment, theirComment, word, name, needles }
}

test('a deleted account is in no answer at once, and its name and address are free', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0', LIMIT_READS: '1000000' })
  const { me, asMe, asOther, theirs, mine, myComment, name, word, needles } = await newWorld(edge)
  const paths: [string, Record<string, string>][] = [
    [`/v1/users?ids=${me.id}`, {}],
    [`/v1/users/by-username/${name}`, {}],
    [`/v1/users/${me.id}`, asOther],
    [`/v1/users/${me.id}/posts`, asOther],
    [`/v1/users/${me.id}/followers`, {}],
    [`/v1/posts?ids=${mine.id}`, {}],
    [`/v1/posts/${mine.id}`, asOther],
    ['/v1/posts/hot', {}],
    [`/v1/posts/${theirs.id}/comments`, {}],
    ['/v1/feed', asOther],
    ['/v1/recommendations', asOther],
    [`/v1/search?q=${word}&type=posts`, {}],
    [`/v1/search?q=${word}&type=users`, {}],
    [`/v1/presence?ids=${me.id}`, asOther],
  ]
  const found = async () => {
    const answers = []
    for (const [path, headers] of paths) {
      const response = await edge.fetch(path, { headers })
      const { instance: _instance, detail: _detail, ...body } = await response.json<Record<string, unknown>>()
      answers.push([path, [...needles, mine.id, myComment.id].some((needle) => JSON.stringify(body).includes(needle))])
      await edge.settle()
    }
    return answers
  }
  expect(await found()).toEqual(
    paths.map(([path]) => [
      path,
      path !== `/v1/users/${me.id}/followers` && path !== '/v1/recommendations' ? true : expect.any(Boolean),
    ]),
  )

  expect((await deleteAccount(edge, asMe, 'wrong-password')).status).toBe(403)
  const deleted = await deleteAccount(edge, asMe)
  expect(deleted.status).toBe(204)
  expect(deleted.headers.get('Set-Cookie')).toContain('Max-Age=0')
  // The queue stands still: all of it is in D1.
  expect(await db.$count(schema.posts, eq(schema.posts.authorId, me.id))).toBe(1)
  expect(await found()).toEqual(paths.map(([path]) => [path, false]))
  for (const [method, path] of [
    ['PUT', `/v1/users/${me.id}/follow`],
    ['POST', `/v1/posts/${mine.id}/comments`],
  ] as const) {
    const { status } = await edge.fetch(path, { method, headers: jsonHeaders(asOther), body: '{"text":"Late"}' })
    expect([method, path, status]).toEqual([method, path, 404])
  }
  expect((await deleteAccount(edge, asMe)).status).toBe(401)
  const again = { username: name, email: `${name}@example.test`, password: 'another-horse', displayName: 'New' }
  await send(edge, 'POST', '/v1/users', {}, again)
  await finish(edge)
})

test('a deletion leaves nothing in D1 or Redis but the event that says so, and exact counts', async () => {
  const edge = newEdge()
  const { me, asMe, asOther, other, theirs, mine, word, needles } = await newWorld(edge)
  const before = [await rowsWith(needles), await keysWith(edge, needles)]
  expect(before[0]?.length).toBeGreaterThan(15)
  expect(before[1]?.length).toBeGreaterThan(10)
  expect(before[1]?.filter((key) => key.startsWith('authors:')).length).toBe(3)

  expect((await deleteAccount(edge, asMe)).status).toBe(204)
  await finish(edge)
  expect(await rowsWith([...needles, word])).toEqual([])
  expect(await keysWith(edge, [...needles, word])).toEqual([])
  expect(await db.$count(schema.mentions, eq(schema.mentions.postId, mine.id))).toBe(0)
  expect(await db.all(sql`SELECT rowid FROM post_words WHERE post_words MATCH ${word}`)).toEqual([])
  expect(await db.all(sql`SELECT rowid FROM user_words WHERE user_words MATCH ${word}`)).toEqual([])
  const events = await db.select().from(schema.events).where(eq(schema.events.subject, me.id))
  expect(events.map(({ type, data }) => ({ type, data }))).toEqual([{ type: 'user_deleted', data: { userId: me.id } }])

  const [entry] = await db.select().from(schema.moderationLog)
  expect(entry).toMatchObject({ action: 'dismiss-reports', subjectId: 'u_deleted', note: '', tokenId: 'root' })
  expect(await wrongCounts()).toEqual([])
  const profile = await send(edge, 'GET', `/v1/users/${other.id}`, {})
  expect(profile).toMatchObject({ followersCount: 0, followingsCount: 0 })
  expect(await send(edge, 'GET', `/v1/posts/${theirs.id}`, asOther)).toMatchObject({ likesCount: 0, commentsCount: 1 })
  expect((await edge.fetch(`/v1/posts/${mine.id}`)).status).toBe(404)
  expect(await db.$count(schema.comments, eq(schema.comments.postId, mine.id))).toBe(0)
})

/** An account with a row in every table that refers to a user, and with what Redis keeps of one. */
async function newAccount({ token }: Edge) {
  const edge = newEdge({}, token) // an isolate counts reads of a user for ten seconds
  const me = await newUser()
  const other = await newOther()
  const asMe = await edge.signIn(me)
  const [first, ...rows] = references.map(({ table, column }) =>
    db.insert(table).values(newRow(table, column, me.id, other)),
  )
  if (!first) throw new Error('no table refers to a user')
  await db.batch([first, ...rows])
  const mine = await addPost({ authorId: me.id })
  for (const [method, path] of [
    ['GET', `users/${me.id}`],
    ['GET', `posts?ids=${mine.id},${other['posts']}`],
    ['PUT', `posts/${mine.id}/like`],
    ['POST', 'presence/heartbeat'],
    ['GET', 'notifications'],
  ] as const) {
    await send(edge, method, `/v1/${path}`, asMe)
  }
  expect((await deleteAccount(edge, asMe)).status).toBe(204)
  await edge.settle()
  edge.events.take() // the queue loses it
  return me
}

test('a removal that dies before any of its queries of D1 or requests to Redis is completed, and counts stay exact', async () => {
  const edge = newEdge()
  const death = { at: Infinity, acts: 0 }
  /** The invocation ends before the act `at`: from then on it reaches nothing. */
  const act = () => {
    death.acts += 1
    if (death.acts >= death.at) throw new Error('the Worker died')
  }
  const { fetch } = globalThis
  onTestFinished(() => void (globalThis.fetch = fetch))
  /** Runs the removal of a user until it is done, or dies before the act `at`. Returns how many acts there were. */
  async function proceed(userId: string, at: number): Promise<number> {
    Object.assign(death, { at, acts: 0 })
    const dying = newEdge({ DB: watchedDatabase(act), REDIS_BREAKER_SECONDS: '0.1' }, edge.token)
    globalThis.fetch = async (...parameters) => {
      act()
      return fetch(...parameters)
    }
    // What its posts and comments leave is removed in steps of their own.
    const messages: unknown[] = [{ kind: 'proceed', listener: 'removals', cursor: userId }]
    while (messages.length > 0 && death.acts < death.at) {
      await dying.deliver([messages.shift()], 'events').catch(() => {})
      const sent = dying.events.take() as { kind: string }[] // what the outbox and the listeners send
      messages.push(...sent.filter(({ kind }) => kind === 'proceed'))
    }
    globalThis.fetch = fetch
    return death.acts
  }
  const users: { id: string; username: string }[] = []
  let at = 1
  for (; ; at += 1) {
    const user = await newAccount(edge)
    users.push(user)
    if ((await proceed(user.id, at)) < at) break // it was done before
  }
  expect(at).toBeGreaterThan(60)
  expect(await db.$count(schema.removals, eq(schema.removals.contentId, users.at(-1)?.id ?? ''))).toBe(0)
  expect(await db.$count(schema.removals)).toBeGreaterThan(at / 2)
  const needles = users.flatMap(({ id, username }) => [id, username])
  await finish(edge)
  expect(await rowsWith(needles)).toEqual([])
  expect(await keysWith(edge, needles)).toEqual([])
  expect(await wrongCounts()).toEqual([])
}, 300_000)

test('deleting an account with 20,000 followers and likes takes bounded steps', async () => {
  const { DB, rows } = meteredDatabase()
  const edge = newEdge({ DB })
  const me = await newUser()
  const fans = await addUsers(20_000)
  const authors = fans.slice(0, 200)
  await db.run(sql`
    INSERT INTO follows (id, follower_id, followed_id, created_at)
    SELECT 'f_' || substr(value, 3), value, ${me.id}, 1 FROM json_each(${JSON.stringify(fans)})`)
  const liked = fans.map((id) => `p_${id.slice(2)}`)
  await db.run(sql`
    INSERT INTO posts (id, author_id, text, created_at, updated_at)
    SELECT value, (SELECT id FROM users WHERE id = 'u_' || substr(value, 3)), 'Hello', 1, 1
    FROM json_each(${JSON.stringify(liked)})`)
  await db.run(sql`
    INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
    SELECT value, ${me.id}, true, 1 FROM json_each(${JSON.stringify(liked)})`)
  for (const id of authors) await addFollow(me.id, id)
  const post = await addPost({ authorId: me.id })
  await addLikes(post.id, fans.slice(0, 5_000))
  await db.delete(schema.unsettledCounts)

  expect((await deleteAccount(edge, await edge.signIn(me))).status).toBe(204)
  await edge.settle()
  const durations = []
  let left = 40_200
  let message = edge.events.take().find((body) => JSON.stringify(body).includes('"event"'))
  while (message !== undefined) {
    const startedAt = performance.now()
    await edge.deliver([message], 'events')
    durations.push(Math.round(performance.now() - startedAt))
    // The rest of the queue announces counts that changed.
    message = edge.events.take().find((body) => JSON.stringify(body).includes(me.id))
    const now =
      (await db.$count(schema.follows, sql`${me.id} IN (follower_id, followed_id)`)) +
      (await db.$count(schema.postLikes, eq(schema.postLikes.userId, me.id)))
    expect(left - now).toBeLessThanOrEqual(10_000)
    left = now
  }
  console.log('steps of a removal with 20,000 followers and likes (ms):', durations.join(' '))
  await edge.settle()
  const { commands, requests } = await edge.redis.counts()
  console.log('rows of D1:', JSON.stringify(rows), 'Redis:', commands, 'commands in', requests, 'requests')
  // Per row that goes: a like or follow with its index entries and triggers, and for a follow the profiles in the cache.
  const gone = 20_000 + 20_200 + 5_000
  expect(rows.written / gone).toBeLessThan(5)
  expect(rows.read / gone).toBeLessThan(16)
  expect(commands / gone).toBeLessThan(1)
  expect(requests).toBeLessThan(350)
  expect(left).toBe(0)
  expect(await rowsWith([me.id])).toEqual([])
  expect(await wrongCounts()).toEqual([])
}, 300_000)

test('a deletion needs the password, and names it when it is missing', async () => {
  const edge = newEdge()
  const me = await newUser()
  const headers = await edge.signIn(me)
  await expectRefused(
    edge.fetch('/v1/users/me', { method: 'DELETE', headers: jsonHeaders(headers), body: '{}' }),
    'body',
    'password',
  )
  const refused = await deleteAccount(edge, headers, 'wrong-password')
  expect([refused.status, await refused.json()]).toEqual([
    403,
    expect.objectContaining({ type: '/problems/wrong-password' }),
  ])
  expect(await db.$count(schema.removals, eq(schema.removals.contentId, me.id))).toBe(0)
  expect((await edge.fetch('/v1/sessions', { headers })).status).toBe(200)
  await edge.settle()
  // Session and limit in one; then the epoch and the profile in another. With posts, a third for them.
  const deleted = await deleteAccount(edge, headers)
  expect([deleted.status, roundTrips(deleted)]).toEqual([204, 2])
})

test('without Redis a deletion is refused: attempts cannot be counted', async () => {
  const edge = newEdge()
  const me = await newUser()
  const headers = await edge.signIn(me)
  await edge.redis.fault({ kind: 'refuse' })
  expect((await deleteAccount(edge, headers)).status).toBe(503)
  expect(await db.$count(schema.removals, eq(schema.removals.contentId, me.id))).toBe(0)
})

test('a write by a session that outlived its account answers 401', async () => {
  const edge = newEdge()
  const me = await newUser()
  const headers = await edge.signIn(me)
  for (let i = 0; i < 2; i += 1) {
    await send(edge, 'GET', '/v1/sessions', headers) // Redis has the session, and trusts it for a minute
  }
  await db.delete(schema.users).where(eq(schema.users.id, me.id))
  const response = await edge.fetch('/v1/posts', {
    method: 'POST',
    headers: jsonHeaders(headers),
    body: '{"text":"Late"}',
  })
  expect(response.status).toBe(401)
})
