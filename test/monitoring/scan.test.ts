import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { createScan } from '../../src/monitoring/scan.ts'
import { migrate, newEdge } from '../edge.ts'
import { newKeyspace } from '../redis/setup.ts'

beforeAll(migrate)

/** A keyspace with values of every type and size. */
async function newData() {
  const { connect, control } = newKeyspace()
  const redis = connect()
  const pipeline = redis.pipeline()
  for (let i = 0; i < 60; i += 1) pipeline.set(`post:p_${i}`, 'x'.repeat(i + 1), { px: 600_000 })
  for (let i = 0; i < 20; i += 1) pipeline.set(`user:u_${i}`, 'x', { px: 600_000 })
  pipeline.set('post:p_big', 'x'.repeat(50_000))
  pipeline.hset('liked:u_fan', Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`p_${i}`, '1:1'])))
  for (let i = 0; i < 200; i += 1) pipeline.zadd('presence:0', { score: i, member: `u_${i}` })
  pipeline.pexpire('presence:0', 90_000)
  pipeline.sadd('views-unwritten', 'p_1', 'p_2')
  pipeline.rpush('user:list', 'a', 'b', 'c')
  pipeline.xadd('post:stream', '*', { a: 'b' })
  pipeline.set('limit:reads:ip:203.0.113.7:1', '5')
  pipeline.set('session:s_secret', 'x'.repeat(3_000))
  pipeline.set('somebody:elses:secret', 'x'.repeat(4_000))
  await pipeline.exec()
  await control.reset()
  return { redis, control }
}

test('a scan keeps to its budget, resumes, sees every key, and starts again', async () => {
  const { redis, control } = await newData()
  const total = await redis.dbsize()
  const budget = 60
  let ticks = 0
  let state
  do {
    await control.reset()
    await createScan(redis, budget).tick([], 1_000 + ticks) // another isolate each time
    expect((await control.counts()).commands).toBeLessThanOrEqual(budget)
    state = await redis.get<{ whole: unknown }>('stats:v1:scan')
    ticks += 1
  } while (!state?.whole && ticks < 50)
  expect(ticks).toBeGreaterThan(1)
  expect(ticks).toBeLessThan(20)

  const scan = createScan(redis, budget)
  const whole = await scan.read()
  if (!whole) throw new Error('nothing was kept')
  const { patterns, completedAt, scannedKeys } = scan.progress(whole)
  expect([completedAt, scannedKeys]).toEqual([new Date(1_000 + ticks - 1).toISOString(), 0])
  const counted = Object.fromEntries(patterns.map(({ pattern, keys }) => [pattern, keys]))
  expect(counted).toMatchObject({ 'post:*': 62, 'user:*': 21, 'liked:*': 1, 'session:*': 1, 'limit:*': 1, '*': 1 })
  const own = patterns.find(({ pattern }) => pattern.startsWith('stats'))?.keys ?? 0
  expect(patterns.reduce((sum, { keys }) => sum + keys, 0) - own).toBe(total)
})

test('the largest keys are listed with type, length and expiry; private names are hidden', async () => {
  const { redis } = await newData()
  const scan = createScan(redis, 1_000)
  await scan.tick([], Date.parse('2026-01-01T00:00:00Z'))
  const big = scan.bigKeys(await scan.read())
  const found = new Map(big.map((each) => [each.key, each]))
  expect(big[0]).toMatchObject({ key: 'post:p_big', type: 'string', ttlSeconds: null, length: 50_000 })
  expect(found.get('liked:u_fan')).toMatchObject({ type: 'hash', ttlSeconds: null, length: 300 })
  const presence = found.get('presence:0')
  expect(presence).toMatchObject({ type: 'zset', length: 200, seenAt: '2026-01-01T00:00:00.000Z' })
  expect(presence?.ttlSeconds).toBeGreaterThan(0)
  expect(presence?.ttlSeconds).toBeLessThanOrEqual(90)
  expect(big.length).toBeLessThanOrEqual(20)
  expect(big.map(({ key }) => key)).toEqual(expect.arrayContaining(['*', 'session:*']))
  expect(JSON.stringify(big)).not.toContain('secret')
})

test('frequently requested keys are inspected, but not every minute', async () => {
  const { redis, control } = await newData()
  const scan = createScan(redis, 100)
  await scan.tick(['presence:0', 'limit:*', 'post:p_gone'], 1_000)
  const state = await scan.read()
  expect(scan.figuresOf(state, 'presence:0', 1)).toMatchObject({ type: 'zset', length: 200 })
  expect(scan.figuresOf(state, 'post:p_gone', 1)).toEqual({
    key: 'post:p_gone',
    type: null,
    ttlSeconds: null,
    sizeBytes: null,
    length: null,
    asked: 1,
  })
  await control.reset()
  await createScan(redis, 8).tick(['presence:0'], 2_000)
  expect((await control.counts()).byCommand['pttl'] ?? 0).toBeLessThan(2)
})

test('sizes in bytes are requested from servers that know them', async () => {
  const { redis } = await newData()
  const hasMemory = await redis.exec(['MEMORY', 'USAGE', 'post:p_big']).then(
    () => true,
    () => false, // the embedded engine
  )
  const scan = createScan(redis, 1_000)
  await scan.tick([], 1_000)
  const state = await scan.read()
  expect(state?.hasMemory).toBe(hasMemory)
  for (const { sizeBytes } of scan.bigKeys(state)) expect(sizeBytes === null).toBe(!hasMemory)
})

test('without Redis nothing is scanned, and the scan continues when Redis is back', async () => {
  const { redis, control } = await newData()
  const scan = createScan(redis, 30)
  await scan.tick([], 1_000)
  const before = await scan.read()
  await control.fault({ kind: 'refuse', match: 'TYPE' })
  await control.fault({ kind: 'refuse', match: 'MEMORY' })
  await expect(scan.tick([], 2_000)).rejects.toThrow('Redis did not answer')
  await control.clearFaults()
  expect(await scan.read()).toEqual(before)
  await scan.tick([], 3_000)
  expect((await scan.read())?.walk.scanned).toBeGreaterThan(before?.walk.scanned ?? 0)
})

test('the cron scans, and the figures show the result', async () => {
  const edge = newEdge({ STATS_FLUSH_SECONDS: '0.05', SCAN_COMMANDS: '200' })
  await edge.sdk.set('post:p_large', 'x'.repeat(9_000))
  await edge.fetch('/v1/users/u_nobody')
  await edge.settle()
  await edge.cron()
  const stats = await (
    await edge.fetch('/v1/stats', { headers: { Authorization: `Bearer ${env.SERVICE_TOKEN}` } })
  ).json<{ bigKeys: object[]; topKeys: object[]; scan: object }>()
  expect(stats.bigKeys[0]).toMatchObject({ key: 'post:p_large', type: 'string', length: 9_000 })
  expect(stats.topKeys).toContainEqual(expect.objectContaining({ key: 'user:u_nobody', type: 'string' }))
  expect(stats.scan).toMatchObject({ completedAt: expect.any(String) })
})

test('a budget of 0 scans nothing', async () => {
  const { redis, control } = await newData()
  await createScan(redis, 0).tick(['presence:0'], 1_000)
  expect((await control.counts()).commands).toBe(0)
})
