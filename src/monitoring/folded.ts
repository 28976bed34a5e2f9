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
  /** Sums of ten minutes each, by number (Unix seconds / 600). */
  slices: Record<string, Pick<Tally, 'routes' | 'caches' | 'keys'>>
  steps: Sums
  /** The number of users online, by step. */
  online: Record<string, number>
  slow: Tally['slow']
  /** The last run of each cron job. Absent in a value of an older version. */
  jobs?: Tally['jobs']
}

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const SLICE_MS = 600_000
/** Six whole slices and the current one. */
const WINDOW_SLICES = 6
const SLICE_KEYS = 50
const TOP_KEYS = 20

const sliceAt = (now: number) => Math.floor(now / SLICE_MS)

const stepAt = (now: number) => Math.floor(now / (STEP_SECONDS * 1_000))

/** The start of the time over which routes and caches are summed (Unix ms). */
export const windowFrom = (now: number) => (sliceAt(now) - WINDOW_SLICES) * SLICE_MS

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
  const oldest = sliceAt(now) - WINDOW_SLICES
  for (const slice of Object.keys(folded.slices)) if (Number(slice) < oldest) delete folded.slices[slice]
  for (const slice of Object.values(folded.slices)) slice.keys = largest(slice.keys, SLICE_KEYS)
  const firstStep = stepAt(windowFrom(now))
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
