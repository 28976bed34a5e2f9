/** Bundles Workers as for a deployment and runs them in workerd, each with its own keyspace and D1. */
import { spawn } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { gzipSync } from 'node:zlib'
import { convertV4MiniflareOptions, Miniflare, type V4WorkerOptionsShape } from 'miniflare'
import { unstable_getMiniflareWorkerOptions } from 'wrangler'
import { type Control, createControl } from '../emulator/control.ts'
import { bundleWorker } from '../scripts/build/worker.ts'
import { type Database, loadDemo } from '../scripts/demo/load.ts'
import { SERVICE_TOKEN, type Town } from './town.ts'

const root = dirname(import.meta.dirname)
const configPath = join(root, 'wrangler.toml')

/** The measured Workers, ours first. */
export const CONTENDERS = {
  ours: 'src/index.ts',
  straightforward: 'bench/peers/straightforward.ts',
  cachified: 'bench/peers/cachified.ts',
  'durable objects': 'bench/peers/durable-objects.ts',
  bare: 'bench/peers/bare.ts',
} as const

export type ContenderName = keyof typeof CONTENDERS

export const contenderNames = Object.keys(CONTENDERS) as ContenderName[] // its own keys

/** The classes of the peer that has Durable Objects, by binding. */
const OBJECTS = { RATE_LIMITER: 'RateLimiter', SESSION: 'Session', LIKES: 'Likes', PRESENCE: 'Presence' }

const classesOf = (name: ContenderName) => (name === 'durable objects' ? Object.values(OBJECTS) : [])

/** Ours with its cron jobs one by one, for the growth of costs. */
const STEPS = 'bench/steps.ts'

export interface Bundle {
  name: ContenderName
  code: string
  bytes: number
  gzipBytes: number
}

/** The bundle of contender `name`, made like the Worker that is deployed. Without `minify` it names its modules. */
export async function bundle(
  name: ContenderName,
  { entry = CONTENDERS[name], minify = true }: { entry?: string; minify?: boolean } = {},
): Promise<Bundle> {
  const code = await bundleWorker(entry, { minify, classes: classesOf(name) })
  return { name, code, bytes: Buffer.byteLength(code), gzipBytes: gzipSync(code).byteLength }
}

export const bundleSteps = (): Promise<Bundle> => bundle('ours', { entry: STEPS })

export interface EmulatorProcess extends AsyncDisposable {
  url: string
}

/** The project's emulator, in another process. Each token has its own keyspace. `redisUrl`: instead of the embedded engine. */
export async function startEmulator(redisUrl?: string): Promise<EmulatorProcess> {
  const options = { openTokens: true, ...(redisUrl === undefined ? {} : { redisUrl }) }
  const program = `
    import { startEmulator } from ${JSON.stringify(pathToFileURL(join(root, 'emulator/server.ts')))}
    console.log((await startEmulator(${JSON.stringify(options)})).url)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const stop = () => child.kill('SIGTERM')
  process.once('exit', stop) // however this process ends
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const lines = createInterface({ input: child.stdout })
  const url = await new Promise<string>((resolve, reject) => {
    lines.on('line', (line) => {
      const [found] = /http:\S+/.exec(line) ?? []
      if (found) resolve(found)
    })
    void ended.then(() => reject(new Error('the emulator did not start')))
  })
  return {
    url,
    async [Symbol.asyncDispose]() {
      process.off('exit', stop)
      stop()
      await ended
    },
  }
}

/** Compatibility date, flags, D1 and queues, from wrangler.toml. */
export function platform() {
  const { log, warn } = console
  Object.assign(console, { log: () => {}, warn: () => {} }) // it warns about secrets, which the bench sets itself
  try {
    const options: V4WorkerOptionsShape = unstable_getMiniflareWorkerOptions(configPath).workerOptions
    return {
      compatibilityDate: options.compatibilityDate ?? '',
      compatibilityFlags: options.compatibilityFlags ?? [],
      d1Databases: options.d1Databases ?? {},
      queueProducers: options.queueProducers ?? {},
      queueConsumers: options.queueConsumers ?? {},
    }
  } finally {
    Object.assign(console, { log, warn })
  }
}

/**
 * The same for all contenders. Limits are counted but never reached, because a refused request is cheap and would be
 * measured as fast. Ours has the timeouts of the peers' SDK, so that a busy machine opens no circuit breaker. Ours writes no
 * log, like the peers, because here each line passes through Miniflare's process.
 */
const VARIABLES = {
  SERVICE_TOKEN,
  LIMIT_READS: '1000000',
  LIMIT_WRITES: '1000000',
  LIMIT_PRESENCE: '1000000',
  REDIS_READ_TIMEOUT_MS: '10000',
  REDIS_WRITE_TIMEOUT_MS: '10000',
  LOG_REQUESTS: 'none',
}

/** The work of the isolates of a Worker. */
export interface Counts {
  /** D1 calls. A batch is one call and as many queries as it holds. */
  queries: number
  calls: number
  /** D1 rows, as Cloudflare bills them. */
  rowsRead: number
  rowsWritten: number
  /** Messages enqueued, and messages handled. Also what Durable Objects write behind. */
  sent: number
  received: number
  /** Calls of Durable Objects, alarms included. Their rows, with one row for each `setAlarm`. */
  objectCalls: number
  objectRowsRead: number
  objectRowsWritten: number
}

interface QueueHandler {
  queue(queueName: string, messages: object[]): Promise<{ outcome: string; retryMessages: object[] }>
}

export interface Details {
  messages: { binding: string; body: unknown; delaySeconds: number }[]
  statements: [sql: string, [queries: number, rowsRead: number, rowsWritten: number]][]
}

const NO_COUNTS: Counts = {
  queries: 0,
  calls: 0,
  rowsRead: 0,
  rowsWritten: 0,
  sent: 0,
  received: 0,
  objectCalls: 0,
  objectRowsRead: 0,
  objectRowsWritten: 0,
}
const COUNTED = Object.keys(NO_COUNTS) as (keyof Counts)[] // its own keys

/** Creates a D1 with the data of `town` in a folder. Each contender gets a copy. */
export const prepareDatabase = (town: Town): Promise<Folder> =>
  createDatabase(async (database) => {
    await loadDemo(database, town.demo)
    await town.loadSessions(database)
  })

/** A folder that is deleted when it is disposed of. */
type Folder = AsyncDisposable & { folder: string }

/** Creates a D1 with empty tables in a folder, and calls `load` with it. */
export async function createDatabase(load?: (database: Database) => Promise<void>): Promise<Folder> {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-bench-'))
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: 'export default {}',
      d1Databases: platform().d1Databases,
      resourcePersistencePath: folder,
    }),
  )
  const database = (await miniflare.getD1Database('DB')) as unknown as Database // what loadDemo uses of it
  await migrate(database)
  await load?.(database)
  await miniflare.dispose()
  return { folder, [Symbol.asyncDispose]: () => rm(folder, { recursive: true }) }
}

export type Contender = Awaited<ReturnType<typeof startWorkers>>

/**
 * Runs `isolates` copies of a Worker in one workerd, with one new keyspace and one copy of the D1 in `databaseFolder`.
 * `.url` is the first of `.urls`. Each is a socket directly into an isolate. `variables` override those of all runs.
 * With `BENCH_DETAILS` among them, no queue has a consumer: `details` answers what was sent, and `deliver` delivers it.
 */
export async function startWorkers(
  { name, code }: Bundle,
  emulator: { url: string },
  databaseFolder: string,
  isolates = 1,
  variables: Record<string, string> = {},
) {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-bench-'))
  await cp(databaseFolder, folder, { recursive: true })

  const { compatibilityDate, compatibilityFlags, d1Databases, queueProducers, queueConsumers } = platform()
  const token = `bench-${crypto.randomUUID()}`
  const names = Array.from({ length: isolates }, (_, i) => `${name.replaceAll(' ', '-')}-${i}`)
  const classes = `export { ${classesOf(name).join()} } from './index.js'`
  const modules = [
    {
      type: 'ESModule' as const,
      path: join(root, 'bench/counting.js'),
      contents: `${await readFile(join(root, 'bench/counting.js'), 'utf8')}\n${classes}`,
    },
    { type: 'ESModule' as const, path: join(root, 'bench/index.js'), contents: code },
  ]
  const durableObjects = Object.fromEntries(
    Object.entries(OBJECTS).map(([binding, className]) => [binding, { className, useSQLite: true }]),
  )
  const hasDetails = 'BENCH_DETAILS' in variables
  const before = await workerdProcesses()
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      resourcePersistencePath: folder,
      ...('BENCH_INSPECTOR' in variables ? { inspectorPort: 0 } : {}),
      workers: names.map((worker, i) => ({
        name: worker,
        modules,
        modulesRoot: root,
        compatibilityDate,
        compatibilityFlags,
        bindings: { ...VARIABLES, UPSTASH_REDIS_REST_URL: emulator.url, UPSTASH_REDIS_REST_TOKEN: token, ...variables },
        d1Databases,
        ...(name === 'ours' ? { queueProducers } : {}),
        ...(name === 'ours' && i === 0 && !hasDetails ? { queueConsumers } : {}),
        ...(name === 'durable objects' ? { durableObjects } : {}),
        stripCfConnectingIp: false,
        unsafeDirectSockets: [
          { host: '127.0.0.1', port: 0 },
          { host: '127.0.0.1', port: 0, entrypoint: 'Counts' },
        ],
      })),
    }),
  )
  await miniflare.ready
  const after = await workerdProcesses()
  const pid = after.find((found) => !before.includes(found))
  if (pid === undefined) throw new Error('workerd did not start')

  const urls = await Promise.all(names.map((worker) => miniflare.unsafeGetDirectURL(worker)))
  const countUrls = await Promise.all(names.map((worker) => miniflare.unsafeGetDirectURL(worker, 'Counts')))

  const [url] = urls
  if (url === undefined) throw new Error('there is no isolate')
  const control: Control = createControl(emulator.url, token)
  return {
    name,
    pid,
    url: url.origin,
    urls: urls.map(({ origin }) => origin),
    control,
    /** Of the first isolate, with `BENCH_INSPECTOR` among the variables. */
    inspectorUrl: async () => new URL(`/core:user:${names[0]}`, await miniflare.getInspectorURL()).href,
    /** The work of all isolates since they started. */
    async counts(): Promise<Counts> {
      const all = await Promise.all(countUrls.map(async (from) => (await fetch(from)).json() as Promise<Counts>))
      const sum = { ...NO_COUNTS }
      for (const counts of all) for (const name of COUNTED) sum[name] += counts[name]
      return sum
    },
    /** What the first isolate sent to queues since the last call, and its SQL with queries, rows read and written. */
    async details() {
      const answer = await fetch(new URL('/details', countUrls[0]))
      return (await answer.json()) as Details // as counting.js answers
    },
    /** Hands one batch to the consumer of a queue. */
    async deliver(queueName: string, bodies: unknown[]): Promise<void> {
      // Missing in Miniflare's types.
      const worker = (await miniflare.getWorker(names[0])) as unknown as QueueHandler
      const messages = bodies.map((body) => ({
        id: crypto.randomUUID(),
        timestamp: new Date(),
        attempts: 1,
        body,
      }))
      const { outcome, retryMessages } = await worker.queue(queueName, messages)
      if (outcome !== 'ok' || retryMessages.length > 0) throw new Error(`A batch of ${queueName} failed`)
    },
    /** Runs the cron jobs of the minute of `scheduledTime`. */
    async cron(scheduledTime: Date): Promise<void> {
      const worker = await miniflare.getWorker(names[0])
      // Missing in Miniflare's types.
      const { scheduled } = worker as unknown as { scheduled: (event: object) => Promise<{ outcome: string }> }
      const { outcome } = await scheduled({ cron: '* * * * *', scheduledTime })
      if (outcome !== 'ok') throw new Error(`The cron ended as ${outcome}`)
    },
    async close() {
      await miniflare.dispose()
      await rm(folder, { recursive: true })
    },
  }
}

/** Creates the tables in an empty D1. */
export async function migrate(database: Database): Promise<void> {
  const folder = join(root, 'migrations')
  const files = (await readdir(folder)).filter((file) => file.endsWith('.sql')).sort()
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), 'utf8')))
  const statements = texts.flatMap((sql) => sql.split('--> statement-breakpoint'))
  await database.batch(statements.map((statement) => database.prepare(statement)))
}

/** The workerd processes started by this process. */
async function workerdProcesses(): Promise<number[]> {
  const children = await readFile(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8')
  const pids = children.trim().split(' ').filter(Boolean).map(Number)
  const names = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')))
  return pids.filter((_, i) => names[i]?.trim() === 'workerd')
}

/** The CPU time of a process with all its threads, in ms. Resolution: 10 ms, the kernel's ticks. */
export async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10 // utime, stime
}
