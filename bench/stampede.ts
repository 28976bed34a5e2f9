/** Everybody asks for one cold key at once, in several isolates that share Redis and D1: how often is it loaded? */
import { countsOf, median, type Run, settle } from './measure.ts'
import { startWorkers } from './workers.ts'

/** What the emulator adds to each request: as in a region, or nobody would be late. */
const LATENCY_MS = 5

export interface Stampede {
  contender: string
  readers: number
  isolates: number
  /** Queries of D1 for the one key, in each run. */
  loads: number[]
  /** How long all but the slowest hundredth of the readers waited: the median of the runs. */
  p99Ms: number
  failures: number
}

export async function measureStampede({
  bundles,
  emulator,
  databaseFolder,
  town,
  load,
  settings,
  progress,
}: Run): Promise<Stampede[]> {
  const { readers, isolates, stampedes } = settings
  const results: Stampede[] = []
  for (const bundle of bundles.filter(({ name }) => name !== 'bare')) {
    progress(`Stampede: ${bundle.name}`)
    const contender = await startWorkers(bundle, emulator, databaseFolder, isolates)
    try {
      await contender.control.latency(LATENCY_MS)
      const askFor = (user: { id: string } | undefined) => {
        const { headers } = town.scenarios['hot profile']()
        return { method: 'GET' as const, path: `/v1/users/${user?.id}`, headers }
      }
      const runs = []
      for (let run = 0; run < stampedes; run += 1) {
        const known = askFor(town.demo.users[0])
        const cold = askFor(town.demo.users[run + 1])
        const { urls: origins } = contender
        await load.run({ origins, asks: [known], connections: isolates, requests: 4 * isolates })
        await settle(contender, LATENCY_MS)
        const before = await countsOf(contender)
        // Connections are opened by asking for what is known, so that all readers can come at once.
        const measured = await load.run({
          origins,
          opening: known,
          asks: [cold],
          connections: readers,
          requests: readers,
        })
        await settle(contender, LATENCY_MS)
        const after = await countsOf(contender)
        runs.push({
          loads: after.queries - before.queries,
          p99Ms: measured.p99Ms,
          failures: Object.values(measured.failures).reduce((sum, count) => sum + count, 0),
        })
      }
      results.push({
        contender: bundle.name,
        readers,
        isolates,
        loads: runs.map(({ loads }) => loads),
        p99Ms: median(runs.map(({ p99Ms }) => p99Ms)),
        failures: runs.reduce((sum, { failures }) => sum + failures, 0),
      })
    } finally {
      await contender.close()
    }
  }
  return results
}
