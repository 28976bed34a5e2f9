import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { type Operation, readOperations } from '../docs/document.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { addComment, addFollow, addPost, addUser } from '../rows.ts'
import { newReader } from '../streams/reader.ts'

beforeAll(migrate)

/**
 * Who calls, in relation to the author of what the operation is about. From `follower` on, both follow each other at
 * first. `blocked`: the author blocks the caller. `blocker`: the caller blocks the author. `muted`: the author mutes the
 * caller. `muter`: the caller mutes the author.
 */
const CALLERS = ['anonymous', 'stranger', 'follower', 'blocked', 'blocker', 'muted', 'muter'] as const
type Caller = (typeof CALLERS)[number]

/** What the caller gets, in the order of `CALLERS`. `-` is a refusal for want of a session (401). */
const EXPECTED = {
  /** Public content: a block hides it from both sides. */
  content: 'seen seen seen hidden hidden seen seen',
  /** The same where it needs a session. */
  'feed of follows': '- hidden seen hidden hidden seen hidden',
  'feed for everyone': 'seen seen seen hidden hidden seen hidden',
  'feed for members': '- seen seen hidden hidden seen hidden',
  /** What the caller learns of the author / what the author learns of the caller. */
  inbox: '- hidden/hidden seen/seen hidden/hidden hidden/hidden seen/hidden hidden/seen',
  /** New posts / everything else. */
  stream: 'seen/seen seen/seen seen/seen hidden/hidden hidden/hidden seen/seen hidden/seen',
  /** Reaches the author or the author's content. What a block refuses answers as if it did not exist. */
  'reaching write': '- 200 200 404 404 200 200',
  'reaching creation': '- 201 201 404 404 201 201',
  view: '200 200 200 404 404 200 200',
  /** Takes back what is the caller's own. */
  'taking back': '- 200 200 200 200 200 200',
  /** Only the author may. The author and the post exist for whoever sees them. */
  "author's": '- 403 403 404 404 403 403',
  /** Protects the caller: never refused. */
  protection: '- 200 200 200 200 200 200',
  /** The same, where it creates something. */
  report: '- 201 201 201 201 201 201',
  /** Concerns the caller, or nobody: the relation changes nothing. */
  unrelated: 'same same same same same same same',
  "member's own": '- same same same same same same',
  service: '- - - - - - -',
} as const
type Expectation = keyof typeof EXPECTED

/** A request of an operation, where the path alone does not make one. `{author}`, `{post}` and so on are the world's. */
interface Asked {
  path?: string
  body?: object
}

/** Every operation of the document. One that is not here fails the first test. */
const DECLARED: Record<string, [Expectation, Asked?]> = {
  'GET /v1/users': ['content', { path: '/v1/users?ids={other},{author}' }],
  'GET /v1/users/by-username/{username}': ['content', { path: '/v1/users/by-username/{username}' }],
  'GET /v1/users/{id}': ['content'],
  'GET /v1/users/{id}/followers': ['content', { path: '/v1/users/{other}/followers' }],
  'GET /v1/users/{id}/followings': ['content', { path: '/v1/users/{other}/followings' }],
  'GET /v1/users/{id}/posts': ['content'],
  'GET /v1/posts': ['content', { path: '/v1/posts?ids={elsewhere},{post}' }],
  'GET /v1/posts/hot': ['feed for everyone', { path: '/v1/posts/hot?limit=100' }],
  'GET /v1/posts/{id}': ['content'],
  'GET /v1/posts/{id}/comments': ['content', { path: '/v1/posts/{elsewhere}/comments' }],
  'GET /v1/comments/{id}/replies': ['content', { path: '/v1/comments/{said}/replies' }],
  'GET /v1/feed': ['feed of follows'],
  'GET /v1/recommendations': ['feed for members', { path: '/v1/recommendations?limit=50' }],
  'GET /v1/search': ['content', { path: '/v1/search?q={word}' }],
  'GET /v1/presence': ['content', { path: '/v1/presence?ids={author}' }],
  'GET /v1/notifications': ['inbox'],
  'GET /v1/events/stream': ['stream'],

  'PUT /v1/users/{id}/follow': ['reaching write'],
  'DELETE /v1/users/{id}/follow': ['reaching write'],
  'PUT /v1/posts/{id}/like': ['reaching write'],
  'DELETE /v1/posts/{id}/like': ['taking back'],
  'PUT /v1/comments/{id}/like': ['reaching write'],
  'DELETE /v1/comments/{id}/like': ['taking back'],
  'POST /v1/posts/{id}/comments': ['reaching creation', { body: { text: 'Well said' } }],
  'POST /v1/posts/{id}/views': ['view'],
  'PATCH /v1/posts/{id}': ["author's", { body: { text: 'Changed' } }],
  'DELETE /v1/posts/{id}': ["author's"],
  'PATCH /v1/comments/{id}': ["author's", { body: { text: 'Changed' } }],
  'DELETE /v1/comments/{id}': ["author's"],
  'PUT /v1/users/{id}/block': ['protection'],
  'DELETE /v1/users/{id}/block': ['protection'],
  'PUT /v1/users/{id}/mute': ['protection'],
  'DELETE /v1/users/{id}/mute': ['protection'],
  'POST /v1/reports': ['report', { body: { subjectId: '{author}', reason: 'spam' } }],

  'GET /v1/users/me/blocks': ["member's own"],
  'GET /v1/users/me/mutes': ["member's own"],
  'PATCH /v1/users/me': ["member's own", { body: { bio: 'Changed' } }],
  'GET /v1/users/me/export': ["member's own"],
  'DELETE /v1/users/me': ["member's own", { body: {} }],
  'POST /v1/users/me/password': ["member's own", { body: {} }],
  'POST /v1/email-verifications': ["member's own", { body: {} }],
  'GET /v1/sessions': ["member's own"],
  'DELETE /v1/sessions': ["member's own"],
  'DELETE /v1/sessions/current': ["member's own"],
  'POST /v1/posts': ["member's own", { body: { text: 'Hello' } }],
  'POST /v1/presence/heartbeat': ["member's own"],
  'PATCH /v1/presence': ["member's own", { body: { visibility: 'everyone' } }],
  'DELETE /v1/presence': ["member's own"],
  'POST /v1/notifications/read': ["member's own", { body: {} }],

  'GET /healthz': ['unrelated'],
  'GET /readyz': ['unrelated'],
  'GET /v1/rate-limit': ['unrelated'],
  'POST /v1/users': ['unrelated', { body: {} }],
  'POST /v1/sessions': ['unrelated', { body: {} }],
  'POST /v1/password-resets': ['unrelated', { body: {} }],
  'PUT /v1/password-resets': ['unrelated', { body: {} }],
  'PUT /v1/email-verifications': ['unrelated', { body: {} }],

  'GET /metrics': ['service'],
  'GET /v1/stats': ['service'],
  'GET /v1/stats/route': ['service'],
  'POST /v1/maintenance': ['service'],
  'GET /v1/moderation/contents/{id}': ['service'],
  'GET /v1/moderation/log': ['service'],
  'GET /v1/moderation/reports': ['service'],
  'POST /v1/moderation/reports/resolve': ['service'],
  'PUT /v1/moderation/suspensions/{id}': ['service'],
  'DELETE /v1/moderation/suspensions/{id}': ['service'],
  'PUT /v1/moderation/takedowns/{id}': ['service'],
  'DELETE /v1/moderation/takedowns/{id}': ['service'],
  'POST /v1/backup': ['service'],
  'GET /v1/backup/{table}': ['service'],
  'GET /v1/backup/{date}/{file}': ['service'],
  'PUT /v1/restore': ['service'],
  'POST /v1/restore/{table}': ['service'],
  'DELETE /v1/restore': ['service'],
  'POST /v1/cache/invalidate': ['service'],
  'POST /v1/events': ['service'],
  'POST /v1/listeners/{name}/rebuild': ['service'],
  'POST /v1/locks/{name}': ['service'],
  'PATCH /v1/locks/{name}': ['service'],
  'DELETE /v1/locks/{name}': ['service'],
  'POST /v1/service-tokens': ['service'],
  'GET /v1/service-tokens': ['service'],
  'POST /v1/service-tokens/{id}/rotate': ['service'],
  'DELETE /v1/service-tokens/{id}': ['service'],
  'POST /v1/webhooks': ['service'],
  'GET /v1/webhooks': ['service'],
  'GET /v1/webhooks/{id}': ['service'],
  'PATCH /v1/webhooks/{id}': ['service'],
  'DELETE /v1/webhooks/{id}': ['service'],
  'POST /v1/webhooks/{id}/enable': ['service'],
  'POST /v1/webhooks/{id}/pause': ['service'],
  'POST /v1/webhooks/{id}/rotate': ['service'],
  'POST /v1/webhooks/{id}/test': ['service'],
  'POST /v1/webhooks/{id}/replay': ['service'],
  'GET /v1/webhooks/{id}/deliveries': ['service'],
  'GET /v1/deliveries/{id}': ['service'],
  'POST /v1/deliveries/{id}/replay': ['service'],
  'POST /v1/webhooks/portal-links': ['service'],
}

/** Requests of a user, in an isolate. */
function as(edge: Edge, headers: Record<string, string>) {
  const ask = (method: string, path: string, body?: object) =>
    edge.fetch(path, {
      method,
      headers: { ...headers, 'Content-Type': 'application/json' },
      ...(body && { body: JSON.stringify(body) }),
    })
  return {
    ask,
    /** Sends what must succeed. */
    async do<T = { id: string }>(method: string, path: string, body?: object): Promise<T> {
      const response = await ask(method, path, body)
      const text = await response.text()
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
      return (text === '' ? {} : JSON.parse(text)) as T // what the API answers
    },
  }
}

/** An author with a post, a comment on another's post, and presence; and the caller in relation to the author. */
async function newWorld(caller: Caller) {
  const { LIKES } = env
  const edge = newEdge({ LIKES })
  const word = `w${crypto.randomUUID().replaceAll('-', '')}`
  const [author, other, me] = await Promise.all([addUser(), addUser(), addUser()])
  const headers = caller === 'anonymous' ? {} : await edge.signIn(me)
  const asAuthor = as(edge, await edge.signIn(author))
  const elsewhere = await addPost({ authorId: other.id, text: 'Elsewhere' })
  const said = await addComment({ postId: elsewhere.id, authorId: other.id })
  await addFollow(author.id, other.id)
  await addFollow(other.id, author.id)
  const isMember = caller !== 'anonymous' && caller !== 'stranger'
  let mine: { id: string } | undefined
  if (isMember) {
    await addFollow(me.id, author.id, Date.now() - 1_000)
    await addFollow(author.id, me.id, Date.now() - 1_000)
    mine = await addPost({ authorId: me.id })
  }
  const post = await asAuthor.do('POST', '/v1/posts', { text: `Hello ${word}` })
  await asAuthor.do('POST', `/v1/posts/${elsewhere.id}/comments`, { text: 'A comment' })
  await asAuthor.do('POST', `/v1/posts/${elsewhere.id}/comments`, { text: 'A reply', parentId: said.id })
  const comment = await addComment({ postId: post.id, authorId: author.id })
  if (mine) {
    await asAuthor.do('POST', `/v1/posts/${mine.id}/comments`, { text: 'To you' })
    await as(edge, headers).do('POST', `/v1/posts/${post.id}/comments`, { text: 'To the author' })
  }
  await asAuthor.do('POST', '/v1/presence/heartbeat')
  await edge.settle()
  await edge.dispatch()
  const asMe = as(edge, headers)
  if (caller === 'blocked') await asAuthor.do('PUT', `/v1/users/${me.id}/block`)
  if (caller === 'blocker') await asMe.do('PUT', `/v1/users/${author.id}/block`)
  if (caller === 'muted') await asAuthor.do('PUT', `/v1/users/${me.id}/mute`)
  if (caller === 'muter') await asMe.do('PUT', `/v1/users/${author.id}/mute`)
  await edge.settle()
  const names: Record<string, string> = {
    author: author.id,
    username: author.username,
    other: other.id,
    post: post.id,
    comment: comment.id,
    elsewhere: elsewhere.id,
    said: said.id,
    word,
  }
  return { edge, author, asAuthor, me, other, headers, names, elsewhere, post }
}
type World = Awaited<ReturnType<typeof newWorld>>

/** The worlds of operations that change nothing, by caller. */
const worlds = new Map<Caller, Promise<World>>()
const CHANGING = new Set<Expectation>([
  'stream',
  'reaching write',
  'reaching creation',
  'view',
  'taking back',
  "author's",
  'protection',
  "member's own",
])

function worldFor(expectation: Expectation, caller: Caller): Promise<World> {
  if (CHANGING.has(expectation)) return newWorld(caller)
  const world = worlds.get(caller) ?? newWorld(caller)
  worlds.set(caller, world)
  return world
}

const IDS: Record<string, string> = { users: 'author', posts: 'post', comments: 'comment' }

function pathOf(name: string, { path }: Asked, { names }: World): string {
  const [, pattern = ''] = name.split(' ')
  const owner = IDS[pattern.split('/')[2] ?? '']
  return (path ?? pattern)
    .replace('{id}', owner === undefined ? 'wh_unknown' : `{${owner}}`)
    .replaceAll(/\{(\w+)\}/g, (_, key: string) => names[key] ?? 'fences')
}

const bodyOf = ({ body }: Asked, { names }: World): object | undefined =>
  body && JSON.parse(JSON.stringify(body).replaceAll(/\{(\w+)\}/g, (_, key: string) => names[key] ?? key))

/** What an inbox shows of a user. */
async function inboxShows(edge: Edge, headers: Record<string, string>, userId: string): Promise<string> {
  const inbox = await as(edge, headers).do<{ items: { actorIds: string[] }[]; unreadCount: number }>(
    'GET',
    '/v1/notifications?limit=100',
  )
  const shown = inbox.items.filter(({ actorIds }) => actorIds.includes(userId)).length
  if (inbox.unreadCount < shown) throw new Error('unread notifications that are not listed')
  return shown > 0 ? 'seen' : 'hidden'
}

/** What the stream of the caller sends of the author. */
async function watch({ edge, headers, asAuthor, author, elsewhere, post, other }: World): Promise<string> {
  const channels = 'post_events,comment_events,user_events,counter_events,custom_matrix'
  const streaming = newEdge({ STREAM_LIFE_SECONDS: '60' }, edge.token) // its stream outlives the others' requests
  const response = await streaming.fetch(`/v1/events/stream?channels=${channels}`, { headers })
  const reader = newReader(response.body)
  await asAuthor.do('POST', '/v1/posts', { text: 'News' })
  await asAuthor.do('POST', `/v1/posts/${elsewhere.id}/comments`, { text: 'Another comment' })
  await as(edge, await edge.signIn(other)).do('POST', `/v1/posts/${post.id}/comments`, { text: 'On a hidden post' })
  await asAuthor.do('PATCH', '/v1/users/me', { bio: 'News' })
  await edge.settle()
  await edge.dispatch()
  const service = as(edge, { Authorization: `Bearer ${env.SERVICE_TOKEN}` })
  await service.do('POST', '/v1/events', { channel: 'custom_matrix', type: 'end', data: {}, audience: 'everyone' })
  await edge.settle()
  await edge.dispatch()
  const seen = new Set<string>()
  for (;;) {
    const { type, data } = await reader.event()
    if (type === 'end') break
    const isTheirs = data['authorId'] === author.id || data['userId'] === author.id || data['postId'] === post.id
    if (isTheirs) seen.add(type)
  }
  await reader.close()
  await streaming.settle()
  const others = ['comment_created', 'user_updated'].map((type) => seen.has(type))
  if (others[0] !== others[1]) return [...seen].join()
  return `${seen.has('post_created') ? 'seen' : 'hidden'}/${others[0] ? 'seen' : 'hidden'}`
}

/** What the caller gets of an operation. */
async function outcomeOf(name: string, expectation: Expectation, asked: Asked, caller: Caller): Promise<string> {
  const world = await worldFor(expectation, caller)
  const { edge, me, author, names, headers } = world
  const [method = ''] = name.split(' ')
  const isolates = [edge, newEdge({ LIKES: env.LIKES }, edge.token)] // the one that took the block, and a new one
  const outcomes = new Set<string>()
  for (const isolate of expectation === 'stream' ? [edge] : isolates) {
    if (expectation === 'stream') {
      outcomes.add(await watch(world))
      continue
    }
    const response = await as(isolate, headers).ask(method, pathOf(name, asked, world), bodyOf(asked, world))
    const text = await response.text()
    await isolate.settle()
    if (response.status === 401) outcomes.add('-')
    else if (expectation === 'inbox') {
      const asAuthor = await edge.signIn(author)
      outcomes.add(`${await inboxShows(isolate, headers, author.id)}/${await inboxShows(isolate, asAuthor, me.id)}`)
    } else if (EXPECTED[expectation].includes('seen')) {
      const isShown = [names['author'], names['post']].some((id) => text.includes(`"${id}"`))
      const isAbsent = response.status === 404 || (response.status === 200 && !isShown)
      // Presence lists everyone who was asked for; who is hidden appears offline.
      const isOffline = text.includes('"isOnline":false,"lastSeenAt":null')
      outcomes.add(isAbsent || isOffline ? 'hidden' : response.status === 200 ? 'seen' : String(response.status))
    } else outcomes.add(String(response.status))
    if (expectation === "member's own") break // a sign-out is not repeated
  }
  return [...outcomes].join(' then ')
}

test('every operation declares what each caller gets', async () => {
  const { operations } = await readOperations()
  expect([...operations.keys()].sort()).toEqual(Object.keys(DECLARED).sort())
})

test.each(Object.entries(DECLARED))('%s: %s', { timeout: 120_000 }, async (name, [expectation, asked = {}]) => {
  const { operations } = await readOperations()
  const operation: Operation = operations.get(name) ?? expect.fail(`${name} is not documented`)
  const outcomes = await Promise.all(CALLERS.map((caller) => outcomeOf(name, expectation, asked, caller)))
  const expected = EXPECTED[expectation].split(' ')
  const usual = outcomes.at(2) // what a follower gets
  expect(outcomes).toEqual(expected.map((outcome) => (outcome === 'same' ? usual : outcome)))
  if (usual !== undefined && /^\d+$/.test(usual)) expect(operation.responses).toHaveProperty(usual)
})
