/** Many concurrent readers of one cold key, in several isolates that share Redis and D1: how often is it loaded? */
import { countsOf, median, type Run, settle } from './measure.ts'
import { startWorkers } from './workers.ts'

/** Latency that the emulator adds to each request, as within a region. Without it, readers would not overlap. */
const LATENCY_MS = 5
/** On a busy machine the load takes longer than readers usually wait for it. */
const PATIENCE = { LEASE_SECONDS: '60', LEASE_WAIT_MS: '10000' }

export interface Stampede {
  contender: string
  readers: number
  isolates: number
  /** D1 queries for the key, by round. Each round has another key. */
  loads: number[]
  /** The p99 of the readers' latency: the median of the rounds. */
  p99Ms: number
  failures: number
}

export async function measureStampede(run: Run): Promise<Stampede[]> {
  const { town, load } = run
  const { readers, isolates, stampedes } = run.settings
  const results: Stampede[] = []
  // The bare one has no data, and the one with Durable Objects no cache of profiles.
  for (const bundle of run.bundles.filter(({ name }) => name !== 'bare' && name !== 'durable objects')) {
    run.progress(`Stampede: ${bundle.name}`)
    const contender = await startWorkers(bundle, run.emulator, run.databaseFolder, isolates, PATIENCE)
    try {
      await contender.control.latency(LATENCY_MS)
      const askFor = (user: { id: string } | undefined) => {
        const { headers } = town.scenarios['hot profile']()
        return { method: 'GET' as const, path: `/v1/users/${user?.id}`, headers }
      }
      const rounds = []
      for (let round = 0; round < stampedes; round += 1) {
        const known = askFor(town.demo.users[0])
        const cold = askFor(town.demo.users[round + 1])
        const { urls: origins } = contender
        await load.run({ origins, asks: [known], connections: isolates, requests: 4 * isolates })
        await settle(contender, LATENCY_MS)
        const before = await countsOf(contender)
        // Requests for a cached key open the connections, so that all readers can start at the same time.
        const measured = await load.run({
          origins,
          opening: known,
          asks: [cold],
          connections: readers,
          requests: readers,
        })
        await settle(contender, LATENCY_MS)
        const after = await countsOf(contender)
        rounds.push({
          loads: after.queries - before.queries,
          p99Ms: measured.p99Ms,
          failures: Object.values(measured.failures).reduce((sum, count) => sum + count, 0),
        })
      }
      results.push({
        contender: bundle.name,
        readers,
        isolates,
        loads: rounds.map(({ loads }) => loads),
        p99Ms: median(rounds.map(({ p99Ms }) => p99Ms)),
        failures: rounds.reduce((sum, { failures }) => sum + failures, 0),
      })
    } finally {
      await contender.close()
    }
  }
  return results
}
