import { expect, test } from 'vitest'
import { newEdge } from '../edge.ts'

const up = { isUp: true, ms: expect.any(Number) }
const down = { isUp: false, ms: expect.any(Number) }

test('a Worker that runs is alive', async () => {
  const response = await newEdge().fetch('/healthz')
  expect(response.status).toBe(200)
  expect(await response.json()).toEqual({ status: 'alive' })
})

test('a Worker whose Redis and D1 are up is ready', async () => {
  const edge = newEdge()
  const response = await edge.fetch('/readyz')
  expect(response.status).toBe(200)
  expect(response.headers.get('Cache-Control')).toBe('no-store')
  expect(await response.json()).toEqual({ isReady: true, redis: up, d1: up })
  expect(await edge.redis.counts()).toMatchObject({ requests: 1, byCommand: { ping: 1 } })
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)(
  'it is alive but not ready when Redis does "%s"',
  async (kind) => {
    const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250' })
    await edge.redis.fault({ kind })
    const response = await edge.fetch('/readyz')
    expect(response.status).toBe(503)
    expect(await response.json()).toEqual({ isReady: false, redis: down, d1: up })
    expect((await edge.fetch('/healthz')).status).toBe(200)
  },
)

test('it is ready again when Redis is back', async () => {
  const edge = newEdge({ REDIS_BREAKER_FAILURES: '1', REDIS_BREAKER_SECONDS: '0.05' })
  await edge.redis.fault({ kind: 'refuse' })
  expect((await edge.fetch('/readyz')).status).toBe(503)
  await edge.redis.clearFaults()
  await new Promise((resolve) => setTimeout(resolve, 60))
  expect((await edge.fetch('/readyz')).status).toBe(200)
})

test('it is not ready when its database does not answer', async () => {
  const DB = { prepare: () => ({ first: async () => Promise.reject(new Error('D1_ERROR: overloaded')) }) }
  const response = await newEdge({ DB }).fetch('/readyz')
  expect(response.status).toBe(503)
  expect(await response.json()).toEqual({ isReady: false, redis: up, d1: down })
})

test('each dependency has its own milliseconds', async () => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '2000' })
  await edge.redis.latency(200)
  const { redis, d1 } = await (await edge.fetch('/readyz')).json<Record<'redis' | 'd1', { ms: number }>>()
  expect(redis.ms).toBeGreaterThanOrEqual(190)
  expect(d1.ms).toBeLessThan(redis.ms)
})
