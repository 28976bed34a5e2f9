/** Measures the contenders in turns: requests per second, latencies, and the cost of a request. */
import { deepStrictEqual } from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import type { LoadGenerator } from './load.ts'
import type { Ask, Town } from './town.ts'
import {
  type Bundle,
  type Contender,
  type ContenderName,
  cpuMs,
  type Counts,
  type EmulatorProcess,
  startWorkers,
} from './workers.ts'

export interface Settings {
  /** Latency that the emulator adds to each HTTP request. */
  latenciesMs: number[]
  /** Number of turns of each contender. Figures are medians over the rounds. */
  rounds: number
  roundMs: number
  warmUpMs: number
  /** Concurrent closed loops. */
  connections: number
  /** Requests sent one at a time. */
  alone: number
  /** Concurrent readers of one cold key. */
  readers: number
  isolates: number
  stampedes: number
  coldStarts: number
  /** Requests that the bill of the hot profile is measured with; the other scenarios take a share of them. */
  billed: number
  billedLikes: number
}

export interface Run {
  bundles: Bundle[]
  emulator: EmulatorProcess
  /** Folder of the D1. Each contender gets a copy. */
  databaseFolder: string
  town: Town
  load: LoadGenerator
  settings: Settings
  progress: (text: string) => void
}

/** The average cost of a request, including work after the answer. */
export interface Costs {
  /** Commands as Upstash bills them, without those in scripts. */
  commands: number
  /** HTTP requests to Redis. */
  roundTrips: number
  d1Queries: number
  /** Round trips to D1. A batch is one. */
  d1Calls: number
  /** As Cloudflare bills them. */
  d1RowsRead: number
  d1RowsWritten: number
  /** Calls of Durable Objects. */
  objectCalls: number
  objectRowsRead: number
  objectRowsWritten: number
}

export interface Row {
  scenario: string
  latencyMs: number
  contender: ContenderName
  requestsPerSecond: number
  /** This contender's requests per second divided by those of each one measured with it: the median over the rounds. */
  times: Partial<Record<ContenderName, number>>
  p50Ms: number
  p99Ms: number
  /** CPU time of workerd, including D1 and queues. */
  cpuMsPerRequest: number
  /** Under load, including what is cold or expires meanwhile. */
  costs: Costs
  /** One request at a time, each requested before. */
  alone: { p50Ms: number; costs: Costs }
  /** Answers that were not successful. */
  failures: number
}

/** A signed-in write of ours, sent alone with Redis `latencyMs` away: what its caller waits. */
export interface LoneWrite {
  scenario: 'like' | 'heartbeat'
  latencyMs: number
  p50Ms: number
  /** Redis round trips before the answer, by its `Server-Timing`: the median. */
  roundTrips: number
}

/** Requests of each scenario that all contenders must answer alike. */
const SAME_ANSWERS = 20

/** The measurements of one contender in one round. */
type Round = Omit<Row, 'scenario' | 'latencyMs' | 'contender' | 'times' | 'alone'>

/** Measures writes of one user, whose session Redis knows. Each like differs from the one before. */
export async function measureLoneWrites(run: Run): Promise<LoneWrite[]> {
  const { settings, town } = run
  const latencyMs = Math.max(...settings.latenciesMs)
  const ours = run.bundles.find(({ name }) => name === 'ours')
  if (!ours) return []
  const worker = await startWorkers(ours, run.emulator, run.databaseFolder)
  try {
    const [like] = town.newLikes(1)
    if (!like) return []
    const likes = (n: number): Ask => ({ ...like, method: n % 2 === 0 ? 'PUT' : 'DELETE' })
    const beat = { ...like, method: 'POST' as const, path: '/v1/presence/heartbeat' }
    const results: LoneWrite[] = []
    for (const [scenario, askOf] of [['like', likes] as const, ['heartbeat', () => beat] as const]) {
      await worker.control.latency(latencyMs)
      const times: number[] = []
      const trips: number[] = []
      for (let n = 0; n < settings.alone + 2; n += 1) {
        const { method, path, headers } = askOf(n)
        const startedAt = performance.now()
        const answer = await request(worker.url + path, { method, headers })
        await answer.body.dump()
        const ms = performance.now() - startedAt
        if (answer.statusCode > 299) throw new Error(`${method} ${path}: ${answer.statusCode}`)
        const roundTrips = Number(/(\d+) round trips/.exec(String(answer.headers['server-timing']))?.[1])
        // The first reads D1 and sends scripts that Redis does not have yet.
        if (n >= 2) {
          times.push(ms)
          trips.push(roundTrips)
        }
      }
      await settle(worker, latencyMs)
      results.push({ scenario, latencyMs, p50Ms: median(times), roundTrips: median(trips) })
    }
    return results
  } finally {
    await worker.close()
  }
}

/** Measures each scenario at each latency, for each contender. Throws if a peer gives another answer than ours. */
export async function compare(run: Run): Promise<Row[]> {
  const { bundles, emulator, databaseFolder, town, load, settings, progress } = run
  const all: Contender[] = []
  try {
    for (const bundle of bundles) all.push(await startWorkers(bundle, emulator, databaseFolder))
    // Compared before the load: under load, a faster contender stores more likes.
    for (const draw of Object.values(town.scenarios)) {
      await requireSameAnswers(all, Array.from({ length: SAME_ANSWERS }, draw))
    }
    // The work that these likes cause follows a second later. It must not count for the first measurement.
    for (const contender of all) await settle(contender, 0)
    const rows: Row[] = []
    for (const [i, latencyMs] of settings.latenciesMs.entries()) {
      // Without Redis, a latency of Redis changes nothing.
      const contenders = i === 0 ? all : all.filter(({ name }) => name !== 'durable objects')
      for (const [scenario, draw] of Object.entries(town.scenarios)) {
        progress(`${scenario} at ${latencyMs} ms`)
        const asks = Array.from({ length: 2_000 }, draw)
        const asksOf = ({ name }: Contender) =>
          name === 'bare' ? asks.map(() => town.scenarios['hot profile']()) : asks
        for (const contender of contenders) await contender.control.latency(latencyMs)

        const lone = new Map<Contender, Row['alone']>()
        for (const contender of contenders) {
          const few = asksOf(contender).slice(0, settings.alone)
          const one = { origins: contender.urls, asks: few, connections: 1, requests: few.length }
          await load.run(one)
          await settle(contender, latencyMs)
          const before = await countsOf(contender)
          const { p50Ms } = await load.run(one)
          await settle(contender, latencyMs)
          lone.set(contender, { p50Ms, costs: costsOf(before, await countsOf(contender), few.length) })
        }

        const rounds = new Map<Contender, Round[]>(contenders.map((contender) => [contender, []]))
        const under = { asks, connections: settings.connections }
        for (const contender of contenders) {
          const warming = { ...under, origins: contender.urls, asks: asksOf(contender), durationMs: settings.warmUpMs }
          await load.run(warming)
          await settle(contender, latencyMs)
        }
        for (let round = 0; round < settings.rounds; round += 1) {
          // Each round starts with another contender.
          const order = [
            ...contenders.slice(round % contenders.length),
            ...contenders.slice(0, round % contenders.length),
          ]
          for (const contender of order) {
            const cpuBefore = await cpuMs(contender.pid)
            const before = await countsOf(contender)
            const measured = await load.run({
              ...under,
              origins: contender.urls,
              asks: asksOf(contender),
              durationMs: settings.roundMs,
            })
            await settle(contender, latencyMs)
            const { requests, elapsedMs, p50Ms, p99Ms, failures } = measured
            rounds.get(contender)?.push({
              requestsPerSecond: (requests / elapsedMs) * 1_000,
              p50Ms,
              p99Ms,
              cpuMsPerRequest: ((await cpuMs(contender.pid)) - cpuBefore) / requests,
              costs: costsOf(before, await countsOf(contender), requests),
              failures: Object.values(failures).reduce((sum, count) => sum + count, 0),
            })
          }
        }
        for (const contender of contenders) {
          const mine = rounds.get(contender) ?? []
          const over = (of: (round: Round) => number) => median(mine.map(of))
          const times = contenders.map(({ name }, i) => {
            const theirs = rounds.get(contenders[i] ?? contender) ?? []
            const ratios = mine.map((round, j) => round.requestsPerSecond / (theirs[j]?.requestsPerSecond ?? NaN))
            return [name, median(ratios)] as const
          })
          const alone = lone.get(contender)
          if (!alone) throw new Error(`${contender.name} was not measured alone`)
          rows.push({
            scenario,
            latencyMs,
            contender: contender.name,
            requestsPerSecond: over((round) => round.requestsPerSecond),
            times: Object.fromEntries(times),
            p50Ms: over((round) => round.p50Ms),
            p99Ms: over((round) => round.p99Ms),
            cpuMsPerRequest: over((round) => round.cpuMsPerRequest),
            costs: medianCosts(mine.map(({ costs }) => costs)),
            alone,
            failures: mine.reduce((sum, round) => sum + round.failures, 0),
          })
        }
      }
    }
    return rows
  } finally {
    for (const contender of all) await contender.close()
  }
}

export type Counted = Counts & { commands: number; requests: number }

/** What a contender has sent to Redis, D1 and queues so far. */
export async function countsOf(contender: Contender): Promise<Counted> {
  const [{ commands, requests }, counts] = await Promise.all([contender.control.counts(), contender.counts()])
  return { commands, requests, ...counts }
}

/** What each of `requests` has used between two counts. */
export function costsOf(before: Counted, after: Counted, requests: number): Costs {
  const perRequest = (name: keyof Counted) => (after[name] - before[name]) / requests
  return {
    commands: perRequest('commands'),
    roundTrips: perRequest('requests'),
    d1Queries: perRequest('queries'),
    d1Calls: perRequest('calls'),
    d1RowsRead: perRequest('rowsRead'),
    d1RowsWritten: perRequest('rowsWritten'),
    objectCalls: perRequest('objectCalls'),
    objectRowsRead: perRequest('objectRowsRead'),
    objectRowsWritten: perRequest('objectRowsWritten'),
  }
}

function medianCosts(all: Costs[]): Costs {
  const names = Object.keys(all[0] ?? {}) as (keyof Costs)[] // its own keys
  return Object.fromEntries(names.map((name) => [name, median(all.map((costs) => costs[name]))])) as unknown as Costs // all of them
}

/**
 * Waits until the work after the answers is done: queues are empty, including delayed messages (counts are published once
 * a second), and Redis and D1 are idle.
 */
export async function settle(contender: Contender, latencyMs: number): Promise<void> {
  for (let last = await countsOf(contender); ;) {
    await sleep(2 * latencyMs + 20)
    const now = await countsOf(contender)
    if (now.requests === last.requests && now.calls === last.calls && now.received >= now.sent) return
    last = now
  }
}

/** Throws unless the peers answer `asks` like ours, word for word. */
async function requireSameAnswers(contenders: Contender[], asks: Ask[]): Promise<void> {
  const [ours, ...others] = contenders.filter(({ name }) => name !== 'bare')
  if (!ours) return
  const answerOf = async (contender: Contender, { method, path, headers }: Ask) => {
    const { statusCode, body } = await request(contender.url + path, { method, headers })
    const text = await body.text()
    return { statusCode, body: text === '' ? null : (JSON.parse(text) as unknown) }
  }
  for (const ask of asks) {
    const expected = await answerOf(ours, ask)
    for (const other of others) {
      deepStrictEqual(await answerOf(other, ask), expected, `${other.name} answers ${ask.method} ${ask.path} otherwise`)
    }
  }
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const [low = NaN, high = NaN] = sorted.length % 2 === 0 ? sorted.slice(middle - 1) : [sorted[middle], sorted[middle]]
  return (low + high) / 2
}
