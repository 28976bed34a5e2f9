import { type ChildProcess, spawn } from 'node:child_process'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Manifest, unpack } from '../../src/backup/archive.ts'
import { DEMO_PASSWORD } from '../../scripts/demo/data.ts'
import { freePort } from '../../scripts/ports.ts'
import { cloneProject } from '../../scripts/clone.ts'

interface Product {
  url: string
  process: ChildProcess
}

let folder = ''
let source: Product
let target: Product
const products: Product[] = []

/** Starts the product as `npm start` does, with data of its own. No cron changes the data during a test. */
async function start(state: string, variables: Record<string, string> = {}): Promise<Product> {
  const [port, emulatorPort] = [await freePort(), await freePort()]
  const child = spawn(process.execPath, ['scripts/start.ts'], {
    cwd: folder,
    env: {
      ...process.env,
      PORT: String(port),
      EMULATOR_PORT: String(emulatorPort),
      STATE_DIR: join(folder, state),
      CRON_SECONDS: '36000',
      ...variables,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const product = { url: `http://localhost:${port}`, process: child }
  products.push(product)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
  while (!output.includes('Stop:')) {
    if (child.exitCode !== null) throw new Error(`npm start failed:\n${output}`)
    await sleep(50)
  }
  return product
}

beforeAll(async () => {
  folder = await cloneProject()
  // The whole demo data takes minutes to restore. Its pages are smaller too: there are as many.
  source = await start('source', { DEMO: '0.1' })
  target = await start('target', { DEMO: 'false' })
}, 240_000)

afterAll(async () => {
  for (const { process } of products) {
    if (process.exitCode !== null) continue
    const ended = new Promise((resolve) => process.once('close', resolve))
    process.kill()
    await ended
  }
  await rm(folder, { recursive: true, force: true })
}, 60_000)

/** Runs `npm run backup` or `npm run restore`. `until`: ends it when it has printed that. */
async function run(script: string, args: string[], until?: string) {
  const child = spawn(process.execPath, [`scripts/${script}.ts`, ...args], { cwd: folder, stdio: 'pipe' })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
      if (until !== undefined && output.includes(until)) child.kill('SIGKILL')
    })
  }
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, output }
}

const readManifest = async (name: string) =>
  JSON.parse(await readFile(join(folder, name, 'manifest.json'), 'utf8')) as Manifest // what the script wrote

/** The rows of each table of D1. Where its files begin is left out: it depends on when the table grew. */
async function rowsOf(name: string) {
  const rows: Record<string, unknown[]> = {}
  for (const part of (await readManifest(name)).parts) {
    if (part.table === 'redis') continue
    const unpacked = await unpack(part, new Uint8Array(await readFile(join(folder, name, part.file))))
    rows[part.table] = [...(rows[part.table] ?? []), ...unpacked.rows]
  }
  return rows
}

test(
  'a backup that is killed continues, restores into an empty environment, and is the same again',
  { timeout: 240_000 },
  async () => {
    const credentials = JSON.stringify({ login: 'ada', password: DEMO_PASSWORD })
    const json = { 'Content-Type': 'application/json' }
    const signedIn = await fetch(`${source.url}/v1/sessions`, { method: 'POST', headers: json, body: credentials })
    const { token } = (await signedIn.json()) as { token: string }

    const args = ['--url', source.url, '--to', 'saved', '--rows', '100']
    const killed = await run('backup', args, 'post_likes: 200 rows')
    expect(killed.code).not.toBe(0)
    const incomplete = await run('restore', ['--from', 'saved', '--url', target.url])
    expect(incomplete).toEqual({ code: 1, output: expect.stringMatching(/^saved .+\n$/) })
    const before = await readdir(join(folder, 'saved'))
    const finished = await run('backup', args)
    expect(finished).toEqual({
      code: 0,
      output: expect.stringMatching(/^users: \d+ rows\nsaved is complete: \d+ rows in \d+ files\n$/m),
    })
    expect(await readdir(join(folder, 'saved'))).toEqual(
      expect.arrayContaining(before.filter((name) => !name.endsWith('.part'))),
    )
    const saved = await readManifest('saved')

    const part = saved.parts.at(-1)?.file ?? ''
    const bytes = await readFile(join(folder, 'saved', part))
    await writeFile(join(folder, 'saved', part), bytes.subarray(1))
    const damaged = await run('restore', ['--from', 'saved', '--url', target.url])
    expect(damaged).toEqual({ code: 1, output: `${part} is damaged: its checksum is wrong\n` })
    await writeFile(join(folder, 'saved', part), bytes)

    const interrupted = await run('restore', ['--from', 'saved', '--url', target.url], 'users:')
    expect(interrupted.code).not.toBe(0)
    const restored = await run('restore', ['--from', 'saved', '--url', target.url])
    expect(restored).toEqual({ code: 0, output: expect.stringContaining(`${target.url} is restored from saved.`) })
    const again = await run('backup', ['--url', target.url, '--to', 'again', '--rows', '100'])
    expect(again.code).toBe(0)
    expect(await rowsOf('again')).toEqual(await rowsOf('saved'))

    const read = async (path: string) => {
      const response = await fetch(target.url + path, { headers: { Authorization: `Bearer ${token}` } })
      expect([path, response.status]).toEqual([path, 200])
      return (await response.json()) as { items: unknown[] }
    }
    await read('/v1/sessions')
    await expect
      .poll(async () => (await read('/v1/search?q=ada&type=users')).items.length, { timeout: 60_000 })
      .toBeGreaterThan(0)
    const refused = await run('restore', ['--from', 'saved', '--url', target.url])
    expect(refused).toEqual({ code: 1, output: 'PUT /v1/restore answers 409: The database has users\n' })
  },
)

test('what is missing is reported in one line', async () => {
  const cases: [string, string[], string][] = [
    ['backup', [], 'Say where the backup goes: --to FOLDER\n'],
    ['restore', ['--from', 'nothing'], 'Say which backup, and where it goes: --from FOLDER --url URL\n'],
    ['restore', ['--from', 'nothing', '--url', target.url], 'nothing has no backup: manifest.json is missing\n'],
    ['backup', ['--to', 'other', '--url', 'http://localhost:1'], 'http://localhost:1 does not answer\n'],
    [
      'backup',
      ['--to', 'other', '--url', source.url, '--daily', '2026-01-01'],
      'GET /v1/backup/2026-01-01/manifest.json answers 404: There is no backup file 2026-01-01/manifest.json\n',
    ],
  ]
  for (const [script, args, output] of cases) expect(await run(script, args)).toEqual({ code: 1, output })
})
