import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { catalog } from '../../src/events/catalog.ts'
import committed from '../../src/docs/examples.json'
import { SERVICE_TOKEN, startWorker } from './worker.ts'

// `npm run examples` writes src/docs/examples.json: the answers of the running Worker to this story, and what it delivers to an
// endpoint. Each test run replays the story again, and compares the shapes with that file.

interface Document {
  paths: Record<string, Record<string, { operationId: string; responses: Record<string, { content?: object }> }>>
  webhooks: Record<string, object>
}
type Body = Record<string, unknown>

const root = join(import.meta.dirname, '../..')
let emulator: Emulator
let workerd: Miniflare
let origin = ''

/** What an endpoint has received: the first of each type. */
const received: Record<string, Body> = {}
/** An endpoint that answers the challenge. At `/gone` it wants nothing else. */
const receiver = createServer((request, response) => {
  let body = ''
  request.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
  request.on('end', () => {
    const event = JSON.parse(body) as Body // an object, as we send it
    const { type, channel, challenge } = event
    if (challenge === undefined && request.url === '/gone') {
      response.writeHead(410).end()
      return
    }
    const name = String(channel).startsWith('custom_') ? 'custom' : String(type)
    const known = received[name]
    if (!known || String(event['time']) < String(known['time'])) received[name] = event
    response.end(challenge === undefined ? '' : JSON.stringify({ challenge }))
  })
})

beforeAll(async () => {
  receiver.listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  emulator = await startEmulator({ openTokens: true })
  ;({ workerd, origin } = await startWorker(emulator, 'token-of-examples', {
    REDIS_WRITE_TIMEOUT_MS: '5000',
    ALLOW_PRIVATE_WEBHOOKS: 'true',
  }))
}, 90_000)

afterAll(async () => {
  await workerd.dispose()
  await emulator.close()
  receiver.close()
})

async function readDocument(): Promise<Document> {
  const program = join(root, 'scripts/build/document.ts')
  const { stdout } = await promisify(execFile)(process.execPath, [program], { maxBuffer: 10_000_000 })
  return JSON.parse(stdout) as Document
}

/** Replays the story. Returns the bodies of the answers by operation and status, and what was delivered by type. */
async function replay(document: Document): Promise<Record<string, Record<string, unknown>>> {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { operationId }]) => ({ path, method: method.toUpperCase(), operationId })),
  )
  const answers: Record<string, Record<string, unknown>> = {}

  async function send(operationId: string, values: string[] = [], body?: unknown, token?: string): Promise<Body> {
    const operation = operations.find((each) => each.operationId === operationId)
    if (!operation) throw new Error(`There is no ${operationId}`)
    const rest = [...values]
    const path = operation.path.replaceAll(/\{\w+\}/g, () => rest.shift() ?? '') + (rest[0] ?? '')
    const response = await fetch(origin + path, {
      method: operation.method,
      headers: {
        ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${operationId}: ${response.status} ${text}`)
    const isJson = response.headers.get('Content-Type')?.startsWith('application/json') ?? false
    const answer = isJson ? (JSON.parse(text) as Body) : {}
    if (isJson) (answers[operationId] ??= {})[response.status] = answer
    return answer
  }
  const asService = (operationId: string, values: string[] = [], body?: unknown) =>
    send(operationId, values, body, SERVICE_TOKEN)
  const idOf = ({ id }: Body) => String(id)
  /** Repeats a read until its list has items: queues work after the answer. */
  async function awaitItems(read: () => Promise<Body>): Promise<Body[]> {
    const deadline = Date.now() + 60_000
    for (;;) {
      const { items } = (await read()) as { items: Body[] }
      if (items.length > 0) return items
      await sleep(100)
      if (Date.now() > deadline) throw new Error(`Nothing came of ${read.toString()}`)
    }
  }

  // A restore needs an empty database.
  await asService('beginRestore', [], { backup: '2026-11-28' })
  await asService('restoreRows', ['fences'], { columns: ['name', 'fence'], rows: [['reports', 41]] })
  await asService('endRestore')

  // An endpoint for everything that happens from now on.
  const { port } = receiver.address() as AddressInfo
  const url = `http://127.0.0.1:${port}/`
  const channels = [...new Set(Object.values(catalog).map(({ channel }) => channel))]
  await asService('createWebhook', [], { url, channels })

  const people = [
    { username: 'grace', email: 'grace@example.com', password: 'a-compiler-in-1952', displayName: 'Grace Hopper' },
    { username: 'ada', email: 'ada@example.com', password: 'notes-on-the-engine', displayName: 'Ada Lovelace' },
  ]
  const [grace, ada] = [idOf(await send('signUp', [], people[0])), idOf(await send('signUp', [], people[1]))]
  const tokenOf = async (i: number) =>
    String((await send('signIn', [], { login: people[i]?.username, password: people[i]?.password }))['token'])
  const [asGrace, asAda] = [await tokenOf(0), await tokenOf(1)]
  await send('requestPasswordReset', [], { email: people[1]?.email })
  await send('requestEmailVerification', [], {}, asAda)
  await send('updateProfile', [], { bio: 'Poetical science.' }, asAda)
  await send('followUser', [ada], undefined, asGrace)
  const postId = idOf(await send('createPost', [], { text: 'The engine weaves algebraic patterns.' }, asAda))
  await send('updatePost', [postId], { text: 'The engine weaves algebraical patterns.' }, asAda)
  const commentId = idOf(await send('createComment', [postId], { text: 'Just as the loom weaves flowers?' }, asGrace))
  await send('listRecommendations', [], undefined, asGrace)
  await send('likePost', [postId], undefined, asGrace)
  await send('likeComment', [commentId], undefined, asAda)
  await send('recordView', [postId], undefined, asGrace)
  await send('sendHeartbeat', [], undefined, asAda)

  for (const operation of ['getUser', 'listFollowers']) await send(operation, [ada])
  await send('listFollowings', [grace])
  await send('listUserPosts', [ada], undefined, asGrace)
  await send('getUserByUsername', ['ada'])
  await send('getUsers', [`?ids=${ada},${grace}`])
  await send('getPost', [postId], undefined, asGrace)
  await send('getPosts', [`?ids=${postId}`], undefined, asGrace)
  const replyId = idOf(await send('createComment', [postId], { text: 'As the loom does.', parentId: commentId }, asAda))
  await send('updateComment', [replyId], { text: 'Just as the loom does.' }, asAda)
  await send('listComments', [postId])
  await send('listReplies', [commentId])
  await send('listFeed', [], undefined, asGrace)
  await send('listPresence')
  await send('blockUser', [grace], undefined, asAda)
  await send('listBlocks', [], undefined, asAda)
  await send('unblockUser', [grace], undefined, asAda)
  await send('muteUser', [grace], undefined, asAda)
  await send('listMutes', [], undefined, asAda)
  await send('unmuteUser', [grace], undefined, asAda)
  await send('followUser', [ada], undefined, asGrace) // the block ended it
  await send('listSessions', [], undefined, asAda)
  await send('getRateLimits', [], undefined, asAda)
  await awaitItems(() => send('search', ['?q=engine']))
  await send('listHotPosts', [], undefined, asGrace)
  await awaitItems(() => send('listNotifications', [], undefined, asAda))
  await send('markNotificationsRead', [], {}, asAda)
  await send('updatePresence', [], { visibility: 'followers' }, asAda)

  const backEnd = idOf(await asService('createServiceToken', [], { name: 'shop', scopes: ['events:publish'] }))
  await asService('rotateServiceToken', [backEnd], {})
  await asService('listServiceTokens')
  const { owner } = await asService('acquireLock', ['reports'], { ttlMs: 10_000 })
  await asService('extendLock', ['reports'], { owner, ttlMs: 10_000 })

  const webhookId = idOf(await asService('createWebhook', [], { url, channels: ['custom_orders'] }))
  await asService('publishEvent', [], { channel: 'custom_orders', type: 'order.paid', data: { total: 12.5 } })
  const isDone = ({ status }: Body) => status === 'delivered'
  let deliveries: Body[] = []
  while (!deliveries.some(isDone)) deliveries = await awaitItems(() => asService('listDeliveries', [webhookId]))
  await asService('getDelivery', [String(deliveries[0]?.['id'])])
  await asService('createPortalLink', [], { tenant: 'acme' })
  await asService('replayDelivery', [String(deliveries[0]?.['id'])])
  await asService('replayMissedEvents', [webhookId], { since: new Date(Date.now() - 60_000).toISOString() })
  for (const operation of ['testWebhook', 'rotateWebhookSecret', 'pauseWebhook', 'enableWebhook', 'getWebhook']) {
    await asService(operation, [webhookId])
  }
  await asService('updateWebhook', [webhookId], { description: 'Orders' })
  await asService('listWebhooks')
  await asService('rebuildListener', ['search'])

  await send('createReport', [], { subjectId: commentId, reason: 'spam', text: 'An advertisement for looms.' }, asAda)
  await asService('listReports')
  await asService('takeDownContent', [commentId], { note: 'Advertising' })
  await asService('getModeratedContent', [commentId])
  await asService('restoreContent', [commentId], { note: 'It is a metaphor' })
  await asService('resolveReports', [], { subjectId: commentId, outcome: 'dismissed', note: 'It is a metaphor' })
  await asService('listModerationLog')

  await send('getHealth')
  await send('getReadiness')
  await asService('getStats', ['?minutes=1'])
  await asService('getRouteStats', ['?route=CRON&minutes=2'])
  await asService('purgeExpiredData')
  await asService('beginBackup')
  await asService('getBackupPage', ['fences', '?limit=1'])

  await send('unlikeComment', [commentId], undefined, asAda)
  await send('unlikePost', [postId], undefined, asGrace)
  await send('unfollowUser', [ada], undefined, asGrace)

  // What is left of the types of events.
  await asService('suspendUser', [grace], { note: 'Advertising' })
  await asService('reinstateUser', [grace], { note: 'It was a metaphor' })
  const goneId = idOf(await asService('createWebhook', [], { url: `${url}gone`, channels: ['custom_returns'] }))
  await asService('publishEvent', [], { channel: 'custom_returns', type: 'order.returned', data: { total: 12.5 } })
  while ((await asService('getWebhook', [goneId]))['status'] !== 'disabled') await sleep(100)
  await asService('enableWebhook', [goneId])
  await send('deleteComment', [commentId], undefined, await tokenOf(0)) // the suspension ended the sessions
  await send('deletePost', [postId], undefined, asAda)
  await send('deleteAccount', [], { password: people[1]?.password }, asAda)
  const isMissing = (type: string) => !(type in received)
  await vi
    .waitUntil(() => !Object.keys(document.webhooks).some(isMissing), { timeout: 60_000 })
    .catch(() => {
      throw new Error(`Not received: ${Object.keys(document.webhooks).filter(isMissing).join(', ')}`)
    })
  answers['webhooks'] = Object.fromEntries(Object.keys(document.webhooks).map((type) => [type, received[type]]))

  const refused = await fetch(`${origin}/v1/users/42`)
  answers['Problem'] = { [refused.status]: await refused.json() }
  return answers
}

/** The names and kinds of everything in a value. Lists count as their first item. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.slice(0, 1).map(shapeOf)
  if (typeof value !== 'object') return typeof value
  if (value === null) return null
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, shapeOf(part)]))
}

/** Where two shapes differ. A list may be empty in one of them, and a value null. */
function differences(a: unknown, b: unknown, path = ''): string[] {
  if (a === null || b === null) return []
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === 0 || b.length === 0 ? [] : differences(a[0], b[0], `${path}[]`)
  }
  if (typeof a !== 'object' || typeof b !== 'object') return a === b ? [] : [path]
  const [left, right] = [a as Body, b as Body] // objects, as checked
  return [...new Set([...Object.keys(left), ...Object.keys(right)])].flatMap((key) =>
    key in left && key in right ? differences(left[key], right[key], `${path}.${key}`) : [`${path}.${key}`],
  )
}

test('the examples of the document are answers of the running Worker', { timeout: 120_000 }, async () => {
  const document = await readDocument()
  const answers = await replay(document)
  if (process.env['WRITE_EXAMPLES'] === 'true') {
    await writeFile(join(root, 'src/docs/examples.json'), `${JSON.stringify(answers, null, 2)}\n`)
    return
  }
  expect(differences(shapeOf(answers), shapeOf(committed))).toEqual([])
  const answered = Object.values(document.paths).flatMap((methods) =>
    Object.values(methods).flatMap(({ operationId, responses }) =>
      Object.entries(responses)
        .filter(([status, { content = {} }]) => status < '300' && 'application/json' in content)
        .map(([status]) => `${operationId} ${status}`),
    ),
  )
  const delivered = Object.keys(document.webhooks).map((type) => `webhooks ${type}`)
  const replayed = Object.entries(answers).flatMap(([id, some]) => Object.keys(some).map((status) => `${id} ${status}`))
  expect(replayed.sort()).toEqual([...answered, ...delivered, 'Problem 400'].sort())
})
