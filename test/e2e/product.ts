import { spawn } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Control, createControl } from '../../emulator/control.ts'
import { freePort } from '../../scripts/ports.ts'
import { cloneProject } from '../../scripts/clone.ts'

/** The product as `npm start` runs it, with demo data: a copy with its own ports, data and secrets. */
export interface Product {
  url: string
  /** Injects faults into the emulator, for example to stop Redis. */
  redis: Control
  /** What it has printed. */
  output(): string
  cron(): Promise<void>
  stop(): Promise<void>
}

export const SERVICE_TOKEN = 'a-service-token-for-tests'
const REDIS_TOKEN = 'a-redis-token-for-tests'
const SECRETS = { UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN, SERVICE_TOKEN }
const VARIABLES = {
  // On a busy machine Redis does not answer within the timeouts of production.
  REDIS_READ_TIMEOUT_MS: '5000',
  REDIS_WRITE_TIMEOUT_MS: '5000',
  ALLOW_PRIVATE_WEBHOOKS: 'true',
  WEBHOOK_RETRY_SECONDS: '0.1', // a delivery fails its last attempt soon
}
const READY_WITHIN_MS = 100_000

/** Starts the product, again on other ports if another process has taken one meanwhile. */
export async function startProduct(): Promise<Product> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await tryStart()
    } catch (error) {
      if (attempt === 3 || !(error instanceof Error && error.message.includes('Address already in use'))) throw error
    }
  }
}

async function tryStart(): Promise<Product> {
  const copy = await cloneProject()
  const lines = (values: object) => Object.entries(values).map(([name, value]) => `${name} = "${value}"\n`)
  await writeFile(join(copy, '.dev.vars'), lines(SECRETS).join(''))
  const settings = join(copy, 'wrangler.toml') // wrangler reads only declared secrets from .dev.vars
  const declared = await readFile(settings, 'utf8')
  await writeFile(
    settings,
    declared.replace(/^\[vars\]\n/m, (heading) => heading + lines(VARIABLES).join('')),
  )
  const [port, emulatorPort] = [await freePort(), await freePort()]
  const child = spawn(process.execPath, ['scripts/start.ts'], {
    cwd: copy,
    env: {
      ...process.env,
      PORT: String(port),
      EMULATOR_PORT: String(emulatorPort),
      STATE_DIR: '.state',
      REDIS_URL: '',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  process.once('exit', () => child.kill()) // when the run is interrupted
  const ended = new Promise((resolve) => child.once('exit', resolve))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    const collect = (chunk: Buffer) => {
      output += chunk
      if (output.includes('Stop:')) resolve()
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    const fail = (why: string) => () => reject(new Error(`npm start ${why}:\n${output}`))
    child.once('exit', fail('ended'))
    setTimeout(fail('was not ready'), READY_WITHIN_MS).unref()
  })
  const url = `http://localhost:${port}`
  return {
    url,
    redis: createControl(`http://127.0.0.1:${emulatorPort}`, REDIS_TOKEN),
    output: () => output,
    async cron() {
      await fetch(`${url}/cdn-cgi/local/scheduled?cron=*+*+*+*+*`)
    },
    async stop() {
      child.kill('SIGTERM')
      await ended
      await rm(copy, { recursive: true, force: true })
    },
  }
}
