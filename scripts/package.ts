/**
 * Builds the package that other programs install. npm runs it around `npm pack`: `build` writes `dist/package` and puts the
 * manifest of the package in place of ours, `restore` puts ours back.
 */
import { execFile } from 'node:child_process'
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { rolldown } from 'rolldown'

const root = dirname(import.meta.dirname)
const OUT = 'dist/package'
const OURS = join(root, 'dist/package.json.ours')
const MANIFEST = join(root, 'package.json')

/** What programs import, by the end of the name: `threads-edge/redis`. */
const ENTRIES = {
  client: { source: 'client/index.ts', types: 'client/index.d.ts' },
  redis: { source: 'package/redis.ts', types: 'package/redis.d.ts' },
  emulator: { source: 'package/emulator.ts', types: 'package/emulator.d.ts' },
}
const COMMAND = { 'threads-edge-emulator': { source: 'emulator/main.ts', file: 'emulator-main.js' } }
/** What the package imports. Everything else is in its files. */
const DEPENDENCIES = ['@upstash/redis', '@upstash/ratelimit', 'eventsource-parser', 'js-redis-server']

interface Manifest {
  version: string
  description: string
  license: string
  dependencies: Record<string, string>
  devDependencies: Record<string, string>
}

/** The manifest of the package, from ours. */
function manifestOf(ours: Manifest): object {
  const versions = { ...ours.devDependencies, ...ours.dependencies }
  return {
    name: 'threads-edge',
    version: ours.version,
    description: ours.description,
    license: ours.license,
    type: 'module',
    sideEffects: false,
    engines: { node: '>=20' },
    exports: Object.fromEntries(
      Object.entries(ENTRIES).map(([name, { types }]) => [
        `./${name}`,
        { types: `./${OUT}/types/${types}`, default: `./${OUT}/${name}.js` },
      ]),
    ),
    bin: Object.fromEntries(Object.entries(COMMAND).map(([name, { file }]) => [name, `${OUT}/${file}`])),
    files: [OUT, 'docs/primitives.md', 'docs/primitives', 'emulator/README.md'],
    dependencies: Object.fromEntries(DEPENDENCIES.map((name) => [name, versions[name]])),
    // npm runs it after the tarball is written.
    scripts: { postpack: 'node scripts/package.ts restore' },
  }
}

async function build(): Promise<void> {
  await restore() // after a run that was interrupted
  const out = join(root, OUT)
  await rm(out, { recursive: true, force: true })
  await mkdir(out, { recursive: true })
  const files = [
    ...Object.entries(ENTRIES).map(([name, { source }]) => ({ source, file: `${name}.js` })),
    ...Object.values(COMMAND),
  ]
  await Promise.all([...files.map(bundle), declare(out)])
  const ours = JSON.parse(await readFile(MANIFEST, 'utf8')) as Manifest // ours
  await cp(MANIFEST, OURS)
  await writeFile(MANIFEST, `${JSON.stringify(manifestOf(ours), null, 2)}\n`)
}

async function bundle({ source, file }: { source: string; file: string }): Promise<void> {
  await using build = await rolldown({
    input: join(root, source),
    external: (id) => id.startsWith('node:') || DEPENDENCIES.some((name) => id === name || id.startsWith(`${name}/`)),
    platform: 'neutral',
    resolve: { conditionNames: ['import'], mainFields: ['module', 'main'] },
    transform: { target: 'es2024' },
    treeshake: { moduleSideEffects: false },
  })
  await build.write({
    file: join(root, OUT, file),
    format: 'esm',
    comments: { legal: true, annotation: true, jsdoc: false },
  })
}

/** Writes the declarations. Those of our modules import each other by their source names, which a package does not have. */
async function declare(out: string): Promise<void> {
  const flags = [
    '--noEmit',
    'false',
    '--declaration',
    '--emitDeclarationOnly',
    '--stripInternal',
    '--rootDir',
    '.',
    '--outDir',
    `${out}/types`,
  ]
  await promisify(execFile)('npm', ['exec', '--', 'tsc', '-p', 'tsconfig.package.json', ...flags], { cwd: root })
  for (const entry of await readdir(join(out, 'types'), { recursive: true })) {
    if (!entry.endsWith('.d.ts')) continue
    const file = join(out, 'types', entry)
    const text = await readFile(file, 'utf8')
    await writeFile(file, text.replaceAll(/(from '\.{1,2}\/[^']+)\.ts'/g, "$1.js'"))
  }
}

async function restore(): Promise<void> {
  await rename(OURS, MANIFEST).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
}

const [command] = process.argv.slice(2)
if (command === 'build') await build()
else if (command === 'restore') await restore()
else throw new Error('node scripts/package.ts build | restore')
