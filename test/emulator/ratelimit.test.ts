import { Analytics, IpDenyList, MultiRegionRatelimit, Ratelimit } from '@upstash/ratelimit'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/server.ts'
import { newClient, start } from './start.ts'

let emulator: Emulator
beforeAll(async () => {
  emulator = await start()
})
afterAll(() => emulator.close())

/** Every request waits for Redis: on a busy machine a timeout would allow the request. */
const exact = { ephemeralCache: false, timeout: 0 } as const

const algorithms = {
  'fixed window': Ratelimit.fixedWindow(3, '60 s'),
  'sliding window': Ratelimit.slidingWindow(3, '60 s'),
  'token bucket': Ratelimit.tokenBucket(1, '60 s', 3),
} as const

for (const [name, limiter] of Object.entries(algorithms)) {
  test(`${name}: the limit is exact for each identifier and reports what remains`, async () => {
    const ratelimit = new Ratelimit({ redis: newClient(emulator).redis, limiter, ...exact })
    const results = []
    for (let i = 0; i < 4; i++) results.push(await ratelimit.limit('ada'))
    expect(results.map(({ success }) => success)).toEqual([true, true, true, false])
    expect(results.map(({ remaining }) => remaining)).toEqual([2, 1, 0, expect.any(Number)])
    expect(results[3]?.reset).toBeGreaterThan(Date.now())
    expect((await ratelimit.limit('bob')).success).toBe(true)
    expect(await ratelimit.getRemaining('ada')).toMatchObject({ remaining: 0 })
    expect(await ratelimit.getRemaining('eve')).toMatchObject({ remaining: 3 })
    await ratelimit.resetUsedTokens('ada')
    expect((await ratelimit.limit('ada')).remaining).toBe(2)
  })

  test(`${name}: parallel requests never pass more than the limit`, async () => {
    const ratelimit = new Ratelimit({ redis: newClient(emulator).redis, limiter, ...exact })
    const results = await Promise.all(Array.from({ length: 20 }, () => ratelimit.limit('ada')))
    expect(results.filter(({ success }) => success)).toHaveLength(3)
  })

  test(`${name}: a request may cost more than one`, async () => {
    const ratelimit = new Ratelimit({ redis: newClient(emulator).redis, limiter, ...exact })
    expect(await ratelimit.limit('ada', { rate: 2 })).toMatchObject({ success: true, remaining: 1 })
    expect((await ratelimit.limit('ada', { rate: 2 })).success).toBe(false)
  })

  test(`${name}: the limit can be changed while running`, async () => {
    const { redis } = newClient(emulator)
    const ratelimit = new Ratelimit({ redis, limiter, ...exact, dynamicLimits: true })
    await ratelimit.setDynamicLimit({ limit: 1 })
    expect(await ratelimit.getDynamicLimit()).toEqual({ dynamicLimit: 1 })
    expect((await ratelimit.limit('ada')).success).toBe(true)
    expect((await ratelimit.limit('ada')).success).toBe(false)
    await ratelimit.setDynamicLimit({ limit: false })
    expect(await ratelimit.getDynamicLimit()).toEqual({ dynamicLimit: null })
  })
}

test('a limiter costs one command once its script is known', async () => {
  const { redis, control } = newClient(emulator)
  const ratelimit = new Ratelimit({ redis, limiter: Ratelimit.slidingWindow(9, '60 s'), ...exact })
  await ratelimit.limit('ada')
  expect((await control.counts()).byCommand).toEqual({ evalsha: 1, eval: 1 })
  await control.reset()
  await ratelimit.limit('ada')
  expect((await control.counts()).byCommand).toEqual({ evalsha: 1 })
})

test('cached fixed window: later requests are counted in memory first', async () => {
  const { redis } = newClient(emulator)
  const limiter = Ratelimit.cachedFixedWindow(3, '60 s')
  const ratelimit = new Ratelimit({ redis, limiter, ephemeralCache: new Map() })
  const results = []
  for (let i = 0; i < 4; i++) {
    const result = await ratelimit.limit('ada')
    await result.pending
    results.push(result.success)
  }
  expect(results).toEqual([true, true, true, false])
  expect(await ratelimit.getRemaining('ada')).toMatchObject({ remaining: 0 })
  await ratelimit.resetUsedTokens('ada')
  expect((await ratelimit.limit('ada')).success).toBe(true)
})

test('an identifier over the limit is refused from memory, without a request', async () => {
  const { redis, control } = newClient(emulator)
  const ratelimit = new Ratelimit({ redis, limiter: Ratelimit.fixedWindow(1, '60 s'), ephemeralCache: new Map() })
  await ratelimit.limit('ada')
  await ratelimit.limit('ada')
  const { requests } = await control.counts()
  expect(await ratelimit.limit('ada')).toMatchObject({ success: false, reason: 'cacheBlock' })
  expect((await control.counts()).requests).toBe(requests)
})

test('blockUntilReady waits for the window to pass', async () => {
  const ratelimit = new Ratelimit({ redis: newClient(emulator).redis, limiter: Ratelimit.fixedWindow(1, '200 ms') })
  await ratelimit.limit('ada')
  expect((await ratelimit.blockUntilReady('ada', 2_000)).success).toBe(true)
})

test('if Redis hangs, requests pass after the timeout', async () => {
  const { redis, control } = newClient(emulator)
  await control.fault({ kind: 'hang' })
  const ratelimit = new Ratelimit({ redis, limiter: Ratelimit.slidingWindow(1, '60 s'), timeout: 50 })
  expect(await ratelimit.limit('ada')).toMatchObject({ success: true, reason: 'timeout' })
})

test('analytics are written and can be read', async () => {
  const { redis } = newClient(emulator)
  const ratelimit = new Ratelimit({ redis, limiter: Ratelimit.fixedWindow(1, '60 s'), analytics: true, prefix: 'rl' })
  for (let i = 0; i < 2; i++) await (await ratelimit.limit('ada')).pending
  expect(await redis.keys('rl:events*')).toHaveLength(1)
  const analytics = new Analytics({ redis, prefix: 'rl' })
  expect(await analytics.getUsage(Date.now() - 2 * 3_600_000)).toEqual({ ada: { success: 1, blocked: 1 } })
})

test('a denied value is refused though its limit is not reached', async () => {
  const { redis } = newClient(emulator)
  await redis.sadd('rl:denyList:all', '10.0.0.1')
  await IpDenyList.disableIpDenyList(redis, 'rl') // otherwise the SDK fetches the public list
  const ratelimit = new Ratelimit({
    redis,
    limiter: Ratelimit.fixedWindow(9, '60 s'),
    enableProtection: true,
    prefix: 'rl',
  })
  expect(await ratelimit.limit('ada', { ip: '10.0.0.1' })).toMatchObject({
    success: false,
    reason: 'denyList',
    deniedValue: '10.0.0.1',
  })
  expect((await ratelimit.limit('bob', { ip: '10.0.0.2' })).success).toBe(true)
})

for (const [name, limiter] of [
  ['fixed window', MultiRegionRatelimit.fixedWindow(3, '60 s')],
  ['sliding window', MultiRegionRatelimit.slidingWindow(3, '60 s')],
] as const) {
  test(`multi-region ${name}: regions share what was spent`, async () => {
    const regions = [newClient(emulator).redis, newClient(emulator).redis]
    const ratelimit = new MultiRegionRatelimit({ redis: regions, limiter, ...exact })
    const results = []
    for (let i = 0; i < 4; i++) {
      const result = await ratelimit.limit('ada')
      await result.pending
      results.push(result.success)
    }
    expect(results).toEqual([true, true, true, false])
    expect(await Promise.all(regions.map((redis) => redis.dbsize()))).toEqual([1, 1])
    expect(await ratelimit.getRemaining('ada')).toMatchObject({ remaining: 0 })
  })
}
