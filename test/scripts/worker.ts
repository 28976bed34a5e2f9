import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { bundle, migrate, platform } from '../../bench/workers.ts'
import type { Emulator } from '../../emulator/server.ts'

/** The token of the service, for requests to the Worker. */
export const SERVICE_TOKEN = 'a-service-token-for-tests'

/** Runs the bundled Worker in workerd behind its own socket, `origin`, with an empty D1. `variables` come on top. */
export async function startWorker(emulator: Emulator, redisToken: string, variables: Record<string, string> = {}) {
  const { code } = await bundle('ours')
  const workerd = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: code,
      ...platform(),
      bindings: {
        UPSTASH_REDIS_REST_URL: emulator.url,
        UPSTASH_REDIS_REST_TOKEN: redisToken,
        SERVICE_TOKEN,
        STATS_FLUSH_SECONDS: '0',
        LOG_REQUESTS: 'none',
        REDIS_READ_TIMEOUT_MS: '5000',
        ...variables,
      },
      unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }],
    }),
  )
  await migrate(await workerd.getD1Database('DB'))
  return { workerd, origin: (await workerd.unsafeGetDirectURL()).origin }
}
