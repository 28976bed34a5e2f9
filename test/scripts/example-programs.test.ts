import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { rolldown } from 'rolldown'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createClient, createServiceClient } from '../../client/index.ts'
import { createControl } from '../../emulator/control.ts'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { bundleClient } from '../../scripts/build/client.ts'
import { cloneProject } from '../../scripts/clone.ts'
import { freePort } from '../../scripts/ports.ts'
import { SERVICE_TOKEN, startWorker } from './worker.ts'

const root = dirname(dirname(import.meta.dirname))
const TOKEN = 'token-of-examples'
const SECRET = 'whsec_b25seSBmb3IgdHJ5aW5nIGl0IG91dCEh'

/** CI has Python: .ci/run installs it. Elsewhere the tests that need it are skipped without it. */
const isWithoutPython = !process.env['CI'] && !canRun('python3')

function canRun(command: string): boolean {
  try {
    execFileSync(command, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

let emulator: Emulator
let workerd: Miniflare
let origin = ''
let folder = ''
const children: ChildProcess[] = []

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'threads-edge-examples-'))
  await mkdir(join(root, 'dist/client'), { recursive: true })
  await writeFile(join(root, 'dist/client/index.js'), await bundleClient())
  emulator = await startEmulator({ openTokens: true })
  ;({ workerd, origin } = await startWorker(emulator, TOKEN, {
    REDIS_WRITE_TIMEOUT_MS: '5000',
    ALLOW_PRIVATE_WEBHOOKS: 'true',
  }))
}, 90_000)

afterAll(async () => {
  for (const child of children) child.kill()
  await workerd?.dispose()
  await emulator?.close()
  await rm(folder, { recursive: true, force: true })
})

/** Runs a program of an example on a port, and waits until it listens. */
async function start(command: string, program: string, env: Record<string, string>) {
  const port = await freePort()
  const child = spawn(command, [join(root, 'examples', program)], {
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', PORT: String(port), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => void (output += chunk))
  await expect.poll(() => output, { timeout: 30_000 }).toContain('listening')
  return { url: `http://127.0.0.1:${port}`, output: () => output }
}

const startBackend = () =>
  start('python3', 'backend/backend.py', {
    EDGE_URL: origin,
    SERVICE_TOKEN,
    DATABASE: join(folder, `${crypto.randomUUID()}.sqlite`),
  })

const service = () => createServiceClient({ url: origin, token: SERVICE_TOKEN })

const RECEIVERS = [
  ['node', process.execPath, 'webhooks/receiver.js', false],
  ['python', 'python3', 'webhooks/receiver.py', isWithoutPython],
] as const

for (const [name, command, program, isSkipped] of RECEIVERS) {
  test.skipIf(isSkipped)(`the receiver in ${name} takes genuine webhooks, each once`, { timeout: 90_000 }, async () => {
    const receiver = await start(command, program, { SECRET: `whsec_b3RoZXI=,${SECRET}` })
    const channel = `custom_${name}`
    const webhook = await service().createWebhook({ url: receiver.url, channels: [channel], secret: SECRET })
    expect(webhook.status).toBe('enabled') // it has answered the challenge

    await service().publishEvent({ channel, type: 'said', data: { text: 'é 🙂' } })
    await expect
      .poll(receiver.output, { timeout: 30_000 })
      .toMatch(/^said \{"text":"(é 🙂|\\u00e9 \\ud83d\\ude42)"\}$/m)

    const body = JSON.stringify({ id: 'ev_twice', type: 'twice', data: {} })
    const send = async (secret: string, at = new Date(), payload = body) => {
      const headers = {
        'webhook-id': 'ev_twice',
        'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
        'webhook-signature': `v1,AAAA ${new Webhook(secret).sign('ev_twice', at, body)}`,
      }
      return (await fetch(receiver.url, { method: 'POST', headers, body: payload })).status
    }
    expect([await send(SECRET), await send(SECRET), await send('whsec_b3RoZXI=')]).toEqual([204, 204, 204])
    expect(receiver.output().match(/^twice/gm)).toHaveLength(1)
    expect(await send(`whsec_${btoa('forged')}`)).toBe(401)
    expect(await send(SECRET, new Date(), `${body} `)).toBe(401)
    expect(await send(SECRET, new Date(Date.now() - 600_000))).toBe(401)
    expect((await fetch(receiver.url, { method: 'POST', body })).status).toBe(401)
  })
}

test.skipIf(isWithoutPython)(
  'the back end publishes an event for each order, which its buyer sees live',
  { timeout: 90_000 },
  async () => {
    const backend = await startBackend()
    const account = { username: 'buyer', password: 'correct-horse-battery' }
    const buyer = createClient({ url: origin })
    const { id } = await buyer.signUp({ ...account, email: 'buyer@example.test', displayName: 'Buyer' })
    await buyer.signIn({ login: account.username, password: account.password })

    const ordered = async () => {
      const body = JSON.stringify({ buyer: id, total: 12 })
      const response = await fetch(`${backend.url}/orders`, { method: 'POST', body })
      return (await response.json()) as { id: string }
    }
    let order: { id: string } | undefined
    const onState = (state: string) => void (state === 'open' && ordered().then((made) => (order = made)))
    for await (const event of buyer.events(['custom_orders'], { onState })) {
      if (!event.data) continue // a reset
      expect(event.type).toBe('order_created')
      expect(event.data).toEqual({ id: expect.any(String), buyer: id, total: 12 })
      await expect.poll(() => order?.id).toBe(event.data['id'])
      break
    }
  },
)

test.skipIf(isWithoutPython)(
  'the back end invalidates the profile that it changed, also if Redis fails at first',
  { timeout: 90_000 },
  async () => {
    const backend = await startBackend()
    const client = createClient({ url: origin })
    const account = {
      username: 'changed',
      password: 'correct-horse-battery',
      email: 'c@example.test',
      displayName: 'C',
    }
    const { id } = await client.signUp(account)
    const bio = async () => (await client.getUser({ id })).bio
    expect(await bio()).toBe('')

    const database = await workerd.getD1Database('DB')
    async function change(text: string) {
      await database.prepare('UPDATE users SET bio = ?1, version = version + 1 WHERE id = ?2').bind(text, id).run()
      const body = JSON.stringify({ bio: text })
      expect((await fetch(`${backend.url}/profiles/${id}`, { method: 'PUT', body })).status).toBe(200)
    }
    await change('From the back end')
    await expect.poll(bio, { timeout: 30_000 }).toBe('From the back end') // otherwise cached for five minutes

    const redis = createControl(emulator.url, TOKEN)
    const { output } = backend
    const sent = () => output().match(/^sent invalidate/gm)?.length ?? 0
    await redis.fault({ kind: 'refuse' })
    await change('Later')
    await expect
      .poll(async () => (await client.getReadiness().catch(() => undefined))?.isReady ?? false, { timeout: 30_000 })
      .toBe(false)
    expect(sent()).toBe(1)
    await redis.clearFaults()
    await expect.poll(sent, { timeout: 60_000 }).toBe(2)
    await expect.poll(bio, { timeout: 30_000 }).toBe('Later')
  },
)

test('the Worker of the primitives loads a rate once, limits its readers, and answers without Redis', async () => {
  let loads = 0
  const api = createServer((_, response) => {
    loads += 1
    response.end(JSON.stringify({ currency: 'USD', rate: 1 }))
  })
  await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve))
  await using build = await rolldown({
    input: join(root, 'examples/worker/index.ts'),
    platform: 'browser',
    tsconfig: false,
    resolve: { alias: { 'threads-edge/redis': join(root, 'package/redis.ts') } },
  })
  const { output } = await build.generate({ format: 'esm', codeSplitting: false })
  const worker = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: output[0].code,
      compatibilityDate: '2026-10-01',
      bindings: {
        UPSTASH_REDIS_REST_URL: emulator.url,
        UPSTASH_REDIS_REST_TOKEN: 'token-of-rates',
        RATES_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
      },
    }),
  )
  const read = async (reader: string, path = '/rates/USD') => {
    const response = await worker.dispatchFetch(`http://rates${path}`, { headers: { 'CF-Connecting-IP': reader } })
    return { status: response.status, text: await response.text(), retryAfter: response.headers.get('Retry-After') }
  }
  try {
    expect(await read('192.0.2.1', '/')).toMatchObject({ status: 404 })
    const first = await Promise.all(Array.from({ length: 10 }, () => read('192.0.2.1')))
    expect(new Set(first.map(({ text }) => text))).toEqual(new Set(['{"currency":"USD","rate":1}']))
    expect(loads).toBeLessThan(5) // 1, unless this machine keeps Redis from answering in time

    await expect
      .poll(() => read('192.0.2.1'), { timeout: 30_000 })
      .toEqual({ status: 429, text: 'Too many requests', retryAfter: expect.stringMatching(/^[1-9]\d?$/) })
    expect(loads).toBeLessThan(10)
    expect((await read('192.0.2.2')).status).toBe(200)

    await createControl(emulator.url, 'token-of-rates').fault({ kind: 'refuse' })
    expect(await read('192.0.2.3')).toMatchObject({ status: 200, text: '{"currency":"USD","rate":1}' })
  } finally {
    await worker.dispose()
    api.close()
  }
})

test('the example page is served by wrangler dev only, and never deployed', { timeout: 90_000 }, async () => {
  const clone = await cloneProject()
  const build = (command: string) =>
    execFileSync(process.execPath, ['scripts/build.ts'], {
      cwd: clone,
      env: { ...process.env, WRANGLER_COMMAND: command },
    })
  const served = () => readdir(join(clone, 'public/app')).catch(() => undefined)
  try {
    build('dev')
    expect((await served())?.toSorted()).toEqual(['app.css', 'client.js', 'index.html', 'main.js', 'view.js'])
    build('deploy')
    expect(await served()).toBe(undefined)
  } finally {
    await rm(clone, { recursive: true, force: true })
  }
})
