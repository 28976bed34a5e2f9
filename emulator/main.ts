/** Runs the emulator as a process: `node emulator/main.ts`. */
import { startEmulator } from './server.ts'

const port = Number(process.env.PORT ?? process.env.EMULATOR_PORT ?? 8079)
const host = process.env.EMULATOR_HOST
const redisUrl = process.env.REDIS_URL
const token = process.env.UPSTASH_REDIS_REST_TOKEN

if (redisUrl && !token) {
  console.error(
    'Upstash emulator: REDIS_URL also needs UPSTASH_REDIS_REST_TOKEN; without a token the emulator empties databases',
  )
  process.exit(1)
}
try {
  const emulator = await startEmulator({
    port,
    ...(host ? { host } : {}),
    ...(redisUrl ? { redisUrl } : {}),
    ...(token ? { tokens: [token] } : { openTokens: true }),
  })
  console.log(
    `Upstash emulator: ${emulator.url} over ${redisUrl ? 'REDIS_URL' : 'the embedded engine'}, ${token ? 'one token' : 'any token'}`,
  )
  const stop = (): void => void emulator.close().then(() => process.exit(0))
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
} catch (error) {
  const cause = error as NodeJS.ErrnoException // listening and connecting throw this
  console.error(
    cause.code === 'EADDRINUSE'
      ? `Upstash emulator: port ${port} is taken; free it or set EMULATOR_PORT`
      : `Upstash emulator: ${cause.message}`,
  )
  process.exit(1)
}
