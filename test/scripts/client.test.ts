import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { startEmulator } from '../../emulator/server.ts'
import { bundleClient, generateClient } from '../../scripts/build/client.ts'
import { SERVICE_TOKEN, startWorker } from './worker.ts'

const root = dirname(dirname(import.meta.dirname))
const run = promisify(execFile)
const node = (...args: string[]) => run(process.execPath, args, { cwd: root, maxBuffer: 10_000_000 })
const tsc = (...args: string[]) =>
  node(join(root, 'node_modules/typescript/bin/tsc'), ...args).catch((error: { stdout: string }) => {
    throw new Error(error.stdout, { cause: error })
  })

const MAX_BYTES = 8 * 1_024

test('the client takes at most 8 KiB gzipped', async () => {
  const code = await bundleClient()
  expect(gzipSync(code).byteLength).toBeLessThanOrEqual(MAX_BYTES)
  expect(code).not.toMatch(/\bimport\b|\brequire\b|\bprocess\b|\bBuffer\b/) // nothing that only Node has
})

test('client/api.ts is what npm run types writes from the routes', async () => {
  const { stdout: document } = await node('scripts/build/document.ts')
  expect(await readFile(join(root, 'client/api.ts'), 'utf8')).toBe(generateClient(document))
})

/** The operations, each on one line without its comments: client/api.ts has those. */
const compact = (types: string): string =>
  types
    .replaceAll(/\s*\/\*\*.*?\*\//gs, '')
    .replaceAll(/\n(?: {8,}| {4}(?=\W))/g, ' ')
    .replaceAll(/ {2,}(?=\S)/g, (spaces, at: number, text: string) => (text[at - 1] === '\n' ? spaces : ' '))

test('the public types are those of the snapshot, with a line for each operation', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-types-'))
  try {
    await tsc('-p', 'client', '--outDir', folder)
    const files = (await readdir(folder)).toSorted()
    const texts = await Promise.all(
      files.map(async (name) => {
        const types = await readFile(join(folder, name), 'utf8')
        return `// ${name}\n${name === 'api.d.ts' ? compact(types) : types}`
      }),
    )
    await expect(texts.join('\n')).toMatchFileSnapshot('client-types.txt')
  } finally {
    await rm(folder, { recursive: true })
  }
})

/** The programs in docs/client.md, with what they print: the comments after `console.log`, and on the lines below it. */
async function readExamples() {
  const text = await readFile(join(root, 'docs/client.md'), 'utf8')
  return [...text.matchAll(/^```ts\n([^]*?)^```$/gm)].map(([, code = '']) => ({
    code,
    printed: [...code.matchAll(/console\.log\(.*\)\s*\/\/ (.*)$|^  \/\/ (.*)$/gm)].map(
      ([, beside, below]) => beside ?? below,
    ),
  }))
}

test(
  'the examples of docs/client.md are correct TypeScript, and print what they say',
  { timeout: 180_000 },
  async () => {
    const folder = join(root, 'dist/examples')
    await rm(folder, { recursive: true, force: true })
    await mkdir(folder, { recursive: true })
    const emulator = await startEmulator({ openTokens: true })
    const { workerd, origin } = await startWorker(emulator, 'token-of-examples', { REDIS_WRITE_TIMEOUT_MS: '5000' })
    try {
      await mkdir(join(root, 'dist/client'), { recursive: true })
      await writeFile(join(root, 'dist/client/index.js'), await bundleClient())
      await tsc('-p', 'client')
      const examples = await readExamples()
      expect(examples.length).toBeGreaterThan(6)
      for (const [i, { code }] of examples.entries()) {
        await writeFile(join(folder, `${i}.ts`), code.replaceAll('http://localhost:8787', origin))
      }
      const settings = {
        extends: '../../tsconfig.json',
        compilerOptions: { lib: ['ES2024'], types: ['node'], noPropertyAccessFromIndexSignature: false },
        include: ['*.ts'],
        exclude: [],
      }
      await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(settings))
      await tsc('-p', folder)
      for (const [i, { printed }] of examples.entries()) {
        const env = { ...process.env, SERVICE_TOKEN }
        const { stdout } = await run(process.execPath, ['--no-warnings', join(folder, `${i}.ts`)], {
          env,
          timeout: 60_000,
        })
        expect([i, stdout.split('\n').slice(0, -1)]).toEqual([i, printed])
      }
    } finally {
      await workerd.dispose()
      await emulator.close()
      await rm(folder, { recursive: true, force: true })
    }
  },
)
