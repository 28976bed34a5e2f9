import { Hono } from 'hono'
import * as v from 'valibot'
import type { AppEnv } from '../http/context.ts'
import { doc } from '../http/openapi.ts'

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
