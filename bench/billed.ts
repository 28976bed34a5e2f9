/** What a request costs in the end: Redis commands with those in scripts, D1 rows, calls and rows of Durable Objects. */
import { setTimeout as sleep } from 'node:timers/promises'
import { countsOf, costsOf, type Run, settle } from './measure.ts'
import { dollarsOf, type Usage } from './prices.ts'
import { type BilledEmulator, startBilledEmulator } from './redis.ts'
import type { Ask } from './town.ts'
import { type Contender, type ContenderName, startWorkers } from './workers.ts'

export interface Billed {
  scenario: string
  contender: ContenderName
  /** Per request, with everything that follows from it. */
  usage: Usage
  dollarsPerMillion: ReturnType<typeof dollarsOf>
}

/** The limits that are deployed. Ours counts a caller more often, the nearer the limit is. */
const VARIABLES = {
  LIMIT_READS: '1200',
  LIMIT_WRITES: '100',
  LIMIT_PRESENCE: '600',
  STATS_FLUSH_SECONDS: '0', // the reports of an isolate do not depend on its requests
}
/** Redis is idle when it has had no command for this long. */
const QUIET_MS = 150
/** An isolate may count reads this much later, with a later read. */
const COUNTED_LATER_MS = 11_000

/**
 * Measures each scenario for each contender, requests one at a time. Needs a `redis-server`. Each like is measured alone,
 * until everything that follows from it is done: likes of the same second would share that.
 */
export async function measureBilled(run: Run): Promise<Billed[]> {
  const { town, settings } = run
  const results: Billed[] = []
  await using emulator = await startBilledEmulator()
  for (const bundle of run.bundles) {
    if (bundle.name === 'bare') continue
    run.progress(`Bill: ${bundle.name}`)
    const worker = await startWorkers(bundle, emulator, run.databaseFolder, 1, VARIABLES)
    try {
      const { scenarios } = town
      const draw = (ask: () => Ask, count: number) => Array.from({ length: count }, ask)
      const few = Math.ceil(settings.billed / 10)
      const post = { ...scenarios['session check'](), path: `/v1/posts/${town.demo.posts[0]?.id}` }
      const batches: [string, Ask[][]][] = [
        // First, so that they begin with what is cached, as in operation.
        ['mixed, Zipf', [draw(scenarios['mixed, Zipf'], settings.billed / 2)]],
        ['hot profile', [draw(scenarios['hot profile'], settings.billed)]],
        ['batch of 20', [draw(scenarios['batch of 20'], few)]],
        ['hot feed', [draw(scenarios['hot feed'], few)]],
        ['post, signed in', [draw(() => post, few)]],
        ['heartbeat', [draw(scenarios.heartbeat, few)]],
        ['like', town.newLikes(settings.billedLikes).map((ask) => [ask])],
      ]
      await send(run, worker, [...draw(scenarios['mixed, Zipf'], 200), post, post])
      for (const [scenario, asks] of batches) {
        const usage = await usageOf(run, emulator, worker, asks)
        results.push({ scenario, contender: bundle.name, usage, dollarsPerMillion: dollarsOf(usage, 1_000_000) })
      }
    } finally {
      await worker.close()
    }
  }
  return results
}

/** What a request of `batches` uses. Waits after each batch until everything that follows is done. */
async function usageOf(run: Run, emulator: BilledEmulator, worker: Contender, batches: Ask[][]): Promise<Usage> {
  const billedBefore = await quiet(emulator, worker)
  const before = await countsOf(worker)
  let billed = billedBefore
  for (const asks of batches) {
    await send(run, worker, asks)
    const [first] = asks
    if (worker.name === 'ours' && first?.method === 'GET') {
      await sleep(COUNTED_LATER_MS)
      await send(run, worker, [first])
    }
    billed = await quiet(emulator, worker)
  }
  const requests = batches.flat().length
  return { ...costsOf(before, await countsOf(worker), requests), commands: (billed - billedBefore) / requests }
}

async function send({ load }: Run, { urls: origins }: Contender, asks: Ask[]): Promise<void> {
  const { failures } = await load.run({ origins, asks, connections: 1, requests: asks.length })
  const [failure] = Object.entries(failures)
  if (failure) throw new Error(`${failure[1]} requests failed with status ${failure[0]}`)
}

/** Commands billed once nothing runs any more. */
async function quiet(emulator: BilledEmulator, worker: Contender): Promise<number> {
  for (let last = -1; ;) {
    await settle(worker, 0)
    const now = await emulator.billed()
    if (now === last) return now
    last = now
    await sleep(QUIET_MS)
  }
}
