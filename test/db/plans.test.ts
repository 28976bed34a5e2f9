import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { deliveries } from '../../src/db/schema.ts'
import { features } from '../../src/features.ts'
import { migrate, newEdge, newRoutes } from '../edge.ts'
import { addComment, addFollow, addLike, addPost, addUser, addWebhookRows, db } from '../rows.ts'

let queries: Query[] = []

beforeAll(async () => {
  await migrate()
  queries = await collectQueries()
}, 60_000)

interface Query {
  sql: string
  parameters: unknown[]
}

/** D1 itself, noting every statement it is given, with what was bound to it. */
function recording(database: D1Database, sent: Query[]): D1Database {
  return new Proxy(database, {
    get(target, name) {
      if (name !== 'prepare') {
        const member: unknown = Reflect.get(target, name)
        return typeof member === 'function' ? member.bind(target) : member
      }
      return (sql: string) => {
        const query: Query = { sql, parameters: [] }
        sent.push(query)
        const statement = target.prepare(sql)
        const bind = statement.bind.bind(statement)
        statement.bind = (...parameters: unknown[]) => {
          query.parameters = parameters
          return bind(...parameters)
        }
        return statement
      }
    },
  })
}

/** A path, and who asks for it. */
type Signed = [path: string, headers: Record<string, string>]

/** What each route that reads is asked, by its path in the app: with all it can be asked for, and for what is unknown. */
async function newRequests(): Promise<Record<string, (string | Signed)[]>> {
  const [ada, bob] = [await addUser(), await addUser()]
  const [post, other] = [await addPost({ authorId: ada.id }), await addPost({ authorId: ada.id })]
  const comment = await addComment({ postId: post.id, authorId: bob.id })
  await addComment({ postId: post.id, authorId: bob.id, parentId: comment.id })
  await addFollow(ada.id, bob.id)
  for (const userId of [ada.id, bob.id]) await addLike(userId, other.id)
  const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
  const asAda = await newEdge().signIn(ada)
  const exportPages = features.flatMap(({ exports }) =>
    Object.keys(exports?.() ?? {}).map((kind) => `/v1/users/me/export?cursor=${kind}:0`),
  )
  const webhookId = await addWebhookRows()
  const [delivery] = await db.select().from(deliveries).where(eq(deliveries.webhookId, webhookId))
  const pages = (path: string, kind: string) => [path, `${path}?limit=3&cursor=${kind}_zzz`]
  return {
    '/healthz': ['/healthz'],
    '/readyz': ['/readyz'],
    '/v1/stats': [['/v1/stats', service]],
    '/v1/stats/route': [['/v1/stats/route?route=GET%20%2Fv1%2Fstats', service]],
    '/v1/backup/:table': [['/v1/backup/users', service]],
    '/v1/backup/:date/:file': [['/v1/backup/2026-01-01/manifest.json', service]],
    '/metrics': [['/metrics', service]],
    '/v1/presence': [
      '/v1/presence',
      `/v1/presence?ids=${ada.id},u_unknown`,
      [`/v1/presence?ids=${bob.id}`, await newEdge().signIn(ada)],
    ],
    '/v1/events/stream': [['/v1/events/stream?channels=post_events', await newEdge().signIn(ada)]],
    '/v1/rate-limit': ['/v1/rate-limit'],
    '/v1/sessions': [['/v1/sessions', await newEdge().signIn(ada)]],
    '/v1/users': [`/v1/users?ids=${ada.id}`, `/v1/users?ids=${ada.id},${bob.id},u_unknown`],
    '/v1/users/me/blocks': pages('/v1/users/me/blocks', 'r').map((path) => [path, asAda] satisfies Signed),
    '/v1/users/me/mutes': [['/v1/users/me/mutes', asAda]],
    '/v1/users/by-username/:username': [`/v1/users/by-username/${ada.username}`, '/v1/users/by-username/nobody'],
    '/v1/users/:id': [
      `/v1/users/${ada.id}`,
      '/v1/users/u_nobody',
      [`/v1/users/${ada.id}`, await newEdge().signIn(ada)],
    ],
    '/v1/users/me/export': [
      ['/v1/users/me/export', asAda],
      ...exportPages.map((path) => [path, asAda] satisfies Signed),
    ],
    '/v1/users/:id/posts': pages(`/v1/users/${ada.id}/posts`, 'p'),
    '/v1/users/:id/followers': [
      ...pages(`/v1/users/${bob.id}/followers`, 'f'),
      [`/v1/users/${bob.id}/followers`, asAda],
    ],
    '/v1/users/:id/followings': pages(`/v1/users/${ada.id}/followings`, 'f'),
    '/v1/posts': [`/v1/posts?ids=${post.id}`, `/v1/posts?ids=${post.id},${other.id},p_unknown`],
    '/v1/search': [
      ['/v1/search?q=hello', asAda],
      ['/v1/search?q=somebody&type=users', asAda],
      '/v1/search?q=hello',
      '/v1/search?q=hello&cursor=9-5',
      '/v1/search?q=somebody&type=users',
    ],
    '/v1/recommendations': [['/v1/recommendations', asAda]],
    '/v1/feed': pages('/v1/feed', 'p').map((path) => [path, asAda] satisfies Signed),
    '/v1/notifications': pages('/v1/notifications', 'n').map((path) => [path, asAda] satisfies Signed),
    '/v1/posts/hot': ['/v1/posts/hot'],
    '/v1/posts/:id': [`/v1/posts/${post.id}`, '/v1/posts/p_nobody'],
    '/v1/posts/:id/comments': [
      ...pages(`/v1/posts/${post.id}/comments`, 'c'),
      [`/v1/posts/${post.id}/comments`, asAda],
    ],
    '/v1/comments/:id/replies': [
      ...pages(`/v1/comments/${comment.id}/replies`, 'c'),
      [`/v1/comments/${comment.id}/replies`, asAda],
    ],
    '/v1/moderation/reports': pages('/v1/moderation/reports', 'rp').map((path) => [path, service] satisfies Signed),
    '/v1/moderation/log': pages('/v1/moderation/log', 'ml').map((path) => [path, service] satisfies Signed),
    '/v1/moderation/contents/:id': [[`/v1/moderation/contents/${post.id}`, service]],
    '/v1/service-tokens': pages('/v1/service-tokens', 'st').map((path) => [path, service] satisfies Signed),
    '/v1/webhooks': [...pages('/v1/webhooks', 'wh'), '/v1/webhooks?tenant=acme'].map(
      (path) => [path, service] satisfies Signed,
    ),
    '/v1/webhooks/:id': [[`/v1/webhooks/${webhookId}`, service]],
    '/v1/deliveries/:id': [[`/v1/deliveries/${delivery?.id}`, service]],
    '/v1/webhooks/:id/deliveries': [
      ...pages(`/v1/webhooks/${webhookId}/deliveries`, 'dl'),
      `/v1/webhooks/${webhookId}/deliveries?status=dead`,
    ].map((path) => [path, service] satisfies Signed),
  }
}

/** Every distinct statement that the routes send, cold and without Redis. */
async function collectQueries(): Promise<Query[]> {
  const sent: Query[] = []
  for (const paths of Object.values(await newRequests())) {
    for (const asked of paths) {
      const [path, headers] = typeof asked === 'string' ? [asked, {}] : asked
      for (const isRedisUp of [true, false]) {
        const edge = newEdge({ DB: recording(env.DB, sent) })
        if (!isRedisUp) await edge.redis.fault({ kind: 'refuse' })
        const response = await edge.fetch(path, { headers })
        expect(response.status).not.toBe(500)
        if (path.includes('/export')) await response.text()
        else await response.body?.cancel() // a stream would not end
        await edge.settle()
      }
    }
  }
  return [...new Map(sent.map((query) => [query.sql, query])).values()]
}

/** SQLite's plan for a statement, a line each. The comment keeps D1 from answering with a plan made before. */
async function planOf({ sql, parameters }: Query): Promise<string[]> {
  const { results } = await env.DB.prepare(`EXPLAIN QUERY PLAN ${sql} -- ${crypto.randomUUID()}`)
    .bind(...parameters)
    .all<{ detail: string }>()
  return results.map(({ detail }) => detail)
}

/**
 * A walk over a whole table or a whole index, or a sort. No such walks are those of a list that came along or was made by
 * a subquery with a limit: `queue` is the feed's own, as long as its page; `matches` are those of a search, at most
 * 1 000, which are sorted; `mine`, `best` and `newest` are those of recommendations, at most 20 and 1 000; `page` is one page of a
 * backup, whose running sum of bytes is a subquery; `first` are the first waiting events, at most 1 000. A full text index is
 * walked by words (`M`), from its end (`<`).
 */
const isCostly = (line: string, sql: string) =>
  (line.startsWith('SCAN ') && !ALLOWED.test(line)) ||
  (line.startsWith('USE TEMP B-TREE') &&
    !(line.endsWith(' FOR ORDER BY') && /FROM (matches CROSS JOIN|page\))/.test(sql)))

const ALLOWED =
  /^SCAN (CONSTANT ROW|queue|page|matches|mine|best|newest|first|\(subquery-\d\)|(json_each|neighbour|liked|parents)( EXISTS)? VIRTUAL TABLE .*|\w+_words VIRTUAL TABLE INDEX \d+:M\d+<)$/

async function costlyLines(queries: Query[]): Promise<string[]> {
  const lines = []
  for (const query of queries) {
    for (const line of await planOf(query)) if (isCostly(line, query.sql)) lines.push(`${line}: ${query.sql}`)
  }
  return lines
}

test('this test calls every route that reads', async () => {
  const reads = newRoutes().filter(
    ({ method, path }) => method === 'GET' && !path.endsWith('*') && !path.startsWith('/dashboard'),
  )
  expect(Object.keys(await newRequests()).sort()).toEqual([...new Set(reads.map(({ path }) => path))].sort())
})

const OF_EXPORTS = [
  'post_likes',
  'comment_likes',
  'notifications',
  'sign_in_sources',
  'idempotency_keys',
  'credential_tokens',
  'mentions',
]
const OF_WEBHOOKS = ['webhooks', 'deliveries', 'delivery_attempts', 'webhook_hours', 'events']

test('every query of a read uses an index and sorts nothing', async () => {
  expect(await costlyLines(queries)).toEqual([])
  const tables = queries.flatMap(({ sql }) => [...sql.matchAll(/(?:from|join) "(\w+)"/g)].map(([, name]) => name))
  expect(new Set(tables)).toEqual(
    new Set([
      'events',
      'users',
      'posts',
      'comments',
      'follows',
      'relations',
      'sessions',
      'revocations',
      'notification_reads',
      'service_tokens',
      'stat_minutes',
      'reports',
      'takedowns',
      'moderation_log',
      'suspensions',
      ...OF_WEBHOOKS,
      ...OF_EXPORTS,
    ]),
  )
})

test('notifications are found by recipient and time, without reading those of others', async () => {
  const query = queries.find(({ sql }) => /FROM "notifications"/.test(sql))
  expect(await planOf(query ?? expect.fail('nobody asked'))).toContain(
    'SEARCH stored USING INDEX notifications_user (user_id=? AND id>? AND id<?)',
  )
})

test('the comments on a post are found without reading their replies', async () => {
  const query = queries.find(({ sql }) => sql.includes('"comments"."parent_id" is null'))
  const plan = await planOf(query ?? expect.fail('nobody asked'))
  expect(plan).toContainEqual(expect.stringContaining('comments USING INDEX comments_top (post_id=?'))
})

test.each([
  'posts_author',
  'comments_replies',
  'follows_followers',
  'follows_followings',
  'relations_list',
  'users_username',
  'post_likes_user',
  'posts_best',
  'sessions_user',
  'deliveries_webhook',
])('without the index %s a query would scan its table, or sort', async (index) => {
  const definition = await env.DB.prepare('SELECT sql FROM sqlite_master WHERE name = ?')
    .bind(index)
    .first<string>('sql')
  expect(definition).not.toBeNull()
  await env.DB.exec(`DROP INDEX ${index}`)
  const lines = await costlyLines(queries)
  await env.DB.exec(String(definition))

  expect(lines).not.toEqual([])
  expect(await costlyLines(queries)).toEqual([])
})
