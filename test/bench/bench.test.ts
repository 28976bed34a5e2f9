import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Results } from '../../bench/main.ts'

// One run of all of it, as small as it goes: it proves that it works and what is counted, and times nothing. That the
// peers answer as we do, word for word, is checked by the run itself.
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

/** What one request costs when it was asked for before. */
function alone(scenario: string, contender: string) {
  const row = results.rows.find((row) => row.scenario === scenario && row.contender === contender)
  if (!row) throw new Error(`there is no row for ${contender}, ${scenario}`)
  return row.alone.costs
}

test('every scenario is measured for every contender, and nothing failed', () => {
  const found = results.rows.map((row) => `${row.scenario}: ${row.contender}`)
  expect(found.sort()).toEqual(scenarios.flatMap((name) => contenders.map((who) => `${name}: ${who}`)).sort())
  for (const row of results.rows) {
    expect(row.requestsPerSecond).toBeGreaterThan(0)
    expect(row.p99Ms).toBeGreaterThanOrEqual(row.p50Ms)
    expect(row.failures).toBe(0)
  }
  for (const name of scenarios) expect(output).toContain(`\n${name}`)
})

test('a read that is hot costs us its count against the limit, and the peers a read before the answer too', () => {
  // The memory of an isolate may lapse (5 s) on a machine that stalls, and once in 10 s it reports its figures: then one
  // round trip more, once.
  for (const scenario of ['hot profile', 'batch of 20']) {
    expect(alone(scenario, 'ours').commands).toBeLessThan(2)
    expect(alone(scenario, 'ours').d1Queries).toBe(0)
    expect(alone(scenario, 'straightforward')).toEqual({ commands: 2, roundTrips: 2, d1Queries: 0, d1Calls: 0 })
  }
  expect(alone('hot profile', 'cachified')).toEqual({ commands: 2, roundTrips: 2, d1Queries: 0, d1Calls: 0 })
  expect(alone('batch of 20', 'cachified')).toEqual({ commands: 21, roundTrips: 2, d1Queries: 0, d1Calls: 0 })
  expect(alone('hot profile', 'bare')).toEqual({ commands: 0, roundTrips: 0, d1Queries: 0, d1Calls: 0 })
})

test('a post read by who is signed in, a heartbeat and a like take as many round trips as their budgets say', () => {
  expect(alone('session check', 'ours').roundTrips).toBeLessThan(3)
  expect(alone('session check', 'straightforward').roundTrips).toBe(3)
  expect(alone('heartbeat', 'ours').roundTrips).toBeLessThan(4)
  expect(alone('heartbeat', 'straightforward').roundTrips).toBe(3)
  // The queue brings likes to D1 in batches, and Redis to what D1 has: less than a query and a round trip for each.
  expect(alone('like', 'ours').roundTrips).toBeLessThan(4)
  expect(alone('like', 'straightforward')).toEqual({ commands: 4, roundTrips: 3, d1Queries: 2, d1Calls: 1 })
})

test('of a stampede one reader loads for all of us; each of the peers loads for itself', () => {
  const loads = Object.fromEntries(results.stampede.map((run) => [run.contender, run.loads[0] ?? 0]))
  expect(loads['ours']).toBe(1)
  expect(loads['straightforward']).toBeGreaterThan(1)
  expect(loads['cachified']).toBeGreaterThan(1)
})

test('sizes and cold starts are there for every contender', () => {
  expect(results.bundles.map((bundle) => bundle.contender)).toEqual(contenders)
  for (const bundle of results.bundles) {
    expect(bundle.gzipBytes).toBeGreaterThan(1_000)
    expect(bundle.coldStartMs).toBeGreaterThan(0)
  }
})
