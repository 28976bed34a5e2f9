import { Hono } from 'hono'
import * as v from 'valibot'
import type { AppEnv } from '../http/context.ts'
import { limitOf } from '../http/input.ts'
import { limitLocally } from '../http/limit.ts'
import { doc, valid } from '../http/openapi.ts'
import { logError } from '../http/problem.ts'
import { requireService } from '../http/service-token.ts'
import { maintenanceService, type PurgeBudget } from './maintenance.ts'
import { formatFor, render } from './open-metrics.ts'
import { historyService } from './history.ts'
import { type Dependency, Maintained, Readiness, RouteStats, Stats } from './schema.ts'
import { statsService } from './stats.ts'

const tag = 'Monitoring'

/** Whether `work` succeeds, and how long it takes. */
async function check(work: () => Promise<unknown>): Promise<Dependency> {
  const startedAt = Date.now()
  const isUp = await work().then(
    () => true,
    () => false,
  )
  return { isUp, ms: Date.now() - startedAt }
}

/** Needs no configuration. */
export const health = new Hono<AppEnv>().get(
  '/healthz',
  doc({
    id: 'getHealth',
    tag,
    summary: 'Check that the Worker is alive',
    answer: v.pipe(v.object({ status: v.literal('alive') }), v.description('The Worker is alive.')),
  }),
  limitLocally(),
  (c) => c.json({ status: 'alive' as const }),
)

/** How many readiness checks of one network an isolate answers per minute. */
const READINESS_LIMIT = 120

const minutes = v.pipe(limitOf(60, 60), v.description('How many minutes the figures cover.'))
const StatsQuery = v.object({
  minutes,
  seriesFrom: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^\d{1,10}$/, 'must be Unix seconds'),
      v.transform(Number),
      v.metadata({ type: 'integer', pattern: undefined, minimum: 0 }),
      v.description('Answers only later steps of the series (Unix seconds).'),
    ),
  ),
})
const RouteQuery = v.object({
  route: v.pipe(
    v.string(),
    v.regex(/^[A-Za-z]+( [\w/:.*-]{1,200})?$/, 'must be a route as `/v1/stats` names it'),
    v.description('As `/v1/stats` names it: `GET /v1/posts/:id`.'),
  ),
  minutes,
})

/** What all purges together do on request. */
const PURGES_ON_REQUEST: PurgeBudget = { stepRows: 1_000, steps: 250, ms: 10_000 }

export const stats = new Hono<AppEnv>()
  .get(
    '/',
    doc({
      id: 'getStats',
      tag,
      summary: 'Read all figures',
      description:
        'For services, and for the dashboard. Figures and series cover the last `minutes`, and up to five more. The series has ' +
        'steps of ten seconds. Isolates report about every ten seconds, so the last step still grows. An unavailable part is ' +
        'null, and `unavailable` names it. Without Redis: the figures of this isolate, and those that D1 has from before, in ' +
        'steps of a minute.',
      answer: Stats,
      problems: ['invalid-request', 'service-token-required'],
    }),
    requireService('stats:read'),
    valid('query', StatsQuery),
    async (c) => {
      const { minutes, seriesFrom } = c.req.valid('query')
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.use(statsService).read(minutes, seriesFrom && seriesFrom * 1_000 + 1))
    },
  )
  .get(
    '/route',
    doc({
      id: 'getRouteStats',
      tag,
      summary: 'Read the history of a route',
      description:
        'Requests, errors, latency and Redis commands by the minute, from D1, which has them up to the last minute. For `CRON` ' +
        'and queues too. Works without Redis. A route without requests has columns of 0 and null.',
      answer: RouteStats,
      problems: ['invalid-request', 'service-token-required'],
    }),
    requireService('stats:read'),
    valid('query', RouteQuery),
    async (c) => {
      const { route, minutes } = c.req.valid('query')
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.use(historyService).readRoute(route, minutes, Date.now()))
    },
  )

export const monitoring = new Hono<AppEnv>()
  .get(
    '/readyz',
    doc({
      id: 'getReadiness',
      tag,
      summary: 'Check that D1 and Redis are up',
      description: 'With the milliseconds of each. 503 if D1 or Redis is down. Reads work without Redis.',
      answer: Readiness,
      answers: { 503: Readiness },
    }),
    limitLocally(READINESS_LIMIT),
    async (c) => {
      const [redis, d1] = await Promise.all([
        check(async () => c.var.platform.redis.reads.ping()),
        check(async () => c.env.DB.prepare('SELECT 1').first()),
      ])
      const isReady = redis.isUp && d1.isUp
      c.header('Cache-Control', 'no-store')
      return c.json({ isReady, redis, d1 }, isReady ? 200 : 503)
    },
  )
  .get(
    '/metrics',
    doc({
      id: 'getMetrics',
      tag,
      summary: 'Read all figures, for Prometheus',
      description:
        'For services. By `Accept`: OpenMetrics 1.0, or the text format of Prometheus 0.0.4, which is the default. Counters ' +
        'cover all isolates. Without Redis the counters are absent.',
      answer: v.pipe(v.string(), v.description('The figures.')),
      mediaTypes: ['text/plain', 'application/openmetrics-text'],
      problems: ['service-token-required'],
    }),
    requireService('stats:read'),
    async (c) => {
      const format = formatFor(c.req.header('Accept'))
      const metrics = render(format, await c.var.use(statsService).expose())
      return c.body(metrics, 200, { 'Content-Type': format, 'Cache-Control': 'no-store', Vary: 'Accept' })
    },
  )
  .post(
    '/v1/maintenance',
    doc({
      id: 'purgeExpiredData',
      tag,
      summary: 'Purge expired data now',
      description:
        'For services. The cron does the same each minute. `hasMore`: more is expired than one request purges. A failed ' +
        'purge fails alone: without Redis, expired rows in D1 are purged anyway.',
      answer: Maintained,
      problems: ['service-token-required'],
    }),
    requireService('maintenance'),
    async (c) => {
      const outcomes = await c.var.use(maintenanceService)(PURGES_ON_REQUEST)
      for (const outcome of Object.values(outcomes)) if ('error' in outcome) logError(outcome.error, c, 'request')
      return c.json({
        purged: Object.entries(outcomes).map(([name, outcome]) =>
          'error' in outcome
            ? { name, isDone: false, removed: 0, hasMore: false }
            : { name, isDone: true, removed: outcome.removed, hasMore: outcome.hasMore },
        ),
      })
    },
  )
