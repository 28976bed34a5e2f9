import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { rolldown } from 'rolldown'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'

// The tarball of `npm pack`, installed into empty projects, runs the example of each page in docs/primitives.

const run = promisify(execFile)
const root = join(import.meta.dirname, '../..')
const pages = join(root, 'docs/primitives')

let folder: string
let emulator: Emulator
/** The code of each page, by its name. */
const examples = new Map<string, string>()
/** The files that examples import, by their names. A page has them below its example. */
const imported = new Map<string, string>()

/** What the comments of an example say that it prints: after each `console.log`, its line; `|` parts the lines of a loop. */
const expectedOutput = (code: string): string[] =>
  [...code.matchAll(/console\.log\(.*\/\/ (.*)$/gm)].flatMap(([, said = '']) => said.split(' | '))

/** Creates an empty project with the tarball. */
async function createProject(name: string): Promise<string> {
  const project = join(folder, name)
  await mkdir(project)
  await writeFile(join(project, 'package.json'), JSON.stringify({ name, private: true, type: 'module' }))
  const tarball = (await readdir(folder)).find((file) => file.endsWith('.tgz'))
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', join(folder, tarball ?? '')], {
    cwd: project,
  })
  for (const [file, code] of imported) await writeFile(join(project, file), code)
  return project
}

/** The environment of an example: a keyspace of its own. */
const environmentOf = (token: string) => ({ UPSTASH_REDIS_REST_URL: emulator.url, UPSTASH_REDIS_REST_TOKEN: token })

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'package-'))
  emulator = await startEmulator({ openTokens: true })
  await run('npm', ['pack', '--pack-destination', folder], { cwd: root })
  for (const file of await readdir(pages)) {
    const blocks = (await readFile(join(pages, file), 'utf8')).matchAll(/```js\n(.*?)```/gs)
    for (const [, code = ''] of blocks) {
      const [, name] = /^\/\/ (\S+\.js)$/m.exec(code) ?? []
      if (name === undefined) examples.set(file.replace('.md', ''), code)
      else imported.set(name, code)
    }
  }
})

afterAll(async () => {
  await emulator.close()
  await rm(folder, { recursive: true, force: true })
})

test('npm pack leaves our manifest as it was', async () => {
  const { stdout } = await run('git', ['status', '--porcelain', '--', 'package.json'], { cwd: root })
  expect(stdout).toBe('')
  expect([...examples.keys()].toSorted()).toEqual(
    (await readdir(pages)).map((file) => file.replace('.md', '')).toSorted(),
  )
})

test('the tarball has these files and no others', async () => {
  const tarball = (await readdir(folder)).find((file) => file.endsWith('.tgz'))
  const { stdout } = await run('tar', ['-tzf', join(folder, tarball ?? '')])
  await expect(`${stdout.trim().split('\n').toSorted().join('\n')}\n`).toMatchFileSnapshot('package-files.txt')
})

test('an import has no effect, and bundlers drop what is not used', async () => {
  const project = await createProject('effects')
  const entries = ['redis', 'client', 'emulator'].map((name) => `threads-edge/${name}`)
  // By itself: no globals, no timers, no listeners, no output.
  await writeFile(
    join(project, 'import.js'),
    `import 'node:http' // by itself it adds globals
const before = Reflect.ownKeys(globalThis)
const listeners = process.eventNames().length
for (const name of ${JSON.stringify(entries)}) await import(name)
const added = Reflect.ownKeys(globalThis).filter((key) => !before.includes(key)).map(String)
const active = process.getActiveResourcesInfo().filter((kind) => !['PipeWrap', 'TTYWrap'].includes(kind)) // the output
console.log(JSON.stringify({ added, active, listeners: process.eventNames().length - listeners }))
`,
  )
  const { stdout, stderr } = await run(process.execPath, ['import.js'], { cwd: project })
  expect([JSON.parse(stdout), stderr]).toEqual([{ added: [], active: [], listeners: 0 }, ''])

  const bundled = async (code: string) => {
    await writeFile(join(project, 'bundled.js'), code)
    await using build = await rolldown({
      input: join(project, 'bundled.js'),
      external: /^(@upstash|node:|eventsource-parser|js-redis-server)/,
    })
    const { output } = await build.generate({ format: 'esm' })
    return output
      .map((part) => (part.type === 'chunk' ? part.code : ''))
      .join('')
      .trim()
  }
  const unused = entries.map((name, i) => `import * as unused${i} from '${name}'\n`).join('')
  expect(await bundled(unused)).toBe('')
  const one = await bundled("export { createLocks } from 'threads-edge/redis'")
  const all = await bundled("export * from 'threads-edge/redis'")
  expect(one.length).toBeLessThan(all.length / 5)
})

test('in an empty Node project each example prints what its comments say', async () => {
  const project = await createProject('node')
  for (const [name, code] of examples) {
    await writeFile(join(project, `${name}.js`), code)
    const env = { ...process.env, ...environmentOf(`node ${name}`) }
    const { stdout } = await run(process.execPath, [`${name}.js`], { cwd: project, env, timeout: 60_000 })
    expect({ [name]: stdout.trim().split('\n') }).toEqual({ [name]: expectedOutput(code) })
  }
})

test('in an empty Worker project each example prints the same', async () => {
  const project = await createProject('worker')
  const names = [...examples.keys()]
  for (const [name, code] of examples) {
    const imports = code.match(/^import .*$/gm) ?? []
    const body = code
      .replaceAll(/^import .*$/gm, '')
      .replaceAll('process.env', 'env')
      .replaceAll('fromEnv()', 'fromEnv(env)')
    const onWorkers = body.replaceAll('fromEnv({', 'fromEnv(env, {')
    const module = `${imports.join('\n').replaceAll("'@upstash/redis'", "'@upstash/redis/cloudflare'")}
export default async (env, console) => {${onWorkers}}`
    await writeFile(join(project, `${name}.js`), module)
  }
  await writeFile(
    join(project, 'worker.js'),
    `${names.map((name, i) => `import example${i} from './${name}.js'`).join('\n')}
const examples = { ${names.map((name, i) => `'${name}': example${i}`).join(', ')} }
const show = (value) => Array.isArray(value) ? \`[ \${value.map((v) => typeof v === 'string' ? \`'\${v}'\` : v).join(', ')} ]\` : String(value)
export default {
  async fetch(request, env) {
    const name = new URL(request.url).pathname.slice(1)
    const lines = []
    const token = 'worker ' + name
    await examples[name]({ ...env, UPSTASH_REDIS_REST_TOKEN: token }, { log: (...values) => lines.push(values.map(show).join(' ')) })
    return Response.json(lines)
  },
}`,
  )
  await using build = await rolldown({ input: join(project, 'worker.js'), platform: 'browser' })
  const { output } = await build.generate({ format: 'esm', codeSplitting: false })
  const worker = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: output[0].code,
      compatibilityDate: '2026-01-01',
      bindings: { UPSTASH_REDIS_REST_URL: emulator.url },
    }),
  )
  try {
    for (const [name, code] of examples) {
      const response = await worker.dispatchFetch(`http://worker/${name}`)
      const text = await response.text()
      expect([response.status, text]).toEqual([200, JSON.stringify(expectedOutput(code))])
    }
  } finally {
    await worker.dispose()
  }
})

test('its emulator starts from a program, and from the command line', async () => {
  const project = await createProject('emulator')
  await writeFile(
    join(project, 'program.js'),
    `import { Redis } from '@upstash/redis'
import { createControl, startEmulator } from 'threads-edge/emulator'
const emulator = await startEmulator({ openTokens: true })
const redis = new Redis({ url: emulator.url, token: 'a' })
await redis.set('greeting', 'hello')
const other = new Redis({ url: emulator.url, token: 'b' })
const { requests } = await createControl(emulator.url, 'a').counts()
console.log(await redis.get('greeting'), await other.get('greeting'), requests)
await emulator.close()
`,
  )
  // It ends by itself: nothing is left running.
  const { stdout } = await run(process.execPath, ['program.js'], { cwd: project, timeout: 60_000 })
  expect(stdout).toBe('hello null 1\n')

  // What npx runs. Its first line asks the PATH for node.
  const command = join(project, 'node_modules/.bin/threads-edge-emulator')
  const env = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env['PATH']}` }
  const started = execFile(command, ['--port', '0', '--token', 'one', '--token', 'two'], { env })
  try {
    const line = await new Promise<string>((resolve, reject) => {
      started.stdout?.once('data', (data) => resolve(String(data)))
      started.once('exit', () => reject(new Error('The emulator has ended')))
    })
    const [, url = ''] = /(http:\S+) over the embedded engine, 2 tokens/.exec(line) ?? []
    const pings = await Promise.all(
      ['one', 'two', 'three'].map(async (token) => {
        const response = await fetch(`${url}/ping`, { headers: { Authorization: `Bearer ${token}` } })
        return response.status
      }),
    )
    expect(pings).toEqual([200, 200, 401])
  } finally {
    started.kill()
  }
  const { stdout: help } = await run('npx', ['--no-install', 'threads-edge-emulator', '--help'], { cwd: project, env })
  expect(help).toContain('--token TOKEN')
})

test('its types check in a strict project', async () => {
  const project = await createProject('types')
  await writeFile(
    join(project, 'index.ts'),
    `import { Redis } from '@upstash/redis'
import { createCache, createLocks, isHeld } from 'threads-edge/redis'
import { createClient, Problem } from 'threads-edge/client'
import { startEmulator } from 'threads-edge/emulator'
const emulator = await startEmulator({ openTokens: true })
const redis = new Redis({ url: emulator.url, token: 'types' })
const names = createCache<{ name: string; version: number }>({ redis, name: 'user', versionOf: (user) => user.version })
const user: { name: string } | null = await names.get('1', async () => ({ name: 'Ada', version: 1 }))
const held = await createLocks({ redis }).acquire('a', { ttlMs: 1_000 })
export const fence: number = isHeld(held) ? held.fence : 0
const api = createClient({ url: emulator.url })
const health: { status: string } = await api.getHealth().catch((error: Problem) => ({ status: error.type }))
export { health, user }
`,
  )
  const types = ['--strict', '--noEmit', '--module', 'nodenext', '--target', 'es2024', '--types', 'node']
  const roots = ['--typeRoots', join(root, 'node_modules/@types')]
  const { stdout } = await run(join(root, 'node_modules/.bin/tsc'), [...types, ...roots, 'index.ts'], { cwd: project })
  expect(stdout).toBe('')
})
