import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { createControl } from '../../emulator/control.ts'
import { DEMO_PASSWORD } from '../../scripts/demo/data.ts'
import { freePort, occupyPort } from '../../scripts/ports.ts'
import { cloneProject } from '../../scripts/clone.ts'

// All tests share one clone. Each continues with the data that the test before it left.
let clone = ''
const products: Product[] = []

beforeAll(async () => {
  clone = await cloneProject()
  // On a busy machine Redis does not answer within the timeouts of production.
  const patience = 'REDIS_READ_TIMEOUT_MS="10000"\nREDIS_WRITE_TIMEOUT_MS="10000"\n'
  await appendFile(join(clone, '.dev.vars.example'), patience)
})

afterEach(async () => {
  for (const product of products.splice(0)) await product.stop('SIGTERM', 'group') // left by a test that failed
}, 60_000)

afterAll(() => rm(clone, { recursive: true, force: true }))

interface Product {
  url: string
  emulatorUrl: string
  ended: Promise<number | null>
  output(): string
  /** Waits until the output contains the text. */
  prints(text: string): Promise<void>
  /**
   * Sends a signal to the process, or to its whole group as Ctrl-C does. Returns the commands of the processes under it,
   * and of those that outlived it.
   */
  stop(signal: NodeJS.Signals, whom: 'first' | 'group'): Promise<{ ran: string[]; left: string[] }>
}

/** Runs `npm start` in a process group of its own, as a terminal does. */
const npmStart = (port: number, emulatorPort: number) => run('npm', ['start'], port, emulatorPort)

const startScript = (port: number, emulatorPort: number, cronSeconds = 60) =>
  run(process.execPath, ['scripts/start.ts'], port, emulatorPort, cronSeconds)

function run(command: string, args: string[], port: number, emulatorPort: number, cronSeconds = 60): Product {
  const child: ChildProcess = spawn(command, args, {
    cwd: clone,
    env: {
      ...process.env,
      PORT: String(port),
      EMULATOR_PORT: String(emulatorPort),
      STATE_DIR: '',
      REDIS_URL: '',
      CRON_SECONDS: String(cronSeconds),
    },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const pid = child.pid ?? 0
  let output = ''
  const chunk = (data: Buffer) => void (output += data)
  child.stdout?.on('data', chunk)
  child.stderr?.on('data', chunk)
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const product: Product = {
    url: `http://127.0.0.1:${port}`,
    emulatorUrl: `http://127.0.0.1:${emulatorPort}`,
    ended,
    output: () => output,
    async prints(text) {
      for (const deadline = Date.now() + 120_000; !output.includes(text); await sleep(50)) {
        if (Date.now() > deadline || child.exitCode !== null) throw new Error(`not printed: ${text}\n${output}`)
      }
    },
    async stop(signal, whom) {
      const family = descendants(pid)
      if (isAlive(pid)) process.kill(whom === 'first' ? pid : -pid, signal)
      await ended
      const left = () => family.filter(({ pid }) => isAlive(pid)).map(({ command }) => command)
      for (const deadline = Date.now() + 30_000; left().length > 0 && Date.now() < deadline;) await sleep(50)
      return { ran: family.map(({ command }) => command), left: left() }
    },
  }
  products.push(product)
  return product
}

function descendants(ancestor: number): { pid: number; command: string }[] {
  const table = execFileSync('ps', ['-eo', 'pid=,ppid=,args='], { encoding: 'utf8' }).trim().split('\n')
  const processes = table.map((line) => {
    const [pid, parent, ...args] = line.trim().split(/\s+/)
    return { pid: Number(pid), parent: Number(parent), command: args.join(' ') }
  })
  const found: typeof processes = []
  for (const parents = [ancestor]; parents.length > 0;) {
    const parent = parents.pop()
    const children = processes.filter((process) => process.parent === parent)
    found.push(...children)
    parents.push(...children.map((child) => child.pid))
  }
  return found
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const json = async (url: string): Promise<unknown> => (await fetch(url)).json()

test('a taken port is reported in one line, before any file is written', { timeout: 240_000 }, async () => {
  const taken = await occupyPort(0)
  const api = npmStart(taken.port, await freePort())
  const emulator = npmStart(await freePort(), taken.port)
  expect([await api.ended, await emulator.ended]).toEqual([1, 1])
  await taken.close()

  const line = `Port ${taken.port} is taken: stop what listens there, or choose another with`
  expect(api.output()).toContain(`${line} PORT=…`)
  expect(emulator.output()).toContain(`${line} EMULATOR_PORT=…`)
  expect(api.output()).not.toMatch(/^\s+at /m)
  expect(existsSync(join(clone, '.dev.vars'))).toBe(false)
  expect(existsSync(join(clone, '.wrangler'))).toBe(false)
})

test('stopped while it loads the demo data, it leaves no process', { timeout: 240_000 }, async () => {
  const product = startScript(await freePort(), await freePort())
  await product.prints('Loading demo data')
  const { ran, left } = await product.stop('SIGTERM', 'first')
  expect(await product.ended).toBe(143)
  expect(ran.join('\n')).toContain('workerd')
  expect(left).toEqual([])
  expect(product.output()).not.toContain('done in')
})

test(
  'started again it loads the demo data and answers, and ends when npm is killed',
  { timeout: 240_000 },
  async () => {
    const product = npmStart(await freePort(), await freePort())
    await product.prints('Stop:')
    expect(product.output()).not.toContain('.dev.vars does not set')
    expect(product.output()).toContain('Loading demo data: 200 users, 5000 posts … done in')
    const { url } = product
    expect(product.output()).toMatch(
      /Dashboard +http:\/\/localhost:\d+, with the service token development-service-token/,
    )

    expect(await json(`${url}/healthz`)).toEqual({ status: 'alive' })
    expect(await json(`${url}/readyz`)).toMatchObject({ isReady: true })
    expect(await json(`${url}/v1/users/by-username/ada`)).toMatchObject({ username: 'ada', followersCount: 170 })
    const hot = (await json(`${url}/v1/posts/hot?limit=50`)) as { items: { likesCount: number }[] }
    expect(hot.items).toHaveLength(50)
    expect(hot.items[0]?.likesCount).toBeGreaterThan(100)

    const signIn = await fetch(`${url}/v1/sessions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ login: 'ada', password: DEMO_PASSWORD }),
    })
    expect(signIn.ok).toBe(true)

    // npm is killed, and sends no signal to its child
    const { ran, left } = await product.stop('SIGKILL', 'first')
    expect(ran.join('\n')).toMatch(/workerd[^]*esbuild|esbuild[^]*workerd/)
    expect(left).toEqual([])
  },
)

test(
  'a second copy does not share the data, and a killed copy leaves no process and frees its port',
  { timeout: 240_000 },
  async () => {
    const [port, emulatorPort] = [await freePort(), await freePort()]
    const product = startScript(port, emulatorPort)
    await product.prints('Stop:')
    const second = startScript(await freePort(), await freePort())
    expect(await second.ended).toBe(1)
    expect(second.output()).toBe(
      `Another copy uses the data in ${join(clone, '.wrangler/state')}: stop it, or choose another folder with STATE_DIR=…\n`,
    )
    expect(await json(`${product.url}/healthz`)).toEqual({ status: 'alive' })

    const { ran, left } = await product.stop('SIGKILL', 'first')
    expect(ran.join('\n')).toContain('workerd')
    expect(left).toEqual([])
    for (const freed of [port, emulatorPort]) await (await occupyPort(freed)).close()
  },
)

test(
  'started again it keeps its data, serves the pages, reports a failed cron and rebuilds after an edit, and Ctrl-C stops it',
  { timeout: 240_000 },
  async () => {
    await appendFile(join(clone, '.dev.vars.example'), 'COMMANDS_USD="0.3"\n')
    const product = startScript(await freePort(), await freePort(), 1)
    await product.prints('Stop:')
    expect(product.output()).toContain('.dev.vars does not set COMMANDS_USD: see .dev.vars.example')
    expect(product.output()).toContain('The database has data')
    expect(product.output()).not.toContain('Loading demo data')
    const { url } = product

    for (const path of ['/', '/docs', '/docs/', '/problems', '/problems/rate-limited', '/app']) {
      const page = await fetch(url + path)
      expect(page.headers.get('Content-Security-Policy')).toMatch(
        /^default-src '(none|self)'; [^*]*frame-ancestors 'none'/,
      )
      expect(page.headers.get('X-Content-Type-Options')).toBe('nosniff')
      const files = (await page.text()).matchAll(/(?:src|href)="(\/(?:dashboard|docs|problems|app)\/[^"]*)"/g)
      for (const [, file = ''] of files) expect([file, (await fetch(url + file)).status]).toEqual([file, 200])
    }
    const document = await fetch(`${url}/openapi.json`)
    expect(document.headers.get('Cache-Control')).toBe('public, max-age=300')
    const { stdout } = await promisify(execFile)(process.execPath, [join(clone, 'scripts/build/document.ts')])
    expect(await document.json()).toEqual(JSON.parse(stdout))
    for (const path of ['/docs/nothing-here', '/problems/nothing-here']) {
      const unknown = await fetch(url + path)
      expect([path, unknown.status, unknown.headers.get('Content-Type')]).toEqual([
        path,
        404,
        'application/problem+json',
      ])
    }

    const control = createControl(product.emulatorUrl, 'development-redis-token')
    await control.fault({ kind: 'refuse' })
    await product.prints('The cron failed')
    await control.clearFaults()
    expect(product.output()).not.toContain('Scheduled Workers')

    await appendFile(join(clone, 'src/index.ts'), '\n(')
    await product.prints('Build failed')

    const { left } = await product.stop('SIGINT', 'group')
    expect(await product.ended).toBe(130)
    expect(left).toEqual([])
    expect(product.output()).not.toMatch(/^\s+at .*scripts\//m) // no stack of ours
  },
)
