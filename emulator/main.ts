#!/usr/bin/env node
/** Runs the emulator as a process: `threads-edge-emulator`, or `node emulator/main.ts`. `--help` lists the flags. */
import { parseArgs } from 'node:util'
import { startEmulator } from './server.ts'

const HELP = `The Upstash REST API for development and tests.

  --port N                 port; 0 is any free one (EMULATOR_PORT, 8079)
  --host ADDRESS           address to listen on (EMULATOR_HOST, 127.0.0.1)
  --redis-url URL          use this Redis, not the embedded engine (REDIS_URL)
  --token TOKEN            accept this token; each has its own keyspace; repeat it (UPSTASH_REDIS_REST_TOKEN)
  --read-only TOKEN=OF     accept TOKEN for reading the keyspace of the token OF; repeat it

Without a token it accepts every token. Each new one then gets an empty keyspace.`

const LIST = { type: 'string', multiple: true } as const

function readFlags() {
  const { values } = parseArgs({
    options: {
      port: { type: 'string' },
      host: { type: 'string' },
      'redis-url': { type: 'string' },
      token: LIST,
      'read-only': LIST,
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(HELP)
    process.exit(0)
  }
  const { env } = process
  const port = Number(values.port ?? env.PORT ?? env.EMULATOR_PORT ?? 8079)
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Error('--port is a number from 0 to 65535')
  const tokens = values.token ?? (env.UPSTASH_REDIS_REST_TOKEN ? [env.UPSTASH_REDIS_REST_TOKEN] : [])
  const pairs = (values['read-only'] ?? []).map((pair) => pair.split('='))
  for (const [token, of] of pairs) {
    if (!token || !of || !tokens.includes(of)) throw new Error('--read-only is TOKEN=OF, where OF is one of the tokens')
  }
  const redisUrl = values['redis-url'] ?? env.REDIS_URL
  if (redisUrl && tokens.length === 0) {
    throw new Error(
      'REDIS_URL also needs UPSTASH_REDIS_REST_TOKEN or --token; without a token the emulator empties databases',
    )
  }
  return {
    port,
    tokens,
    ...(pairs.length > 0 ? { readOnlyTokens: Object.fromEntries(pairs) as Record<string, string> } : {}), // checked above
    ...((values.host ?? env.EMULATOR_HOST) ? { host: values.host ?? env.EMULATOR_HOST ?? '' } : {}),
    ...(redisUrl ? { redisUrl } : {}),
    ...(tokens.length === 0 ? { openTokens: true } : {}),
  }
}

let port = 0
try {
  const options = readFlags()
  ;({ port } = options)
  const emulator = await startEmulator(options)
  const engine = options.redisUrl ? 'REDIS_URL' : 'the embedded engine'
  const { length } = options.tokens
  const accepted = length === 0 ? 'any token' : length === 1 ? 'one token' : `${length} tokens`
  console.log(`Upstash emulator: ${emulator.url} over ${engine}, ${accepted}`)
  const stop = (): void => {
    setTimeout(() => process.exit(0), 2_000).unref() // whatever a connection still waits for
    void emulator.close().then(() => process.exit(0))
  }
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
} catch (error) {
  const cause = error as NodeJS.ErrnoException // flags, listening and connecting throw this
  console.error(
    cause.code === 'EADDRINUSE'
      ? `Upstash emulator: port ${port} is taken; free it or set EMULATOR_PORT`
      : `Upstash emulator: ${cause.message}`,
  )
  process.exit(1)
}
