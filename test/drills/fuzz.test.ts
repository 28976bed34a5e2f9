import fc from 'fast-check'
import { env } from 'cloudflare:workers'
import { createHash } from 'node:crypto'
import { inArray, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { type Document, errorsIn, type Operation, readOperations } from '../docs/document.ts'
import { migrate, newEdge, newQueue } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'
import { receiver } from '../webhooks/endpoints.ts'
import { type FuzzedRequest, requestsOf } from './requests.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      FUZZ_REQUESTS: string
      SEED: string
    }
  }
}

beforeAll(migrate)

/** The tags whose operations must all succeed once: they are about ids that exist. */
const REACHED = new Set(['Moderation', 'Service tokens'])
/** After so many requests the content is as in the beginning, in a new isolate and keyspace. */
const ROUND = 250
/** Locks wait for up to 10 s. */
const MAX_MS = 25_000

/** The content that the requests name, as new. */
async function newWorld() {
  await db.delete(t.users)
  for (const table of [t.webhooks, t.deliveries, t.events, t.serviceTokens]) await db.delete(table)
  const [user1, user2] = [await addUser({ id: 'u_fuzz1', username: 'fuzz1' }), await addUser({ id: 'u_fuzz2' })]
  await addPost({ id: 'p_fuzz1', authorId: user1.id })
  await addPost({ id: 'p_fuzz2', authorId: user2.id })
  // More than a page, so that no list is short.
  const many = Array.from({ length: 110 }, (_, i) => `p_many${i}`)
  await db.run(sql`INSERT INTO posts (id, author_id, text, created_at, updated_at)
    SELECT value, ${user2.id}, 'Hello', ${Date.now()}, ${Date.now()} FROM json_each(${JSON.stringify(many)})`)
  await addComment({ id: 'c_fuzz1', postId: 'p_fuzz1', authorId: user2.id })
  const now = Date.now()
  await db.insert(t.webhooks).values({
    id: 'wh_fuzz1',
    url: receiver().url,
    channels: ['custom_fuzz'],
    headers: {},
    secret: 'whsec_c2VjcmV0IG9mIGEgdGVzdCwgMjQgYnl0ZXM=',
    status: 'enabled',
    createdAt: now,
    updatedAt: now,
  })
  const event = { channel: 'custom_fuzz', type: 'thing', subject: 'thing', data: {}, audience: 'services' as const }
  await db.insert(t.events).values({ id: 'ev_fuzz1', ...event, createdAt: now })
  await db.insert(t.deliveries).values({ id: 'dl_fuzz1', eventId: 'ev_fuzz1', webhookId: 'wh_fuzz1', status: 'dead' })
  const hash = createHash('sha256').update('st_fuzz1').digest('base64url')
  await db
    .insert(t.serviceTokens)
    .values({ id: 'st_fuzz1', name: 'fuzz1', scopes: ['locks'], hash, previous: [], createdAt: now })
  await db.run(sql`INSERT INTO reports (id, subject_id, reporter_id, reason, text, status, created_at)
    VALUES ('rp_fuzz1', 'p_fuzz2', ${user1.id}, 'spam', '', 'open', ${now})`)
  const likes = newQueue()
  const edge = newEdge({
    LIKES: likes,
    ALLOW_PRIVATE_WEBHOOKS: 'true',
    WEBHOOK_TIMEOUT_SECONDS: '1',
    STREAM_LIFE_SECONDS: '0.5',
  })
  return { edge, likes, users: { user1, user2 } }
}
type World = Awaited<ReturnType<typeof newWorld>>

/** A credential that works now: an earlier request may have signed out. */
async function credentialOf(
  { edge, users }: World,
  credential: FuzzedRequest['credential'],
): Promise<[string, string][]> {
  switch (credential) {
    case 'nobody':
      return []
    case 'wrong':
      return [['Authorization', 'Bearer not-a-token']]
    case 'service':
      return [['Authorization', `Bearer ${env.SERVICE_TOKEN}`]]
    default: {
      const { id } = users[credential === 'user2' ? 'user2' : 'user1']
      const [user] = await db
        .select()
        .from(t.users)
        .where(inArray(t.users.id, [id]))
      if (!user) throw new Error(`${id} is gone`)
      const { Authorization } = await edge.signIn(user)
      return credential === 'cookie'
        ? [['Cookie', `__Host-session=${Authorization.replace('Bearer ', '')}`]]
        : [['Authorization', Authorization]]
    }
  }
}

/** The operation that answers a request: the one with the fewest parameters in its path. */
function findOperation(operations: Map<string, Operation>, method: string, pathname: string) {
  const parts = pathname.split('/')
  const fitting = [...operations].filter(([name]) => {
    const [itsMethod, template = ''] = name.split(' ')
    const wanted = template.split('/')
    const fits =
      wanted.length === parts.length &&
      wanted.every((part, i) => (part.startsWith('{') ? parts[i] !== '' : part === parts[i]))
    return fits && (itsMethod === method || (method === 'HEAD' && itsMethod === 'GET'))
  })
  const parameters = (name: string) => name.split('{').length
  return fitting.sort(([a], [b]) => parameters(a) - parameters(b))[0]
}

const operationOf = (operations: Map<string, Operation>, { method, path }: FuzzedRequest) =>
  findOperation(operations, method, new URL(path, 'https://edge.test').pathname)

/** What is wrong with an answer. */
async function faultsOf(
  document: Document,
  operations: Map<string, Operation>,
  request: FuzzedRequest,
  response: Response,
): Promise<string[]> {
  const { status } = response
  const [, operation] = operationOf(operations, request) ?? []
  const isProblem = response.headers.get('Content-Type') === 'application/problem+json'
  if (status >= 500) return [`${status}: ${await response.text()}`]
  if (!operation) {
    const isRefused = isProblem && [404, 405, 413, 415].includes(status)
    return isRefused || (request.method === 'OPTIONS' && status === 204)
      ? []
      : [`${status} for a route that does not exist`]
  }
  const described = operation.responses[status]
  if (!described) return [`${status} is not documented: ${(await response.text()).slice(0, 300)}`]
  if (!described.content || request.method === 'HEAD') {
    return (await response.text()) === '' ? [] : [`${status} has a body`]
  }
  const faults = isProblem ? [] : status >= 400 ? [`${status} is not a problem document`] : []
  if (isProblem) {
    const problem = await response.clone().json<{ type: string; status: number }>()
    const type = problem.type.split('/').at(-1)
    if (!described.description.includes(`\`${type}\``)) faults.push(`${status} ${type} is not documented`)
    if (problem.status !== status) faults.push(`the problem says ${problem.status}`)
    if (status === 429 && !response.headers.has('Retry-After')) faults.push('429 without Retry-After')
  }
  return [...faults, ...(await errorsIn(document, operation, response))]
}

async function send(world: World, request: FuzzedRequest, etags: Map<string, string>): Promise<Response> {
  const headers = new Headers(await credentialOf(world, request.credential))
  for (const [name, value] of request.headers)
    headers.append(name, value.replace('LATEST', etags.get(request.path) ?? '"x"'))
  const body =
    typeof request.body === 'string'
      ? new TextEncoder().encode(request.body.replace('RECEIVER', receiver().url))
      : request.body && new Uint8Array(request.body)
  const chunked = () =>
    new ReadableStream({
      start(controller) {
        if (body && body.length > 0) controller.enqueue(body)
        controller.close()
      },
    })
  const response = await world.edge.fetch(request.path, {
    method: request.method,
    headers,
    ...(body && { body: request.isChunked ? chunked() : body }),
  })
  etags.set(request.path, response.headers.get('ETag') ?? '"x"')
  return response
}

const inTime = <T>(work: Promise<T>) =>
  Promise.race([
    work,
    new Promise<never>((_, reject) => setTimeout(() => reject(new Error(`no answer within ${MAX_MS} ms`)), MAX_MS)),
  ])

/** Processes everything the requests left in queues. Answers how many messages failed. */
async function drain({ edge, likes }: World): Promise<number> {
  const { retried } = await edge.deliver(likes.take().slice(0, 100))
  return retried.length + (await edge.dispatch())
}

test('every answer to a fuzzed request is documented, and none is a failure', { timeout: 3_600_000 }, async () => {
  const seed = Number(env.SEED)
  const total = Number(env.FUZZ_REQUESTS)
  const { document, operations } = await readOperations()
  const requests = fc.sample(requestsOf(document, operations), { seed, numRuns: total })
  const faults = new Map<string, { times: number; request: FuzzedRequest }>()
  const statuses = new Map<number, number>()
  const etags = new Map<string, string>()
  /** The operations that have succeeded. */
  const reached = new Set<string>()
  let world = await newWorld()
  let slowestMs = 0
  for (const [i, request] of requests.entries()) {
    if (i % ROUND === 0 && i > 0) {
      if ((await drain(world)) > 0) faults.set(`a consumer failed after request ${i}`, { times: 1, request })
      world = await newWorld()
    }
    const startedAt = Date.now()
    const found = await inTime(
      send(world, request, etags).then(async (response) => {
        statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1)
        if (response.ok) reached.add(operationOf(operations, request)?.[0] ?? '')
        return faultsOf(document, operations, request, response)
      }),
    ).catch((error: unknown) => [String(error)])
    await world.edge.settle()
    slowestMs = Math.max(slowestMs, Date.now() - startedAt)
    const operation = request.path.replace(/\?.*/, '').replaceAll(/[a-z]+_(fuzz|no)\w+/g, '…')
    for (const fault of found) {
      const what = `${request.method} ${operation.slice(0, 60)}: ${fault.slice(0, 300)}`
      faults.set(what, { times: (faults.get(what)?.times ?? 0) + 1, request })
    }
  }
  const byStatus = [...statuses].sort(([a], [b]) => a - b).map(([status, times]) => `${times} × ${status}`)
  console.log(`fuzz: seed ${seed}, ${total} requests, slowest ${slowestMs} ms, ${byStatus.join(', ')}`)
  const report = [...faults].map(
    ([what, { times, request }]) => `${what} (${times} ×)\n    ${JSON.stringify(request).slice(0, 600)}`,
  )
  expect(report, `seed ${seed}`).toEqual([])
  if (total < 2_000) return // too few for every status
  expect([200, 202, 204, 400, 401, 403, 404, 405, 415].filter((status) => !statuses.has(status))).toEqual([])
  if (total < 8_000) return // `npm run fuzz` sends 20,000
  const all = [...operations].filter(([, { tags = [] }]) => tags.some((tag) => REACHED.has(tag)))
  expect(all.map(([name]) => name).filter((name) => !reached.has(name))).toEqual([])
})
