/**
 * `npm start`: the whole product on this machine, offline. The emulator, D1 with demo data, and `wrangler dev`.
 * PORT and EMULATOR_PORT move it, REDIS_URL puts a Redis behind the emulator, and STATE_DIR keeps the data of a second
 * copy apart (default `.wrangler/state`).
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { constants, copyFile, readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { delimiter, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseEnv } from 'node:util'
import { startEmulator } from '../emulator/server.ts'
import { DEMO_PASSWORD, generateDemo } from './demo/data.ts'
import { type Database, isEmpty, loadDemo } from './demo/load.ts'

const root = dirname(import.meta.dirname)
const READY_WITHIN_MS = 60_000
const STOP_WITHIN_MS = 5_000

Object.assign(process.env, {
  CLOUDFLARE_CF_FETCH_ENABLED: 'false',
  WRANGLER_HIDE_BANNER: 'true',
  WRANGLER_LOG: 'warn',
  WRANGLER_SEND_ERROR_REPORTS: 'false',
  WRANGLER_SEND_METRICS: 'false',
  // What wrangler runs takes this Node, however this script was started.
  PATH: dirname(process.execPath) + delimiter + process.env['PATH'],
})

/** What to undo, in the order it was done. */
const started: (() => Promise<unknown>)[] = []
let isStopping = false

/** A mistake of the surroundings: told in one line. */
class Obstacle extends Error {}

// Not `once`: wrangler's library ends the process by the signal itself when it finds no other listener left.
process.on('SIGINT', () => void stop(130))
process.on('SIGTERM', () => void stop(143))
process.on('SIGHUP', () => void stop(129))
// Whoever read this is gone: unheard, the error would end this process before what it has started.
for (const output of [process.stdout, process.stderr]) output.on('error', () => void stop(1))
if (process.env['npm_lifecycle_event']) {
  // npm may end without telling: then another parent takes over.
  const npm = process.ppid
  setInterval(() => process.ppid !== npm && void stop(1), 500).unref()
}

try {
  await start()
} catch (error) {
  if (!isStopping) {
    console.error(error instanceof Obstacle ? error.message : error)
    await stop(1)
  }
}

async function start(): Promise<void> {
  const port = readPort('PORT', 8787)
  const emulatorPort = readPort('EMULATOR_PORT', 8079)
  if (port === emulatorPort) throw new Obstacle(`PORT and EMULATOR_PORT are both ${port}`)
  await requireFree('PORT', port)
  await requireFree('EMULATOR_PORT', emulatorPort)

  console.log(`Starting on port ${port}; the emulator is on ${emulatorPort} …`)

  const stateDir = resolve(root, process.env['STATE_DIR'] ?? '.wrangler/state')
  const { REDIS_URL: redisUrl } = process.env
  const { redisToken, serviceToken, others } = await readVariables()
  const emulator = await startEmulator({
    port: emulatorPort,
    tokens: [redisToken],
    ...(redisUrl ? { redisUrl } : {}),
  })
  started.push(() => emulator.close())

  const isNew = await prepareDatabase(stateDir)

  const url = `http://localhost:${port}`
  const address = ['--ip', '127.0.0.1', '--port', String(port)]
  // Of .dev.vars wrangler takes the secrets alone, since wrangler.toml names them.
  const variables = { ...others, UPSTASH_REDIS_REST_URL: emulator.url }
  const vars = Object.entries(variables).flatMap(([name, value]) => ['--var', `${name}:${value}`])
  const dev = wrangler('dev', ...address, ...vars, '--persist-to', stateDir, '--show-interactive-dev-session=false')
  dev.stdout?.pipe(process.stdout)
  dev.stderr?.pipe(process.stderr)
  const ending = ended(dev).then((code) => {
    throw new Obstacle(`wrangler dev ended with ${code}`)
  })
  await Promise.race([ready(`http://127.0.0.1:${port}/healthz`), ending])
  // Nothing else fires the crons of a Worker in development.
  const cron = `http://127.0.0.1:${port}/cdn-cgi/local/scheduled?cron=*+*+*+*+*`
  setInterval(() => void fetch(cron).catch(() => {}), 60_000).unref()
  // Rows that were inserted told nobody. The queue sees to it, in a minute or so.
  for (const listener of isNew ? ['search', 'recommendations', 'notifications'] : []) {
    const headers = { Authorization: `Bearer ${serviceToken}` }
    const begun = await fetch(`http://127.0.0.1:${port}/v1/listeners/${listener}/rebuild`, { method: 'POST', headers })
    if (!begun.ok) throw new Obstacle(`What ${listener} keeps of the demo data cannot be built: ${begun.status}`)
  }

  console.log(`
  The API      ${url}/v1
  Dashboard    ${url}, with the service token ${serviceToken}
  Reference    ${url}/docs
  Emulator     ${emulator.url}${redisUrl ? ' over REDIS_URL' : ''}
  Sign in as   ada, or bob, with the password ${DEMO_PASSWORD}

  Next:        curl '${url}/v1/posts/hot?limit=3'
  Stop:        Ctrl-C
`)
  await ending
}

function readPort(name: string, fallback: number): number {
  const port = Number(process.env[name] || fallback)
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new Obstacle(`${name} is ${process.env[name]}: it must be a number from 1 to 65535`)
  }
  return port
}

async function requireFree(name: string, port: number): Promise<void> {
  const probe = createServer()
  await new Promise<void>((resolve, reject) => {
    probe.once('error', (cause: NodeJS.ErrnoException) => {
      const what = cause.code === 'EADDRINUSE' ? 'is taken' : `cannot be used (${cause.code})`
      reject(new Obstacle(`Port ${port} ${what}: stop what listens there, or choose another with ${name}=…`))
    })
    probe.listen(port, '127.0.0.1', resolve)
  })
  await new Promise((resolve) => probe.close(resolve))
}

/** What `.dev.vars` says, which is made from its example if there is none: the secrets, and what else there is. */
async function readVariables() {
  const file = join(root, '.dev.vars')
  try {
    await copyFile(`${file}.example`, file, constants.COPYFILE_EXCL)
    console.log('Made .dev.vars from .dev.vars.example')
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
  const set = parseEnv(await readFile(file, 'utf8'))
  const missing = Object.keys(parseEnv(await readFile(`${file}.example`, 'utf8'))).filter((name) => !(name in set))
  if (missing.length > 0) console.log(`.dev.vars does without ${missing.join(', ')}: see .dev.vars.example`)
  const { UPSTASH_REDIS_REST_TOKEN: redisToken, SERVICE_TOKEN: serviceToken, ...others } = set
  if (!redisToken) throw new Obstacle('.dev.vars has no UPSTASH_REDIS_REST_TOKEN: see .dev.vars.example')
  if (!serviceToken) throw new Obstacle('.dev.vars has no SERVICE_TOKEN: see .dev.vars.example')
  return { redisToken, serviceToken, others }
}

/** Brings the tables up to date and, if nobody is there, the demo data; answers whether it did that. */
async function prepareDatabase(stateDir: string): Promise<boolean> {
  const isCurrent = await withDatabase(stateDir, isMigrated)
  if (!isCurrent) {
    const migrating = wrangler('d1', 'migrations', 'apply', 'threads', '--local', '--persist-to', stateDir)
    const report = collect(migrating)
    if ((await ended(migrating)) !== 0) throw new Obstacle(`The migrations failed:\n${report()}`)
  }
  return withDatabase(stateDir, async (db) => {
    if (!(await isEmpty(db))) {
      console.log('The database has its data; demo data is loaded into an empty one only')
      return false
    }
    const startedAt = Date.now()
    const demo = generateDemo(startedAt)
    process.stdout.write(`Loading demo data: ${demo.users.length} users, ${demo.posts.length} posts … `)
    await loadDemo(db, demo)
    console.log(`done in ${((Date.now() - startedAt) / 1_000).toFixed(1)} s`)
    return true
  })
}

/** Whether every migration is applied: asking wrangler to apply none costs more than all the rest of a start. */
async function isMigrated(db: Database): Promise<boolean> {
  const files = await readdir(join(root, 'migrations'))
  const names = files.filter((file) => file.endsWith('.sql'))
  const applied = await db
    .prepare(
      'SELECT count(DISTINCT name) AS applied FROM d1_migrations WHERE name IN (SELECT value FROM json_each(?1))',
    )
    .bind(JSON.stringify(names))
    .first<number>('applied')
    .catch(() => 0) // a database without that table is new
  return applied === names.length
}

/** Opens the D1 that `wrangler dev` will have, for as long as `work` takes. */
async function withDatabase<T>(stateDir: string, work: (db: Database) => Promise<T>): Promise<T> {
  const { getPlatformProxy } = await import('wrangler')
  const { env, dispose } = await getPlatformProxy<{ DB: Database }>({
    configPath: join(root, 'wrangler.toml'),
    persist: { path: join(stateDir, 'v3') }, // where `--persist-to` puts it
  })
  started.push(dispose)
  const answer = await work(env.DB)
  started.pop()
  await dispose()
  return answer
}

/** Runs wrangler in a process group of its own, so that all it starts can be ended with it. */
function wrangler(...args: string[]): ChildProcess {
  if (isStopping) throw new Obstacle('Stopped') // what follows an interruption must not outlive it
  const child = spawn(process.execPath, [join(root, 'node_modules/wrangler/bin/wrangler.js'), ...args], {
    cwd: root,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  started.push(() => end(child))
  return child
}

/** What a process has said so far. */
function collect(child: ChildProcess): () => string {
  const chunks: Buffer[] = []
  for (const output of [child.stdout, child.stderr]) output?.on('data', (chunk: Buffer) => chunks.push(chunk))
  return () => Buffer.concat(chunks).toString()
}

function ended(child: ChildProcess): Promise<number | string> {
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve(code ?? signal ?? 0))
  })
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return
  if (child.exitCode === null && child.signalCode === null) {
    const closed = ended(child)
    signal(child.pid, 'SIGTERM')
    await Promise.race([closed, sleep(STOP_WITHIN_MS)])
  }
  signal(child.pid, 'SIGKILL') // whatever of its group is left
}

function signal(group: number, name: NodeJS.Signals): void {
  try {
    process.kill(-group, name)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error // ended already
  }
}

async function ready(url: string): Promise<void> {
  const deadline = Date.now() + READY_WITHIN_MS
  while (Date.now() < deadline) {
    const response = await fetch(url).catch(() => null) // nobody listens yet
    if (response?.ok) return
    await sleep(100)
  }
  throw new Obstacle(`wrangler dev was not ready within ${READY_WITHIN_MS / 1_000} s`)
}

/** Ends everything, last first, and this process. */
async function stop(code: number): Promise<void> {
  if (isStopping) return
  isStopping = true
  for (const undo of started.toReversed()) await undo().catch((error: unknown) => console.error(error))
  process.exit(code)
}
