import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from '@upstash/redis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/server.ts'
import { newClient, send, start } from './start.ts'

let emulator: Emulator
beforeAll(async () => {
  emulator = await start()
})
afterAll(() => emulator.close())

async function took(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now()
  await work()
  return performance.now() - began
}

test('commands are counted as billed and requests as sent, for each token', async () => {
  const { redis, control } = newClient(emulator)
  const other = newClient(emulator)
  await redis.set('a', 1)
  await redis.pipeline().get('a').get('b').incr('a').exec()
  await redis.multi().get('a').set('b', 2).exec()
  await redis.eval('return redis.call("GET", KEYS[1])', ['a'], []) // commands that Lua calls are not counted
  await expect(redis.exec(['NOPE'])).rejects.toThrow('ERR Command is not available')
  await other.redis.get('a')
  expect(await control.counts()).toEqual({
    commands: 8,
    requests: 5,
    byCommand: { set: 2, get: 3, incr: 1, eval: 1, nope: 1 },
    faults: [],
    latencyMs: 0,
  })
  expect(await other.control.counts()).toMatchObject({ commands: 1, requests: 1 })
})

test('reset zeroes counters, faults and latency but keeps the data', async () => {
  const { redis, control } = newClient(emulator)
  await redis.set('a', 1)
  await control.latency(5)
  await control.fault({ kind: 'refuse', match: 'never' })
  expect(await control.counts()).toMatchObject({
    commands: 1,
    latencyMs: 5,
    faults: [{ kind: 'refuse', match: 'never' }],
  })
  await control.reset()
  expect(await control.counts()).toEqual({ commands: 0, requests: 0, byCommand: {}, faults: [], latencyMs: 0 })
  expect(await redis.get('a')).toBe(1)
})

test('refuse closes the connection before anything is executed', async () => {
  const { redis, control } = newClient(emulator)
  await control.fault({ kind: 'refuse', times: 2 })
  await expect(redis.incr('n')).rejects.toThrow('fetch failed')
  await expect(redis.incr('n')).rejects.toThrow('fetch failed')
  expect(await redis.incr('n')).toBe(1)
  expect(await control.counts()).toMatchObject({ requests: 3, commands: 1, faults: [] })
})

test('with retry: false the SDK retries once', async () => {
  const { redis, control } = newClient(emulator, { retry: false })
  await control.fault({ kind: 'refuse', times: 1 })
  expect(await redis.incr('n')).toBe(1)
  expect(await control.counts()).toMatchObject({ requests: 2, commands: 1 })
})

test('status answers an error before anything is executed', async () => {
  const { redis, token, control } = newClient(emulator)
  await control.fault({ kind: 'status', status: 503, message: 'ERR come back later', times: 1 })
  expect(await send(emulator, token, '/', '["INCR","n"]')).toMatchObject({
    status: 503,
    json: { error: 'ERR come back later' },
  })
  expect(await redis.incr('n')).toBe(1)
})

test('a delay waits before executing, or after', async () => {
  const { redis, token, control } = newClient(emulator)
  await control.fault({ kind: 'delay', delayMs: 1_000, times: 1 })
  const delayed = redis.set('a', 'late')
  while ((await control.counts()).requests === 0) await sleep(5)
  expect(await redis.get('a')).toBeNull()
  await delayed
  expect(await redis.get('a')).toBe('late')

  await control.fault({ kind: 'delay-after', delayMs: 1_000, times: 1, match: 'SET' })
  let isAnswered = false
  const early = took(() => send(emulator, token, '/set/a/early').then(() => (isAnswered = true)))
  while ((await redis.get('a')) !== 'early') await sleep(5)
  expect(isAnswered).toBe(false)
  expect(await early).toBeGreaterThan(995)
})

test.each(['delay', 'delay-after'] as const)('a %s without a time lasts until the faults are cleared', async (kind) => {
  const { redis, control } = newClient(emulator)
  await control.fault({ kind, times: 1 })
  let isAnswered = false
  const withheld = redis.set('a', 'late').then(() => (isAnswered = true))
  while ((await control.counts()).faults.length > 0) await sleep(5)
  const isExecuted = async () => (await redis.get('a')) === 'late'
  if (kind === 'delay-after') while (!(await isExecuted())) await sleep(5)
  expect([isAnswered, await isExecuted()]).toEqual([false, kind === 'delay-after'])
  await control.clearFaults()
  await withheld
  expect(await isExecuted()).toBe(true)
})

test('cut executes and loses the reply, so a retry doubles what is not idempotent', async () => {
  const { redis, token, control } = newClient(emulator)
  await control.fault({ kind: 'cut', times: 1 })
  await expect(send(emulator, token, '/incr/n')).rejects.toThrow('fetch failed')
  expect(await redis.get('n')).toBe(1)

  const retrying = new Redis({ url: emulator.url, token, retry: { retries: 1, backoff: () => 0 } })
  await control.fault({ kind: 'cut', times: 1 })
  expect(await retrying.incr('n')).toBe(3)
})

test('cut-mid executes and loses the second half of the reply, which the SDK does not retry', async () => {
  const { token, control } = newClient(emulator)
  const retrying = new Redis({
    url: emulator.url,
    token,
    retry: { retries: 5, backoff: () => 0 },
    enableAutoPipelining: false,
  })
  await control.fault({ kind: 'cut-mid', times: 1 })
  await expect(retrying.incr('n')).rejects.toThrow('terminated')
  expect(await retrying.get('n')).toBe(1)
})

test('hang neither executes nor answers', async () => {
  const { redis, token, control } = newClient(emulator)
  const impatient = new Redis({
    url: emulator.url,
    token,
    retry: { retries: 0 },
    signal: () => AbortSignal.timeout(50),
  })
  await control.fault({ kind: 'hang' })
  await expect(impatient.incr('n')).rejects.toThrow(/timeout/i)
  await control.clearFaults()
  expect(await redis.get('n')).toBeNull()
})

test('a fault may match one command, also in a pipeline, or one path', async () => {
  const { redis, token, control } = newClient(emulator)
  await control.fault({ kind: 'status', match: 'incr' })
  expect(await redis.set('n', 1)).toBe('OK')
  await expect(redis.incr('n')).rejects.toThrow('ERR fault')
  await expect(redis.pipeline().get('n').incr('n').exec()).rejects.toThrow('ERR fault')
  expect((await send(emulator, token, '/incr/n')).status).toBe(500)
  await control.clearFaults()
  await control.fault({ kind: 'status', match: '/multi-exec' })
  expect(await redis.pipeline().incr('n').exec()).toEqual([2])
  await expect(redis.multi().incr('n').exec()).rejects.toThrow('ERR fault')
  expect(await redis.get('n')).toBe(2)
})

test('faults hit in the order they were added, and only their token', async () => {
  const { token, control } = newClient(emulator)
  const other = newClient(emulator)
  await control.fault({ kind: 'status', status: 500, times: 1 })
  await control.fault({ kind: 'status', status: 503, times: 2 })
  const statuses: number[] = []
  for (let i = 0; i < 4; i++) statuses.push((await send(emulator, token, '/ping')).status)
  expect(statuses).toEqual([500, 503, 503, 200])
  expect(await other.redis.ping()).toBe('PONG')
})

test('latency is added once to each request, to concurrent ones at the same time', async () => {
  const { redis, control } = newClient(emulator)
  await redis.ping()
  await control.latency(50)
  expect(await took(() => redis.pipeline().ping().ping().exec())).toBeGreaterThanOrEqual(49)
  const parallel = await took(() => Promise.all(Array.from({ length: 50 }, () => redis.ping())))
  expect(parallel).toBeGreaterThanOrEqual(49)
  expect(parallel).toBeLessThan(2_000) // one after another: 2,500
})

test('a fault may match several commands', async () => {
  const { redis, control } = newClient(emulator)
  await control.fault({ kind: 'status', match: ['INCR', 'get'] })
  await expect(redis.incr('n')).rejects.toThrow('ERR fault')
  await expect(redis.get('n')).rejects.toThrow('ERR fault')
  expect(await redis.set('n', 1)).toBe('OK')
})

const failing = {
  refuse: 'fetch failed',
  'cut-before': 'fetch failed',
  html: 'Unable to parse response body: <!DOCTYPE',
  garbage: 'Unable to parse response body',
  wrongpass: 'WRONGPASS',
  loading: 'LOADING',
  oom: 'OOM',
  readonly: 'READONLY',
} as const

for (const kind of Object.keys(failing) as (keyof typeof failing)[]) {
  test(`${kind} runs nothing, and the SDK throws`, async () => {
    const { redis, control } = newClient(emulator)
    await control.fault({ kind, times: 3 })
    await expect(redis.incr('n')).rejects.toThrow(failing[kind])
    await expect(redis.pipeline().incr('n').exec()).rejects.toThrow(failing[kind])
    await expect(redis.multi().incr('n').exec()).rejects.toThrow(failing[kind])
    expect(await redis.incr('n')).toBe(1)
  })
}

test('html and garbage answers are not JSON', async () => {
  const { token, control } = newClient(emulator)
  await control.fault({ kind: 'html', times: 1 })
  const html = await send(emulator, token, '/ping')
  expect(html).toMatchObject({ status: 502, json: undefined })
  expect(html.response.headers.get('content-type')).toBe('text/html; charset=utf-8')
  expect(await html.response.text()).toContain('<h1>502 Bad Gateway</h1>')

  await control.fault({ kind: 'garbage', times: 1 })
  const garbage = await send(emulator, token, '/ping')
  expect(garbage).toMatchObject({ status: 200, json: undefined })
  expect(garbage.response.headers.get('content-type')).toBe('application/json')

  await control.fault({ kind: 'garbage', status: 500, message: '[{"result":1}]', times: 1 })
  expect(await send(emulator, token, '/ping')).toMatchObject({ status: 500, json: [{ result: 1 }] })
})

test('wrongpass answers as for an unknown token', async () => {
  const { token, control } = newClient(emulator)
  await control.fault({ kind: 'wrongpass', times: 1 })
  const closed = await start({ openTokens: false, tokens: ['right'] })
  try {
    const { status, json } = await send(closed, 'wrong', '/ping')
    expect(await send(emulator, token, '/ping')).toMatchObject({ status, json })
  } finally {
    await closed.close()
  }
})

test('oom fails commands that need memory, readonly those that write; the others run', async () => {
  const { redis, token, control } = newClient(emulator)
  await redis.mset({ a: 1, b: 2 })
  const errorsOf = async (commands: string[][]) => {
    const { json } = await send(emulator, token, '/pipeline', JSON.stringify(commands))
    return (json as { error?: string }[]).map(({ error }) => error?.split(' ')[0])
  }
  const commands = [
    ['GET', 'a'],
    ['SET', 'c', '3'],
    ['DEL', 'b'],
    ['EVAL', 'return redis.call("SET", KEYS[1], 4)', '1', 'd'],
    ['EVAL_RO', 'return 1', '0'],
  ]
  await control.fault({ kind: 'readonly' })
  expect(await errorsOf(commands)).toEqual([undefined, 'READONLY', 'READONLY', 'READONLY', undefined])
  expect(await redis.exists('a', 'b')).toBe(2)
  await control.clearFaults()
  await control.fault({ kind: 'oom' })
  expect(await errorsOf(commands)).toEqual([undefined, 'OOM', undefined, 'OOM', undefined])
  expect(await redis.exists('a', 'b', 'c', 'd')).toBe(1)
})

test('a Redis error is used up only by a request that it fails', async () => {
  const { redis, token, control } = newClient(emulator)
  await control.fault({ kind: 'oom', times: 1, match: ['SET', 'GET'] })
  expect(await redis.get('a')).toBeNull()
  expect(await redis.incr('n')).toBe(1)
  expect((await send(emulator, token, '/pipeline', '[["INCR","n"],["SET","a",1]]')).json).toEqual([
    { result: 2 },
    { error: "OOM command not allowed when used memory > 'maxmemory'." },
  ])
  expect(await redis.set('a', 1)).toBe('OK')
  await control.fault({ kind: 'loading', message: 'MISCONF disk full', match: 'set' })
  expect(await send(emulator, token, '/set/a/2')).toMatchObject({ status: 400, json: { error: 'MISCONF disk full' } })
})

test('noscript fails EVALSHA alone, so a client falls back to EVAL', async () => {
  const { redis, token, control } = newClient(emulator)
  const script = redis.createScript<number>('return redis.call("INCR", KEYS[1])')
  const sha = await redis.scriptLoad(script.script)
  await control.fault({ kind: 'noscript', times: 2 })
  expect(await script.exec(['n'], [])).toBe(1)
  const { json } = await send(emulator, token, '/multi-exec', `[["EVALSHA","${sha}",1,"n"],["INCR","n"]]`)
  expect(json).toEqual([{ error: 'NOSCRIPT No matching script. Please use EVAL.' }, { result: 2 }])
  expect(await redis.evalsha(sha, ['n'], [])).toBe(3)
})

test('a Redis error discards a transaction', async () => {
  const { redis, token, control } = newClient(emulator)
  await control.fault({ kind: 'readonly', times: 1 })
  expect(await send(emulator, token, '/multi-exec', '[["GET","n"],["INCR","n"]]')).toMatchObject({
    status: 400,
    json: { error: expect.stringMatching(/^EXECABORT .*READONLY/) },
  })
  expect(await redis.incr('n')).toBe(1)
})

test('faults hit streams, except those that change a reply', async () => {
  const { token, control } = newClient(emulator)
  await control.fault({ kind: 'cut', times: 1 })
  await control.fault({ kind: 'loading', times: 1, match: ['subscribe', 'psubscribe'] })
  await control.fault({ kind: 'status', status: 429, times: 1 })
  expect(await send(emulator, token, '/subscribe/c')).toMatchObject({
    status: 400,
    json: { error: expect.stringMatching(/^LOADING/) },
  })
  expect((await send(emulator, token, '/psubscribe/c')).status).toBe(429)
  const stream = await fetch(`${emulator.url}/subscribe/c?_token=${token}`)
  expect(stream.headers.get('content-type')).toBe('text/event-stream')
  await stream.body?.cancel()
  await expect(send(emulator, token, '/ping')).rejects.toThrow('fetch failed')
})

test('flush deletes all keys of its token at once, and is not counted', async () => {
  const { redis, control } = newClient(emulator)
  const other = newClient(emulator)
  await other.redis.set('a', 1)
  await redis.mset({ a: 1, b: 2 })
  await control.reset()
  await control.flush()
  expect(await control.counts()).toMatchObject({ requests: 0, commands: 0 })
  expect(await redis.dbsize()).toBe(0)
  expect(await other.redis.dbsize()).toBe(1)
})

test('keys are evicted by name or at random', async () => {
  const { redis, control } = newClient(emulator)
  const names = Array.from({ length: 50 }, (_, i) => `k:${i}`)
  await redis.mset(Object.fromEntries(names.map((name) => [name, 1])))
  await redis.hset('h', { f: 1 })
  expect(await control.evict({ keys: ['k:0', 'h', 'none'] })).toEqual(['k:0', 'h'])
  expect(await redis.exists('k:0', 'h')).toBe(0)
  const evicted = await control.evict({ count: 20 })
  expect(evicted).toHaveLength(20)
  expect(await redis.exists(...evicted)).toBe(0)
  expect(await redis.dbsize()).toBe(29)
  expect(evicted).not.toEqual([...evicted].sort()) // one order of 20! would be sorted
  const left = names.slice(1).filter((name) => !evicted.includes(name))
  const seeded = await control.evict({ count: 5, seed: 7 })
  await redis.mset(Object.fromEntries(seeded.map((name) => [name, 1])))
  expect(left).toEqual(expect.arrayContaining(seeded))
  expect(await control.evict({ count: 5, seed: 7 })).toEqual(seeded)
  await redis.mset(Object.fromEntries(seeded.map((name) => [name, 1])))
  expect(await control.evict({ count: 5, seed: 8 })).not.toEqual(seeded)
  expect(await control.evict({ count: 100 })).toHaveLength(24)
  expect(await control.evict({ count: 1 })).toEqual([])
  expect(await control.evict({ keys: [] })).toEqual([])
})

test('the control API refuses unknown kinds, fields, values and paths', async () => {
  const { token, control } = newClient(emulator)
  expect((await send(emulator, token, '/control/faults', '{"kind":"explode"}')).status).toBe(400)
  for (const fault of [
    '{}',
    '[]',
    'null',
    '{"kind":"constructor"}',
    '{"kind":"delay","delayMS":5}',
    '{"kind":"delay","delayMs":"5"}',
    '{"kind":"delay","delayMs":-1}',
    '{"kind":"cut","times":0}',
    '{"kind":"cut","times":1.5}',
    '{"kind":"status","status":99}',
    '{"kind":"cut","match":1}',
  ]) {
    expect({ fault, ...(await send(emulator, token, '/control/faults', fault)) }).toMatchObject({
      fault,
      status: 400,
      json: { error: expect.stringMatching(/^control: /) },
    })
  }
  for (const eviction of ['{}', '{"keys":"a"}', '{"count":-1}', '{"keys":[],"count":1}', '{"count":1,"seed":"a"}']) {
    expect((await send(emulator, token, '/control/evict', eviction)).status).toBe(400)
  }
  expect((await control.counts()).faults).toEqual([])
  expect((await send(emulator, token, '/control/faults', 'nope')).status).toBe(400)
  expect((await send(emulator, token, '/control/latency', '{"ms":"fast"}')).status).toBe(400)
  expect((await send(emulator, token, '/control/nothing')).status).toBe(404)
})

test('closing ends hanging requests and streams', async () => {
  const own = await start()
  const { redis, control } = newClient(own)
  await control.fault({ kind: 'hang', match: 'get' })
  const hanging = Promise.allSettled([redis.get('a')])
  const stream = await fetch(`${own.url}/subscribe/c?_token=x`)
  await own.close()
  expect(await hanging).toEqual([{ status: 'rejected', reason: expect.objectContaining({ message: 'fetch failed' }) }])
  await expect(stream.text()).rejects.toThrow('terminated')
  await expect(fetch(own.url)).rejects.toThrow('fetch failed')
})
