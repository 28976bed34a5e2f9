import { Hono } from 'hono'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import { requireService } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, limitOf } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { logError } from '../http/problem.ts'
import { OPEN_METRICS, render } from './open-metrics.ts'
import { Stats } from './schema.ts'

const tag = 'Monitoring'

const Dependency = v.object({ isUp: v.boolean(), ms: v.number() })
const Readiness = v.object({ isReady: v.boolean(), redis: Dependency, d1: Dependency })

/** Whether `work` succeeds, and how long that took. */
async function check(work: () => Promise<unknown>): Promise<v.InferOutput<typeof Dependency>> {
  const startedAt = Date.now()
  const isUp = await work().then(
    () => true,
    () => false,
  )
  return { isUp, ms: Date.now() - startedAt }
}

/** Needs nothing: it answers however little is configured. */
export const health = new Hono<AppEnv>().get(
  '/healthz',
  doc({ tag, summary: 'Whether the Worker is alive', answer: v.object({ status: v.literal('alive') }) }),
  (c) => c.json({ status: 'alive' as const }),
)

export const readiness = new Hono<AppEnv>().get(
  '/readyz',
  doc({
    tag,
    summary: 'Whether what the Worker depends on is up',
    description:
      'Each dependency with milliseconds. 503 when D1 or Redis is down; reads are answered without Redis all the same.',
    answer: Readiness,
    answers: { 503: Readiness },
  }),
  async (c) => {
    const [redis, d1] = await Promise.all([
      check(async () => c.var.services.redis.ping()),
      check(async () => c.env.DB.prepare('SELECT 1').first()),
    ])
    const isReady = redis.isUp && d1.isUp
    c.header('Cache-Control', 'no-store')
    return c.json({ isReady, redis, d1 }, isReady ? 200 : 503)
  },
)

const Minutes = v.object({ minutes: limitOf(60, 60) })

const some = <T extends v.GenericSchema>(item: T) =>
  v.optional(v.pipe(v.array(item), v.maxLength(100, 'must be at most 100 ids')), [])
const Invalidation = v.pipe(
  v.strictObject({ users: some(id('u')), posts: some(id('p')), hot: v.optional(v.boolean(), false) }),
  v.forward(
    v.check(({ users, posts, hot }) => hot || users.length + posts.length > 0, 'name users, posts, or hot: true'),
    ['users'],
  ),
)

const Maintained = v.object({
  purged: v.array(v.object({ name: v.string(), isDone: v.boolean(), removed: Count, hasMore: v.boolean() })),
})

/** What a purge removes at most of one kind when it is asked for. */
const PURGED_AT_ONCE = 10_000

export const monitoring = new Hono<AppEnv>()
  .get(
    '/v1/stats',
    doc({
      tag,
      summary: 'Read all figures',
      description:
        'For services; the dashboard draws it. The last hour in steps of ten seconds, of which `minutes` are wanted. ' +
        'Isolates report every ten seconds or so: the last step grows for a while. What cannot be asked for is null and ' +
        'named in `unavailable`; without Redis there is what this isolate has counted.',
      answer: Stats,
      problems: ['invalid-request', 'service-token-required'],
    }),
    requireService,
    valid('query', Minutes),
    async (c) => {
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.services.stats.read(c.req.valid('query').minutes))
    },
  )
  .get(
    '/metrics',
    doc({
      tag,
      summary: 'Read all figures, for Prometheus',
      description:
        'For services. OpenMetrics 1.0. Counters are of all isolates, as reported; without Redis they are left out.',
      textType: 'application/openmetrics-text',
      problems: ['service-token-required'],
    }),
    requireService,
    async (c) => {
      const { figures, totals } = await c.var.services.stats.expose()
      return c.body(render(figures, totals), 200, { 'Content-Type': OPEN_METRICS, 'Cache-Control': 'no-store' })
    },
  )
  .post(
    '/v1/cache/invalidate',
    doc({
      tag,
      summary: 'Say that users, posts or the hot feed changed in the database',
      description:
        'For back ends that write the database themselves. Profiles and texts are read from it again, counts of posts ' +
        'are brought to what it has. Isolates may remember what they have for some seconds. Without Redis: 503, and ' +
        'caches are as old as they may get.',
      status: 204,
      problems: [
        'invalid-request',
        'malformed-json',
        'unsupported-media-type',
        'service-token-required',
        'unavailable',
      ],
    }),
    requireService,
    requireJson,
    valid('json', Invalidation),
    async (c) => {
      const { users, posts, likes, comments } = c.var.services
      const changed = c.req.valid('json')
      await Promise.all([
        users.invalidate(changed.users),
        posts.invalidate(changed.posts),
        likes.recount(changed.posts),
        comments.recount(changed.posts),
        changed.hot ? posts.expireHot() : undefined,
      ]).catch((cause: unknown) => {
        throw new Problem('unavailable', 'Caches cannot be told right now', { retryAfter: 5 }, { cause })
      })
      return c.body(null, 204)
    },
  )
  .post(
    '/v1/maintenance',
    doc({
      tag,
      summary: 'Throw away now what is over',
      description:
        'For services; the cron does the same each minute, a little at a time. One that fails fails alone: without ' +
        'Redis what is in the database is purged all the same.',
      answer: Maintained,
      problems: ['service-token-required'],
    }),
    requireService,
    async (c) => {
      const purged = await c.var.services.maintenance(PURGED_AT_ONCE)
      for (const outcome of Object.values(purged)) if ('error' in outcome) logError(outcome.error, c, 'request')
      return c.json({
        purged: Object.entries(purged).map(([name, outcome]) =>
          'error' in outcome
            ? { name, isDone: false, removed: 0, hasMore: false }
            : { name, isDone: true, removed: outcome.removed, hasMore: outcome.hasMore },
        ),
      })
    },
  )
