import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseEnv } from 'node:util'
import { type Control, createControl } from '../../emulator/control.ts'

/** The product as `npm start` runs it, with its demo data, on ports and data of its own. */
export interface Product {
  url: string
  serviceToken: string
  /** Of the emulator: what stops Redis. */
  redis: Control
  cron(): Promise<void>
  stop(): Promise<void>
}

const root = dirname(dirname(import.meta.dirname))
const READY_WITHIN_MS = 100_000

export async function startProduct(): Promise<Product> {
  const stateDir = await mkdtemp(join(tmpdir(), 'threads-edge-e2e-'))
  const [port, emulatorPort] = [await freePort(), await freePort()]
  const child = spawn(process.execPath, ['scripts/start.ts'], {
    cwd: root,
    env: {
      ...process.env,
      PORT: String(port),
      EMULATOR_PORT: String(emulatorPort),
      STATE_DIR: stateDir,
      REDIS_URL: '',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
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
  const secrets = parseEnv(await readFile(join(root, '.dev.vars'), 'utf8'))
  const url = `http://localhost:${port}`
  return {
    url,
    serviceToken: secrets['SERVICE_TOKEN'] ?? '',
    redis: createControl(`http://127.0.0.1:${emulatorPort}`, secrets['UPSTASH_REDIS_REST_TOKEN'] ?? ''),
    async cron() {
      await fetch(`${url}/cdn-cgi/local/scheduled?cron=*+*+*+*+*`)
    },
    async stop() {
      child.kill('SIGTERM')
      await ended
      await rm(stateDir, { recursive: true, force: true })
    },
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo // a string only for pipes
  await new Promise((resolve) => server.close(resolve))
  return port
}
