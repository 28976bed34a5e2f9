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
  'roundTrips',
  'memoryHits',
  'memoryMisses',
  'redisHits',
  'redisMisses',
  'deliveriesSucceeded',
  'deliveriesFailed',
  'totalMs',
] as const
const ROUTE_COLUMNS = ['requests', '2xx', '3xx', '4xx', '5xx', 'commands', 'roundTrips', 'totalMs'] as const
const OUTCOMES = ['hit', 'stale', 'negative', 'miss', 'error', 'load', 'store', 'lost', 'refused'] as const

/** Upper bounds of the latency histogram (ms, inclusive); one more bucket holds what took longer. */
export const BOUNDS_MS = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1_200, 2_000, 5_000, 10_000]

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

const histogramOf = (ms: number) => {
  const bucket = BOUNDS_MS.findIndex((bound) => ms <= bound)
  return Array.from({ length: BOUNDS_MS.length + 1 }, (_, i) =>
    Number(i === (bucket === -1 ? BOUNDS_MS.length : bucket)),
  )
}

/** How many keys an isolate counts at once; when there are more, those asked for least are forgotten. */
const MAX_KEYS = 400
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
  const stepAt = (now: number) => String(Math.floor(now / (STEP_SECONDS * 1_000)))
  const addStep = (now: number, columns: Partial<Columns<(typeof STEP_COLUMNS)[number]>>, histogram: number[] = []) =>
    add(held.steps, stepAt(now), [...STEP_COLUMNS.map((name) => columns[name] ?? 0), ...histogram])

  function countKeys({ commands }: Sent): void {
    for (const key of commands.flatMap(keysOf)) {
      const shown = shownKey(key)
      if (shown !== undefined) add(held.keys, shown, [1])
    }
    if (Object.keys(held.keys).length > MAX_KEYS) held.keys = largest(held.keys, MAX_KEYS / 2)
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
          const histogram = histogramOf(ms)
          const rounded = Number(ms.toFixed(1)) // for the bytes of a report
          const hits = (layer: CacheEvent['layer'], ...outcomes: CacheEvent['outcome'][]) =>
            events.filter((event) => event.layer === layer && outcomes.includes(event.outcome)).length
          const cost = {
            commands: meter.commands,
            roundTrips: meter.roundTrips,
            memoryHits: hits('memory', 'hit', 'stale', 'negative'),
            memoryMisses: hits('memory', 'miss', 'error'),
            redisHits: hits('redis', 'hit', 'stale', 'negative'),
            redisMisses: hits('redis', 'miss', 'error'),
          }
          const request = {
            requests: 1,
            errors: Number(status !== undefined && status >= 500),
            limited: Number(status === 429),
            likes: Number(/^PUT .*\/like$/.test(route) && status === 200),
            totalMs: rounded,
          }
          if (status === undefined) addStep(now, cost)
          else addStep(now, { ...cost, ...request }, histogram)

          const classes = [2, 3, 4, 5].map((digit) =>
            Number(status !== undefined && Math.floor(status / 100) === digit),
          )
          add(held.routes, route, [1, ...classes, meter.commands, meter.roundTrips, rounded, ...histogram])
          for (const { cache, layer, outcome } of events) {
            add(
              held.caches,
              `${cache} ${layer}`,
              OUTCOMES.map((name) => Number(name === outcome)),
            )
          }
          held.slow = slowest([...held.slow, ...slow.map((trip) => Object.assign(trip, { route }))])
        },
      }
    },

    /** Counts an attempt to deliver to a webhook. */
    delivered(isSuccess: boolean, now = Date.now()): void {
      addStep(now, isSuccess ? { deliveriesSucceeded: 1 } : { deliveriesFailed: 1 })
    },

    /** When somebody is going to report (Unix ms); 0: nobody is. */
    reportDueAt: 0,

    /** What has not been reported yet. */
    held: (): Tally => held,

    /** Takes it, to be reported. */
    take(): Tally {
      const taken = held
      held = emptyTally()
      return { ...taken, keys: largest(taken.keys, TOLD_KEYS) }
    },

    /** Puts back what could not be reported. */
    putBack(taken: Tally): void {
      merge(held, taken)
    },
  }
}
