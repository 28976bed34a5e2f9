import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { DEMO_PASSWORD } from '../../scripts/demo/data.ts'
import { cloneProduct, freePort, listen } from './clone.ts'

// One clone, as git would make it and `npm install` fill it: each test starts where the one before has left it.
let clone = ''
const products: Product[] = []

beforeAll(async () => {
  clone = await cloneProduct()
})

afterAll(async () => {
  for (const product of products) await product.stop('SIGTERM', 'group') // of tests that failed
  await rm(clone, { recursive: true, force: true })
})

interface Product {
  url: string
  ended: Promise<number | null>
  output(): string
  says(text: string): Promise<void>
  /** Ends the process that was run, or as Ctrl-C does its whole group; answers what ran under it, and what outlived it. */
  stop(signal: NodeJS.Signals, whom: 'first' | 'group'): Promise<{ ran: string[]; left: string[] }>
}

/** Runs `npm start`, in a process group of its own as a terminal would. */
const npmStart = (port: number, emulatorPort: number) => run('npm', ['start'], port, emulatorPort)

function run(command: string, args: string[], port: number, emulatorPort: number): Product {
  const child: ChildProcess = spawn(command, args, {
    cwd: clone,
    env: { ...process.env, PORT: String(port), EMULATOR_PORT: String(emulatorPort) },
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
    ended,
    output: () => output,
    async says(text) {
      for (const deadline = Date.now() + 60_000; !output.includes(text); await sleep(50)) {
        if (Date.now() > deadline || child.exitCode !== null) throw new Error(`not said: ${text}\n${output}`)
      }
    },
    async stop(signal, whom) {
      const family = descendants(pid)
      if (isAlive(pid)) process.kill(whom === 'first' ? pid : -pid, signal)
      await ended
      const left = () => family.filter(({ pid }) => isAlive(pid)).map(({ command }) => command)
      for (const deadline = Date.now() + 8_000; left().length > 0 && Date.now() < deadline;) await sleep(50)
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

test('a taken port is one clear line, before anything is made', { timeout: 90_000 }, async () => {
  const taken = await listen()
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

test('ended while it loads its data, it leaves no process', { timeout: 90_000 }, async () => {
  const product = run(process.execPath, ['scripts/start.ts'], await freePort(), await freePort())
  await product.says('Loading demo data')
  const { ran, left } = await product.stop('SIGTERM', 'first')
  expect(await product.ended).toBe(143)
  expect(ran.join('\n')).toContain('workerd')
  expect(left).toEqual([])
  expect(product.output()).not.toContain('done in')
})

test('then it loads the data after all, answers, and ends when npm is killed', { timeout: 90_000 }, async () => {
  const product = npmStart(await freePort(), await freePort())
  await product.says('Stop:')
  expect(product.output()).not.toContain('.dev.vars does without')
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

  // npm is killed, and so cannot tell its child
  const { ran, left } = await product.stop('SIGKILL', 'first')
  expect(ran.join('\n')).toMatch(/workerd[^]*esbuild|esbuild[^]*workerd/)
  expect(left).toEqual([])
})

test(
  'started again it keeps its data, shows the reference and follows edits, and Ctrl-C ends all',
  { timeout: 90_000 },
  async () => {
    await appendFile(join(clone, '.dev.vars.example'), 'COMMANDS_USD="0.3"\n')
    const product = run(process.execPath, ['scripts/start.ts'], await freePort(), await freePort())
    await product.says('Stop:')
    expect(product.output()).toContain('.dev.vars does without COMMANDS_USD: see .dev.vars.example')
    expect(product.output()).toContain('The database has its data')
    expect(product.output()).not.toContain('Loading demo data')
    const { url } = product

    for (const path of ['/', '/docs', '/docs/']) {
      const page = await fetch(url + path)
      expect(page.headers.get('Content-Security-Policy')).toMatch(
        /^default-src '(none|self)'; [^*]*frame-ancestors 'none'/,
      )
      expect(page.headers.get('X-Content-Type-Options')).toBe('nosniff')
      const files = (await page.text()).matchAll(/(?:src|href)="(\/(?:dashboard|docs)\/[^"]*)"/g)
      for (const [, file = ''] of files) expect([file, (await fetch(url + file)).status]).toEqual([file, 200])
    }
    expect(await json(`${url}/openapi.json`)).toMatchObject({ openapi: '3.1.0' })
    const unknown = await fetch(`${url}/docs/nothing-here`)
    expect([unknown.status, unknown.headers.get('Content-Type')]).toEqual([404, 'application/problem+json'])

    await appendFile(join(clone, 'src/index.ts'), '\n(')
    await product.says('Build failed') // an edit is noticed, and its mistake shown

    const { left } = await product.stop('SIGINT', 'group')
    expect(await product.ended).toBe(130)
    expect(left).toEqual([])
    expect(product.output()).not.toMatch(/^\s+at /m)
  },
)
