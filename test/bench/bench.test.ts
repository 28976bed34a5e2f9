import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Results } from '../../bench/main.ts'

// One minimal run of the whole benchmark. It checks that the benchmark works and what it counts, not the times. The run
// itself checks that the peers answer exactly as we do.
const root = fileURLToPath(new URL('../../', import.meta.url))
let folder = ''
let results: Results
let output = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'threads-edge-bench-'))
  const file = join(folder, 'results.json')
  const sizes = ['--latencies', '0', '--round-ms', '50', '--warm-up-ms', '1', '--connections', '4']
  const stampede = ['--readers', '100', '--isolates', '2']
  const args = ['bench/main.ts', '--quick', ...sizes, ...stampede, '--out', file]
  ;({ stdout: output } = await promisify(execFile)(process.execPath, args, { cwd: root }))
  results = JSON.parse(await readFile(file, 'utf8')) as Results // which the run has just written
}, 240_000)

afterAll(() => rm(folder, { recursive: true, force: true }))

const contenders = ['ours', 'straightforward', 'cachified', 'bare']
const scenarios = ['hot profile', 'batch of 20', 'hot feed', 'like', 'heartbeat', 'session check', 'mixed, Zipf']

/** The cost of one request that was sent before. */
function alone(scenario: string, contender: string) {
  const row = results.rows.find((row) => row.scenario === scenario && row.contender === contender)
  if (!row) throw new Error(`no row for ${contender}, ${scenario}`)
  return row.alone.costs
}

test('every scenario is measured for every contender without failures', () => {
  const found = results.rows.map((row) => `${row.scenario}: ${row.contender}`)
  expect(found.sort()).toEqual(scenarios.flatMap((name) => contenders.map((who) => `${name}: ${who}`)).sort())
  for (const row of results.rows) {
    expect(row.requestsPerSecond).toBeGreaterThan(0)
    expect(row.p99Ms).toBeGreaterThanOrEqual(row.p50Ms)
    expect(row.failures).toBe(0)
  }
  for (const name of scenarios) expect(output).toContain(`\n${name}`)
})

test('a hot read costs us only its rate limit, and the peers a read too', () => {
  // On a slow machine the isolate's memory can expire (5 s), and every 10 s it reports its statistics. Each adds one round
  // trip, once.
  for (const scenario of ['hot profile', 'batch of 20']) {
    expect(alone(scenario, 'ours').commands).toBeLessThan(2)
    expect(alone(scenario, 'ours').d1Queries).toBe(0)
    expect(alone(scenario, 'straightforward')).toEqual({ commands: 2, roundTrips: 2, d1Queries: 0, d1Calls: 0 })
  }
  expect(alone('hot profile', 'cachified')).toEqual({ commands: 2, roundTrips: 2, d1Queries: 0, d1Calls: 0 })
  expect(alone('batch of 20', 'cachified')).toEqual({ commands: 21, roundTrips: 2, d1Queries: 0, d1Calls: 0 })
  expect(alone('hot profile', 'bare')).toEqual({ commands: 0, roundTrips: 0, d1Queries: 0, d1Calls: 0 })
})

test('a signed-in read, a heartbeat and a like stay within their round-trip budgets', () => {
  expect(alone('session check', 'ours').roundTrips).toBeLessThan(3)
  expect(alone('session check', 'straightforward').roundTrips).toBe(3)
  expect(alone('heartbeat', 'ours').roundTrips).toBeLessThan(4)
  expect(alone('heartbeat', 'straightforward').roundTrips).toBe(3)
  // The queue consumer writes likes to D1 in batches and reconciles Redis: less than one query and round trip per like.
  expect(alone('like', 'ours').roundTrips).toBeLessThan(4)
  expect(alone('like', 'straightforward')).toEqual({ commands: 4, roundTrips: 3, d1Queries: 2, d1Calls: 1 })
})

test('in a stampede one reader loads for all of ours, and each peer loads for itself', () => {
  const loads = Object.fromEntries(results.stampede.map((run) => [run.contender, run.loads[0] ?? 0]))
  expect(loads['ours']).toBe(1)
  expect(loads['straightforward']).toBeGreaterThan(1)
  expect(loads['cachified']).toBeGreaterThan(1)
})

test('bundle sizes and cold starts are measured for every contender', () => {
  expect(results.bundles.map((bundle) => bundle.contender)).toEqual(contenders)
  for (const bundle of results.bundles) {
    expect(bundle.gzipBytes).toBeGreaterThan(1_000)
    expect(bundle.coldStartMs).toBeGreaterThan(0)
  }
})
