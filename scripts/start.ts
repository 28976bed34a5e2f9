/**
 * `npm start`: the whole product on this machine, offline: the emulator, D1 with demo data, and `wrangler dev`.
 * PORT and EMULATOR_PORT choose the ports, and REDIS_URL puts a Redis behind the emulator. STATE_DIR is the folder of the
 * data (default `.wrangler/state`). One copy at a time can use a folder. DEMO=false leaves an empty database empty, DEMO=0.1 loads a tenth of the demo data.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { constants, copyFile, mkdir, readFile } from 'node:fs/promises'
import { delimiter, dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseEnv } from 'node:util'
import { startEmulator } from '../emulator/server.ts'
import { DEMO_PASSWORD } from './demo/data.ts'
import { occupyPort } from './ports.ts'
import { createOutputFilter } from './wrangler-output.ts'

const root = dirname(import.meta.dirname)
const READY_WITHIN_MS = 120_000
const STOP_WITHIN_MS = 5_000
const CRON_EVERY_MS = Number(process.env['CRON_SECONDS'] || 60) * 1_000

Object.assign(process.env, {
  CLOUDFLARE_CF_FETCH_ENABLED: 'false',
  WRANGLER_HIDE_BANNER: 'true',
  WRANGLER_LOG: 'warn',
  WRANGLER_SEND_ERROR_REPORTS: 'false',
  WRANGLER_SEND_METRICS: 'false',
  // The processes that wrangler starts use this Node too.
  PATH: dirname(process.execPath) + delimiter + process.env['PATH'],
})

/** How to stop what has been started, in the order of starting. */
const started: (() => Promise<unknown>)[] = []
let isStopping = false

/** A problem that the user can solve. Its message is one line. */
class Obstacle extends Error {}

// `on`, not `once`: if no other listener is left, wrangler's library ends the process by the signal itself.
process.on('SIGINT', () => void stop(130))
process.on('SIGTERM', () => void stop(143))
process.on('SIGHUP', () => void stop(129))
// When the reader of the output is gone, an error without a listener would end this process and leave its children.
for (const output of [process.stdout, process.stderr]) output.on('error', () => void stop(1))
if (process.env['npm_lifecycle_event']) {
  // npm can end without a signal to its child. Then the child has another parent.
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
  const stateDir = resolve(root, process.env['STATE_DIR'] || '.wrangler/state')
  await claim(stateDir)

  console.log(`Starting on port ${port}, with the emulator on port ${emulatorPort} …`)

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
  // From .dev.vars wrangler reads only the secrets that wrangler.toml declares.
  const variables = { ...others, UPSTASH_REDIS_REST_URL: emulator.url }
  const vars = Object.entries(variables).flatMap(([name, value]) => ['--var', `${name}:${value}`])
  const options = [...address, ...vars, '--persist-to', stateDir, '--show-interactive-dev-session=false']
  const dev = run(fileURLToPath(import.meta.resolve('wrangler')), 'dev', ...options)
  print(dev)
  const ending = ended(dev).then((code) => {
    throw new Obstacle(`wrangler dev ended with ${code}`)
  })
  await Promise.race([ready(`http://127.0.0.1:${port}/healthz`), ending])
  // Nothing else triggers the cron of a Worker in development.
  setInterval(() => void runCron(`http://127.0.0.1:${port}`), CRON_EVERY_MS).unref()
  // The demo rows were inserted without events. A rebuild brings them to these listeners within a minute.
  for (const listener of isNew ? ['search', 'recommendations', 'notifications'] : []) {
    const headers = { Authorization: `Bearer ${serviceToken}` }
    const begun = await fetch(`http://127.0.0.1:${port}/v1/listeners/${listener}/rebuild`, { method: 'POST', headers })
    if (!begun.ok) throw new Obstacle(`The listener ${listener} cannot be rebuilt from the demo data: ${begun.status}`)
  }

  console.log(`
  The API      ${url}/v1
  Dashboard    ${url}, with the service token ${serviceToken}
  Example page ${url}/app
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
  try {
    await (await occupyPort(port)).close()
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException // what listening throws
    const what = code === 'EADDRINUSE' ? 'is taken' : `cannot be used (${code})`
    throw new Obstacle(`Port ${port} ${what}: stop what listens there, or choose another with ${name}=…`, { cause })
  }
}

/** Locks the folder until this process ends, however it ends: the lock is the operating system's, through SQLite. */
async function claim(stateDir: string): Promise<void> {
  await mkdir(stateDir, { recursive: true })
  const lock = new DatabaseSync(join(stateDir, 'lock.sqlite'), { timeout: 0 })
  started.push(async () => lock.close())
  try {
    lock.exec('BEGIN EXCLUSIVE')
  } catch (cause) {
    throw new Obstacle(
      `Another copy uses the data in ${stateDir}: stop it, or choose another folder with STATE_DIR=…`,
      {
        cause,
      },
    )
  }
}

/** Reads `.dev.vars`, which it makes from the example if it does not exist: the secrets, and the other variables. */
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
  if (missing.length > 0) console.log(`.dev.vars does not set ${missing.join(', ')}: see .dev.vars.example`)
  const { UPSTASH_REDIS_REST_TOKEN: redisToken, SERVICE_TOKEN: serviceToken, ...others } = set
  if (!redisToken) throw new Obstacle('.dev.vars has no UPSTASH_REDIS_REST_TOKEN: see .dev.vars.example')
  if (!serviceToken) throw new Obstacle('.dev.vars has no SERVICE_TOKEN: see .dev.vars.example')
  return { redisToken, serviceToken, others }
}

/** Applies migrations and loads demo data into an empty database. Returns whether it was empty. */
async function prepareDatabase(stateDir: string): Promise<boolean> {
  console.log('Preparing the database …')
  const preparing = run(join(root, 'scripts/database.ts'), stateDir)
  let isNew = false
  preparing.on('message', (message) => (isNew = (message as { isNew: boolean }).isNew)) // all that it sends
  preparing.stdout?.pipe(process.stdout, { end: false })
  preparing.stderr?.pipe(process.stderr, { end: false })
  const code = await ended(preparing)
  if (code !== 0) throw new Obstacle(`The database could not be prepared: scripts/database.ts ended with ${code}`)
  return isNew
}

function print(dev: ChildProcess): void {
  for (const [input, output] of [[dev.stdout, process.stdout] as const, [dev.stderr, process.stderr] as const]) {
    if (!input) continue
    const filter = createOutputFilter()
    createInterface({ input }).on('line', (line) => {
      for (const shown of filter(line)) output.write(`${shown}\n`)
    })
  }
}

/** Triggers the cron of this minute. The Worker logs which jobs failed, and wrangler prints it. */
async function runCron(origin: string): Promise<void> {
  try {
    const response = await fetch(`${origin}/cdn-cgi/local/scheduled?cron=*+*+*+*+*`)
    if (!response.ok) console.error(`The cron failed (${await response.text()}): see the log lines above`)
  } catch (error) {
    if (!isStopping) console.error('The cron could not be triggered:', error)
  }
}

/** Runs a program in a process group of its own, which can be ended as a whole and ends itself when this process is gone. */
function run(program: string, ...args: string[]): ChildProcess {
  if (isStopping) throw new Obstacle('Stopped') // a child started now would outlive this process
  const guard = pathToFileURL(join(import.meta.dirname, 'exit-with-parent.ts')).href
  const child = spawn(process.execPath, ['--no-warnings', '--import', guard, program, ...args], {
    cwd: root,
    detached: true,
    env: { ...process.env, PARENT_PID: String(process.pid) },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  started.push(() => end(child))
  return child
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
  signal(child.pid, 'SIGKILL') // the rest of the group
}

function signal(group: number, name: NodeJS.Signals): void {
  try {
    process.kill(-group, name)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error // already ended
  }
}

async function ready(url: string): Promise<void> {
  const deadline = Date.now() + READY_WITHIN_MS
  while (Date.now() < deadline) {
    const response = await fetch(url).catch(() => null) // nothing listens yet
    if (response?.ok) return
    await sleep(100)
  }
  throw new Obstacle(`wrangler dev was not ready within ${READY_WITHIN_MS / 1_000} s`)
}

/** Stops everything that was started, last first, and ends this process. */
async function stop(code: number): Promise<void> {
  if (isStopping) return
  isStopping = true
  for (const undo of started.toReversed()) await undo().catch((error: unknown) => console.error(error))
  process.exit(code)
}
