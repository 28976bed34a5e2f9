import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DatabaseSync, type DatabaseSyncOptions } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { createControl } from '../../emulator/control.ts'
import { startEmbedded } from '../../emulator/keyspace.ts'
import { cloneProject } from '../clone.ts'
import { freePort, occupyPort } from '../ports.ts'

const REDIS_TOKEN = 'redis-token-of-the-soak'
export const SERVICE_TOKEN = 'service-token-of-the-soak'
const CRON_SECONDS = 3
const START_WITHIN_MS = 120_000

/**
 * The configuration of the soak: the defaults, but no limit is reached, a busy machine is not an outage of Redis, and
 * what heals with time heals in seconds. The
 * circuits of endpoints stay closed: one that is tested when the product is killed stays open for two minutes. Nobody goes
 * silent while the cron runs as of later.
 */
const VARIABLES = {
  ALLOW_PRIVATE_WEBHOOKS: 'true',
  LOG_REQUESTS: 'none',
  LIMIT_READS: '1000000',
  LIMIT_WRITES: '1000000',
  LIMIT_PRESENCE: '1000000',
  LIMIT_SIGN_IN: '1000000',
  LIMIT_SIGN_IN_ADDRESS: '1000000',
  REDIS_READ_TIMEOUT_MS: '1000',
  REDIS_WRITE_TIMEOUT_MS: '3000',
  REDIS_BREAKER_SECONDS: '1',
  MEMORY_SECONDS: '1',
  USER_FRESH_SECONDS: '5',
  POST_FRESH_SECONDS: '5',
  HOT_FRESH_SECONDS: '3',
  INBOX_FRESH_SECONDS: '5',
  STALE_SECONDS: '1',
  NEGATIVE_SECONDS: '2',
  LOCK_SECONDS: '5',
  PRESENCE_SECONDS: '7200',
  STREAM_CHECK_SECONDS: '5',
  STREAM_HEARTBEAT_SECONDS: '2',
  STREAM_RETRY_SECONDS: '0.2',
  STREAM_EVENTS: '100000',
  WEBHOOK_RETRY_SECONDS: '1,1,1,2,2,2,4,4,4,8,8,8,8,8,8,8,8,8,8,8',
  WEBHOOK_CIRCUIT_FAILURES: '1000',
}

/** A new user. */
export interface Account {
  id: string
  username: string
  passwordHash: string
  displayName: string
}

export type Product = Awaited<ReturnType<typeof createProduct>>

/**
 * The product as `npm start` runs it, in a clone of the project in a temporary folder, so that nothing is left behind.
 * Its Redis is the embedded engine of this process, because a Redis does not die with the product.
 */
export async function createProduct() {
  const clone = await cloneProject()
  const variables = { UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN, SERVICE_TOKEN, ...VARIABLES }
  const lines = Object.entries(variables).map(([name, value]) => `${name}="${value}"\n`)
  await writeFile(join(clone, '.dev.vars'), lines.join(''))
  const redis = await startEmbedded()
  const [port, emulatorPort] = [await freePort(), await freePort()]
  const url = `http://127.0.0.1:${port}`
  const emulatorUrl = `http://127.0.0.1:${emulatorPort}`
  const stateDir = join(clone, 'state')

  let child: ChildProcess | undefined
  let output = ''
  let database: DatabaseSync | undefined
  /** Rises when the product begins to start or to die: a request that saw two values may have met a dying one. */
  let generation = 0
  let isClosed = false
  let whenUp = Promise.withResolvers<void>()

  const run = (script: string, ...args: string[]) =>
    spawn(process.execPath, ['--no-warnings', script, ...args], {
      cwd: clone,
      env: {
        ...process.env,
        npm_lifecycle_event: 'start', // it ends with this process
        PORT: String(port),
        EMULATOR_PORT: String(emulatorPort),
        REDIS_URL: `redis://127.0.0.1:${redis.port}`,
        STATE_DIR: stateDir,
        DEMO: 'false',
        CRON_SECONDS: String(CRON_SECONDS),
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })

  async function start(): Promise<void> {
    if (isClosed) throw new Error('The product is closed') // a child started now would outlive this process
    output = ''
    const started = run('scripts/start.ts')
    child = started
    for (const stream of [started.stdout, started.stderr]) {
      stream.on('data', (data: Buffer) => (output = (output + String(data)).slice(-100_000)))
    }
    for (const deadline = Date.now() + START_WITHIN_MS; !output.includes('Stop:'); await sleep(50)) {
      if (started.exitCode !== null || Date.now() > deadline) throw new Error(`The product did not start:\n${output}`)
    }
    generation += 1
    whenUp.resolve()
  }

  /** Ends the product, and waits until the processes below it are gone too. */
  async function end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    if (!child) return
    generation += 1
    whenUp = Promise.withResolvers()
    const ended = once(child, 'exit')
    if (child.exitCode === null && child.signalCode === null) {
      child.kill(signal)
      await ended
    }
    child = undefined
    for (const deadline = Date.now() + 30_000; !(await isFree(port)); await sleep(50)) {
      if (Date.now() > deadline) throw new Error(`Port ${port} is still taken`)
    }
  }

  async function openDatabase(options: DatabaseSyncOptions): Promise<DatabaseSync> {
    const folder = join(stateDir, 'v3/d1/miniflare-D1DatabaseObject')
    const file = (await readdir(folder)).find((name) => /^[0-9a-f]{64}\.sqlite$/.test(name))
    if (file === undefined) throw new Error(`There is no database in ${folder}`)
    return new DatabaseSync(join(folder, file), { timeout: 5_000, ...options })
  }

  return {
    url,
    control: createControl(emulatorUrl, REDIS_TOKEN),
    start,

    /** Creates the database with accounts, before the first start. */
    async createAccounts(accounts: Account[]): Promise<void> {
      const creating = run('scripts/database.ts', stateDir)
      const [code] = (await once(creating, 'exit')) as [number | null]
      if (code !== 0) throw new Error(`scripts/database.ts ended with ${code}`)
      const database = await openDatabase({})
      const insert = database.prepare(`INSERT INTO users
        (id, username, email, password_hash, display_name, created_at, updated_at)
        VALUES (:id, :username, :username || '@example.com', :passwordHash, :displayName, :now, :now)`)
      for (const account of accounts) insert.run({ ...account, now: Date.now() })
      database.close()
    },

    /** Kills the product with SIGKILL and starts it again on the same data. */
    async restart(): Promise<void> {
      await end('SIGKILL')
      await start()
    },
    generation: () => generation,
    /** Resolves when the product is up. */
    up: () => whenUp.promise,
    output: () => output,

    /** Runs the cron as of `now` (Unix ms), beside that of `npm start`. It may fail, as that one. */
    async cron(now: number): Promise<void> {
      const response = await fetch(`${url}/cdn-cgi/local/scheduled?cron=*+*+*+*+*&time=${now}`)
      await response.text()
    },

    /** Sends commands to Redis in one pipeline. */
    async redis(commands: string[][]): Promise<unknown[]> {
      if (commands.length === 0) return []
      const headers = { Authorization: `Bearer ${REDIS_TOKEN}` }
      const response = await fetch(`${emulatorUrl}/pipeline`, {
        method: 'POST',
        headers,
        body: JSON.stringify(commands),
      })
      const replies = (await response.json()) as { result?: unknown; error?: string }[] // the format of Upstash
      return replies.map(({ result, error }) => {
        if (error !== undefined) throw new Error(error)
        return result
      })
    },

    /** Reads D1 from its file. */
    rows: async <Row>(sql: string): Promise<Row[]> => {
      database ??= await openDatabase({ readOnly: true })
      return database.prepare(sql).all() as Row[] // the columns that `sql` selects
    },

    /** Stops everything and removes the clone. */
    async close(): Promise<void> {
      isClosed = true
      database?.close()
      await end('SIGTERM')
      await redis.close()
      await rm(clone, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

const isFree = (port: number): Promise<boolean> =>
  occupyPort(port).then(
    async ({ close }) => {
      await close()
      return true
    },
    () => false,
  )
