import { keysOf, patternsOf, shownKey } from './commands.ts'
import type { CacheEvent } from '../redis/cache.ts'
import type { Meter, Sent } from '../redis/client.ts'

/** Columns of sums by name. Adding the columns merges two of them. */
export type Sums = Record<string, number[]>

/** A slow round trip, successful or not. */
export interface SlowTrip {
  /** Unix ms. */
  at: number
  route: string
  commands: string[]
  count: number
  ms: number
  isAnswered: boolean
}

/** Sums of what happened: isolates report them, and reports are folded into them. */
export interface Tally {
  /** By the number of the step (Unix seconds / 10): `STEP_COLUMNS` and a histogram. */
  steps: Sums
  /** By route: `ROUTE_COLUMNS` and a histogram. */
  routes: Sums
  /** By `<cache> <layer>`: `OUTCOMES`. */
  caches: Sums
  /** By key: how often commands used it. */
  keys: Sums
  slow: SlowTrip[]
  /** The last run of each cron job, by its name. */
  jobs: Record<string, JobRun>
}

/** One run of a cron job. */
export interface JobRun {
  /** When it ended (Unix ms). */
  at: number
  ms: number
  /** At least so much work is left. Null: the job failed. */
  remaining: number | null
  /** Its last failure, which may be that of an earlier run. */
  failure?: JobFailure
}

/** A failure of a cron job. */
export interface JobFailure {
  /** Unix ms. */
  at: number
  /** Names and codes of errors, without their messages: those may quote data. */
  reason: string
}

export const STEP_SECONDS = 10

const STEP_COLUMNS = [
  'requests',
  'errors',
  'limited',
  'likes',
  'commands',
  'billed',
  'roundTrips',
  'memoryHits',
  'memoryMisses',
  'redisHits',
  'redisMisses',
  'deliveriesSucceeded',
  'deliveriesFailed',
  'totalMs',
] as const
const ROUTE_COLUMNS = ['requests', '2xx', '3xx', '4xx', '5xx', 'commands', 'billed', 'roundTrips', 'totalMs'] as const
const OUTCOMES = ['hit', 'stale', 'negative', 'miss', 'error', 'load', 'store', 'lost', 'refused'] as const

/** The position of each column. */
const indexOf = <Name extends string>(names: readonly Name[]) =>
  Object.fromEntries(names.map((name, i) => [name, i])) as Columns<Name> // exactly these names
const STEP_INDEX = indexOf(STEP_COLUMNS)
const ROUTE_INDEX = indexOf(ROUTE_COLUMNS)
const OUTCOME_INDEX = indexOf(OUTCOMES)

/** Upper bounds of the latency histogram (ms, inclusive). One more bucket holds longer latencies. */
export const BOUNDS_MS = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1_200, 2_000, 5_000, 10_000]

/** The number of buckets. */
const BUCKETS = BOUNDS_MS.length + 1

const LIKE = /^PUT .*\/like$/
/** The column of a status. */
const classOf = (status: number) => (['2xx', '3xx', '4xx', '5xx'] as const)[Math.floor(status / 100) - 2] ?? '5xx'

type Columns<Name extends string> = Record<Name, number>

const named = <Name extends string>(names: readonly Name[], sums: number[] = []) =>
  Object.fromEntries(names.map((name, i) => [name, sums[i] ?? 0])) as Columns<Name> // exactly these names

/** The columns of a step by their names, and its histogram. */
export const stepOf = (sums?: number[]) => ({
  ...named(STEP_COLUMNS, sums),
  histogram: sums?.slice(STEP_COLUMNS.length) ?? [],
})
export const routeOf = (sums?: number[]) => ({
  ...named(ROUTE_COLUMNS, sums),
  histogram: sums?.slice(ROUTE_COLUMNS.length) ?? [],
})
export const cacheOf = (sums?: number[]) => named(OUTCOMES, sums)

export const emptyTally = (): Tally => ({ steps: {}, routes: {}, caches: {}, keys: {}, slow: [], jobs: {} })

/** Adds `columns` to the sums of `name`. */
export function add(into: Sums, name: string, columns: number[]): void {
  const sums = (into[name] ??= [])
  for (const [i, value] of columns.entries()) sums[i] = (sums[i] ?? 0) + value
}

/** Adds a tally to another. */
export function merge(into: Tally, from: Tally): void {
  for (const part of ['steps', 'routes', 'caches', 'keys'] as const) {
    for (const [name, columns] of Object.entries(from[part])) add(into[part], name, columns)
  }
  into.slow = slowest([...into.slow, ...from.slow])
  mergeJobs(into.jobs, from.jobs)
}

/** Keeps the later run and the later failure of each job. A report of an older version has none. */
export function mergeJobs(into: Tally['jobs'], from: Tally['jobs'] = {}): void {
  for (const [name, run] of Object.entries(from)) {
    const held = into[name]
    const later = held && held.at > run.at ? held : run
    const [failure] = [held?.failure, run.failure].filter((each) => each !== undefined).sort((a, b) => b.at - a.at)
    into[name] = { ...later, ...(failure && { failure }) }
  }
}

export const slowest = (trips: SlowTrip[]) => trips.sort((a, b) => b.ms - a.ms).slice(0, 10)

/** The `most` largest by their first column. */
export const largest = (sums: Sums, most: number): Sums =>
  Object.fromEntries(
    Object.entries(sums)
      .sort(([, [a = 0]], [, [b = 0]]) => b - a)
      .slice(0, most),
  )

/** The `q`-quantile of a histogram in ms, by linear interpolation within its bucket; null when it is empty. */
export function quantile(histogram: number[], q: number): number | null {
  const total = histogram.reduce((sum, count) => sum + count, 0)
  if (total === 0) return null
  let below = 0
  for (const [i, count] of histogram.entries()) {
    if (count > 0 && below + count >= q * total) {
      const from = BOUNDS_MS[i - 1] ?? 0
      const to = BOUNDS_MS[i] ?? from // above every bound: the last bound is the best answer
      return Number((from + ((to - from) * (q * total - below)) / count).toFixed(1))
    }
    below += count
  }
  return null
}

/** Which bucket of a histogram a latency belongs to. */
function bucketOf(ms: number): number {
  const bucket = BOUNDS_MS.findIndex((bound) => ms <= bound)
  return bucket === -1 ? BOUNDS_MS.length : bucket
}

/** The columns of `name`, zeros at first. */
const rowOf = (sums: Sums, name: string, length: number) => (sums[name] ??= Array<number>(length).fill(0))

function bump(row: number[], column: number, by = 1): void {
  row[column] = (row[column] ?? 0) + by
}

const isHit = (outcome: CacheEvent['outcome']) => outcome === 'hit' || outcome === 'stale' || outcome === 'negative'
const isMiss = (outcome: CacheEvent['outcome']) => outcome === 'miss' || outcome === 'error'

/** How many keys an isolate counts. Beyond that it drops the least used keys. */
const MAX_KEYS = 2_000
/** How many of them it reports. */
const REPORTED_KEYS = 20

/** The outcome of one invocation. */
export interface Outcome {
  /** The pattern of the route, never a path: `GET /v1/users/:id`. */
  route: string
  /** The status of the answer. Absent: the invocation was not a request. */
  status?: number
  /** The time until the answer. */
  ms: number
  /** The cost in Redis, including work after the answer. */
  meter: Meter
}

export type Recorder = ReturnType<typeof createRecorder>

/**
 * Counts in the memory of one isolate between two reports. Costs no Redis command. Bounded by the number of routes, caches
 * and steps, by `MAX_KEYS` keys, and by ten slow round trips.
 */
export function createRecorder(slowMs: number) {
  let held = emptyTally()
  /** How often commands used each key. Only the report replaces private keys by their patterns: that costs nothing per request. */
  let uses = new Map<string, number>()

  const stepAt = (now: number) =>
    rowOf(held.steps, String(Math.floor(now / (STEP_SECONDS * 1_000))), STEP_COLUMNS.length + BUCKETS)
  const bumpStep = (step: number[], column: (typeof STEP_COLUMNS)[number], by = 1) => bump(step, STEP_INDEX[column], by)

  function countKeys({ commands }: Sent): void {
    for (const command of commands) {
      for (const key of keysOf(command)) uses.set(key, (uses.get(key) ?? 0) + 1)
    }
    if (uses.size <= MAX_KEYS) return
    uses = new Map([...uses].sort(([, a], [, b]) => b - a).slice(0, MAX_KEYS / 2))
  }

  /** The sums so far, with the most used keys. */
  function snapshot(): Tally {
    const keys: Sums = {}
    for (const [key, count] of uses) {
      const shown = shownKey(key)
      if (shown !== undefined) add(keys, shown, [count])
    }
    return { ...held, keys: largest(keys, REPORTED_KEYS) }
  }

  return {
    /** Watches one invocation: `onSent` and `onCacheEvent` collect, and `end` adds it to the sums. */
    watch() {
      const events: CacheEvent[] = []
      const slow: Omit<SlowTrip, 'route'>[] = []
      return {
        cacheEvents: events as readonly CacheEvent[],
        onCacheEvent: (event: CacheEvent) => void events.push(event),

        onSent: (sent: Sent): void => {
          countKeys(sent)
          if (sent.ms < slowMs) return
          slow.push({
            at: Date.now(),
            commands: patternsOf(sent.commands),
            count: sent.commands.length,
            ms: Number(sent.ms.toFixed(1)),
            isAnswered: sent.isAnswered,
          })
        },

        end({ route, status, ms, meter }: Outcome, now = Date.now()): void {
          const rounded = Math.round(ms * 10) / 10 // for the bytes of a report
          const bucket = bucketOf(ms)
          const step = stepAt(now)
          bumpStep(step, 'commands', meter.commands)
          bumpStep(step, 'billed', meter.billed)
          bumpStep(step, 'roundTrips', meter.roundTrips)
          if (status !== undefined) {
            bumpStep(step, 'requests')
            if (status >= 500) bumpStep(step, 'errors')
            if (status === 429) bumpStep(step, 'limited')
            if (status === 200 && LIKE.test(route)) bumpStep(step, 'likes')
            bumpStep(step, 'totalMs', rounded)
            bump(step, STEP_COLUMNS.length + bucket)
          }

          const row = rowOf(held.routes, route, ROUTE_COLUMNS.length + BUCKETS)
          const count = (column: (typeof ROUTE_COLUMNS)[number], by = 1) => bump(row, ROUTE_INDEX[column], by)
          count('requests')
          if (status !== undefined && status >= 200) count(classOf(status))
          count('commands', meter.commands)
          count('billed', meter.billed)
          count('roundTrips', meter.roundTrips)
          count('totalMs', rounded)
          bump(row, ROUTE_COLUMNS.length + bucket)

          for (const { cache, layer, outcome } of events) {
            bump(rowOf(held.caches, `${cache} ${layer}`, OUTCOMES.length), OUTCOME_INDEX[outcome])
            if (layer === 'loader') continue
            if (isHit(outcome)) bumpStep(step, `${layer}Hits`)
            if (isMiss(outcome)) bumpStep(step, `${layer}Misses`)
          }
          if (slow.length === 0) return
          held.slow = slowest([...held.slow, ...slow.map((trip) => Object.assign(trip, { route }))])
        },
      }
    },

    /** Records a run of a cron job. */
    ran: (job: string, run: JobRun): void => mergeJobs(held.jobs, { [job]: run }),

    /** Counts a delivery attempt. */
    delivered: (isSuccess: boolean, now = Date.now()): void =>
      bumpStep(stepAt(now), isSuccess ? 'deliveriesSucceeded' : 'deliveriesFailed'),

    /** When an invocation of this isolate will report (Unix ms). 0: none will. */
    reportDueAt: 0,

    /** The sums since the last report. */
    held: snapshot,

    /** Takes the sums for a report. */
    take(): Tally {
      const taken = snapshot()
      held = emptyTally()
      uses = new Map()
      return taken
    },

    /** Returns the sums of a report that failed. */
    putBack({ keys, ...taken }: Tally): void {
      merge(held, { ...taken, keys: {} })
      for (const [key, [count = 0]] of Object.entries(keys)) uses.set(key, (uses.get(key) ?? 0) + count)
    },
  }
}
