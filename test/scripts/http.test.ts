import { request } from 'node:http'
import { performance } from 'node:perf_hooks'
import type { Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { parseBearer, parseVersions } from '../../src/http/headers.ts'
import { createSessionTokens } from '../../src/sessions/token.ts'
import { joinTrace } from '../../src/trace.ts'
import { startWorker } from './worker.ts'

// The Worker in workerd behind its own socket: `fetch` sends no GET request with a body.
let emulator: Emulator
let workerd: Miniflare
let origin = ''

beforeAll(async () => {
  emulator = await startEmulator({ openTokens: true })
  ;({ workerd, origin } = await startWorker(emulator, 'token-of-http'))
}, 90_000)

afterAll(async () => {
  await workerd.dispose()
  await emulator.close()
})

/** The status of a request whose body has no declared length. */
async function sendChunked(method: string, path: string, body: string): Promise<number | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<number | undefined>()
  const sent = request(origin + path, { method, headers: { 'Transfer-Encoding': 'chunked' } }, (response) => {
    response.resume()
    response.once('end', () => resolve(response.statusCode))
  })
  sent.once('error', reject)
  sent.end(body)
  return promise
}

test.each(['GET', 'HEAD'])('a %s request may have a chunked body, which is ignored', async (method) => {
  for (const [path, status] of [
    ['/healthz', 200],
    ['/v1/posts/hot', 200],
    ['/v1/users/u_nobody', 404],
    ['/v1/sessions', 401],
    ['/v1/stats', 401],
  ] as const) {
    expect([path, await sendChunked(method, path, 'x'.repeat(200))]).toEqual([path, status])
  }
})

/** Longer than any header that the platform accepts (128 KB for all of them). */
const LENGTH = 131_072
const repeat = (text: string) => text.repeat(Math.ceil(LENGTH / text.length)).slice(0, LENGTH)

/** What `work` does with each input, with the time of the slowest of several runs left out. */
function fastestMs(work: () => unknown): number {
  const times = Array.from({ length: 5 }, () => {
    const startedAt = performance.now()
    try {
      work()
    } catch {} // it may refuse the input
    return performance.now() - startedAt
  })
  return Math.min(...times)
}

test.each([',', '"', '","', '"a",', 'W/', 'W/"1",', ' ', '\t,', '1', '"1" ', '"1"x'])(
  'the longest If-Match of %j takes less than 10 ms',
  (part) => {
    expect(fastestMs(() => parseVersions(repeat(part)))).toBeLessThan(10)
    const withinBound = repeat(part).slice(0, 8_192)
    expect(fastestMs(() => parseVersions(withinBound))).toBeLessThan(10)
  },
)

test.each(['Bearer ', 'Bearer a', ' ', 'Bearer a ', 'x'])(
  'the longest Authorization of %j takes less than 10 ms',
  (part) => {
    for (const value of [repeat(part), `Bearer ${repeat(part)}`, `Bearer ${repeat(part)} x`]) {
      expect(fastestMs(() => parseBearer(value))).toBeLessThan(10)
    }
  },
)

test.each(['u_a', 'u_a.', '.', 'a', '-'])('the longest token of %j takes less than 10 ms', (part) => {
  const tokens = createSessionTokens('a-key-for-tests-only')
  for (const token of [repeat(part), `u_a.s_a.${repeat(part)}`, `u_${repeat('a')}.s_a`]) {
    expect(fastestMs(() => tokens.read(token))).toBeLessThan(10)
  }
})

test.each(['0', '-', '00-', '0'.repeat(32) + '-'])('the longest traceparent of %j takes less than 10 ms', (part) => {
  const valid = `01-${'a'.repeat(32)}-${'b'.repeat(16)}-01-`
  for (const value of [repeat(part), valid + repeat(part)]) {
    expect(fastestMs(() => joinTrace(value))).toBeLessThan(10)
  }
})
