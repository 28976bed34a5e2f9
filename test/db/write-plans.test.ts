import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { webhooks } from '../../src/db/schema.ts'
import type { LikeMessage } from '../../src/likes/schema.ts'
import { migrate, newEdge } from '../edge.ts'
import { addComment, addFollow, addLike, addPost, addUser, db, quickHash } from '../rows.ts'
import { newReader } from '../streams/reader.ts'
import { receiver } from '../webhooks/endpoints.ts'

beforeAll(migrate)

/** D1, and every statement that was prepared for it. */
function recordingDatabase() {
  const statements = new Set<string>()
  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') {
        return (statement: string) => {
          statements.add(statement)
          return target.prepare(statement)
        }
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { DB, statements }
}

/** The steps by which SQLite would run `statement`. */
async function planOf(statement: string): Promise<string[]> {
  const parameters = Array.from(statement.matchAll(/\?/g), () => 0)
  const { results } = await env.DB.prepare(`EXPLAIN QUERY PLAN ${statement}`)
    .bind(...parameters)
    .all<{ detail: string }>()
  return results.map(({ detail }) => detail)
}

test('every statement of the writes, the feed, the queue and the cron finds its rows by an index, in their order', async () => {
  const { DB, statements } = recordingDatabase()
  const sent: LikeMessage[] = []
  const edge = newEdge({
    DB,
    ALLOW_PRIVATE_WEBHOOKS: 'true',
    LIKES: { send: async (message: LikeMessage) => void sent.push(message) },
  })
  const [ada, bob] = [await addUser(), await addUser()]
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  const send = async (method: string, path: string, body?: unknown, more = {}) => {
    const response = await edge.fetch(path, {
      method,
      headers: { ...headers, 'Idempotency-Key': crypto.randomUUID(), 'If-Match': '*', ...more },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    expect([method, path, response.ok]).toEqual([method, path, true])
    return response
  }
  await send('PATCH', '/v1/users/me', { bio: 'Hello' })
  await send('PUT', `/v1/users/${bob.id}/follow`)
  for (const action of ['block', 'mute']) {
    await send('PUT', `/v1/users/${bob.id}/${action}`)
    await send('DELETE', `/v1/users/${bob.id}/${action}`)
  }
  const { id } = await (await send('POST', '/v1/posts', { text: 'Hello' })).json<{ id: string }>()
  await send('PATCH', `/v1/posts/${id}`, { text: `Hello @${bob.username}!` })
  const commented = await send('POST', `/v1/posts/${id}/comments`, { text: 'Hello' })
  const comment = await commented.json<{ id: string }>()
  await send('PATCH', `/v1/comments/${comment.id}`, { text: `Hello @${bob.username}!` })
  const replied = await send('POST', `/v1/posts/${id}/comments`, { text: 'Hi', parentId: comment.id })
  const reply = await replied.json<{ id: string }>()
  await send('PUT', `/v1/posts/${id}/like`)
  await send('PUT', `/v1/comments/${comment.id}/like`)
  await send('POST', `/v1/posts/${id}/views`)
  await send('POST', '/v1/presence/heartbeat')
  await send('PATCH', '/v1/presence', { visibility: 'followers' })
  const stream = await send('GET', '/v1/events/stream?channels=custom_plans')
  await edge.fetch('/v1/events', {
    method: 'POST',
    headers: { ...headers, Authorization: `Bearer ${env.SERVICE_TOKEN}` },
    body: JSON.stringify({ channel: 'custom_plans', type: 'said', data: {}, subject: bob.id, audience: 'followers' }),
  })
  const reader = newReader(stream.body)
  const reading = reader.event()
  for (let i = 0; i < 200 && (await Promise.race([reading, scheduler.wait(20)])) === undefined; i += 1)
    await edge.dispatch()
  await reader.close()
  await send('GET', `/v1/presence?ids=${ada.id},${bob.id}`)
  await send('GET', '/v1/presence')
  await edge.deliver(sent)
  await edge.dispatch() // while the comment is there
  await send('POST', '/v1/notifications/read', {})
  await edge.cron()
  await edge.cron(Date.now() + 3_600_000) // when ada has long been silent
  await send('DELETE', '/v1/presence')
  await send('DELETE', `/v1/comments/${comment.id}`)
  await send('DELETE', `/v1/comments/${reply.id}`)
  await send('GET', '/v1/feed')
  await send('GET', '/v1/feed?cursor=p_1')
  await send('DELETE', `/v1/posts/${id}`)
  await send('DELETE', `/v1/users/${bob.id}/follow`)
  const account = { username: 'planner', email: 'planner@example.test', password: 'correct horse', displayName: 'P' }
  await send('POST', '/v1/users', account)
  await send('GET', '/v1/sessions')
  await send('POST', '/v1/sessions', { login: account.username, password: account.password }) // and ends this one
  headers.Authorization = `Bearer ${env.SERVICE_TOKEN}`
  await send('POST', '/v1/cache/invalidate', { users: [bob.id], posts: [id], hot: true })
  await send('POST', '/v1/maintenance')
  const service = { Authorization: 'Bearer a-service-token-for-tests' }
  const to = receiver()
  const hooks = async (method: string, path: string, body?: unknown) => {
    const init = body === undefined ? {} : { body: JSON.stringify(body) }
    const answered = await edge.fetch(path, { method, headers: { ...headers, ...service }, ...init })
    expect([path, answered.ok]).toEqual([path, true])
    return answered.status === 204 ? { id: '' } : answered.json<{ id: string }>()
  }
  const hook = await hooks('POST', '/v1/webhooks', { url: to.url, channels: ['custom_orders'] })
  await hooks('PATCH', `/v1/webhooks/${hook.id}`, { description: 'All' })
  await hooks('POST', `/v1/webhooks/${hook.id}/rotate`)
  await to.plan({ status: 500 }, { status: 410 }, {})
  const order = { channel: 'custom_orders', type: 'paid', data: {} }
  await send('POST', '/v1/events', order, service)
  await addComment({ postId: (await addPost({ authorId: bob.id, likesChangedAt: Date.now() })).id, authorId: bob.id })
  await send('POST', '/v1/listeners/notifications/rebuild', undefined, service)
  for (const name of ['search', 'recommendations']) {
    await send('POST', `/v1/listeners/${name}/rebuild`, undefined, service)
  }
  await edge.settle()
  await edge.dispatch()
  for (let i = 0; i < 2; i += 1) await edge.deliver(edge.deliveries.take(), 'deliveries') // disabled by then
  const since = { since: new Date(Date.now() - 60_000).toISOString() }
  const replay = async (includeDelivered: boolean) => {
    await hooks('POST', `/v1/webhooks/${hook.id}/replay`, { ...since, includeDelivered })
    for (let i = 0; i < 3; i += 1) await edge.deliver(edge.deliveries.take(), 'deliveries')
  }
  await hooks('POST', `/v1/webhooks/${hook.id}/enable`)
  await replay(false)
  await replay(true)
  await hooks('POST', `/v1/webhooks/${hook.id}/pause`)
  const listed = await edge.fetch(`/v1/webhooks/${hook.id}/deliveries`, { headers: service })
  const [delivery] = (await listed.json<{ items: { id: string }[] }>()).items
  await hooks('POST', `/v1/deliveries/${delivery?.id}/replay`)
  await edge.deliver([{ kind: 'wake', webhookId: hook.id }], 'deliveries')
  await db.update(webhooks).set({ status: 'disabled', disabledReason: 'failing', wakeAt: 1 })
  await edge.cron()
  await edge.deliver(edge.deliveries.take(), 'deliveries') // probed
  await db.update(webhooks).set({ failures: 9, openUntil: 1 })
  await hooks('POST', `/v1/deliveries/${delivery?.id}/replay`)
  await edge.deliver(edge.deliveries.take(), 'deliveries')
  await hooks('DELETE', `/v1/webhooks/${hook.id}`)
  await hooks('POST', '/v1/events', order)
  await edge.settle()
  await edge.redis.fault({ kind: 'status', match: 'PUBLISH', times: 1 }) // what happens now misses the streams
  expect(await edge.dispatch()).toBe(0)
  await edge.cron()
  expect([...statements].filter((statement) => statement.includes('"missed_at" = ?'))).toHaveLength(2)
  await edge.cron(Date.now() + 3_600_000)
  await edge.dispatch()
  await send('GET', '/v1/stats', undefined, service)
  const leaving = await addUser({ passwordHash: quickHash('correct horse') })
  const asLeaving = await edge.signIn(leaving)
  await addPost({ authorId: leaving.id })
  await addFollow(leaving.id, bob.id)
  await addComment({ postId: (await addPost({ authorId: bob.id })).id, authorId: leaving.id })
  await addLike(leaving.id, (await addPost({ authorId: bob.id })).id)
  await send('DELETE', '/v1/users/me', { password: 'correct horse' }, asLeaving)
  await edge.settle()
  await edge.dispatch()
  await edge.settle()
  expect(await edge.dispatch()).toBe(0)

  expect(statements.size).toBeGreaterThan(40)
  for (const statement of statements) {
    if (statement.endsWith('WHERE true LIMIT ?) AS first')) continue // what a job left, counted up to 10 000
    // `listener_versions` has a row for each listener; `queue` is the feed's own, as long as its page, `gone` a comment with deleted ones above it, `sources` and `latest` a notification's, `first` the waiting
    // events that are counted; a list that came along is walked, and so is what a subquery found; the full text index
    // goes by rowid.
    const bad = (await planOf(statement)).filter((step) =>
      /SCAN (?!listener_versions|queue|gone|sources|latest|first|\(subquery-|CONSTANT ROW|(?!\w+_words)\w+( EXISTS)? VIRTUAL TABLE|\w+_words VIRTUAL TABLE INDEX \d+:=)|TEMP B-TREE/.test(
        step,
      ),
    )
    expect([statement, bad]).toEqual([statement, []])
  }
}, 120_000)

test('a plan that reads a whole table is noticed', async () => {
  expect(await planOf('SELECT id FROM posts WHERE text = ?')).toEqual([expect.stringMatching(/^SCAN posts/)])
})
