import { Redis } from '@upstash/redis'
import { type Control, createControl } from '../../emulator/control.ts'
import { type Emulator, type EmulatorOptions, startEmulator } from '../../emulator/server.ts'

/** Over Redis when `REDIS_URL` is set, otherwise over the embedded engine. */
export const redisUrl = process.env.REDIS_URL
export const embedded = redisUrl === undefined

export const start = (options: EmulatorOptions = {}): Promise<Emulator> =>
  startEmulator({ openTokens: true, ...(redisUrl ? { redisUrl } : {}), ...options })

/** A keyspace of its own: an SDK client that sends each command by itself and once, its token and the control of its faults and counts. */
export function newClient(emulator: Emulator, config: object = {}): { redis: Redis; token: string; control: Control } {
  const token = crypto.randomUUID()
  const redis = new Redis({ url: emulator.url, token, retry: { retries: 0 }, enableAutoPipelining: false, ...config })
  return { redis, token, control: createControl(emulator.url, token) }
}

/** One request as `curl` would send it. */
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

/** Until `condition` holds; for what arrives by itself, such as messages. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 8_000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not happen within 8 s')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
