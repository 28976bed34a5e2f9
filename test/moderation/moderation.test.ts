import { env } from 'cloudflare:workers'
import { eq, inArray } from 'drizzle-orm'
import { beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { newLab } from '../drills/lab.ts'
import { type Edge, expectRefused, migrate, newEdge } from '../edge.ts'
import { addComment, addFollow, addLikes, addUser, addUsers, db, quickHash } from '../rows.ts'
import { open, until } from '../streams/world.ts'

beforeAll(migrate)

const root = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
const JSON_TYPE = { 'Content-Type': 'application/json' }
const note = { note: 'Against the rules' }

// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- each call names the body it expects
async function send<T>(
  edge: Edge,
  method: string,
  path: string,
  headers: object,
  body?: object,
): Promise<{ status: number; body: T }> {
  const response = await edge.fetch(path, {
    method,
    headers: { ...headers, ...(body && JSON_TYPE) },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, body: (text === '' ? undefined : JSON.parse(text)) as T } // what a test expects of it
}

/** A moderator's token. */
async function newModerator(edge: Edge) {
  const body = { name: `moderator ${crypto.randomUUID()}`, scopes: ['moderation'] }
  const { body: issued } = await send<{ id: string; token: string }>(edge, 'POST', '/v1/service-tokens', root, body)
  return { id: issued.id, name: body.name, headers: { Authorization: `Bearer ${issued.token}` } }
}

async function settle(edge: Edge) {
  await edge.settle()
  expect(await edge.dispatch()).toBe(0)
  await edge.settle()
}

const newWord = () => `w${crypto.randomUUID().replaceAll('-', '').slice(0, 18)}`
const typesAbout = async (...subjects: string[]) =>
  (await db.select().from(t.events).where(inArray(t.events.subject, subjects)).orderBy(t.events.createdAt)).map(
    ({ type, audience }) => [type, audience],
  )

/** A post with 3 likes and 2 comments, of an author whom a fan follows. */
async function newContent(edge: Edge) {
  const [author, fan] = [await addUser(), await addUser()]
  await addFollow(fan.id, author.id)
  const word = newWord()
  const asAuthor = await edge.signIn(author)
  const { body: post } = await send<{ id: string }>(edge, 'POST', '/v1/posts', asAuthor, { text: word })
  await addLikes(post.id, await addUsers(3))
  const comments = [
    await addComment({ postId: post.id, authorId: fan.id }),
    await addComment({ postId: post.id, authorId: author.id }),
  ]
  await settle(edge)
  return { author, fan, word, post, comments, asAuthor, asFan: await edge.signIn(fan) }
}

/** Everywhere a post can be seen, and whether it is. */
async function sightings(edge: Edge, { author, post, word, asFan }: Awaited<ReturnType<typeof newContent>>) {
  const ids = async (path: string) => {
    const { body } = await send<{ items?: { id?: string; post?: { id: string }; postId?: string }[] }>(
      edge,
      'GET',
      path,
      asFan,
    )
    return (body.items ?? []).some((item) => [item.id, item.post?.id, item.postId].includes(post.id))
  }
  const { body: profile } = await send<{ postsCount: number }>(edge, 'GET', `/v1/users/${author.id}`, {})
  return {
    one: (await send(edge, 'GET', `/v1/posts/${post.id}`, {})).status,
    comments: (await send(edge, 'GET', `/v1/posts/${post.id}/comments`, {})).status,
    batch: await ids(`/v1/posts?ids=${post.id}`),
    ofAuthor: await ids(`/v1/users/${author.id}/posts`),
    feed: await ids('/v1/feed'),
    hot: await ids('/v1/posts/hot?limit=100'),
    search: await ids(`/v1/search?q=${word}`),
    inbox: await ids('/v1/notifications'),
    recommendations: await ids('/v1/recommendations?limit=50'),
    postsCount: profile.postsCount,
  }
}
const SEEN = {
  one: 200,
  comments: 200,
  batch: true,
  ofAuthor: true,
  feed: true,
  hot: true,
  search: true,
  inbox: true,
  recommendations: true,
  postsCount: 1,
}
const GONE = {
  one: 404,
  comments: 404,
  batch: false,
  ofAuthor: false,
  feed: false,
  hot: false,
  search: false,
  inbox: false,
  recommendations: false,
  postsCount: 0,
}

test('a post that is taken down is gone everywhere, and comes back with exact counts', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const moderator = await newModerator(edge)
  const content = await newContent(edge)
  const { post, asAuthor, asFan } = content
  expect(await sightings(edge, content)).toEqual(SEEN)

  const down = await send(edge, 'PUT', `/v1/moderation/takedowns/${post.id}`, moderator.headers, note)
  expect(down).toMatchObject({ status: 200, body: { id: post.id, text: content.word, takenDown: note } })
  await settle(edge)
  expect(await sightings(edge, content)).toEqual(GONE)
  for (const [method, path, body] of [
    ['PATCH', `/v1/posts/${post.id}`, { text: 'Mine!' }],
    ['DELETE', `/v1/posts/${post.id}`, undefined],
    ['PUT', `/v1/posts/${post.id}/like`, undefined],
    ['POST', `/v1/posts/${post.id}/comments`, { text: 'Where?' }],
  ] as const) {
    expect([method, (await send(edge, method, path, asAuthor, body)).status]).toEqual([method, 404])
  }
  const again = await send(edge, 'PUT', `/v1/moderation/takedowns/${post.id}`, moderator.headers, { note: 'Again' })
  expect(again.body).toEqual(down.body)

  // Meanwhile a liker and a commenter leave, and nothing removes what belongs to the post.
  await edge.cron()
  await settle(edge)
  const [liker] = await db.select().from(t.postLikes).where(eq(t.postLikes.postId, post.id))
  await db.delete(t.users).where(eq(t.users.id, liker?.userId ?? ''))
  expect(await db.select().from(t.comments).where(eq(t.comments.postId, post.id))).toHaveLength(2)

  const up = await send(edge, 'DELETE', `/v1/moderation/takedowns/${post.id}`, moderator.headers, note)
  expect(up).toMatchObject({ status: 200, body: { id: post.id, takenDown: null } })
  await settle(edge)
  expect(await sightings(edge, content)).toEqual(SEEN)
  const { body: restored } = await send(edge, 'GET', `/v1/posts/${post.id}`, asFan)
  expect(restored).toMatchObject({ likesCount: 2, commentsCount: 2, version: 1, text: content.word })
  const like = await send(edge, 'PUT', `/v1/posts/${post.id}/like`, asFan)
  expect(like.body).toEqual({ liked: true, likes: 3 })

  expect(
    (await typesAbout(post.id)).filter(([type]) => type !== 'counter_update' && type !== 'comment_created'),
  ).toEqual([
    ['post_created', 'everyone'],
    ['post_deleted', 'everyone'],
    ['content_taken_down', 'services'],
    ['post_created', 'everyone'],
    ['content_restored', 'services'],
  ])
  const { body: log } = await send<{ items: object[] }>(edge, 'GET', '/v1/moderation/log?limit=2', moderator.headers)
  const by = { subjectId: post.id, tokenId: moderator.id, tokenName: moderator.name, note: note.note }
  expect(log.items).toMatchObject([
    { action: 'restore', ...by },
    { action: 'take-down', ...by },
  ])
})

test('another isolate answers 404 for what was taken down once its memory is as old as MEMORY_SECONDS', async () => {
  const edge = newEdge()
  const { post, asFan } = await newContent(edge)
  const memorySeconds = 5
  const other = newEdge({ MEMORY_SECONDS: String(memorySeconds) }, edge.token)
  const paths = [`/v1/posts/${post.id}`, `/v1/posts/${post.id}/comments`]
  const statuses = async () => {
    const found = []
    for (const path of paths) found.push((await send(other, 'GET', path, asFan)).status)
    await other.settle()
    return found
  }
  vi.useFakeTimers({ toFake: ['Date'] }) // the clock of both isolates stands still
  onTestFinished(() => void vi.useRealTimers())
  const readAt = Date.now()
  expect(await statuses()).toEqual([200, 200])
  expect((await send(edge, 'PUT', `/v1/moderation/takedowns/${post.id}`, root, note)).status).toBe(200)
  await settle(edge)
  vi.setSystemTime(readAt + memorySeconds * 1_000 - 1)
  expect((await statuses())[0]).toBe(200) // from memory
  vi.setSystemTime(readAt + memorySeconds * 1_000)
  expect(await statuses()).toEqual([404, 404])
  expect((await send(edge, 'GET', `/v1/moderation/contents/${post.id}`, root)).status).toBe(200)
})

test('a comment that is taken down leaves the count of its post, and comes back with its likes', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const { post, comments, asFan } = await newContent(edge)
  const id = comments[0]?.id ?? ''
  await send(edge, 'PUT', `/v1/comments/${id}/like`, asFan)
  await settle(edge)
  const read = async () => {
    const { body } = await send<{ items: { id: string; likesCount: number }[] }>(
      edge,
      'GET',
      `/v1/posts/${post.id}/comments`,
      {},
    )
    const { body: shown } = await send<{ commentsCount: number }>(edge, 'GET', `/v1/posts/${post.id}`, {})
    return [shown.commentsCount, body.items.find((item) => item.id === id)?.likesCount]
  }
  // The like is still on its way to D1.
  expect((await send(edge, 'PUT', `/v1/moderation/takedowns/${id}`, root, note)).status).toBe(200)
  await settle(edge)
  expect(await read()).toEqual([1, undefined])
  expect((await send(edge, 'GET', `/v1/moderation/contents/${id}`, root)).body).toMatchObject({
    postId: post.id,
    takenDown: note,
  })
  expect((await send(edge, 'DELETE', `/v1/moderation/takedowns/${id}`, root, note)).status).toBe(200)
  await settle(edge)
  expect((await read())[0]).toBe(2)
})

test('replies to a comment that is taken down move up and stay there; it comes back below what is there', async () => {
  const edge = newEdge()
  const moderator = await newModerator(edge)
  const [author, fan] = [await addUser(), await addUser()]
  const [asAuthor, asFan] = [await edge.signIn(author), await edge.signIn(fan)]
  const say = async (path: string, headers: object, text: string, parentId?: string) =>
    (await send<{ id: string }>(edge, 'POST', path, headers, { text, ...(parentId && { parentId }) })).body.id
  const post = await say('/v1/posts', asAuthor, 'Hello')
  const path = `/v1/posts/${post}/comments`
  const top = await say(path, asFan, 'Top')
  const middle = await say(path, asFan, `Middle @${author.username}`, top)
  const leaf = await say(path, asAuthor, 'Leaf', middle)
  const outer = await say('/v1/posts', asFan, `Hello @${author.username}`)
  const counts = async () => {
    const [row] = await db.select().from(t.posts).where(eq(t.posts.id, post))
    const rows = await db.select().from(t.comments).where(eq(t.comments.postId, post)).orderBy(t.comments.id)
    return [row?.commentsCount, rows.map(({ id, parentId, repliesCount }) => [id, parentId, repliesCount])]
  }
  const takedown = (method: string, id: string) =>
    send(edge, method, `/v1/moderation/takedowns/${id}`, moderator.headers, note)
  await settle(edge)

  expect((await takedown('PUT', middle)).status).toBe(200)
  await settle(edge)
  expect(await counts()).toEqual([
    2,
    [
      [top, null, 1],
      [leaf, top, 0],
    ],
  ])
  const deleted = await db.select().from(t.events).where(eq(t.events.type, 'comment_deleted'))
  expect(deleted.map(({ data }) => data)).toContainEqual({
    commentId: middle,
    postId: post,
    authorId: fan.id,
    parentId: top,
  })
  expect((await takedown('DELETE', middle)).status).toBe(200)
  await settle(edge)
  expect(await counts()).toEqual([
    3,
    [
      [top, null, 2],
      [middle, top, 0],
      [leaf, top, 0],
    ],
  ])

  await takedown('PUT', middle)
  await takedown('PUT', top)
  await takedown('DELETE', middle)
  expect(await counts()).toEqual([
    2,
    [
      [middle, null, 0],
      [leaf, null, 0],
    ],
  ])
  await takedown('DELETE', top)

  // What is taken down names nobody, and names them again once it is restored.
  const named = async () => {
    const { body } = await send<{ items: { type: string; postId: string }[] }>(
      edge,
      'GET',
      '/v1/notifications',
      asAuthor,
    )
    return body.items.filter(({ type, postId }) => type === 'mention' && postId === outer).length
  }
  expect(await named()).toBe(1)
  await takedown('PUT', outer)
  await settle(edge)
  expect(await named()).toBe(0)
  await takedown('DELETE', outer)
  await settle(edge)
  expect(await named()).toBe(1)

  // A deleted comment that keeps its place is no content to moderate.
  const kept = await say(path, asFan, 'Kept')
  await say(path, asAuthor, 'Below', kept)
  await send(edge, 'DELETE', `/v1/comments/${kept}`, asFan)
  expect((await takedown('PUT', kept)).status).toBe(404)
  const report = { subjectId: kept, reason: 'spam' }
  expect((await send(edge, 'POST', '/v1/reports', asAuthor, report)).status).toBe(404)
})

test('a stream that resumes gets a post that was taken down without its text, and its removal', async () => {
  const edge = newEdge()
  const headers = await edge.signIn(await addUser())
  const word = newWord()
  async function write(text: string): Promise<string> {
    const { body } = await send<{ id: string }>(edge, 'POST', '/v1/posts', headers, { text })
    await until(() => edge.events.sent.length > 0) // after the answer
    expect(await edge.dispatch()).toBe(0)
    return body.id
  }
  const live = await open(edge, {}, 'channels=post_events')
  await write('Hello')
  await live.event()
  const seen = live.lastEventId()
  const id = await write(word)
  expect(await live.event()).toMatchObject({ type: 'post_created', data: { postId: id, text: word, version: 1 } })
  await send(edge, 'PUT', `/v1/moderation/takedowns/${id}`, root, note)
  await until(() => edge.events.sent.length > 0)
  await edge.dispatch()
  expect(await live.event()).toMatchObject({ type: 'post_deleted', data: { postId: id } })

  const resumed = await open(edge, { 'Last-Event-ID': seen }, 'channels=post_events')
  const [created, deleted] = [await resumed.event(), await resumed.event()]
  expect(created).toMatchObject({ type: 'post_created', data: { postId: id, version: 1 } })
  expect(created.data).not.toHaveProperty('text')
  expect(deleted).toMatchObject({ type: 'post_deleted', data: { postId: id } })
  await Promise.all([live.close(), resumed.close()])
  await edge.settle()
})

test('a suspended account cannot sign in and its sessions end, until it is reinstated', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0' })
  const moderator = await newModerator(edge)
  const password = 'correct-horse-battery'
  const user = await addUser({ passwordHash: quickHash(password) })
  const signIn = () =>
    send<{ token: string; type: string }>(edge, 'POST', '/v1/sessions', {}, { login: user.username, password })
  const { body: session } = await signIn()
  const headers = { Authorization: `Bearer ${session.token}` }
  expect((await send(edge, 'GET', '/v1/sessions', headers)).status).toBe(200)

  for (let i = 0; i < 2; i += 1) {
    const suspended = await send(edge, 'PUT', `/v1/moderation/suspensions/${user.id}`, moderator.headers, note)
    expect(suspended.status).toBe(204)
    await edge.settle()
  }
  expect((await send(edge, 'GET', '/v1/sessions', headers)).status).toBe(401)
  expect((await send(newEdge({}, edge.token), 'GET', '/v1/sessions', headers)).status).toBe(401)
  expect(await signIn()).toMatchObject({ status: 403, body: { type: '/problems/suspended' } })
  const wrong = { login: user.username, password: 'another-password' }
  expect((await send(edge, 'POST', '/v1/sessions', {}, wrong)).status).toBe(401) // strangers do not learn of it

  await send(edge, 'DELETE', `/v1/moderation/suspensions/${user.id}`, moderator.headers, note)
  expect((await send(edge, 'GET', '/v1/sessions', headers)).status).toBe(401)
  expect((await signIn()).status).toBe(201)
  expect(await typesAbout(user.id)).toEqual([
    ['user_suspended', 'services'],
    ['user_reinstated', 'services'],
  ])
  const log = await db.select().from(t.moderationLog).where(eq(t.moderationLog.subjectId, user.id))
  expect(log.map(({ action, tokenId }) => [action, tokenId])).toEqual([
    ['suspend', moderator.id],
    ['reinstate', moderator.id],
  ])
})

test('without Redis a suspension ends the sessions in D1, and the cron brings it to Redis', async () => {
  const lab = newLab()
  const { id, headers } = await lab.member()
  expect((await send(lab.edge, 'GET', '/v1/sessions', headers)).status).toBe(200) // Redis holds the session
  await lab.redis.fault({ kind: 'refuse' })
  expect((await send(lab.edge, 'PUT', `/v1/moderation/suspensions/${id}`, root, note)).status).toBe(204)
  await lab.edge.settle()
  await lab.redis.reset()
  const edge = lab.newIsolate({ LOCK_SECONDS: '30' })
  await edge.cron()
  expect((await send(lab.newIsolate(), 'GET', '/v1/sessions', headers)).status).toBe(401)
  await edge.settle()
})

test('a member reports a subject once; moderators list reports and resolve those about a subject', async () => {
  const edge = newEdge()
  const moderator = await newModerator(edge)
  const { post, comments, asFan, asAuthor } = await newContent(edge)
  const report = (headers: object, reason = 'spam', subjectId = post.id) =>
    send<{ id: string }>(edge, 'POST', '/v1/reports', headers, { subjectId, reason, text: 'Look at this' })
  const [first, second] = [await report(asFan), await report(asFan, 'hate')]
  expect([first.status, second]).toEqual([201, first])
  expect((await report(asAuthor)).status).toBe(201)
  expect((await report(asFan, 'spam', 'p_nothing')).status).toBe(404)
  expect((await report(asFan, 'spam', comments[0]?.id)).status).toBe(201)
  expect((await report({}, 'spam')).status).toBe(401)

  const list = async (status: string) => {
    const path = `/v1/moderation/reports?limit=100&status=${status}`
    const { body } = await send<{ items: { subjectId: string; text: string }[] }>(edge, 'GET', path, moderator.headers)
    return body.items.filter(({ subjectId }) => subjectId === post.id)
  }
  expect(await list('open')).toMatchObject([{ reason: 'spam' }, { reason: 'spam', text: 'Look at this' }])
  const resolution = { subjectId: post.id, outcome: 'dismissed', note: 'It is fine' }
  const resolve = () => send(edge, 'POST', '/v1/moderation/reports/resolve', moderator.headers, resolution)
  expect((await resolve()).body).toEqual({ resolved: 2, hasMore: false })
  expect((await resolve()).body).toEqual({ resolved: 0, hasMore: false })
  expect([await list('open'), (await list('dismissed')).length]).toEqual([[], 2])
  const types = (await typesAbout(post.id)).filter(([, audience]) => audience === 'services')
  expect(types).toEqual([
    ['report_created', 'services'],
    ['report_created', 'services'],
    ['reports_resolved', 'services'],
  ])
  const log = await db.select().from(t.moderationLog).where(eq(t.moderationLog.subjectId, post.id))
  expect(log).toMatchObject([{ action: 'dismiss-reports', note: 'It is fine', tokenName: moderator.name }])
})

test('a comment whose post was deleted meanwhile cannot be restored', async () => {
  const edge = newEdge()
  const { post, comments, asAuthor } = await newContent(edge)
  const id = comments[0]?.id ?? ''
  await send(edge, 'PUT', `/v1/moderation/takedowns/${id}`, root, note)
  await settle(edge)
  // With its post taken down it can: both may come back.
  await send(edge, 'PUT', `/v1/moderation/takedowns/${post.id}`, root, note)
  expect((await send(edge, 'DELETE', `/v1/moderation/takedowns/${id}`, root, note)).status).toBe(200)
  expect((await send(edge, 'PUT', `/v1/moderation/takedowns/${id}`, root, note)).status).toBe(200)
  await send(edge, 'DELETE', `/v1/moderation/takedowns/${post.id}`, root, note)

  expect((await send(edge, 'DELETE', `/v1/posts/${post.id}`, asAuthor)).status).toBe(204)
  await settle(edge)
  const events = await typesAbout(post.id, id)
  expect((await send(edge, 'DELETE', `/v1/moderation/takedowns/${id}`, root, note)).status).toBe(404)
  expect(await db.select().from(t.comments).where(eq(t.comments.id, id))).toEqual([])
  expect(await typesAbout(post.id, id)).toEqual(events)
})

test('a content that a backup has both up and taken down can be taken down and restored', async () => {
  const edge = newEdge()
  const { post, author } = await newContent(edge)
  const stale = { contentId: post.id, authorId: author.id, postId: post.id, content: { text: 'old' }, note: 'old' }
  await db.insert(t.takedowns).values({ ...stale, createdAt: 1 })
  const path = `/v1/moderation/takedowns/${post.id}`
  expect(await send(edge, 'PUT', path, root, note)).toMatchObject({ status: 200, body: { takenDown: note } })
  expect(await send(edge, 'DELETE', path, root, note)).toMatchObject({ status: 200, body: { takenDown: null } })
  const [row] = await db.select().from(t.posts).where(eq(t.posts.id, post.id))
  expect(row).toMatchObject({ likesCount: 3, commentsCount: 2 })
})

test('reports are limited', async () => {
  const edge = newEdge({ LIMIT_WRITES: '1' })
  const [ada, bob] = [await addUser(), await addUser()]
  const headers = await edge.signIn(ada)
  const statuses = []
  for (const subjectId of [bob.id, bob.id]) {
    statuses.push((await send(edge, 'POST', '/v1/reports', headers, { subjectId, reason: 'spam' })).status)
  }
  expect(statuses).toEqual([201, 429])
})

test('what belongs to a content that is taken down goes with the account of its author', async () => {
  const edge = newEdge()
  const { post, author } = await newContent(edge)
  await send(edge, 'PUT', `/v1/moderation/takedowns/${post.id}`, root, note)
  await settle(edge)
  await db.delete(t.users).where(eq(t.users.id, author.id))
  expect(await db.select().from(t.takedowns).where(eq(t.takedowns.contentId, post.id))).toEqual([])
  for (let minute = 1; minute <= 3; minute += 1) {
    await edge.cron(Date.now() + minute * 600_000)
    await settle(edge)
  }
  expect(await db.select().from(t.postLikes).where(eq(t.postLikes.postId, post.id))).toEqual([])
  expect(await db.select().from(t.comments).where(eq(t.comments.postId, post.id))).toEqual([])
})

test.each([
  ['POST', '/v1/reports', { subjectId: 'wh_1', reason: 'spam' }, 'body', 'subjectId'],
  ['POST', '/v1/reports', { subjectId: 'p_1', reason: 'boring' }, 'body', 'reason'],
  ['PUT', '/v1/moderation/takedowns/u_1', note, 'path', 'id'],
  ['PUT', '/v1/moderation/takedowns/p_1', {}, 'body', 'note'],
  ['PUT', '/v1/moderation/suspensions/p_1', note, 'path', 'id'],
  ['POST', '/v1/moderation/reports/resolve', { subjectId: 'p_1', outcome: 'open', note: 'a' }, 'body', 'outcome'],
])('%s %s with %j is refused, and names the field', async (method, path, body, where, field) => {
  const edge = newEdge()
  const headers = path === '/v1/reports' ? await edge.signIn(await addUser()) : root
  const sent = edge.fetch(path, { method, headers: { ...headers, ...JSON_TYPE }, body: JSON.stringify(body) })
  await expectRefused(sent, where, field)
})

test.each(['p_nothing', 'c_nothing'])('taking down or restoring %s answers 404', async (id) => {
  for (const method of ['PUT', 'DELETE']) {
    expect((await send(newEdge(), method, `/v1/moderation/takedowns/${id}`, root, note)).status).toBe(404)
  }
  for (const method of ['PUT', 'DELETE']) {
    expect((await send(newEdge(), method, '/v1/moderation/suspensions/u_nobody', root, note)).status).toBe(404)
  }
})
