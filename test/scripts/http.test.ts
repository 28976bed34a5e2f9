import { request } from 'node:http'
import type { Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
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
