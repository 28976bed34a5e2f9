import { beforeAll, expect, test } from 'vitest'
import type { Results } from '../../bench/main.ts'
import { bench } from './run.ts'

// One minimal run of the whole benchmark. It checks that the benchmark works and what it counts, not the times. The run
// itself checks that the peers answer exactly as we do, and fails otherwise.
let results: Results
let output = ''

beforeAll(async () => {
  const sizes = ['--latencies', '0', '--round-ms', '50', '--warm-up-ms', '1', '--connections', '4']
  const others = ['--readers', '100', '--isolates', '2', '--billed', '40']
  const run = await bench('--quick', ...sizes, ...others)
  output = run.stdout
  results = run.written as Results // which the run has just written
}, 400_000)

const contenders = ['ours', 'straightforward', 'cachified', 'durable objects', 'bare']
const scenarios = ['hot profile', 'batch of 20', 'hot feed', 'like', 'heartbeat', 'session check', 'mixed, Zipf']

const nothing = {
  commands: 0,
  roundTrips: 0,
  d1Queries: 0,
  d1Calls: 0,
  d1RowsRead: 0,
  d1RowsWritten: 0,
  objectCalls: 0,
  objectRowsRead: 0,
  objectRowsWritten: 0,
}

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
    expect(alone(scenario, 'straightforward')).toEqual({ ...nothing, commands: 2, roundTrips: 2 })
  }
  expect(alone('hot profile', 'cachified')).toEqual({ ...nothing, commands: 2, roundTrips: 2 })
  expect(alone('batch of 20', 'cachified')).toEqual({ ...nothing, commands: 21, roundTrips: 2 })
  expect(alone('hot profile', 'bare')).toEqual(nothing)
})

test('a signed-in read, a heartbeat and a like stay within their round-trip budgets', () => {
  expect(alone('session check', 'ours').roundTrips).toBeLessThan(3)
  expect(alone('session check', 'straightforward').roundTrips).toBe(3)
  expect(alone('heartbeat', 'ours').roundTrips).toBeLessThan(4)
  expect(alone('heartbeat', 'straightforward').roundTrips).toBe(3)
  // The queue consumer writes likes to D1 in batches and reconciles Redis: less than one query and round trip per like.
  expect(alone('like', 'ours').roundTrips).toBeLessThan(4)
  expect(alone('like', 'straightforward')).toMatchObject({ commands: 4, roundTrips: 3, d1Queries: 2, d1Calls: 1 })
})

test('Durable Objects cost a call for each object that a request needs, and no Redis', () => {
  const calls = { objectCalls: 1, d1Queries: 1, commands: 0 }
  expect(alone('hot profile', 'durable objects')).toMatchObject({ ...calls, d1RowsRead: 1, d1RowsWritten: 0 })
  expect(alone('hot feed', 'durable objects')).toMatchObject({ ...calls, objectCalls: 21, d1Queries: 2 })
  // The session, the limit and the post. A like that changes nothing writes nothing.
  expect(alone('session check', 'durable objects').objectCalls).toBeCloseTo(3, 0) // one may record a visit
  expect(alone('heartbeat', 'durable objects')).toMatchObject({ objectCalls: 3, objectRowsWritten: 1, d1Queries: 0 })
})

test('every target is compared with what was measured', () => {
  expect(results.targets.map(({ name }) => name)).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^hot profile: requests\/s relative to bare/),
      'hot profile: CPU relative to bare',
      ...['batch of 20', 'hot feed', 'session check', 'mixed, Zipf', 'like', 'heartbeat'].map(
        (name) => `${name}: requests/s relative to the better peer`,
      ),
      ...scenarios.map((name) => `${name}: p99 relative to the better peer`),
      'cold start relative to bare',
      'bundle, gzipped',
    ]),
  )
  for (const { name, measured } of results.targets) {
    expect(measured).not.toContain('NaN')
    expect(output).toContain(name)
  }
  const profile = results.rows.find(({ scenario, contender }) => scenario === 'hot profile' && contender === 'ours')
  const [target] = results.targets
  expect(target).toMatchObject({
    measured: profile?.times.bare?.toFixed(2),
    isMet: (profile?.times.bare ?? NaN) >= 0.45,
  })
  for (const { roundTrips, p50Ms } of results.loneWrites) {
    expect(roundTrips).toBeLessThan(3)
    expect(p50Ms).toBeGreaterThan(0)
  }
})

test('the bill counts the commands in scripts, D1 rows and calls of objects', () => {
  if (!results.billed) return // no redis-server: the report says so
  const bill = (scenario: string, contender: string) => {
    const found = results.billed?.find((each) => each.scenario === scenario && each.contender === contender)
    if (!found) throw new Error(`no bill for ${contender}, ${scenario}`)
    return found
  }
  // The script of the limiter calls three commands, and the read is one more.
  const peer = bill('hot profile', 'straightforward')
  expect(peer.usage.commands).toBeGreaterThanOrEqual(5)
  expect(peer.dollarsPerMillion.total).toBeCloseTo(peer.usage.commands * 2, 1)
  expect(bill('like', 'ours').usage).toMatchObject({ commands: expect.any(Number), d1RowsWritten: expect.any(Number) })
  expect(bill('like', 'ours').usage.d1RowsWritten).toBeGreaterThan(5)
  const objects = bill('like', 'durable objects')
  expect(objects.usage).toMatchObject({ commands: 0, objectCalls: 4 }) // with the alarm that writes it to D1
  expect(objects.dollarsPerMillion.redis).toBe(0)
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
