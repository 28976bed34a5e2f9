import { beforeAll, expect, test, vi } from 'vitest'
import { createClient, Problem, type Session } from '../../client/index.ts'
import { migrate, newEdge } from '../edge.ts'
import { addComment, addPost, addUser } from '../rows.ts'
import { clientOf, fetchOf, losing, newMember, serviceOf } from './world.ts'

beforeAll(migrate)

const refusal = async (call: Promise<unknown>): Promise<Problem> => {
  const error = await call.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (!(error instanceof Problem)) throw new Error('the API did not refuse', { cause: error })
  return error
}

/** Answers with these, one after the other. The last one repeats. */
function scripted(...answers: (() => Response)[]) {
  const sent: { url: string; init: RequestInit }[] = []
  const fetch = async (url: string, init: RequestInit) => {
    sent.push({ url, init })
    const answer = answers[Math.min(sent.length, answers.length) - 1]
    if (!answer) throw new Error('there is no answer')
    return answer()
  }
  return { fetch, sent }
}

const problem =
  (status: number, type: string, headers: Record<string, string> = {}, more = {}) =>
  () =>
    new Response(JSON.stringify({ type: `https://edge.test/problems/${type}`, title: type, status, ...more }), {
      status,
      headers: { 'Content-Type': 'application/problem+json', ...headers },
    })

test('a member signs up, signs in, writes, and signs out', async () => {
  const edge = newEdge()
  const sessions: (Session | undefined)[] = []
  const client = clientOf(edge, { onSession: (session) => sessions.push(session) })
  const account = { username: 'signed_up', password: 'correct-horse-battery' }
  const user = await client.signUp({ ...account, email: 'signed_up@example.test', displayName: 'Member' })
  const { token } = await client.signIn({ login: account.username, password: account.password })
  expect(client.session).toEqual({ token, expiresAt: expect.any(String) })

  const post = await client.createPost({ text: 'Hello' })
  expect(post).toMatchObject({ authorId: user.id, text: 'Hello', likesCount: 0 })
  expect(await client.likePost({ id: post.id })).toEqual({ liked: true, likes: 1 })
  expect(await client.getPost({ id: post.id })).toMatchObject({ likedByMe: true })
  expect(await client.getUser({ id: user.id })).toMatchObject({ email: user.email })

  expect(await client.signOut()).toBe(undefined)
  expect(client.session).toBe(undefined)
  expect(sessions).toEqual([{ token, expiresAt: expect.any(String) }, undefined])
  expect((await refusal(client.createPost({ text: 'Again' }))).type).toBe('not-signed-in')
  await edge.settle()
})

test('a stored session continues, and a session that was ended elsewhere is forgotten', async () => {
  const edge = newEdge()
  const { client, login, password } = await newMember(edge)
  const sessions: (Session | undefined)[] = []
  const later = clientOf(edge, { session: client.session, onSession: (session) => sessions.push(session) })
  expect((await later.listSessions()).items).toHaveLength(1)

  await client.signOutEverywhere()
  expect((await refusal(later.sendHeartbeat())).type).toBe('not-signed-in')
  expect([later.session, sessions]).toEqual([undefined, [undefined]])

  await later.signIn({ login, password })
  expect((await later.listSessions()).items).toHaveLength(1)
  await edge.settle()
})

test('a late refusal of an earlier session does not end the present one', async () => {
  const edge = newEdge()
  const { client, login, password, token } = await newMember(edge)
  let release = () => {}
  const send = fetchOf(edge)
  const slow = clientOf(edge, {
    session: client.session,
    fetch: async (url, init) => {
      const response = await send(url, init)
      if (url.endsWith('/heartbeat')) await new Promise<void>((resolve) => (release = resolve))
      return response
    },
  })
  await client.signOut()
  const late = refusal(slow.sendHeartbeat())
  await slow.signIn({ login, password })
  release()
  expect((await late).type).toBe('not-signed-in')
  expect(slow.session?.token).toEqual(expect.any(String))
  expect(slow.session?.token).not.toBe(token)
  await edge.settle()
})

test('with cookies, the client keeps no token and asks the browser to send them', async () => {
  const user = { id: 'u_ada' }
  const answers = scripted(
    () => Response.json({ token: 'secret', expiresAt: '2030-01-01T00:00:00Z', user }, { status: 201 }),
    () => Response.json({ items: [], nextCursor: null }),
  )
  const client = createClient({ url: 'https://api.test/', auth: 'cookie', fetch: answers.fetch })
  await client.signIn({ login: 'ada', password: 'secret' })
  expect(client.session).toEqual({ expiresAt: '2030-01-01T00:00:00Z' })
  await client.listFeed()
  for (const { init } of answers.sent) {
    expect(init).toHaveProperty('credentials', 'include')
    expect(init.headers).not.toHaveProperty('Authorization')
  }
  expect(answers.sent.map(({ url }) => url)).toEqual(['https://api.test/v1/sessions', 'https://api.test/v1/feed'])
})

test('a post and a comment whose answers are lost are written once', async () => {
  const edge = newEdge()
  const { client, user } = await newMember(edge)
  const lossy = losing(edge, /^POST .*(posts|comments)$/, 2)
  const writer = clientOf(edge, { session: client.session, fetch: lossy.fetch })
  const post = await writer.createPost({ text: 'Once' })
  expect(lossy.requests()).toBe(3)
  expect((await writer.listUserPosts({ id: user.id })).items.map(({ id }) => id)).toEqual([post.id])
  await writer.createComment({ id: post.id, text: 'Once' }, { idempotencyKey: 'mine' })
  await writer.createComment({ id: post.id, text: 'Once' }, { idempotencyKey: 'mine' })
  expect((await writer.listComments({ id: post.id })).items).toHaveLength(1)
  await edge.settle()
})

test('an event and a lock whose answers are lost exist once', async () => {
  const edge = newEdge()
  const lossy = losing(edge, /^POST/, 1)
  const service = serviceOf(edge, lossy.fetch)
  const lock = await service.acquireLock({ name: 'reports', ttlMs: 60_000 })
  expect(lossy.requests()).toBe(2)
  const held = await refusal(serviceOf(edge).acquireLock({ name: 'reports', ttlMs: 60_000 }))
  expect(held.type).toBe('lock-held')
  await service.extendLock({ name: 'reports', owner: lock.owner })

  const lossyEvents = losing(edge, /^POST/, 1)
  await serviceOf(edge, lossyEvents.fetch).publishEvent({ channel: 'custom_test', type: 'said', data: {} })
  expect(lossyEvents.requests()).toBe(2)
  await edge.settle()
  expect(new Set(edge.events.sent.map(({ body }) => JSON.stringify(body))).size).toBe(1)
})

test.each([
  ['a sign-up', /^POST .*users$/],
  ['an edit', /^PATCH/],
])('%s whose answer is lost is not repeated: the caller decides', async (_, match) => {
  const edge = newEdge()
  const { client } = await newMember(edge)
  const lossy = losing(edge, match)
  const other = clientOf(edge, { session: client.session, fetch: lossy.fetch })
  const write = match.source.includes('PATCH')
    ? other.updateProfile({ bio: 'Hi' })
    : other.signUp({ username: 'lost_one', email: 'lost@example.test', password: '12345678', displayName: 'Lost' })
  await expect(write).rejects.toThrow('The connection was lost')
  expect(lossy.requests()).toBe(1)
  await edge.settle()
})

test('a list gives its first page, or all items page by page', async () => {
  const edge = newEdge()
  const author = await addUser()
  const post = await addPost({ authorId: author.id })
  const start = Date.now() - 60_000
  for (let i = 0; i < 5; i += 1) {
    await addComment({ postId: post.id, authorId: author.id, text: `Comment ${i}`, createdAt: start + i })
  }
  const { fetch, requests } = losing(edge, /comments/, 0)
  const client = clientOf(edge, { fetch })
  const first = await client.listComments({ id: post.id, limit: 2 })
  expect([first.items.length, typeof first.nextCursor]).toEqual([2, 'string'])

  const texts: string[] = []
  for await (const comment of client.listComments({ id: post.id, limit: 2 })) texts.push(comment.text)
  expect(texts.toSorted()).toEqual(['Comment 0', 'Comment 1', 'Comment 2', 'Comment 3', 'Comment 4'])
  expect(requests()).toBe(1 + 3)

  for await (const { text } of client.listComments({ id: post.id, limit: 2 })) if (text) break
  expect(requests()).toBe(1 + 3 + 1) // no page that nobody reads

  const { items } = await client.getUsers({ ids: [author.id, 'u_nobody'] })
  expect(items.map(({ id }) => id)).toEqual([author.id])
  await edge.settle()
})

test('a refusal is a problem with its type, its fields and its status', async () => {
  const edge = newEdge()
  const { client } = await newMember(edge)
  const invalid = await refusal(client.updateProfile({ displayName: '', bio: 'x'.repeat(200) }))
  expect(invalid).toMatchObject({ type: 'invalid-request', status: 400 })
  expect(invalid.errors.map(({ field }) => field)).toEqual(['displayName', 'bio'])
  expect(invalid.message).toContain('displayName')

  const post = await client.createPost({ text: 'One' })
  await client.updatePost({ id: post.id, text: 'Two' }, { ifMatch: post.version })
  const changed = await refusal(client.updatePost({ id: post.id, text: 'Three' }, { ifMatch: post.version }))
  expect(changed).toMatchObject({ type: 'version-changed', status: 412, errors: [] })

  expect(await refusal(client.getUserByUsername({ username: 'no/body?' }))).toMatchObject({ type: 'invalid-request' })
  for (const id of ['', '.', '..']) await expect(client.getUser({ id })).rejects.toThrow('id is required')
  await edge.settle()
})

test('an answer that is not a problem document is an unknown problem', async () => {
  const { fetch } = scripted(() => new Response('<h1>Not here</h1>', { status: 404 }))
  expect(await refusal(createClient({ fetch }).getHealth())).toMatchObject({ type: 'unknown', status: 404 })
  const listed = scripted(() => new Response('[1]', { status: 409 }))
  expect(await refusal(createClient(listed).getHealth())).toMatchObject({ type: 'unknown', status: 409 })
})

test.each([
  [429, 'rate-limited', 'signUp'],
  [503, 'unavailable', 'getHealth'],
] as const)('after a %i the client waits as long as Retry-After says, then repeats', async (status, type, method) => {
  vi.useFakeTimers()
  try {
    const { fetch, sent } = scripted(problem(status, type, { 'Retry-After': '7' }), () =>
      Response.json({ status: 'alive' }),
    )
    const client = createClient({ fetch })
    const account = { username: 'ada', email: 'ada@example.test', password: '12345678', displayName: 'Ada' }
    const answer = method === 'signUp' ? client.signUp(account) : client.getHealth()
    await vi.advanceTimersByTimeAsync(6_999)
    expect(sent).toHaveLength(1)
    await vi.advanceTimersByTimeAsync(251)
    expect(sent).toHaveLength(2)
    expect(await answer).toEqual({ status: 'alive' })
  } finally {
    vi.useRealTimers()
  }
})

test('the client does not wait for minutes, does not repeat forever, and stops by its signal', async () => {
  vi.useFakeTimers()
  try {
    const long = scripted(problem(429, 'rate-limited', { 'Retry-After': '900' }))
    expect((await refusal(createClient(long).getHealth())).retryAfter).toBe(900)
    expect(long.sent).toHaveLength(1)

    const broken = scripted(problem(503, 'unavailable'))
    const failing = refusal(createClient({ ...broken, retries: 2 }).getHealth())
    await vi.advanceTimersByTimeAsync(10_000)
    expect((await failing).type).toBe('unavailable')
    expect(broken.sent).toHaveLength(3)

    const stopping = new AbortController()
    const waiting = scripted(problem(503, 'unavailable', { 'Retry-After': '5' }))
    const stopped = createClient(waiting).getHealth({ signal: stopping.signal })
    const failure = stopped.catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(1_000)
    const enough = new Error('enough')
    stopping.abort(enough)
    expect(await failure).toBe(enough)
    await vi.advanceTimersByTimeAsync(10_000)
    expect(waiting.sent).toHaveLength(1)
  } finally {
    vi.useRealTimers()
  }
})

test('a write without a key is not repeated after a 503', async () => {
  const { fetch, sent } = scripted(problem(503, 'unavailable', {}, { retryAfter: 5 }))
  const refused = await refusal(createClient({ fetch }).signIn({ login: 'ada', password: 'secret' }))
  expect(refused).toMatchObject({ type: 'unavailable', retryAfter: 5 })
  expect(sent).toHaveLength(1)
})

test('Retry-After may be a date', async () => {
  const date = new Date(Date.now() + 600_000).toUTCString()
  const { fetch } = scripted(problem(429, 'rate-limited', { 'Retry-After': date }))
  const { retryAfter = 0 } = await refusal(createClient({ fetch }).getHealth())
  expect(retryAfter).toBeGreaterThan(500)
  expect(retryAfter).toBeLessThan(601)
})
