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

test('commands are counted as billed, requests as sent, by token', async () => {
  const { redis, control } = newClient(emulator)
  const other = newClient(emulator)
  await redis.set('a', 1)
  await redis.pipeline().get('a').get('b').incr('a').exec()
  await redis.multi().get('a').set('b', 2).exec()
  await redis.eval('return redis.call("GET", KEYS[1])', ['a'], []) // what Lua calls is not seen
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

test('the SDK told not to retry does so once', async () => {
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
  await control.fault({ kind: 'delay', delayMs: 100, times: 1 })
  const delayed = redis.set('a', 'late')
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(await redis.get('a')).toBeNull()
  await delayed
  expect(await redis.get('a')).toBe('late')

  await control.fault({ kind: 'delay-after', delayMs: 100, times: 1 })
  const early = took(() => send(emulator, token, '/set/a/early'))
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(await redis.get('a')).toBe('early')
  expect(await early).toBeGreaterThan(95)
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

test('a fault may be meant for one command, in a pipeline too, or for one path', async () => {
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

test('faults befall in the order asked for, and only their token', async () => {
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
  expect(parallel).toBeLessThan(500)
})

test('what the control path does not know is refused, not ignored', async () => {
  const { token } = newClient(emulator)
  expect((await send(emulator, token, '/control/faults', '{"kind":"explode"}')).status).toBe(400)
  expect((await send(emulator, token, '/control/faults', 'nope')).status).toBe(400)
  expect((await send(emulator, token, '/control/latency', '{"ms":"fast"}')).status).toBe(400)
  expect((await send(emulator, token, '/control/nothing')).status).toBe(404)
})

test('closing ends what hangs and what listens', async () => {
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
