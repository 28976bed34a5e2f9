/**
 * `npm run bench`: measures ours, two peers and a bare route side by side. bench/README.md explains the output.
 * `--quick` takes a minute or two. Flags set each number of the settings, e.g. `--rounds 3 --latencies 0,25`.
 */
import { execFileSync } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'
import { dirname, resolve } from 'node:path'
import { readFlags, readNumber } from '../scripts/flags.ts'
import { measureColdStarts } from './cold-start.ts'
import { startLoadGenerator } from './load.ts'
import { type Billed, measureBilled } from './billed.ts'
import { compare, type LoneWrite, measureLoneWrites, type Row, type Run, type Settings } from './measure.ts'
import { hasRedisServer, startRedis } from './redis.ts'
import { printReport } from './report.ts'
import { measureStampede } from './stampede.ts'
import { type Target, targetsOf } from './targets.ts'
import { createTown } from './town.ts'
import { bundle, contenderNames, prepareDatabase, startEmulator } from './workers.ts'

/** The results of a run, as in the JSON file. */
export interface Results {
  machine: object
  settings: Settings
  bundles: { contender: string; bytes: number; gzipBytes: number; coldStartMs: number }[]
  rows: Row[]
  loneWrites: LoneWrite[]
  /** Null: there is no `redis-server`. */
  billed: Billed[] | null
  targets: Target[]
  stampede: Awaited<ReturnType<typeof measureStampede>>
}

const FULL: Settings = {
  latenciesMs: [0, 5, 25],
  rounds: 5,
  roundMs: 800,
  warmUpMs: 300,
  connections: 32,
  alone: 25,
  readers: 1_000,
  isolates: 8,
  stampedes: 5,
  coldStarts: 15,
  billed: 2_000,
  billedLikes: 6,
}
const QUICK: Settings = {
  ...FULL,
  rounds: 1,
  roundMs: 250,
  warmUpMs: 80,
  alone: 8,
  stampedes: 1,
  coldStarts: 3,
  billed: 400,
  billedLikes: 1,
}

const flags = readFlags({
  quick: { type: 'boolean', default: false },
  latencies: { type: 'string' },
  rounds: { type: 'string' },
  'round-ms': { type: 'string' },
  'warm-up-ms': { type: 'string' },
  connections: { type: 'string' },
  readers: { type: 'string' },
  isolates: { type: 'string' },
  /** Requests of the hot profile that the bill is measured with. */
  billed: { type: 'string' },
  /** Runs over a `redis-server` instead of the embedded engine. */
  'redis-server': { type: 'boolean', default: false },
  /** Measures what grows with the database, and nothing else. `max`: the most rows. */
  growth: { type: 'boolean', default: false },
  max: { type: 'string', default: '10000000' },
  /** Measures the export of an account, and nothing else. */
  export: { type: 'boolean', default: false },
  'export-rows': { type: 'string', default: '100000' },
  /** Measures where the CPU time of a scenario goes, and nothing else. `of`: the Worker. */
  profile: { type: 'string' },
  of: { type: 'string', default: 'ours' },
  /** File for the JSON. Without it, none is written. */
  out: { type: 'string' },
})
const chosen = flags.quick ? QUICK : FULL
const given = (
  flag: 'rounds' | 'round-ms' | 'warm-up-ms' | 'connections' | 'readers' | 'isolates' | 'billed',
  otherwise: number,
) => (flags[flag] === undefined ? otherwise : readNumber(flag, flags[flag], { min: 1 }))
const settings: Settings = {
  ...chosen,
  latenciesMs: flags.latencies?.split(',').map((ms) => readNumber('latencies', ms)) ?? chosen.latenciesMs,
  rounds: given('rounds', chosen.rounds),
  roundMs: given('round-ms', chosen.roundMs),
  warmUpMs: given('warm-up-ms', chosen.warmUpMs),
  connections: given('connections', chosen.connections),
  readers: given('readers', chosen.readers),
  isolates: given('isolates', chosen.isolates),
  billed: given('billed', chosen.billed),
}

const machine = await describeMachine()
const startedAt = performance.now()
const progress = (text: string) =>
  process.stderr.write(`${((performance.now() - startedAt) / 1_000).toFixed(0).padStart(4)} s  ${text}\n`)

if (flags.growth) {
  const { measureGrowth, printGrowth } = await import('./growth.ts') // node:sqlite prints a warning
  const growth = await measureGrowth(readNumber('max', flags.max, { min: 1_000 }), progress)
  printGrowth(growth)
  await write({ machine, ...growth })
  process.exit()
}

if (flags.export) {
  const { measureExport, printExport } = await import('./export.ts')
  const figures = await measureExport(readNumber('export-rows', flags['export-rows'], { min: 1_000 }))
  printExport(figures)
  await write({ machine, ...figures })
  process.exit()
}

if (flags.profile !== undefined) {
  const { measureProfile, printProfile } = await import('./profile.ts')
  const contender = contenderNames.find((name) => name === flags.of)
  if (!contender) throw new Error(`--of must be one of: ${contenderNames.join(', ')}`)
  const figures = await measureProfile(flags.profile, contender)
  printProfile(figures)
  await write({ machine, ...figures })
  process.exit()
}

progress('Bundling …')
const bundles = await Promise.all(contenderNames.map((name) => bundle(name)))
await using redis = flags['redis-server'] ? await startRedis() : undefined
await using emulator = await startEmulator(redis?.url)
const load = startLoadGenerator()
const town = createTown()

progress('Cold starts')
const coldStarts = await measureColdStarts(bundles, settings.coldStarts)
progress('Data')
await using prepared = await prepareDatabase(town)
const run: Run = { bundles, emulator, databaseFolder: prepared.folder, town, load, settings, progress }
const rows = await compare(run)
progress('Writes alone')
const loneWrites = await measureLoneWrites(run)
const billed = (await hasRedisServer()) ? await measureBilled(run) : null
const stampede = await measureStampede(run)
await load.close()

const measured = {
  machine: { ...machine, engine: redis ? 'redis-server' : 'embedded', loadAfter: Number(loadavg()[0]?.toFixed(2)) },
  settings,
  bundles: bundles.map(({ name, bytes, gzipBytes }) => ({
    contender: name,
    bytes,
    gzipBytes,
    coldStartMs: coldStarts.get(name) ?? NaN,
  })),
  rows,
  loneWrites,
  billed,
  stampede,
}
const results: Results = { ...measured, targets: targetsOf(measured) }
printReport(results)
await write(results)
const failures = [...rows, ...stampede].reduce((sum, row) => sum + row.failures, 0)
if (failures > 0) {
  progress(`${failures} requests failed: the figures are not to be trusted`)
  process.exitCode = 1
}

async function write(report: object): Promise<void> {
  if (flags.out === undefined) return
  const file = resolve(flags.out)
  await mkdir(dirname(file), { recursive: true })
  await writeFile(file, `${JSON.stringify(report, null, 2)}\n`)
}

async function describeMachine() {
  const versionOf = async (name: string) => {
    const file = await readFile(new URL(`../node_modules/${name}/package.json`, import.meta.url), 'utf8')
    return (JSON.parse(file) as { version: string }).version // as every package.json has it
  }
  const git = (...words: string[]) => execFileSync('git', words, { encoding: 'utf8' }).trim()
  let commit = 'unknown' // outside a repository
  try {
    commit = git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', 'src', 'bench') ? ' (changed)' : '')
  } catch {}
  return {
    at: new Date().toISOString(),
    commit,
    processors: `${availableParallelism()} × ${cpus()[0]?.model ?? 'unknown'}`,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `Linux ${release()}`,
    node: process.version,
    workerd: await versionOf('workerd'),
    wrangler: await versionOf('wrangler'),
    /** Load of the last minute before the run. `loadAfter`: of the last minute of the run. */
    loadBefore: Number(loadavg()[0]?.toFixed(2)),
    sharedBy:
      'workerd, the emulator and the load generator, each a process or thread of its own, on the same processors',
  }
}
