/** A `redis-server` for one run, behind the emulator. Its `INFO commandstats` also counts what scripts call: the bill. */
import { spawn } from 'node:child_process'
import { access, mkdtemp, rm } from 'node:fs/promises'
import { constants } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type Connection, parseRedisUrl, textOf } from '../emulator/resp.ts'
import { startEmulator } from '../emulator/server.ts'
import { freePort } from '../scripts/ports.ts'

/** Commands that the emulator and this module send for themselves. */
const OWN_COMMANDS = new Set(['info', 'select', 'ping', 'auth', 'hello', 'client', 'flushdb', 'command', 'config'])

export interface BilledEmulator extends AsyncDisposable {
  url: string
  /** Commands that Upstash would have billed so far, for all keyspaces. */
  billed(): Promise<number>
  /** Bytes to and from Redis so far. Upstash counts about these, as JSON. */
  traffic(): Promise<number>
}

/** Whether there is a `redis-server` on the PATH. */
export async function hasRedisServer(): Promise<boolean> {
  const folders = (process.env['PATH'] ?? '').split(delimiter)
  const found = await Promise.all(
    folders.map((folder) =>
      access(join(folder, 'redis-server'), constants.X_OK).then(
        () => true,
        () => false,
      ),
    ),
  )
  return found.includes(true)
}

/** Starts it and the emulator. Throws if there is no `redis-server` on the PATH. */
export async function startBilledEmulator(): Promise<BilledEmulator> {
  const redis = await startRedis()
  const emulator = await startEmulator({ redisUrl: redis.url, openTokens: true })
  return {
    url: emulator.url,
    async billed() {
      const [reply] = await redis.connection.send([['INFO', 'commandstats']])
      const calls = textOf(reply).matchAll(/^cmdstat_([^:|]+)[^:]*:calls=(\d+)/gm)
      let billed = 0
      for (const [, name = '', number] of calls) if (!OWN_COMMANDS.has(name)) billed += Number(number)
      return billed
    },
    async traffic() {
      const [reply] = await redis.connection.send([['INFO', 'stats']])
      const bytes = textOf(reply).matchAll(/^total_net_(?:input|output)_bytes:(\d+)/gm)
      let traffic = 0
      for (const [, number] of bytes) traffic += Number(number)
      return traffic
    },
    async [Symbol.asyncDispose]() {
      await emulator.close()
      await redis[Symbol.asyncDispose]()
    },
  }
}

/** Starts a `redis-server`. Throws if there is none on the PATH. */
export async function startRedis(): Promise<AsyncDisposable & { url: string; connection: Connection }> {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-redis-'))
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--databases', '4096', '--save', '', '--dir', folder]
  const server = spawn('redis-server', args, { stdio: 'ignore' })
  const stop = () => server.kill('SIGTERM')
  process.once('exit', stop) // however this process ends
  const ended = new Promise<void>((resolve, reject) => {
    server.once('error', () => reject(new Error('There is no redis-server on the PATH: apt-get install redis-server')))
    server.once('close', () => resolve())
  })
  const url = `redis://127.0.0.1:${port}`
  const connection = await Promise.race([
    reach(url),
    ended.then(() => {
      throw new Error('redis-server ended')
    }),
  ])
  return {
    url,
    connection,
    async [Symbol.asyncDispose]() {
      connection.close()
      process.off('exit', stop)
      stop()
      await ended
      await rm(folder, { recursive: true })
    },
  }
}

async function reach(url: string): Promise<Connection> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await connect(parseRedisUrl(url), 0)
    } catch (error) {
      if (tries === 100) throw error
      await sleep(50)
    }
  }
}
