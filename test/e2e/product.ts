import { spawn } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Control, createControl } from '../../emulator/control.ts'
import { freePort } from '../../scripts/ports.ts'
import { cloneProject } from '../scripts/clone.ts'

/** The product as `npm start` runs it, with its demo data: a copy with ports, data and secrets of its own. */
export interface Product {
  url: string
  /** Of the emulator: what stops Redis. */
  redis: Control
  cron(): Promise<void>
  stop(): Promise<void>
}

export const SERVICE_TOKEN = 'a-service-token-for-tests'
const REDIS_TOKEN = 'a-redis-token-for-tests'
const SECRETS = { UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN, SERVICE_TOKEN }
const VARIABLES = {
  ALLOW_PRIVATE_WEBHOOKS: 'true',
  WEBHOOK_RETRY_SECONDS: '0.1', // a delivery is given up soon
}
const READY_WITHIN_MS = 100_000

export async function startProduct(): Promise<Product> {
  const copy = await cloneProject()
  const lines = (values: object) => Object.entries(values).map(([name, value]) => `${name} = "${value}"\n`)
  await writeFile(join(copy, '.dev.vars'), lines(SECRETS).join(''))
  const settings = join(copy, 'wrangler.toml') // .dev.vars holds the secrets declared there, and nothing else
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
  process.once('exit', () => child.kill()) // of a run that was interrupted
  const ended = new Promise((resolve) => child.once('exit', resolve))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    const hear = (chunk: Buffer) => {
      output += chunk
      if (output.includes('Stop:')) resolve()
    }
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
    const give = (why: string) => () => reject(new Error(`npm start ${why}:\n${output}`))
    child.once('exit', give('ended'))
    setTimeout(give('was not ready'), READY_WITHIN_MS).unref()
  })
  const url = `http://localhost:${port}`
  return {
    url,
    redis: createControl(`http://127.0.0.1:${emulatorPort}`, REDIS_TOKEN),
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
