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
import { type Dependency, Maintained, Readiness, Stats } from './schema.ts'
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

/** What all purges together do on request. */
const PURGES_ON_REQUEST: PurgeBudget = { stepRows: 1_000, steps: 250, ms: 10_000 }

export const stats = new Hono<AppEnv>().get(
  '/',
  doc({
    id: 'getStats',
    tag,
    summary: 'Read all figures',
    description:
      'For services, and for the dashboard. The series has steps of ten seconds, for the last `minutes`. Isolates report ' +
      'about every ten seconds, so the last step still grows. An unavailable part is null, and `unavailable` names it. ' +
      'Without Redis: the figures of this isolate.',
    answer: Stats,
    problems: ['invalid-request', 'service-token-required'],
  }),
  requireService('stats:read'),
  valid('query', v.object({ minutes: limitOf(60, 60) })),
  async (c) => {
    c.header('Cache-Control', 'no-store')
    return c.json(await c.var.use(statsService).read(c.req.valid('query').minutes))
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
