import { keysOf, patternsOf, shownKey } from './commands.ts'
import type { CacheEvent } from '../redis/cache.ts'
import type { Meter, Sent } from '../redis/client.ts'

/** Sums by name, a column each: two are merged by adding. */
export type Sums = Record<string, number[]>

/** A round trip that was slow, or failed slowly. */
export interface SlowTrip {
  /** Unix ms. */
  at: number
  route: string
  commands: string[]
  count: number
  ms: number
  isAnswered: boolean
}

/** What happened, in sums: what isolates send and what they are folded into. */
export interface Tally {
  /** By the number of the step (Unix seconds / 10): `STEP` and a histogram. */
  steps: Sums
  /** By name: `ROUTE` and a histogram. */
  routes: Sums
  /** By `<cache> <layer>`: `OUTCOMES`. */
  caches: Sums
  /** By key: how often Redis was asked for it. */
  keys: Sums
  slow: SlowTrip[]
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

/** Upper bounds of the latency histogram (ms, inclusive); one more bucket holds what took longer. */
export const BOUNDS_MS = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1_200, 2_000, 5_000, 10_000]

/** How many buckets that are. */
const BUCKETS = BOUNDS_MS.length + 1

const LIKE = /^PUT .*\/like$/
/** The column of a status. */
const classOf = (status: number) => (['2xx', '3xx', '4xx', '5xx'] as const)[Math.floor(status / 100) - 2] ?? '5xx'

type Columns<Name extends string> = Record<Name, number>

const named = <Name extends string>(names: readonly Name[], sums: number[] = []) =>
  Object.fromEntries(names.map((name, i) => [name, sums[i] ?? 0])) as Columns<Name> // those names, and no others

/** The columns of a step, route or cache by their names; its histogram. */
export const stepOf = (sums?: number[]) => ({
  ...named(STEP_COLUMNS, sums),
  histogram: sums?.slice(STEP_COLUMNS.length) ?? [],
})
export const routeOf = (sums?: number[]) => ({
  ...named(ROUTE_COLUMNS, sums),
  histogram: sums?.slice(ROUTE_COLUMNS.length) ?? [],
})
export const cacheOf = (sums?: number[]) => named(OUTCOMES, sums)

export const emptyTally = (): Tally => ({ steps: {}, routes: {}, caches: {}, keys: {}, slow: [] })

/** Adds `columns` to what is summed under `name`. */
export function add(into: Sums, name: string, columns: number[]): void {
  const sums = (into[name] ??= [])
  for (const [i, value] of columns.entries()) sums[i] = (sums[i] ?? 0) + value
}

/** Adds one to another. */
export function merge(into: Tally, from: Tally): void {
  for (const part of ['steps', 'routes', 'caches', 'keys'] as const) {
    for (const [name, columns] of Object.entries(from[part])) add(into[part], name, columns)
  }
  into.slow = slowest([...into.slow, ...from.slow])
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
      const to = BOUNDS_MS[i] ?? from // longer than every bound: the last bound is all that is known
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

/** How many keys an isolate counts at once; when there are more, those asked for least are forgotten. */
const MAX_KEYS = 2_000
/** How many of them it tells. */
const TOLD_KEYS = 20

/** What became of one invocation. */
export interface Outcome {
  /** The pattern of the route, never a path: `GET /v1/users/:id`. */
  route: string
  /** Of the answer. Absent: this was no request. */
  status?: number
  /** Until the answer. */
  ms: number
  /** What it cost, work after the answer included. */
  meter: Meter
}

export type Recorder = ReturnType<typeof createRecorder>

/**
 * The memory of one isolate for figures, between two reports of them: no Redis command. Bounded: by the number of routes,
 * caches and steps, `MAX_KEYS` keys, and ten slow round trips.
 */
export function createRecorder(slowMs: number) {
  let held = emptyTally()
  /** How often Redis was asked for each key. What may not be shown is masked when it is told, not for every request. */
  let asked = new Map<string, number>()

  const stepAt = (now: number) =>
    rowOf(held.steps, String(Math.floor(now / (STEP_SECONDS * 1_000))), STEP_COLUMNS.length + BUCKETS)
  const bumpStep = (step: number[], column: (typeof STEP_COLUMNS)[number], by = 1) =>
    bump(step, STEP_COLUMNS.indexOf(column), by)

  function countKeys({ commands }: Sent): void {
    for (const command of commands) {
      for (const key of keysOf(command)) asked.set(key, (asked.get(key) ?? 0) + 1)
    }
    if (asked.size <= MAX_KEYS) return
    asked = new Map([...asked].sort(([, a], [, b]) => b - a).slice(0, MAX_KEYS / 2))
  }

  /** What was counted, with the keys asked for most. */
  function told(): Tally {
    const keys: Sums = {}
    for (const [key, count] of asked) {
      const shown = shownKey(key)
      if (shown !== undefined) add(keys, shown, [count])
    }
    return { ...held, keys: largest(keys, TOLD_KEYS) }
  }

  return {
    /** Watches one invocation: `onSent` and `onCacheEvent` are told of what it does, `end` counts it. */
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
          const rounded = Number(ms.toFixed(1)) // for the bytes of a report
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
          const count = (column: (typeof ROUTE_COLUMNS)[number], by = 1) => bump(row, ROUTE_COLUMNS.indexOf(column), by)
          count('requests')
          if (status !== undefined && status >= 200) count(classOf(status))
          count('commands', meter.commands)
          count('billed', meter.billed)
          count('roundTrips', meter.roundTrips)
          count('totalMs', rounded)
          bump(row, ROUTE_COLUMNS.length + bucket)

          for (const { cache, layer, outcome } of events) {
            bump(rowOf(held.caches, `${cache} ${layer}`, OUTCOMES.length), OUTCOMES.indexOf(outcome))
            if (layer === 'loader') continue
            if (isHit(outcome)) bumpStep(step, `${layer}Hits`)
            if (isMiss(outcome)) bumpStep(step, `${layer}Misses`)
          }
          held.slow = slowest([...held.slow, ...slow.map((trip) => Object.assign(trip, { route }))])
        },
      }
    },

    /** Counts an attempt to deliver to a webhook. */
    delivered: (isSuccess: boolean, now = Date.now()): void =>
      bumpStep(stepAt(now), isSuccess ? 'deliveriesSucceeded' : 'deliveriesFailed'),

    /** When somebody is going to report (Unix ms); 0: nobody is. */
    reportDueAt: 0,

    /** What has not been reported yet. */
    held: told,

    /** Takes it, to be reported. */
    take(): Tally {
      const taken = told()
      held = emptyTally()
      asked = new Map()
      return taken
    },

    /** Puts back what could not be reported. */
    putBack({ keys, ...taken }: Tally): void {
      merge(held, { ...taken, keys: {} })
      for (const [key, [count = 0]] of Object.entries(keys)) asked.set(key, (asked.get(key) ?? 0) + count)
    },
  }
}
