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
  /** Bytes to and from Redis per request, before anything is counted later. */
  redisBytes: number
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

interface Batch {
  scenario: string
  /** Sent before: what the batch reads is cached, as it usually is in operation. Only likes are new. */
  warmUp: Ask[]
  /** Sent in parts. After each part, everything that follows from it happens. */
  parts: Ask[][]
}

/**
 * Measures each scenario for each contender, requests one at a time. Needs a `redis-server`. Each like is a part of its own:
 * likes of the same second would share what follows from them. Each scenario has its own isolate, so that what an isolate
 * counts later is known to be of its scenario.
 */
export async function measureBilled(run: Run): Promise<Billed[]> {
  const { town, settings } = run
  const { scenarios } = town
  const draw = (ask: () => Ask, count: number) => Array.from({ length: Math.ceil(count) }, ask)
  const batch = (scenario: string, ask: () => Ask, share: number): Batch => {
    const asks = draw(ask, settings.billed * share)
    return { scenario, warmUp: asks.filter(({ path }) => !path.endsWith('/like')), parts: [asks] }
  }
  const post = { ...scenarios['session check'](), path: `/v1/posts/${town.demo.posts[0]?.id}` }
  const likes = town.newLikes(settings.billedLikes)
  // The liker has read the post. A like of another post stores the scripts.
  const beforeLikes = likes.map((ask): Ask => ({ ...ask, method: 'GET', path: ask.path.replace('/like', '') }))
  const anotherLike = town.newLikes(settings.billedLikes + 1).slice(-1)
  const batches: Batch[] = [
    batch('mixed, Zipf', scenarios['mixed, Zipf'], 0.5),
    batch('hot profile', scenarios['hot profile'], 1),
    batch('batch of 20', scenarios['batch of 20'], 0.1),
    batch('hot feed', scenarios['hot feed'], 0.1),
    batch('post, signed in', () => post, 0.1),
    batch('heartbeat', scenarios.heartbeat, 0.1),
    { scenario: 'like', warmUp: [...anotherLike, ...beforeLikes], parts: likes.map((ask) => [ask]) },
  ]
  const results: Billed[] = []
  await using emulator = await startBilledEmulator()
  for (const bundle of run.bundles) {
    if (bundle.name === 'bare') continue
    run.progress(`Bill: ${bundle.name}`)
    const isolates = bundle.name === 'durable objects' ? 1 : batches.length // one is enough without a memory
    const worker = await startWorkers(bundle, emulator, run.databaseFolder, isolates, VARIABLES)
    try {
      const originOf = (i: number) => worker.urls[i] ?? worker.url
      const bills: { usage: Usage; requests: number; redisBytes: number }[] = []
      for (const [i, { warmUp, parts }] of batches.entries()) {
        await send(run, originOf(i), warmUp)
        const spent = async () => {
          for (const asks of parts) {
            await send(run, originOf(i), asks)
            await quiet(emulator, worker)
          }
        }
        const before = await emulator.traffic()
        const usage = await usageOf(emulator, worker, spent)
        const requests = parts.flat().length
        bills.push({ usage, requests, redisBytes: ((await emulator.traffic()) - before) / requests })
      }
      if (bundle.name === 'ours') {
        await sleep(COUNTED_LATER_MS)
        for (const [i, { parts }] of batches.entries()) {
          const [ask] = parts.flat()
          const bill = bills[i]
          if (!bill || ask?.method !== 'GET') continue
          const later = await usageOf(emulator, worker, () => send(run, originOf(i), [ask]))
          bill.usage.commands += later.commands
        }
      }
      for (const [i, { usage: sum, requests, redisBytes }] of bills.entries()) {
        const usage: Usage = {
          commands: sum.commands / requests,
          d1RowsRead: sum.d1RowsRead / requests,
          d1RowsWritten: sum.d1RowsWritten / requests,
          objectCalls: sum.objectCalls / requests,
          objectRowsRead: sum.objectRowsRead / requests,
          objectRowsWritten: sum.objectRowsWritten / requests,
        }
        const { scenario } = batches[i] ?? { scenario: '' }
        const dollarsPerMillion = dollarsOf(usage, 1_000_000)
        results.push({ scenario, contender: bundle.name, usage, dollarsPerMillion, redisBytes })
      }
    } finally {
      await worker.close()
    }
  }
  return results
}

/** What `work` uses, with all that follows from it. */
async function usageOf(emulator: BilledEmulator, worker: Contender, work: () => Promise<void>): Promise<Usage> {
  const billed = await quiet(emulator, worker)
  const before = await countsOf(worker)
  await work()
  const commands = (await quiet(emulator, worker)) - billed
  return { ...costsOf(before, await countsOf(worker), 1), commands }
}

async function send({ load }: Run, origin: string, asks: Ask[]): Promise<void> {
  const { failures } = await load.run({ origins: [origin], asks, connections: 1, requests: asks.length })
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
