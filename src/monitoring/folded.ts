import { add, largest, merge, mergeJobs, slowest, STEP_SECONDS, type Sums, type Tally } from './recorder.ts'

/** The figures of one isolate since its last report. */
export interface Report extends Tally {
  /** When it was sent (Unix ms). */
  at: number
}

/** All reports so far, in one value. */
export interface Folded {
  /** The id of the last report in it. It must be the first field, because a script reads it from the start. */
  upTo: string
  /** Sums of all time: all steps, routes and caches. */
  totals: { all: number[]; routes: Sums; caches: Sums }
  /** Sums of five minutes each, by number (Unix seconds / 300). */
  slices: Record<string, Pick<Tally, 'routes' | 'caches' | 'keys'>>
  steps: Sums
  /** The number of users online, by step. */
  online: Record<string, number>
  slow: Tally['slow']
  /** The last run of each cron job. Absent in a value of an older version. */
  jobs?: Tally['jobs']
  /** When the first report arrived (Unix ms). 0: unknown, before an older version. Absent: there was none. */
  since?: number
}

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const SLICE_MS = 300_000
const WINDOW_MINUTES = 60
const SLICE_KEYS = 30
const TOP_KEYS = 20

/** The number of the slice of a time. */
export const sliceAt = (now: number) => Math.floor(now / SLICE_MS)

const stepAt = (now: number) => Math.floor(now / (STEP_SECONDS * 1_000))

/** The first slice of the last `minutes`: they begin with a whole slice. */
const firstSlice = (minutes: number, now: number) => sliceAt(now - minutes * 60_000)

/** Where figures of the last `minutes` begin (Unix ms): up to five minutes earlier. */
export const windowFrom = (minutes: number, now: number) => firstSlice(minutes, now) * SLICE_MS

/** Slices and steps of the last `minutes`. */
export function recent({ slices, steps }: Folded, minutes: number, now: number) {
  const from = <T>(parts: Record<string, T>, first: number): T[] =>
    Object.entries(parts).flatMap(([number, part]) => (Number(number) >= first ? [part] : []))
  return { slices: from(slices, firstSlice(minutes, now)), steps: from(steps, stepAt(windowFrom(minutes, now))) }
}

/** The first step that is known. Infinity: none is. */
export const firstKnownStep = ({ since, steps }: Folded): number =>
  Math.min(since === undefined ? Infinity : stepAt(since), ...Object.keys(steps).map(Number))

/** The value before the first report. */
export const emptyFolded = (): Folded => ({
  upTo: '',
  totals: { all: [], routes: {}, caches: {} },
  slices: {},
  steps: {},
  online: {},
  slow: [],
  jobs: {},
})

/** Adds a report. */
export function fold(folded: Folded, { at, ...tally }: Report): void {
  folded.since ??= folded.totals.all.length === 0 ? at : 0
  merge(emptyTallyOver(folded, at), tally)
  folded.slow = slowest([...folded.slow, ...tally.slow])
  mergeJobs((folded.jobs ??= {}), tally.jobs)
  for (const columns of Object.values(tally.steps)) addAll(folded.totals.all, columns)
  for (const part of ['routes', 'caches'] as const) {
    for (const [name, columns] of Object.entries(tally[part])) add(folded.totals[part], name, columns)
  }
}

/** A tally that shares the slice of `at` and all steps: merging into it changes `folded`. */
function emptyTallyOver(folded: Folded, at: number): Tally {
  const slice = (folded.slices[sliceAt(at)] ??= { routes: {}, caches: {}, keys: {} })
  return { ...slice, steps: folded.steps, slow: [], jobs: {} }
}

/** Adds columns to sums. */
export function addAll(into: number[], columns: number[]): void {
  for (const [i, value] of columns.entries()) into[i] = (into[i] ?? 0) + value
}

/** Removes data older than the window. */
export function prune(folded: Folded, now: number): void {
  const oldest = firstSlice(WINDOW_MINUTES, now)
  for (const slice of Object.keys(folded.slices)) if (Number(slice) < oldest) delete folded.slices[slice]
  for (const slice of Object.values(folded.slices)) slice.keys = largest(slice.keys, SLICE_KEYS)
  const firstStep = stepAt(windowFrom(WINDOW_MINUTES, now))
  for (const part of [folded.steps, folded.online]) {
    for (const step of Object.keys(part)) if (Number(step) < firstStep) delete part[step]
  }
  folded.slow = folded.slow.filter(({ at }) => at > now - HOUR_MS)
  // A job that no longer exists.
  for (const [job, { at }] of Object.entries(folded.jobs ?? {})) if (at < now - DAY_MS) delete folded.jobs?.[job]
}

/** Records how many users are online now. */
export function recordOnline(folded: Folded, now: number, online: number): void {
  folded.online[stepAt(now)] = online
}

/** The most used keys. */
export const topKeys = ({ slices }: Folded): Sums => {
  const counted: Sums = {}
  for (const { keys } of Object.values(slices)) {
    for (const [key, count] of Object.entries(keys)) add(counted, key, count)
  }
  return largest(counted, TOP_KEYS)
}
