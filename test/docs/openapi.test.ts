import { reset } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { createHash } from 'node:crypto'
import { beforeAll, expect, test } from 'vitest'
import type { Schema } from '@cfworker/json-schema'
import { catalog, toCloudEvent } from '../../src/events/catalog.ts'
import { credentialTokens, deliveries } from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { type Edge, migrate, newEdge, newRoutes } from '../edge.ts'
import {
  addComment,
  addFollow,
  addPost,
  addRelation,
  addUser,
  addUsers,
  addWebhookRows,
  db,
  quickHash,
} from '../rows.ts'
import { receiver } from '../webhooks/endpoints.ts'
import { errorsIn, errorsOf, headerErrors, readDocument, readOperations } from './document.ts'

beforeAll(migrate)

interface Example {
  path: string
  headers?: Record<string, string>
  bindings?: Record<string, unknown>
  before?: (edge: Edge) => Promise<unknown>
}

async function newData() {
  const [author, fan] = [await addUser({ bio: 'Hello' }), await addUser()]
  const [post, other] = [await addPost({ authorId: author.id }), await addPost({ authorId: author.id })]
  const comment = await addComment({ postId: post.id, authorId: fan.id })
  await addComment({ postId: post.id, authorId: fan.id })
  for (let i = 0; i < 2; i += 1) await addComment({ postId: post.id, authorId: fan.id, parentId: comment.id })
  for (const kind of ['block', 'mute'] as const) {
    for (const id of await addUsers(2)) await addRelation(author.id, kind, id)
  }
  await addFollow(fan.id, author.id)
  await addFollow(author.id, fan.id)
  await addFollow((await addUser()).id, author.id)
  const webhookId = await addWebhookRows()
  const [delivery] = await db.select().from(deliveries).where(eq(deliveries.webhookId, webhookId))
  return {
    author,
    fan,
    post,
    comment,
    other,
    webhookId,
    deliveryId: delivery?.id,
    asAuthor: await newEdge().signIn(author),
    asFan: await newEdge().signIn(fan),
    /** A service token without the scope of any read. */
    withoutScope: await newServiceToken('cache:invalidate'),
    /** A session that is over. */
    asFormerFan: await newEdge().signIn({ ...fan, sessionEpoch: fan.sessionEpoch - 1 }),
  }
}

const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

async function newServiceToken(scope: string) {
  const response = await newEdge().fetch('/v1/service-tokens', {
    method: 'POST',
    headers: { ...service, 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: crypto.randomUUID(), scopes: [scope] }),
  })
  const { token } = await response.json<{ token: string }>()
  return { Authorization: `Bearer ${token}` }
}

/** Makes some traffic, a slow command and a scan of the keys, so that no list of the figures is empty. */
const busy = async (edge: Edge) => {
  await edge.sdk.set(keys.statsScan, SCANNED)
  await edge.redis.latency(120)
  await edge.fetch('/v1/users/u_a')
  await edge.settle()
}
const FOUND = { key: 'user:u_a', type: 'string', ttlSeconds: 30, sizeBytes: null, length: 80, seenAt: 1 }
const SCANNED = {
  walk: { cursor: '7', rest: [], startedAt: 1, scanned: 1, big: [FOUND], patterns: { 'user:*': [1, 0] } },
  hasMemory: false,
  whole: { completedAt: 1, big: [FOUND], patterns: { 'user:*': [1, 0] } },
  looked: { 'user:u_a': FOUND },
}

/** Rebuilds the data of a listener. */
const rebuild = (listener: string) => async (edge: Edge) => {
  await edge.fetch(`/v1/listeners/${listener}/rebuild`, { method: 'POST', headers: service })
  await edge.dispatch()
}
const redisGone = (edge: Edge) => edge.redis.fault({ kind: 'refuse' })
const beat = async (edge: Edge, headers: Record<string, string>) => {
  await edge.fetch('/v1/presence/heartbeat', { method: 'POST', headers })
  await edge.settle()
}
const spend = async (edge: Edge, headers: Record<string, string> = {}) => {
  for (let i = 0; i < 2; i += 1) {
    await edge.fetch('/v1/users/u_a', { headers })
    await edge.settle()
  }
}

type Data = Awaited<ReturnType<typeof newData>>

/** Requests by operation and by the status of their answer. A read that is not here fails a test below. */
const ownExamples: Record<string, (data: Data) => Record<number, Example[]>> = {
  'GET /v1/users/me/blocks': ({ asAuthor }) => own('/v1/users/me/blocks', asAuthor),
  'GET /v1/users/me/mutes': ({ asAuthor }) => own('/v1/users/me/mutes', asAuthor),
  'GET /v1/comments/{id}/replies': ({ comment }) =>
    pages(`/v1/comments/${comment.id}/replies`, '/v1/comments/c_nothing/replies'),
  'GET /v1/sessions': ({ asAuthor }) => ({
    200: [{ path: '/v1/sessions', headers: asAuthor }],
    401: [{ path: '/v1/sessions' }, { path: '/v1/sessions', headers: { Authorization: 'Bearer forged' } }],
  }),
  'GET /v1/stats': () => ({
    200: [
      { path: '/v1/stats', headers: service, before: busy },
      { path: '/v1/stats?minutes=1', headers: service, before: redisGone },
      { path: '/v1/stats', headers: service, bindings: { DB: {}, LIKES: {} } },
    ],
    400: [{ path: '/v1/stats?minutes=0', headers: service }],
    401: [{ path: '/v1/stats' }],
    503: [misconfigured('/v1/stats')],
  }),
  'GET /v1/stats/route': () => ({
    200: [
      { path: '/v1/stats/route?route=CRON&minutes=3', headers: service, before: busy },
      { path: '/v1/stats/route?route=CRON', headers: service, before: redisGone },
    ],
    400: [{ path: '/v1/stats/route', headers: service }],
    401: [{ path: '/v1/stats/route?route=CRON' }],
    503: [misconfigured('/v1/stats/route?route=CRON')],
  }),
  'GET /metrics': () => ({
    200: [
      { path: '/metrics', headers: service, before: busy },
      { path: '/metrics', headers: service, before: redisGone },
    ],
    401: [{ path: '/metrics' }],
    503: [misconfigured('/metrics')],
  }),
  'GET /healthz': () => ({ 200: [{ path: '/healthz' }] }),
  'GET /readyz': () => ({
    200: [{ path: '/readyz' }],
    503: [{ path: '/readyz', before: redisGone }, misconfigured('/readyz')],
  }),
  'GET /v1/presence': ({ author, fan, asAuthor }) => ({
    200: [
      { path: '/v1/presence', before: (edge) => beat(edge, asAuthor) },
      { path: `/v1/presence?ids=${author.id},${fan.id}`, before: (edge) => beat(edge, asAuthor) },
      { path: '/v1/presence', before: redisGone },
    ],
    400: [{ path: '/v1/presence?ids=x' }, { path: '/v1/presence?limit=0' }],
    429: [limited('/v1/presence')],
  }),
  'GET /v1/events/stream': ({ asFan, asFormerFan, withoutScope }) => {
    const path = '/v1/events/stream?channels=post_events,custom_a'
    const bindings = { STREAM_LIFE_SECONDS: '0.5' } // its body is read to the end
    return {
      200: [
        { path, bindings },
        { path, bindings, headers: { ...asFan, 'Last-Event-ID': '1-0' } },
      ],
      400: [
        { path: '/v1/events/stream' },
        { path: '/v1/events/stream?channels=x' },
        { path: `${path}&lastEventId=x` },
        { path, headers: { 'Last-Event-ID': 'x' } },
      ],
      401: [
        { path, headers: asFormerFan },
        { path, headers: { Authorization: 'Bearer forged' } },
      ],
      403: [{ path, headers: withoutScope }],
      429: [limited(path)],
      503: [{ path, before: redisGone }, misconfigured(path)],
    }
  },
  'GET /v1/rate-limit': () => ({
    200: [{ path: '/v1/rate-limit' }],
    503: [{ path: '/v1/rate-limit', before: redisGone }, misconfigured('/v1/rate-limit')],
  }),
  'GET /v1/users': ({ author, fan }) => ({
    200: [{ path: `/v1/users?ids=${author.id},${fan.id},u_unknown` }],
    400: [{ path: '/v1/users' }, { path: '/v1/users?ids=x' }],
    429: [limited(`/v1/users?ids=${author.id}`)],
    503: [misconfigured('/v1/users?ids=u_a')],
  }),
  'GET /v1/users/by-username/{username}': ({ author }) => ({
    200: [{ path: `/v1/users/by-username/${author.username}` }],
    400: [{ path: '/v1/users/by-username/a-b' }],
    404: [{ path: '/v1/users/by-username/nobody' }],
    429: [limited('/v1/users/by-username/nobody')],
  }),
  'GET /v1/users/{id}': ({ author, asAuthor }) => ({
    200: [{ path: `/v1/users/${author.id}` }, { path: `/v1/users/${author.id}`, headers: asAuthor }],
    400: [{ path: '/v1/users/x' }],
    404: [{ path: '/v1/users/u_nobody' }],
    429: [limited('/v1/users/u_nobody')],
  }),
  'GET /v1/users/me/export': ({ asAuthor }) => ({
    200: [
      { path: '/v1/users/me/export', headers: asAuthor },
      { path: '/v1/users/me/export?cursor=post:', headers: asAuthor, before: redisGone },
    ],
    400: [{ path: '/v1/users/me/export?cursor=x', headers: asAuthor }],
    401: [{ path: '/v1/users/me/export' }],
    429: [
      {
        path: '/v1/users/me/export',
        headers: asAuthor,
        bindings: { LIMIT_EXPORTS: '1', LIMIT_CREDENTIALS_SECONDS: '86400' },
        before: async (edge) => {
          await edge.fetch('/v1/users/me/export', { headers: asAuthor })
          await edge.settle()
        },
      },
    ],
  }),
  'GET /v1/users/{id}/posts': ({ author }) => pages(`/v1/users/${author.id}/posts`, '/v1/users/u_nobody/posts'),
  'GET /v1/users/{id}/followers': ({ author }) =>
    pages(`/v1/users/${author.id}/followers`, '/v1/users/u_nobody/followers'),
  'GET /v1/users/{id}/followings': ({ author }) =>
    pages(`/v1/users/${author.id}/followings`, '/v1/users/u_nobody/followings'),
  'GET /v1/posts': ({ post, other }) => ({
    200: [{ path: `/v1/posts?ids=${post.id},${other.id},p_unknown` }],
    400: [{ path: '/v1/posts?ids=x' }],
    429: [limited(`/v1/posts?ids=${post.id}`)],
  }),
  'GET /v1/feed': ({ asFan }) => ({
    200: [
      { path: '/v1/feed', headers: asFan },
      { path: '/v1/feed?limit=1', headers: asFan, before: redisGone },
    ],
    400: [{ path: '/v1/feed?limit=0', headers: asFan }],
    401: [{ path: '/v1/feed' }],
    429: [{ ...limited('/v1/feed'), headers: asFan, before: (edge) => spend(edge, asFan) }],
  }),
  'GET /v1/notifications': ({ asAuthor }) => ({
    200: [
      { path: '/v1/notifications', headers: asAuthor, before: rebuild('notifications') },
      { path: '/v1/notifications?limit=1', headers: asAuthor, before: redisGone },
    ],
    400: [{ path: '/v1/notifications?cursor=p_1', headers: asAuthor }],
    401: [{ path: '/v1/notifications' }],
    429: [{ ...limited('/v1/notifications'), headers: asAuthor, before: (edge) => spend(edge, asAuthor) }],
  }),
  'GET /v1/recommendations': ({ asFan }) => ({
    200: [
      { path: '/v1/recommendations', headers: asFan },
      { path: '/v1/recommendations?limit=1', headers: asFan, before: redisGone },
    ],
    400: [{ path: '/v1/recommendations?limit=0', headers: asFan }],
    401: [{ path: '/v1/recommendations' }],
    429: [{ ...limited('/v1/recommendations'), headers: asFan, before: (edge) => spend(edge, asFan) }],
  }),
  'GET /v1/search': ({ asFan }) => ({
    200: [
      { path: '/v1/search?q=h%C3%A9llo&limit=1', before: rebuild('search') },
      { path: '/v1/search?q=hello&type=posts&limit=1', headers: asFan, before: rebuild('search') },
      { path: '/v1/search?q=some&type=users', before: rebuild('search') },
      { path: '/v1/search?q=hello', before: redisGone },
    ],
    400: [{ path: '/v1/search' }, { path: '/v1/search?q=%20' }, { path: '/v1/search?q=a&cursor=x' }],
    429: [limited('/v1/search?q=hello')],
  }),
  'GET /v1/posts/hot': () => ({
    200: [{ path: '/v1/posts/hot' }, { path: '/v1/posts/hot?limit=1' }, { path: '/v1/posts/hot', before: redisGone }],
    400: [{ path: '/v1/posts/hot?limit=0' }],
    429: [limited('/v1/posts/hot')],
  }),
  'GET /v1/posts/{id}': ({ post }) => ({
    200: [{ path: `/v1/posts/${post.id}` }],
    400: [{ path: '/v1/posts/x' }],
    404: [{ path: '/v1/posts/p_nobody' }],
    429: [limited(`/v1/posts/${post.id}`)],
  }),
  'GET /v1/moderation/reports': () => ({
    200: [{ path: '/v1/moderation/reports', headers: service }],
    400: [{ path: '/v1/moderation/reports?status=lost', headers: service }],
    401: [{ path: '/v1/moderation/reports' }],
  }),
  'GET /v1/moderation/log': () => ({
    200: [{ path: '/v1/moderation/log?limit=1', headers: service }],
    400: [{ path: '/v1/moderation/log?limit=0', headers: service }],
    401: [{ path: '/v1/moderation/log' }],
  }),
  'GET /v1/moderation/contents/{id}': ({ post }) => ({
    200: [{ path: `/v1/moderation/contents/${post.id}`, headers: service }],
    400: [{ path: '/v1/moderation/contents/u_1', headers: service }],
    401: [{ path: `/v1/moderation/contents/${post.id}` }],
    404: [{ path: '/v1/moderation/contents/p_nothing', headers: service }],
  }),
  'GET /v1/service-tokens': () => ({
    200: [{ path: '/v1/service-tokens?limit=1', headers: service }],
    400: [{ path: '/v1/service-tokens?limit=0', headers: service }],
    401: [{ path: '/v1/service-tokens' }],
  }),
  'GET /v1/webhooks': () => ({
    200: [{ path: '/v1/webhooks?limit=1', headers: service, before: () => addWebhookRows() }],
    400: [{ path: '/v1/webhooks?limit=0', headers: service }],
    401: [{ path: '/v1/webhooks' }],
  }),
  'GET /v1/webhooks/{id}': ({ webhookId }) => ({
    200: [{ path: `/v1/webhooks/${webhookId}`, headers: service }],
    400: [{ path: '/v1/webhooks/x', headers: service }],
    401: [{ path: `/v1/webhooks/${webhookId}` }],
    404: [{ path: '/v1/webhooks/wh_none', headers: service }],
  }),
  'GET /v1/deliveries/{id}': ({ deliveryId }) => ({
    200: [{ path: `/v1/deliveries/${deliveryId}`, headers: service }],
    400: [{ path: '/v1/deliveries/x', headers: service }],
    401: [{ path: `/v1/deliveries/${deliveryId}` }],
    404: [{ path: '/v1/deliveries/dl_none', headers: service }],
  }),
  'GET /v1/webhooks/{id}/deliveries': ({ webhookId }) => ({
    200: [{ path: `/v1/webhooks/${webhookId}/deliveries?status=dead`, headers: service }],
    400: [{ path: `/v1/webhooks/${webhookId}/deliveries?status=lost`, headers: service }],
    401: [{ path: `/v1/webhooks/${webhookId}/deliveries` }],
    404: [{ path: '/v1/webhooks/wh_none/deliveries', headers: service }],
  }),
  'GET /v1/backup/{table}': () => ({
    200: [
      { path: '/v1/backup/users?limit=1', headers: service },
      { path: '/v1/backup/redis', headers: service },
    ],
    400: [{ path: '/v1/backup/users?after=x', headers: service }],
    401: [{ path: '/v1/backup/users' }],
    404: [{ path: '/v1/backup/nothing', headers: service }],
    503: [{ path: '/v1/backup/redis', headers: service, before: redisGone }, misconfigured('/v1/backup/users')],
  }),
  'GET /v1/backup/{date}/{file}': () => {
    const path = '/v1/backup/2026-01-01/manifest.json'
    const before = () => env.TEST_BACKUPS.put('2026-01-01/manifest.json', '{}')
    return {
      200: [{ path, headers: service, bindings: { BACKUPS: env.TEST_BACKUPS }, before }],
      400: [{ path: '/v1/backup/today/manifest.json', headers: service }],
      401: [{ path }],
      404: [{ path, headers: service }],
      503: [misconfigured(path)],
    }
  },
  'GET /v1/posts/{id}/comments': ({ post }) => pages(`/v1/posts/${post.id}/comments`, '/v1/posts/p_nobody/comments'),
}

/** The `nextCursor` of a page. Null: it is the last one, or no page. */
async function nextPage(response: Response): Promise<string | null> {
  if (!response.headers.get('Content-Type')?.startsWith('application/json')) return null
  const { nextCursor = null } = await response.json<{ nextCursor?: string | null }>()
  return nextCursor
}
/** The same; of routes for services also what a token without their scope gets. */
const examples = Object.fromEntries(
  Object.entries(ownExamples).map(([name, examplesOf]) => [
    name,
    (data: Data): Record<number, Example[]> => {
      const own = examplesOf(data)
      const [known] = own[200] ?? []
      if (known?.headers !== service) return own
      return { ...own, 403: [{ path: known.path, headers: data.withoutScope }] }
    },
  ]),
)

const limited = (path: string): Example => ({
  path,
  bindings: { LIMIT_READS: '1', LIMIT_READS_SECONDS: '86400' },
  before: (edge) => spend(edge),
})
const misconfigured = (path: string): Example => ({ path, bindings: { SERVICE_TOKEN: undefined } })
const own = (path: string, headers: Record<string, string>) => ({
  200: [
    { path, headers },
    { path: `${path}?limit=1`, headers, before: redisGone },
  ],
  400: [{ path: `${path}?limit=0`, headers }],
  401: [{ path }],
  429: [{ ...limited(path), headers, before: (edge: Edge) => spend(edge, headers) }],
})

const pages = (path: string, unknown: string) => ({
  200: [{ path }, { path: `${path}?limit=1` }, { path, before: redisGone }],
  400: [{ path: `${path}?limit=0` }, { path: `${path}?cursor=x` }],
  404: [{ path: unknown }],
  429: [limited(path)],
})

test('the document is OpenAPI 3.1, and the same each time', async () => {
  const document = await readDocument()
  expect(await readDocument()).toEqual(document)
  expect(document).toMatchObject({ openapi: expect.stringMatching(/^3\.1\.\d$/), info: { title: 'threads-edge' } })
  expect(document.info.version).toEqual(expect.any(String))
})

test('every route is documented, and every documented operation is a route', async () => {
  const { operations } = await readOperations()
  const routed = newRoutes()
    .filter(({ method, path }) => method !== 'ALL' && !path.endsWith('*')) // the others are middleware
    .filter(({ path }) => !path.startsWith('/dashboard/')) // for its page: test/dashboard compares them
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
  expect([...operations.keys()].sort()).toEqual([...new Set(routed)].sort())
})

/** The names by which generated clients call the operations. Changing or removing one breaks them. */
const OPERATION_IDS = {
  createReport: 'POST /v1/reports',
  listReports: 'GET /v1/moderation/reports',
  resolveReports: 'POST /v1/moderation/reports/resolve',
  getModeratedContent: 'GET /v1/moderation/contents/{id}',
  takeDownContent: 'PUT /v1/moderation/takedowns/{id}',
  restoreContent: 'DELETE /v1/moderation/takedowns/{id}',
  suspendUser: 'PUT /v1/moderation/suspensions/{id}',
  reinstateUser: 'DELETE /v1/moderation/suspensions/{id}',
  listModerationLog: 'GET /v1/moderation/log',
  createServiceToken: 'POST /v1/service-tokens',
  listServiceTokens: 'GET /v1/service-tokens',
  rotateServiceToken: 'POST /v1/service-tokens/{id}/rotate',
  revokeServiceToken: 'DELETE /v1/service-tokens/{id}',
  getHealth: 'GET /healthz',
  getMetrics: 'GET /metrics',
  getReadiness: 'GET /readyz',
  beginBackup: 'POST /v1/backup',
  getBackupFile: 'GET /v1/backup/{date}/{file}',
  getBackupPage: 'GET /v1/backup/{table}',
  invalidateCache: 'POST /v1/cache/invalidate',
  deleteComment: 'DELETE /v1/comments/{id}',
  likeComment: 'PUT /v1/comments/{id}/like',
  unlikeComment: 'DELETE /v1/comments/{id}/like',
  getDelivery: 'GET /v1/deliveries/{id}',
  replayDelivery: 'POST /v1/deliveries/{id}/replay',
  publishEvent: 'POST /v1/events',
  streamEvents: 'GET /v1/events/stream',
  listFeed: 'GET /v1/feed',
  rebuildListener: 'POST /v1/listeners/{name}/rebuild',
  acquireLock: 'POST /v1/locks/{name}',
  extendLock: 'PATCH /v1/locks/{name}',
  releaseLock: 'DELETE /v1/locks/{name}',
  purgeExpiredData: 'POST /v1/maintenance',
  listNotifications: 'GET /v1/notifications',
  markNotificationsRead: 'POST /v1/notifications/read',
  createPost: 'POST /v1/posts',
  getPosts: 'GET /v1/posts',
  listHotPosts: 'GET /v1/posts/hot',
  getPost: 'GET /v1/posts/{id}',
  updatePost: 'PATCH /v1/posts/{id}',
  deletePost: 'DELETE /v1/posts/{id}',
  listComments: 'GET /v1/posts/{id}/comments',
  createComment: 'POST /v1/posts/{id}/comments',
  likePost: 'PUT /v1/posts/{id}/like',
  unlikePost: 'DELETE /v1/posts/{id}/like',
  recordView: 'POST /v1/posts/{id}/views',
  goOffline: 'DELETE /v1/presence',
  listPresence: 'GET /v1/presence',
  updatePresence: 'PATCH /v1/presence',
  sendHeartbeat: 'POST /v1/presence/heartbeat',
  getRateLimits: 'GET /v1/rate-limit',
  listRecommendations: 'GET /v1/recommendations',
  beginRestore: 'PUT /v1/restore',
  endRestore: 'DELETE /v1/restore',
  restoreRows: 'POST /v1/restore/{table}',
  search: 'GET /v1/search',
  signIn: 'POST /v1/sessions',
  listSessions: 'GET /v1/sessions',
  signOutEverywhere: 'DELETE /v1/sessions',
  signOut: 'DELETE /v1/sessions/current',
  getStats: 'GET /v1/stats',
  getRouteStats: 'GET /v1/stats/route',
  signUp: 'POST /v1/users',
  deleteAccount: 'DELETE /v1/users/me',
  exportAccount: 'GET /v1/users/me/export',
  changePassword: 'POST /v1/users/me/password',
  requestPasswordReset: 'POST /v1/password-resets',
  resetPassword: 'PUT /v1/password-resets',
  requestEmailVerification: 'POST /v1/email-verifications',
  verifyEmail: 'PUT /v1/email-verifications',
  getUsers: 'GET /v1/users',
  getUserByUsername: 'GET /v1/users/by-username/{username}',
  updateProfile: 'PATCH /v1/users/me',
  getUser: 'GET /v1/users/{id}',
  followUser: 'PUT /v1/users/{id}/follow',
  listBlocks: 'GET /v1/users/me/blocks',
  listMutes: 'GET /v1/users/me/mutes',
  blockUser: 'PUT /v1/users/{id}/block',
  unblockUser: 'DELETE /v1/users/{id}/block',
  muteUser: 'PUT /v1/users/{id}/mute',
  unmuteUser: 'DELETE /v1/users/{id}/mute',
  listReplies: 'GET /v1/comments/{id}/replies',
  updateComment: 'PATCH /v1/comments/{id}',
  unfollowUser: 'DELETE /v1/users/{id}/follow',
  listFollowers: 'GET /v1/users/{id}/followers',
  listFollowings: 'GET /v1/users/{id}/followings',
  listUserPosts: 'GET /v1/users/{id}/posts',
  createPortalLink: 'POST /v1/webhooks/portal-links',
  createWebhook: 'POST /v1/webhooks',
  listWebhooks: 'GET /v1/webhooks',
  getWebhook: 'GET /v1/webhooks/{id}',
  updateWebhook: 'PATCH /v1/webhooks/{id}',
  deleteWebhook: 'DELETE /v1/webhooks/{id}',
  listDeliveries: 'GET /v1/webhooks/{id}/deliveries',
  enableWebhook: 'POST /v1/webhooks/{id}/enable',
  pauseWebhook: 'POST /v1/webhooks/{id}/pause',
  replayMissedEvents: 'POST /v1/webhooks/{id}/replay',
  rotateWebhookSecret: 'POST /v1/webhooks/{id}/rotate',
  testWebhook: 'POST /v1/webhooks/{id}/test',
}

test('operations keep their ids', async () => {
  const { operations } = await readOperations()
  const ids = Object.fromEntries([...operations].map(([name, { operationId }]) => [operationId, name]))
  expect(ids).toEqual(OPERATION_IDS)
  expect(Object.keys(OPERATION_IDS).filter((id) => !/^[a-z][A-Za-z]+$/.test(id))).toEqual([])
})

test('every operation has a summary, a tag and its problems', async () => {
  const { operations } = await readOperations()
  for (const [name, operation] of operations) {
    expect([name, operation.summary]).toEqual([name, expect.stringMatching(/^[A-Z]/)])
    expect([name, operation.tags]).toEqual([name, [expect.any(String)]])
    const expected = ['429', '500', '503']
    const hasInput = operation.parameters?.some(({ in: where, schema }) => where === 'query' || 'pattern' in schema)
    if (hasInput) expected.push('400')
    // Acquiring a lock creates it.
    if (/\{\w+\}/.test(name) && !name.includes('/locks/')) expected.push('404')
    const documented = Object.entries(operation.responses).filter(
      ([, { content }]) => content && 'application/problem+json' in content,
    )
    expect([name, documented.map(([status]) => status)]).toEqual([name, expect.arrayContaining(expected)])
    for (const [, { description }] of documented) expect(description).toMatch(/`[a-z-]+`: [A-Z]/)
  }
})

test('tags, parameters, answers and named schemas are described', async () => {
  const { document, operations } = await readOperations()
  const tags = document.tags.map(({ name, description }) => [name, description.length > 10])
  expect(tags.slice(0, 2)).toEqual([
    ['Users', true],
    ['Posts', true],
  ])
  const used = new Set([...operations.values()].flatMap((operation) => operation.tags ?? []))
  expect(Object.fromEntries(tags)).toEqual(Object.fromEntries([...used].map((tag) => [tag, true])))
  for (const [name, { parameters = [], responses }] of operations) {
    for (const { name: parameter, description = '' } of parameters) {
      expect([name, parameter, description]).toEqual([name, parameter, expect.stringMatching(/^.{9,}\.$/)])
    }
    for (const [status, { description }] of Object.entries(responses)) {
      expect([name, status, description]).toEqual([name, status, expect.stringMatching(/^.{8,}\.$/)])
    }
  }
  for (const [name, { description, properties = {} }] of Object.entries(document.components.schemas)) {
    expect([name, description]).toEqual([name, expect.stringMatching(/.{10,}/)])
    if (name === 'Stats') continue // docs/operations.md explains figures
    for (const [field, schema] of Object.entries(properties as Record<string, Schema>)) {
      const isDescribed = '$ref' in schema || 'description' in schema
      expect([name, field, isDescribed]).toEqual([name, field, true])
    }
  }
})

test('an answer may be 304 where it has an ETag, and nowhere else', async () => {
  const { operations } = await readOperations()
  for (const [name, { responses, parameters = [] }] of operations) {
    const hasTag = name.startsWith('GET ') && 'ETag' in (responses['200']?.headers ?? {})
    const isConditional = parameters.some((parameter) => parameter.name === 'If-None-Match')
    expect([name, '304' in responses, isConditional]).toEqual([name, hasTag, hasTag])
  }
})

test('every type of event, and the challenge, is a webhook in the document, with the schema of its data', async () => {
  const document = await readDocument()
  expect(Object.keys(document.webhooks)).toEqual(['endpoint.challenge', ...Object.keys(catalog), 'custom'])
  const id = 'p_a'
  const stored = {
    id: 'ev_1',
    channel: 'post_events',
    subject: id,
    sequence: 7,
    audience: 'everyone',
    createdAt: 0,
  } as const
  const data = { postId: id, authorId: 'u_a' }
  const event = toCloudEvent({ ...stored, type: 'post_deleted', data, traceparent: null }, '/threads-edge')
  const schemaOf = (type: string): Schema =>
    document.webhooks[type]?.post.requestBody.content['application/cloudevents+json']?.schema ?? { not: {} }
  expect(errorsOf(document, schemaOf('post_deleted'), event)).toEqual([])
  expect(errorsOf(document, schemaOf('post_deleted'), { ...event, sequence: 7 })).not.toEqual([])
  expect(errorsOf(document, schemaOf('post_created'), event)).not.toEqual([])
  const own = { ...event, channel: 'custom_a', type: 'paid', data: { total: 1 } }
  expect(errorsOf(document, schemaOf('custom'), own)).toEqual([])
})

test('every successful answer in JSON has an example that matches its schema', async () => {
  const { document, operations } = await readOperations()
  for (const [name, { responses }] of operations) {
    for (const [status, { content = {} }] of Object.entries(responses)) {
      const media = content['application/json']
      if (!media || status >= '300') continue
      expect([name, status, media.example]).toEqual([name, status, expect.any(Object)])
      expect([name, status, errorsOf(document, media.schema, media.example)]).toEqual([name, status, []])
    }
  }
  const { Problem } = document.components.schemas
  expect(errorsOf(document, { $ref: '#/components/schemas/Problem' }, Problem?.['examples']?.[0])).toEqual([])
})

test('every reference in the document resolves', async () => {
  const document = await readDocument()
  const referred = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(
    ([, name]) => name,
  )
  expect(new Set(referred)).toEqual(new Set(Object.keys(document.components.schemas)))
})

test('every path parameter is documented, required and has a schema', async () => {
  const { operations } = await readOperations()
  for (const [name, { parameters = [] }] of operations) {
    const inPath = [...name.matchAll(/\{(\w+)\}/g)].map(([, parameter]) => parameter)
    const documented = parameters.filter((parameter) => parameter.in === 'path')
    expect([name, documented.map((parameter) => parameter.name)]).toEqual([name, inPath])
    for (const { required, schema } of documented) {
      expect([name, required, schema.type]).toEqual([name, true, 'string'])
      expect([name, schema.pattern]).toEqual([name, expect.stringContaining('^')])
    }
  }
})

test('the parameters of queries are documented with their constraints', async () => {
  const { operations } = await readOperations()
  const ofQuery = (name: string) =>
    Object.fromEntries(
      (operations.get(name)?.parameters ?? [])
        .filter((parameter) => parameter.in === 'query')
        .map(({ name: parameter, required = false, schema }) => [parameter, { required, schema }]),
    )
  const limit = { required: false, schema: { type: 'integer', minimum: 1, maximum: 100, default: 20 } }
  const cursor = (kind: string) => ({
    required: false,
    schema: { type: 'string', pattern: `^${kind}_[a-z0-9]{1,40}$` },
  })
  expect(ofQuery('GET /v1/posts/hot')).toEqual({ limit })
  expect(ofQuery('GET /v1/posts/{id}/comments')).toEqual({ limit, cursor: cursor('c') })
  expect(ofQuery('GET /v1/users/{id}/posts')).toEqual({ limit, cursor: cursor('p') })
  expect(ofQuery('GET /v1/users/{id}/followers')).toEqual({ limit, cursor: cursor('f') })

  for (const [name, kind] of [
    ['GET /v1/posts', 'p'],
    ['GET /v1/users', 'u'],
  ] as const) {
    const { ids } = ofQuery(name)
    expect(ids).toMatchObject({ required: true, schema: { type: 'string', pattern: expect.any(String) } })
    const pattern = new RegExp(String(ids?.schema.pattern))
    const many = (count: number) => Array.from({ length: count }, (_, i) => `${kind}_${i}`).join()
    expect([many(1), many(2), many(100)].every((text) => pattern.test(text))).toBe(true)
    expect(['', 'x', `${many(1)},`, `${many(1)},x`, many(101)].some((text) => pattern.test(text))).toBe(false)
  }
})

test('every read has an example of each documented answer except 500', async () => {
  const { operations } = await readOperations()
  const data = await newData()
  const reads = [...operations.keys()].filter((name) => name.startsWith('GET '))
  expect(Object.keys(examples).sort()).toEqual(reads.sort())
  for (const [name, examplesOf] of Object.entries(examples)) {
    const documented = Object.keys(operations.get(name)?.responses ?? {})
    expect(documented).toEqual(expect.arrayContaining(Object.keys(examplesOf(data))))
    const own = documented.filter((status) => !['304', '429', '500', '503'].includes(status))
    expect([name, Object.keys(examplesOf(data))]).toEqual([name, expect.arrayContaining(own)])
  }
})

test.each(Object.entries(examples))('%s answers exactly what the document says', async (name, examplesOf) => {
  const { document, operations } = await readOperations()
  const operation = operations.get(name)
  if (!operation) throw new Error(`${name} is not documented`)
  const data = await newData()
  for (const [status, requests] of Object.entries(examplesOf(data))) {
    for (const { path, headers = {}, bindings, before } of requests) {
      const edge = newEdge(bindings)
      await before?.(edge)
      const response = await edge.fetch(path, { headers })
      expect([path, String(response.status)]).toEqual([path, status])
      const next = await nextPage(response.clone())
      expect([path, status, await errorsIn(document, operation, response)]).toEqual([path, status, []])
      expect([path, status, headerErrors(operation, response)]).toEqual([path, status, []])
      expect([path, response.headers.get('Link')]).toEqual([path, next === null ? null : expect.any(String)])
      if (next !== null) {
        const link = /^<(\/[^>]+)>; rel="next"$/.exec(response.headers.get('Link') ?? '')?.[1] ?? ''
        const [followed, wanted] = [new URL(link, 'https://edge.test'), new URL(path, 'https://edge.test')]
        wanted.searchParams.set('cursor', next)
        expect(followed.href).toBe(wanted.href)
        expect([link, (await edge.fetch(link, { headers })).status]).toEqual([link, 200])
      }
      await edge.settle()
    }
  }
})

test('every write answers exactly what the document says', { timeout: 120_000 }, async () => {
  const { document, operations } = await readOperations()
  const { author, fan, post, asAuthor } = await newData()
  const edge = newEdge({ ALLOW_PRIVATE_WEBHOOKS: 'true' })
  const asked = new Set<string>()
  /** Sends one write and returns the body of the answer. */
  async function send(
    name: string,
    path: string,
    body?: object,
    headers: Record<string, string> = asAuthor,
  ): Promise<Record<string, string>> {
    const operation = operations.get(name)
    if (!operation) throw new Error(`${name} is not documented`)
    asked.add(name)
    const init = body ? { body: JSON.stringify(body) } : {}
    const type = { 'Content-Type': 'application/json' }
    const response = await edge.fetch(path, {
      method: name.split(' ')[0] ?? '',
      headers: { ...headers, ...type },
      ...init,
    })
    expect([name, response.ok]).toEqual([name, true])
    expect([name, headerErrors(operation, response)]).toEqual([name, []])
    if (response.status === 204) {
      expect([name, Object.keys(operation.responses)]).toEqual([name, expect.arrayContaining(['204'])])
      return {}
    }
    const answer = await response.clone().json<Record<string, string>>()
    expect([name, await errorsIn(document, operation, response)]).toEqual([name, []])
    return answer
  }
  const account = { username: 'contract', email: 'c@example.test', password: 'correct horse', displayName: 'C' }
  await send('POST /v1/users', '/v1/users', account, {})
  await send('PATCH /v1/users/me', '/v1/users/me', { bio: 'Hello' })
  for (const relation of ['block', 'mute']) {
    await send(`PUT /v1/users/{id}/${relation}`, `/v1/users/${fan.id}/${relation}`)
    await send(`DELETE /v1/users/{id}/${relation}`, `/v1/users/${fan.id}/${relation}`)
  }
  await send('PUT /v1/users/{id}/follow', `/v1/users/${fan.id}/follow`)
  await send('DELETE /v1/users/{id}/follow', `/v1/users/${fan.id}/follow`)
  const written = await send('POST /v1/posts', '/v1/posts', { text: 'Hello' })
  await send('PATCH /v1/posts/{id}', `/v1/posts/${written['id']}`, { text: 'Hello!' })
  await send('DELETE /v1/posts/{id}', `/v1/posts/${written['id']}`)
  const said = await send('POST /v1/posts/{id}/comments', `/v1/posts/${post.id}/comments`, { text: 'Hello' })
  await send('PATCH /v1/comments/{id}', `/v1/comments/${said['id']}`, { text: 'Hello!' })
  for (const [content, id] of [
    ['posts', post.id],
    ['comments', said['id']],
  ]) {
    await send(`PUT /v1/${content}/{id}/like`, `/v1/${content}/${id}/like`)
    await send(`DELETE /v1/${content}/{id}/like`, `/v1/${content}/${id}/like`)
  }
  await send('DELETE /v1/comments/{id}', `/v1/comments/${said['id']}`)
  await send('POST /v1/posts/{id}/views', `/v1/posts/${post.id}/views`)
  await send('POST /v1/notifications/read', '/v1/notifications/read', { until: 'n_1' })
  await send('POST /v1/presence/heartbeat', '/v1/presence/heartbeat')
  await send('PATCH /v1/presence', '/v1/presence', { visibility: 'followers' })
  await send('DELETE /v1/presence', '/v1/presence')
  const { owner = '' } = await send('POST /v1/locks/{name}', '/v1/locks/contract', { ttlMs: 5_000 }, service)
  await send('PATCH /v1/locks/{name}', '/v1/locks/contract', { owner, ttlMs: 5_000 }, service)
  await send('DELETE /v1/locks/{name}', `/v1/locks/contract?owner=${owner}`, undefined, service)
  await send('POST /v1/cache/invalidate', '/v1/cache/invalidate', { users: [author.id], hot: true }, service)
  const hook = { url: receiver().url, channels: ['custom_orders'] }
  const { id: hookId } = await send('POST /v1/webhooks', '/v1/webhooks', hook, service)
  await send('PATCH /v1/webhooks/{id}', `/v1/webhooks/${hookId}`, { url: receiver().url }, service)
  for (const action of ['rotate', 'test', 'pause', 'enable']) {
    await send(`POST /v1/webhooks/{id}/${action}`, `/v1/webhooks/${hookId}/${action}`, undefined, service)
  }
  const ruling = { note: 'Against the rules' }
  await send('POST /v1/reports', '/v1/reports', { subjectId: post.id, reason: 'spam' })
  const resolution = { subjectId: post.id, outcome: 'acted', ...ruling }
  await send('POST /v1/moderation/reports/resolve', '/v1/moderation/reports/resolve', resolution, service)
  for (const method of ['PUT', 'DELETE']) {
    await send(`${method} /v1/moderation/takedowns/{id}`, `/v1/moderation/takedowns/${post.id}`, ruling, service)
    await send(`${method} /v1/moderation/suspensions/{id}`, `/v1/moderation/suspensions/${fan.id}`, ruling, service)
  }
  const newToken = { name: 'contract', scopes: ['locks'] }
  const { id: tokenId } = await send('POST /v1/service-tokens', '/v1/service-tokens', newToken, service)
  const rotation = { overlapSeconds: 60 }
  await send('POST /v1/service-tokens/{id}/rotate', `/v1/service-tokens/${tokenId}/rotate`, rotation, service)
  await send('DELETE /v1/service-tokens/{id}', `/v1/service-tokens/${tokenId}`, undefined, service)
  const event = { channel: 'custom_orders', type: 'paid', data: { total: 1 } }
  await send('POST /v1/events', '/v1/events', event, service)
  await edge.settle()
  await edge.dispatch()
  const listed = await edge.fetch(`/v1/webhooks/${hookId}/deliveries`, { headers: service })
  const [delivery] = (await listed.json<{ items: { id: string }[] }>()).items
  await send('POST /v1/webhooks/portal-links', '/v1/webhooks/portal-links', { tenant: 'acme' }, service)
  await send('POST /v1/deliveries/{id}/replay', `/v1/deliveries/${delivery?.id}/replay`, undefined, service)
  const since = { since: '2026-01-01T00:00:00Z' }
  await send('POST /v1/webhooks/{id}/replay', `/v1/webhooks/${hookId}/replay`, since, service)
  await send('DELETE /v1/webhooks/{id}', `/v1/webhooks/${hookId}`, undefined, service)
  await send('POST /v1/listeners/{name}/rebuild', '/v1/listeners/notifications/rebuild', undefined, service)
  await send('POST /v1/maintenance', '/v1/maintenance', undefined, service)
  const credentials = { login: account.username, password: account.password }
  await send('POST /v1/sessions', '/v1/sessions', credentials, {})
  await send('DELETE /v1/sessions/current', '/v1/sessions/current')
  await send('DELETE /v1/sessions', '/v1/sessions', undefined, await edge.signIn(author))
  const leaving = await addUser({ passwordHash: quickHash('correct horse') })
  const asLeaving = await edge.signIn(leaving)
  const change = { password: 'correct horse', newPassword: 'correct horses' }
  await send('POST /v1/users/me/password', '/v1/users/me/password', change, asLeaving)
  await send(
    'POST /v1/users/me/password',
    '/v1/users/me/password',
    { ...change, newPassword: 'correct horse', password: 'correct horses' },
    asLeaving,
  )
  await send('POST /v1/password-resets', '/v1/password-resets', { email: leaving.email }, {})
  await send(
    'POST /v1/email-verifications',
    '/v1/email-verifications',
    { email: 'n@example.test', password: 'correct horse' },
    asLeaving,
  )
  const tokens = { reset: 'r'.repeat(43), verify: 'v'.repeat(43) }
  for (const [purpose, token] of Object.entries(tokens) as ['reset' | 'verify', string][]) {
    const hash = createHash('sha256').update(token).digest('base64url')
    await db
      .insert(credentialTokens)
      .values({ hash, userId: leaving.id, purpose, email: 'n@example.test', expiresAt: Date.now() + 60_000 })
  }
  await send('PUT /v1/email-verifications', '/v1/email-verifications', { token: tokens.verify }, {})
  const passwordReset = { token: tokens.reset, password: 'correct horse' }
  await send('PUT /v1/password-resets', '/v1/password-resets', passwordReset, {})
  const goodbye = { password: 'correct horse' }
  await send(
    'DELETE /v1/users/me',
    '/v1/users/me',
    goodbye,
    await edge.signIn({ ...leaving, sessionEpoch: leaving.sessionEpoch + 1 }),
  )
  await send('POST /v1/backup', '/v1/backup', undefined, service)
  await reset() // a restore needs an empty database
  await migrate()
  await send('PUT /v1/restore', '/v1/restore', { backup: '2026-01-01' }, service)
  const rows = { columns: ['name', 'fence'], rows: [['a', 1]] }
  await send('POST /v1/restore/{table}', '/v1/restore/fences', rows, service)
  await send('DELETE /v1/restore', '/v1/restore', undefined, service)

  expect([...asked].sort()).toEqual([...operations.keys()].filter((name) => !name.startsWith('GET ')).sort())
})

test('an answer with an extra, missing or wrong field does not match the document', async () => {
  const document = await readDocument()
  const user = await (await newEdge().fetch(`/v1/users/${(await addUser()).id}`)).json<Record<string, unknown>>()
  const schema = { $ref: '#/components/schemas/User' }
  expect(errorsOf(document, schema, user)).toEqual([])
  const { bio: _, ...less } = user
  for (const wrong of [
    { ...user, email: 'ada@example.test' },
    less,
    { ...user, followersCount: -1 },
    { ...user, version: '1' },
    { ...user, createdAt: 'today' },
    null,
  ]) {
    expect(errorsOf(document, schema, wrong)).not.toEqual([])
  }
})
