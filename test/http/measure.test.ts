import { beforeAll, expect, test } from 'vitest'
import { cacheStatus } from '../../src/http/answer.ts'
import type { CacheEvent } from '../../src/redis/cache.ts'
import { migrate, newEdge } from '../edge.ts'
import { addPost, addUser } from '../rows.ts'

beforeAll(migrate)

/** The cost of an answer, from `Server-Timing`. */
function costOf(response: Response) {
  const cost = /^redis;dur=([\d.]+);desc="(\d+) commands, (\d+) round trips"$/.exec(
    response.headers.get('Server-Timing') ?? '',
  )
  return { ms: Number(cost?.[1]), commands: Number(cost?.[2]), requests: Number(cost?.[3]) }
}

const event = (outcomes: string, ttlMs?: number): CacheEvent => {
  const [layer, outcome] = outcomes.split(' ') as [CacheEvent['layer'], CacheEvent['outcome']] // as the table writes them
  return { cache: 'thing', layer, outcome, ...(ttlMs === undefined ? {} : { ttlMs }) }
}

test.each<[string, CacheEvent[]]>([
  ['', []],
  ['memory; hit; ttl=12', [event('memory hit', 12_900)]],
  ['redis; hit; ttl=300, memory; fwd=uri-miss', [event('memory miss'), event('redis hit', 300_000)]],
  ['redis; hit; ttl=-2, memory; fwd=uri-miss', [event('memory miss'), event('redis stale', -1_500)]],
  ['redis; hit; ttl=30, memory; fwd=uri-miss', [event('memory miss'), event('redis negative', 30_000)]],
  [
    'redis; fwd=uri-miss, memory; fwd=uri-miss',
    [event('memory miss'), event('redis miss'), event('loader load'), event('redis store')],
  ],
  [
    'redis; fwd=partial, memory; fwd=uri-miss',
    [event('memory miss'), event('memory miss'), event('redis hit', 5_000), event('redis miss')],
  ],
  [
    'redis; hit; ttl=9, memory; fwd=partial',
    [event('memory hit', 5_000), event('memory miss'), event('redis hit', 9_000)],
  ],
  ['memory; hit; ttl=3', [event('memory hit', 5_000), event('memory hit', 3_000), event('memory hit', 9_000)]],
  ['redis; fwd=bypass; detail=error, memory; fwd=uri-miss', [event('memory miss'), event('redis error')]],
  [
    'redis; fwd=bypass; detail=error, memory; fwd=uri-miss',
    [event('memory miss'), event('redis miss'), event('redis error'), event('loader load')],
  ],
])('Cache-Status is "%s" for what happened', (status, events) => {
  expect(cacheStatus(events)).toBe(status)
})

test('Server-Timing has the commands and round trips that Redis saw before the answer', async () => {
  const author = await addUser()
  const ids = []
  for (let i = 0; i < 3; i += 1) ids.push((await addPost({ authorId: author.id })).id)
  const first = newEdge()
  await first.fetch(`/v1/posts/hot`)
  await first.settle()

  for (const path of [
    `/v1/posts/${ids[0]}`,
    `/v1/posts?ids=${ids.join()}`,
    `/v1/posts/hot?limit=2`,
    `/v1/users/${author.id}/posts`,
    `/v1/users/${author.id}`,
  ]) {
    await first.fetch(path)
    await first.settle()
    const second = newEdge({}, first.token)
    await second.redis.reset()
    const cost = costOf(await second.fetch(path))
    await second.settle()
    const seen = await second.redis.counts()
    // Nothing comes after the answer: the isolate counts the request, and sends the count with those of later ones.
    expect([path, cost.requests, cost.commands]).toEqual([path, seen.requests, seen.commands])
  }
})

test('without work after the answer, Server-Timing is exactly what Redis saw', async () => {
  const edge = newEdge()
  for (const path of ['/readyz', '/v1/rate-limit']) {
    await edge.fetch(path)
    await edge.redis.reset()
    const cost = costOf(await edge.fetch(path))
    await edge.settle()
    expect(await edge.redis.counts()).toMatchObject({ requests: cost.requests, commands: cost.commands })
    expect(cost.requests).toBe(1)
  }
})

test('a request that was sent twice is counted twice', async () => {
  const edge = newEdge()
  await edge.redis.fault({ kind: 'cut', times: 1 })
  const response = await edge.fetch('/readyz')
  expect(response.status).toBe(200)
  expect(costOf(response)).toMatchObject({ commands: 2, requests: 2 })
  expect(await edge.redis.counts()).toMatchObject({ commands: 2, requests: 2 })
})

test('Server-Timing has the milliseconds spent waiting for Redis', async () => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '2000' })
  await edge.redis.latency(200)
  const { ms } = costOf(await edge.fetch('/readyz'))
  expect(ms).toBeGreaterThanOrEqual(190)
  expect(ms).toBeLessThan(1_000)
})

test('a problem has its cost too, and an answer from memory costs nothing', async () => {
  const edge = newEdge()
  const miss = await edge.fetch('/v1/users/u_nobody')
  expect([miss.status, costOf(miss).requests]).toEqual([404, 2])
  await edge.settle()
  const known = await edge.fetch('/v1/users/u_nobody')
  expect([known.status, costOf(known).requests, costOf(known).commands]).toEqual([404, 0, 0])
  expect(known.headers.get('Cache-Status')).toMatch(/^memory; hit; ttl=[12]\d$/)
})

test('an isolate far from Redis waits longer for it, and its circuit stays closed', async () => {
  const path = `/v1/users/${(await addUser()).id}`
  const near = newEdge()
  await near.fetch(path)
  await near.settle()

  const far = newEdge({ REDIS_READ_TIMEOUT_MS: '100', MEMORY_SECONDS: '0', REDIS_BREAKER_FAILURES: '5' }, near.token)
  await far.redis.latency(150)
  await far.redis.fault({ kind: 'delay', times: 1 }) // the first reply, until it is no longer awaited
  const seen: (string | undefined)[] = []
  const hits = () => seen.slice(-4).filter((status) => status === 'redis, hit').length
  while (hits() < 4 && seen.length < 50) {
    // a busy machine answers later now and then
    const response = await far.fetch(path)
    expect(response.status).toBe(200)
    seen.push(response.headers.get('Cache-Status')?.split(';', 2).join())
    await far.settle()
    await far.redis.clearFaults()
  }
  expect(seen[0]).toBe('redis, fwd=bypass') // it timed out: D1 answered
  expect(hits()).toBe(4)
})
