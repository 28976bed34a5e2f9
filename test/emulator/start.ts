import { Redis } from '@upstash/redis'
import { type Control, createControl } from '../../emulator/control.ts'
import { type Emulator, type EmulatorOptions, startEmulator } from '../../emulator/server.ts'

/** The Redis to test over. Undefined: the embedded engine. */
export const redisUrl = process.env.REDIS_URL
export const embedded = redisUrl === undefined

export const start = (options: EmulatorOptions = {}): Promise<Emulator> =>
  startEmulator({ openTokens: true, ...(redisUrl ? { redisUrl } : {}), ...options })

/** A new keyspace: an SDK client without retries and auto-pipelining, its token and its control client. */
export function newClient(emulator: Emulator, config: object = {}): { redis: Redis; token: string; control: Control } {
  const token = crypto.randomUUID()
  const redis = new Redis({ url: emulator.url, token, retry: { retries: 0 }, enableAutoPipelining: false, ...config })
  return { redis, token, control: createControl(emulator.url, token) }
}

/** Sends one HTTP request: GET, or POST if it has a body. */
export async function send(
  emulator: Emulator,
  token: string,
  path: string,
  body?: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = {},
): Promise<{ status: number; json: unknown; response: Response }> {
  const response = await fetch(emulator.url + path, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${token}`, ...headers },
    ...(body === undefined ? {} : { body }),
  })
  const copy = response.clone()
  return { status: response.status, json: await response.json().catch(() => undefined), response: copy }
}

/** Waits until `condition` is true, for events such as messages. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 8_000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('the condition was not met within 8 s')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
