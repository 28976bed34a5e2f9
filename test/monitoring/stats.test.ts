import { env } from 'cloudflare:workers'
import type { InferOutput } from 'valibot'
import { beforeAll, expect, test, vi } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { removals, statMinutes } from '../../src/db/schema.ts'
import { features } from '../../src/features.ts'
import { keys, patternOf } from '../../src/keys.ts'
import { patternsOf, shownKey } from '../../src/monitoring/commands.ts'
import { BOUNDS_MS, createRecorder, quantile } from '../../src/monitoring/recorder.ts'
import type * as schema from '../../src/monitoring/schema.ts'
import { statsService } from '../../src/monitoring/stats.ts'
import { newMeter } from '../../src/redis/client.ts'
import { createIsolate, createPlatform } from '../../src/platform.ts'
import { type Edge, expectRefused, migrate, newEdge } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

type Stats = InferOutput<typeof schema.Stats>

const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }
/** A Worker that reports what it counts almost at once. */
const newReporter = (bindings: Record<string, unknown> = {}, token?: string) =>
  newEdge({ STATS_FLUSH_SECONDS: '0.05', ...bindings }, token)

async function readStats(edge: Edge, query = ''): Promise<Stats> {
  const response = await edge.fetch(`/v1/stats${query}`, { headers: service })
  expect(response.status).toBe(200)
  return response.json<Stats>()
}

/** The module of another isolate over the keyspace of `edge`. */
function newModule(edge: Edge, defer: (work: () => Promise<unknown>) => void = () => {}) {
  const variables = { UPSTASH_REDIS_REST_TOKEN: edge.token, STATS_FLUSH_SECONDS: '0.05', REDIS_READ_TIMEOUT_MS: '5000' }
  const config = readConfig({ ...env, ...variables })
  const isolate = createIsolate(config, features)
  const { use } = createPlatform(isolate, env, { onFailure: () => {}, defer })
  return { stats: use(statsService), isolate }
}

const routeIn = (stats: Stats, route: string) => stats.routes.find((each) => each.route === route)
const sum = (column: (number | null)[]) => column.reduce<number>((total, value) => total + (value ?? 0), 0)

test.each(['/v1/stats', '/metrics'])('%s is for services', async (path) => {
  const edge = newEdge()
  for (const headers of [{}, { Authorization: 'Bearer a-wrong-token-for-tests' }]) {
    const response = await edge.fetch(path, { headers })
    expect(response.status).toBe(401)
    expect(response.headers.get('WWW-Authenticate')).toBe('Bearer')
    expect(await response.json()).toMatchObject({ type: '/problems/service-token-required' })
  }
  expect((await edge.redis.counts()).requests).toBe(0)
})

test('figures cost one round trip of six commands', async () => {
  const edge = newEdge()
  await readStats(edge)
  await edge.settle()
  const { requests, byCommand } = await edge.redis.counts()
  expect([requests, byCommand]).toEqual([1, { get: 2, xrange: 1, info: 1, dbsize: 1, zcount: 1 }])
})

test('an isolate counts what it serves at once: by route, with its Redis commands, and by cache', async () => {
  const edge = newEdge()
  const user = await addUser()
  for (let i = 0; i < 3; i += 1) {
    await edge.fetch(`/v1/users/${user.id}`)
    await edge.settle()
  }
  await edge.fetch('/v1/users/u_nobody')
  await edge.fetch('/v1/users/x')
  await edge.fetch('/nothing/of/the/kind')
  await edge.settle()
  const spent = await edge.redis.counts()

  const stats = await readStats(edge)
  const route = routeIn(stats, 'GET /v1/users/:id')
  expect(route).toMatchObject({
    requests: 5,
    statuses: { '2xx': 3, '3xx': 0, '4xx': 2, '5xx': 0 },
    commands: spent.commands,
    roundTrips: spent.requests,
    commandsPerRequest: Number((spent.commands / 5).toFixed(3)),
    p50Ms: expect.any(Number),
    p99Ms: expect.any(Number),
  })
  expect(routeIn(stats, 'unmatched')).toMatchObject({ requests: 1, statuses: { '4xx': 1 }, commands: 0 })
  expect(stats.window).toMatchObject({ requests: 6, errors: 0, commands: spent.commands })
  expect(stats.caches.find(({ cache }) => cache === 'user')).toEqual({
    cache: 'user',
    memory: { hits: 2, staleHits: 0, negativeHits: 0, misses: 2, errors: 0, hitRate: 0.5 },
    redis: { hits: 0, staleHits: 0, negativeHits: 0, misses: 2, errors: 0, hitRate: 0 },
    loader: { loads: 2, errors: 0 },
    stores: { stored: 2, lost: 0, refused: 0 },
  })
  expect(stats.server).toMatchObject({ keys: expect.any(Number), version: expect.any(String) })
  expect(stats.dependencies).toMatchObject({ redis: { isUp: true, breaker: 'closed' }, d1: { isUp: true } })
  expect(stats.unavailable).toEqual([])
})

test('what a command costs can be set', async () => {
  const edge = newEdge({ COMMANDS_USD: '1' })
  await edge.fetch('/v1/users/u_nobody')
  await edge.settle()
  const route = routeIn(await readStats(edge), 'GET /v1/users/:id')
  expect(route?.costPerMillionUsd).toBe((route?.billedCommands ?? 0) * 10)
})

test('the cost includes the commands of scripts, as a real Redis counted them (npm run costs)', async () => {
  const edge = newEdge({ LIMIT_READS: '30' }) // every read is counted at once
  const [ada, bob] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: ada.id })
  const headers = await edge.signIn(bob)
  for (const [method, path, route, sent, billed] of [
    ['GET', `/v1/users/${ada.id}`, 'GET /v1/users/:id', 1, 4],
    ['POST', '/v1/presence/heartbeat', 'POST /v1/presence/heartbeat', 1, 6],
    ['PUT', `/v1/posts/${post.id}/like`, 'PUT /v1/posts/:id/like', 1, 9],
  ] as const) {
    const ask = async () => {
      await edge.fetch(path, { method, headers })
      await edge.settle()
      return routeIn(await readStats(edge), route)
    }
    const first = await ask() // which loads what later ones find
    const second = await ask()
    const costs = (of: 'commands' | 'billedCommands') => (second?.[of] ?? 0) - (first?.[of] ?? 0)
    expect([route, costs('commands'), costs('billedCommands')]).toEqual([route, sent, billed])
  }
})

test('an answer from memory costs nothing, and reporting many requests two commands each time', async () => {
  const user = await addUser()
  const spend = async (flushSeconds: number) => {
    const edge = newEdge({ STATS_FLUSH_SECONDS: String(flushSeconds), MEMORY_SECONDS: '60' })
    await edge.fetch(`/v1/users/${user.id}`)
    await edge.settle()
    await edge.redis.reset()
    const startedAt = Date.now()
    const answers = await Promise.all(Array.from({ length: 20 }, () => edge.fetch(`/v1/users/${user.id}`)))
    for (const answer of answers) expect(answer.headers.get('Server-Timing')).toContain('0 commands, 0 round trips')
    await edge.settle()
    const { xadd = 0, xlen = 0, ...rest } = (await edge.redis.counts()).byCommand
    expect(xlen).toBe(xadd)
    return { xadd, rest, seconds: (Date.now() - startedAt) / 1_000 }
  }
  const [silent, reporting] = [await spend(0), await spend(2)]
  expect(silent.xadd).toBe(0)
  expect(reporting.rest).toEqual(silent.rest)
  expect(reporting.xadd).toBeGreaterThan(0)
  expect(reporting.xadd).toBeLessThanOrEqual(Math.max(1, Math.floor(reporting.seconds / 2)))
})

test('reports of isolates add up before and after folding, whoever folds them and however often', async () => {
  const [first, second] = [newReporter(), newReporter()]
  const edges = [first, newReporter({}, first.token), newReporter({}, first.token)]
  for (const edge of edges) {
    for (let i = 0; i < 2; i += 1) await edge.fetch('/v1/posts/hot')
    await edge.settle()
  }
  const onlooker = newEdge({}, first.token)
  const hot = async () => routeIn(await readStats(onlooker), 'GET /v1/posts/hot')
  const before = await hot()
  expect(before?.requests).toBe(6)

  await Promise.all(edges.map((edge) => edge.cron()))
  expect(await first.sdk.xlen(keys.statsReports)).toBeLessThan(4) // what the crons said of themselves
  expect(await hot()).toEqual(before)
  await first.cron()
  expect(await hot()).toEqual(before)
  expect((await readStats(second)).window.requests).toBe(0) // another keyspace
})

test('a late fold replaces nothing that another has folded meanwhile', async () => {
  const edge = newReporter()
  const report = async () => {
    await edge.fetch('/v1/posts/hot')
    await edge.settle()
  }
  await report()
  await edge.redis.fault({ kind: 'delay', delayMs: 1_000, match: 'EVAL', times: 1 })
  const late = newModule(edge).stats.fold()
  await expect.poll(async () => (await edge.redis.counts()).faults.length, { timeout: 10_000 }).toBe(0) // it has begun to write
  await report()
  await newModule(edge).stats.fold()
  await late
  expect(routeIn(await readStats(newEdge({}, edge.token)), 'GET /v1/posts/hot')?.requests).toBe(2)
})

test('a folded report is not counted again, even if it was still in the stream when it was read', async () => {
  const edge = newReporter()
  for (let i = 0; i < 2; i += 1) {
    await edge.fetch('/v1/posts/hot')
    await edge.settle()
  }
  const ids = Object.keys(await edge.sdk.xrange(keys.statsReports, '-', '+'))
  const empty = { totals: { all: [], routes: {}, caches: {} }, slices: {}, steps: {}, online: {}, slow: [] }
  const readHot = async () => routeIn(await readStats(newEdge({}, edge.token)), 'GET /v1/posts/hot')?.requests
  for (const [i, expected] of [1, undefined].entries()) {
    await edge.sdk.set(keys.stats, { upTo: ids[i], ...empty })
    expect(await readHot()).toBe(expected)
  }
})

test('a reader that finds many reports folds them', async () => {
  const edge = newReporter()
  const reporter = newReporter({}, edge.token)
  for (let i = 0; i < 2; i += 1) {
    await reporter.fetch('/healthz')
    await reporter.fetch('/v1/posts/hot')
    await reporter.settle()
  }
  const [report] = Object.values(await edge.sdk.xrange<{ r: object }>(keys.statsReports, '-', '+', 1))
  for (let i = 0; i < 60; i += 1) await edge.sdk.xadd(keys.statsReports, '*', { r: JSON.stringify(report?.r) })
  const before = (await readStats(newEdge({}, edge.token))).window.requests
  expect(before).toBe(62)
  const reader = newEdge({}, edge.token)
  await readStats(reader)
  await reader.settle()
  expect(await edge.sdk.xlen(keys.statsReports)).toBe(0)
  expect((await readStats(newEdge({}, edge.token))).window.requests).toBe(before)
})

test('the report that makes 200 folds them, so that no number of isolates loses figures', async () => {
  const edge = newReporter()
  await edge.fetch('/v1/posts/hot')
  await edge.settle()
  const [first] = Object.values(await edge.sdk.xrange<{ r: object }>(keys.statsReports, '-', '+', 1))
  for (let i = 0; i < 198; i += 1) await edge.sdk.xadd(keys.statsReports, '*', { r: JSON.stringify(first?.r) })
  await edge.fetch('/v1/posts/hot')
  await edge.settle()
  expect(await edge.sdk.xlen(keys.statsReports)).toBe(0)
  expect(routeIn(await readStats(newEdge({}, edge.token)), 'GET /v1/posts/hot')?.requests).toBe(200)
})

test('figures that could not be reported are part of the next report', async () => {
  const edge = newReporter()
  await edge.redis.fault({ kind: 'refuse', match: 'XADD' })
  await edge.fetch('/v1/posts/hot')
  await edge.settle()
  await edge.redis.clearFaults()
  await edge.fetch('/v1/posts/hot')
  await edge.settle()
  expect(routeIn(await readStats(newEdge({}, edge.token)), 'GET /v1/posts/hot')?.requests).toBe(2)
})

test('if the platform ends the invocation that should report, another invocation reports', async () => {
  const waiting: (() => Promise<unknown>)[] = []
  const edge = newReporter()
  const { stats, isolate } = newModule(edge, (work) => void waiting.push(work))
  isolate.recorder.watch().end({ route: 'GET /', status: 200, ms: 1, meter: newMeter() })
  stats.reportSoon(10_000)
  stats.reportSoon(10_040)
  expect(waiting.splice(0).length).toBe(1) // and dropped
  stats.reportSoon(12_000)
  expect(waiting.length).toBe(0)
  stats.reportSoon(16_000)
  await waiting[0]?.()
  expect(routeIn(await readStats(edge), 'GET /')?.requests).toBe(1)
})

test('the series are columns of equal length, in steps of ten seconds up to now', async () => {
  const edge = newEdge()
  const [user, author] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: author.id })
  const headers = await edge.signIn(user)
  await edge.fetch(`/v1/posts/${post.id}/like`, { method: 'PUT', headers })
  await edge.fetch(`/v1/posts/${post.id}/like`, { method: 'DELETE', headers })
  await edge.fetch(`/v1/posts/${post.id}`)
  await edge.settle()

  const { series, at } = await readStats(edge, '?minutes=2')
  const { stepSeconds, ...columns } = series
  const [length = 0, ...others] = new Set(Object.values(columns).map((column) => column.length))
  expect(others).toEqual([])
  expect(length).toBeGreaterThanOrEqual(12)
  expect(length).toBeLessThanOrEqual(12 + 31)
  const now = Date.parse(at) / 1_000
  expect(series.at.at(-1)).toBe(Math.floor(now / stepSeconds) * stepSeconds)
  expect(series.at.map((time, i) => time - (series.at[0] ?? 0) - i * stepSeconds)).toEqual(Array(length).fill(0))
  expect(sum(series.requests)).toBe(3)
  expect(sum(series.likes)).toBe(1) // what is taken back is none
  expect(sum(series.likesPerSecond)).toBeCloseTo(0.1)
  expect(series.p50Ms.map((ms) => ms === null)).toEqual(series.requests.map((count) => !count))
  expect(series.commandsPerRequest.map((rate) => rate === null)).toEqual(series.requests.map((count) => !count))
  expect(series.requests[0]).toBeNull() // nothing was counted yet
  expect((await readStats(edge)).series.at.length).toBeGreaterThanOrEqual(360)
  const last = series.at.at(-3) ?? 0
  expect((await readStats(edge, `?minutes=60&seriesFrom=${last}`)).series.at[0]).toBe(last + stepSeconds)
})

test.each(['x', '-1', '1.5', '12345678901'])('seriesFrom cannot be "%s"', async (from) => {
  await expectRefused(newEdge().fetch(`/v1/stats?seriesFrom=${from}`, { headers: service }), 'query', 'seriesFrom')
})

test('D1 has the history of a route by the minute, which begins again after a flush of Redis', async () => {
  await db.delete(statMinutes)
  const edge = newReporter()
  const minute = Math.floor(Date.now() / 60_000) * 60_000
  using clock = vi.spyOn(Date, 'now')
  clock.mockReturnValue(minute + 30_000) // no new minute begins meanwhile
  const ask = async (times: number, path = '/v1/posts/hot') => {
    for (let i = 0; i < times; i += 1) await edge.fetch(path)
    await edge.settle()
  }
  await ask(1)
  await edge.cron(minute - 180_000)
  await ask(3)
  await ask(2, '/v1/posts/hot?limit=x')
  await edge.cron(minute - 120_000)
  await edge.cron(minute - 60_000)
  const read = async (route: string) => {
    const response = await edge.fetch(`/v1/stats/route?route=${encodeURIComponent(route)}&minutes=4`, {
      headers: service,
    })
    return response.json<Record<'requests' | 'refused' | 'errors' | 'p50Ms' | 'commandsPerRequest' | 'at', number[]>>()
  }
  const history = await read('GET /v1/posts/hot')
  expect(history.at).toEqual([-240, -180, -120, -60].map((s) => minute / 1_000 + s))
  expect(history.requests).toEqual([1, 5, 0, null]) // the last minute is not over
  expect(history.refused).toEqual([0, 2, 0, null])
  expect(history.errors).toEqual([0, 0, 0, null])
  expect(history.p50Ms).toEqual([expect.any(Number), expect.any(Number), null, null])
  expect(history.commandsPerRequest).toEqual([expect.any(Number), expect.any(Number), null, null])
  expect((await read('GET /v1/nothing')).requests).toEqual([0, 0, 0, null])

  await edge.sdk.flushdb()
  await ask(1)
  await edge.cron(minute)
  expect((await read('GET /v1/posts/hot')).requests).toEqual([1, 5, 0, 1])
})

test.each(['', 'GET', 'GET "', 'GET $.a', "GET ' OR 1"])('the route of a history cannot be "%s"', async (route) => {
  const path = `/v1/stats/route?route=${encodeURIComponent(route)}`
  if (route === 'GET') expect((await newEdge().fetch(path, { headers: service })).status).toBe(200)
  else await expectRefused(newEdge().fetch(path, { headers: service }), 'query', 'route')
})

test('without Redis the figures before are those that D1 has', async () => {
  await db.delete(statMinutes)
  const edge = newReporter({ REDIS_READ_TIMEOUT_MS: '250' })
  const minute = Math.floor(Date.now() / 60_000) * 60_000
  const ask = async (times: number) => {
    for (let i = 0; i < times; i += 1) await edge.fetch('/v1/posts/hot')
    await edge.settle()
  }
  await ask(2)
  await edge.cron(minute - 120_000)
  await ask(3)
  await edge.cron(minute - 60_000)
  await edge.redis.fault({ kind: 'refuse' })
  const stats = await readStats(newEdge({ REDIS_READ_TIMEOUT_MS: '250' }, edge.token), '?minutes=15')
  expect(stats.unavailable).toContain('redis')
  expect(stats.window).toMatchObject({ until: new Date(minute - 60_000).toISOString(), requests: 5 })
  expect(routeIn(stats, 'GET /v1/posts/hot')?.requests).toBe(5)
  expect(stats.series.stepSeconds).toBe(60)
  const requests = new Map(stats.series.at.map((at, i) => [at, stats.series.requests[i]]))
  expect(requests.get(minute / 1_000 - 120)).toBe(3)
  expect(requests.get(minute / 1_000 - 60)).toBeNull() // unknown, not 0
})

test.each(['0', '61', 'x', '1.5', ''])('minutes cannot be "%s"', async (minutes) => {
  await expectRefused(newEdge().fetch(`/v1/stats?minutes=${minutes}`, { headers: service }), 'query', 'minutes')
})

test('online users are counted, and the cron records the number', async () => {
  const edge = newReporter()
  for (let i = 0; i < 3; i += 1) {
    const headers = await edge.signIn(await addUser())
    await edge.fetch('/v1/presence/heartbeat', { method: 'POST', headers })
  }
  await edge.settle()
  await edge.cron(Date.now() - 60_000)
  const { presence, series } = await readStats(edge)
  expect(presence).toEqual({ online: 3, capacity: 50_000 })
  expect(series.online.filter((count) => count !== null)).toEqual([3, 3])
})

test('the backlog of the queue is what the platform says of it', async () => {
  const oldest = new Date(Date.now() - 5_000)
  const metrics = async () => ({ backlogCount: 7, backlogBytes: 700, oldestMessageTimestamp: oldest })
  const { queues } = await readStats(newEdge({ LIKES: { metrics } }))
  expect(queues).toContainEqual({ queue: 'likes', backlog: 7, backlogBytes: 700, oldestAgeSeconds: expect.any(Number) })
  expect(queues?.find(({ queue }) => queue === 'likes')?.oldestAgeSeconds).toBeGreaterThanOrEqual(5)
  const real = await readStats(newEdge())
  for (const queue of ['likes', 'events']) {
    expect(real.queues).toContainEqual(expect.objectContaining({ queue, backlog: expect.any(Number) }))
  }
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)(
  'without Redis ("%s") the figures are those of this isolate, and the rest is reported as unavailable',
  async (kind) => {
    await db.delete(statMinutes)
    const edge = newReporter({ REDIS_READ_TIMEOUT_MS: '250' })
    await edge.redis.fault({ kind })
    const user = await addUser()
    await edge.fetch(`/v1/users/${user.id}`)
    await edge.settle()
    const stats = await readStats(edge)
    expect(stats).toMatchObject({
      dependencies: { redis: { isUp: false }, d1: { isUp: true } },
      server: null,
      scan: null,
      presence: null,
      window: { requests: 1 },
    })
    expect(stats.unavailable.toSorted()).toEqual(['presence', 'redis'])
    expect(routeIn(stats, 'GET /v1/users/:id')?.requests).toBe(1)
    expect(stats.caches.find(({ cache }) => cache === 'user')?.redis.errors).toBeGreaterThan(0)
    expect(stats.slowCommands.every(({ isAnswered }) => !isAnswered)).toBe(true)
  },
)

test('when D1 and the queue fail, the other figures are still reported', async () => {
  const stats = await readStats(newEdge({ DB: {}, LIKES: {} }))
  expect(stats.dependencies.d1.isUp).toBe(false)
  expect(stats.unavailable.toSorted()).toEqual(['d1', 'outbox', 'queues', 'webhooks'])
  expect(stats.queues).toBeNull()
})

test('a round trip over the threshold is listed, with its route and the patterns of its keys', async () => {
  const edge = newEdge({ SLOW_COMMAND_MS: '150' })
  const user = await addUser()
  await edge.redis.latency(200)
  await edge.fetch(`/v1/users/${user.id}`)
  await edge.settle()
  await edge.redis.latency(0)
  const { slowCommands, slowCommandMs } = await readStats(edge)
  expect(slowCommandMs).toBe(150)
  expect(slowCommands).toContainEqual({
    at: expect.any(String),
    route: 'GET /v1/users/:id',
    commands: ['MGET user:*'],
    count: 1,
    ms: expect.any(Number),
    isAnswered: true,
  })
  const ms = slowCommands.map((each) => each.ms)
  expect(ms).toEqual(ms.toSorted((a, b) => b - a))
  expect(JSON.stringify(slowCommands)).not.toContain(user.id)
})

test('the slowest ten are kept', () => {
  const recorder = createRecorder(10)
  const watch = recorder.watch()
  for (let ms = 1; ms <= 30; ms += 1) watch.onSent({ commands: [['GET', 'user:u_1']], ms, isAnswered: true })
  watch.end({ route: 'GET /', status: 200, ms: 1, meter: newMeter() })
  expect(recorder.held().slow.map(({ ms }) => ms)).toEqual([30, 29, 28, 27, 26, 25, 24, 23, 22, 21])
})

test('the most requested keys are listed; limits and sessions by their pattern', async () => {
  const edge = newEdge({ MEMORY_SECONDS: '0', LIMIT_READS: '30' }) // every read is counted at once
  const user = await addUser()
  const headers = await edge.signIn(user)
  for (let i = 0; i < 4; i += 1) {
    await edge.fetch(`/v1/users/${user.id}`, { headers: { ...headers, 'CF-Connecting-IP': '203.0.113.7' } })
    await edge.fetch('/v1/posts/hot', { headers: { 'CF-Connecting-IP': '203.0.113.7' } })
    await edge.settle()
  }
  const { topKeys } = await readStats(edge)
  const asked = Object.fromEntries(topKeys.map((each) => [each.key, each.asked]))
  expect(asked[`user:${user.id}`]).toBeGreaterThanOrEqual(4)
  expect(asked['limit:*']).toBeGreaterThanOrEqual(8)
  expect(JSON.stringify(topKeys)).not.toMatch(/203\.0\.113|session:s_/)
})

test('an isolate remembers a bounded number of keys: the most requested', () => {
  const recorder = createRecorder(100)
  const { onSent } = recorder.watch()
  for (let i = 0; i < 5_000; i += 1) {
    onSent({ commands: [['GET', `user:u_${i}`]], ms: 1, isAnswered: true })
    onSent({ commands: [['MGET', 'user:u_hot', 'post:p_hot']], ms: 1, isAnswered: true })
  }
  const { keys: reported } = recorder.take()
  expect(Object.entries(reported).slice(0, 2)).toEqual([
    ['user:u_hot', [5_000]],
    ['post:p_hot', [5_000]],
  ])
  expect(Object.keys(reported).length).toBe(20)
})

test.each([
  [['GET', 'user:u_ada'], 'GET user:*'],
  [['mget', 'post:p_1', 'post:p_2', 'count:likes:p_1'], 'MGET post:* count:likes:*'],
  [['EVAL', 'return secret', 2, 'liked:u_ada', 'tally:likes:p_1', 'an argument'], 'EVAL liked:* tally:likes:*'],
  [['EVALSHA', 'abc', '1', 'limit:reads:ip:203.0.113.7:1', '5'], 'EVALSHA limit:*'],
  [['SET', 'session:s_1', '{"hash":"secret"}'], 'SET session:*'],
  [['SET', 'user:u_ada:lease', 'nonce', 'NX'], 'SET user:*:lease'],
  [['GET', 'presence:3:changes'], 'GET presence:*:changes'],
  [['INCR', 'generation:hot'], 'INCR generation:hot'],
  [['GET', 'username:ada@example.test'], 'GET username:*'],
  [['GET', 'django:cache:ada@example.test'], 'GET *'],
  [['PING'], 'PING'],
  [['SCAN', '0', 'COUNT', 100], 'SCAN'],
])('%j is shown as "%s"', (command, shown) => {
  expect(patternsOf([command])).toEqual([shown])
})

test('every key has a pattern without its variable parts', () => {
  for (const key of Object.values(keys)) {
    const made = typeof key === 'string' ? key : (key as (...parts: string[]) => string)('u_secret', 'p_secret')
    expect(patternOf(made)).not.toMatch(/secret/)
    expect(patternOf(made).split(':')[0]).toBe(made.split(':')[0])
  }
})

test.each([
  ['user:u_ada', 'user:u_ada'],
  ['limit:reads:ip:203.0.113.7:1', 'limit:*'],
  ['session:s_1', 'session:*'],
  ['lock:service:invoice-7', 'lock:*'],
  ['somebody:elses', '*'],
  ['stats:v1:folded', undefined],
])('the key %s is shown as %s', (key, shown) => {
  expect(shownKey(key)).toBe(shown)
})

test('percentiles come from a histogram, within its buckets', () => {
  const histogram = (...durations: number[]) => {
    const recorder = createRecorder(100)
    for (const ms of durations) recorder.watch().end({ route: 'GET /', status: 200, ms, meter: newMeter() }, 0)
    return recorder.held().steps['0']?.slice(-BOUNDS_MS.length - 1) ?? []
  }
  expect(quantile([], 0.5)).toBeNull()
  expect(quantile(histogram(0), 0.5)).toBe(0.5)
  const hundred = histogram(...Array<number>(50).fill(1), ...Array<number>(45).fill(100), ...Array<number>(5).fill(700))
  expect(quantile(hundred, 0.5)).toBe(1)
  expect(quantile(hundred, 0.95)).toBe(120)
  expect(quantile(hundred, 0.99)).toBe(740)
  expect(quantile(histogram(60_000), 0.5)).toBe(10_000) // all that is known: it took longer
})

test('each cron job reports how long it took and what it leaves, and a failed one reports that it failed', async () => {
  const edge = newEdge({ STATS_FLUSH_SECONDS: '0.05', LOG_REQUESTS: 'all' })
  await db.insert(removals).values({ contentId: 'p_left', dueAt: Date.now() + 3_600_000 })
  using log = vi.spyOn(console, 'log').mockImplementation(() => {})
  await edge.cron()
  const lines = log.mock.calls.map(([line]) => JSON.parse(String(line)) as { message: string; jobs: object })
  expect(lines.find(({ message }) => message === 'cron')?.jobs).toMatchObject({
    'continue removals': { ms: expect.any(Number), remaining: 1 },
    'purge expired data': { ms: expect.any(Number), remaining: 0 },
  })

  const headers = { Authorization: 'Bearer a-service-token-for-tests' }
  const other = newEdge({}, edge.token) // another isolate
  const jobsNow = async () => {
    const { jobs } = await (
      await other.fetch('/v1/stats', { headers })
    ).json<{ jobs: { job: string; remaining: number }[] }>()
    return new Map(jobs.map((job) => [job.job, job]))
  }
  const jobs = await jobsNow()
  expect(jobs.size).toBeGreaterThanOrEqual(13)
  expect(jobs.get('continue removals')).toEqual({
    job: 'continue removals',
    at: expect.any(String),
    durationMs: expect.any(Number),
    remaining: 1,
    lastFailure: null,
  })
  const text = await (await other.fetch('/metrics', { headers })).text()
  expect(text).toContain('threads_job_remaining{job="continue removals"} 1')
  expect(text).toContain('threads_job_failed{job="continue removals"} 0')

  await db.delete(removals)
  const broken = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') {
        return (sql: string) => target.prepare(sql.includes('removals') ? `${sql} broken` : sql)
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  using error = vi.spyOn(console, 'error').mockImplementation(() => {})
  await expect(newEdge({ DB: broken, STATS_FLUSH_SECONDS: '0.05' }, edge.token).cron()).rejects.toThrow(
    'continue removals',
  )
  await vi.waitFor(async () => expect((await jobsNow()).get('continue removals')?.remaining).toBeNull(), 5_000)
  expect((await jobsNow()).get('continue removals')).toMatchObject({
    lastFailure: { at: expect.any(String), reason: expect.stringMatching(/^Error, Error D1_ERROR$/) },
  })
  expect((await jobsNow()).get('purge expired data')?.remaining).toBe(0)
  expect(error).toHaveBeenCalled()
})
