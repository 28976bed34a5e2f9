import { asc, gte, lt, max, min, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { InferOutput } from 'valibot'
import { statMinutes } from '../db/schema.ts'
import { service } from '../service.ts'
import { latencyOf, ratio } from './figures.ts'
import { emptyFolded, type Folded, sliceAt } from './folded.ts'
import { routeOf, STEP_SECONDS, type Sums } from './recorder.ts'
import type * as schema from './schema.ts'

const MINUTE_MS = 60_000
const KEPT_MINUTES = 120
const STEPS_PER_MINUTE = 60 / STEP_SECONDS

const minuteOf = (now: number) => Math.floor(now / MINUTE_MS)

/** What happened between two rows. Sums that fell began again from 0. */
function difference(later: number[], earlier: number[] = []): number[] {
  const isReset = earlier.some((value, i) => value > (later[i] ?? 0))
  return isReset ? later : later.map((value, i) => Number((value - (earlier[i] ?? 0)).toFixed(1)))
}

const differences = (later: Sums, earlier: Sums): Sums =>
  Object.fromEntries(Object.entries(later).map(([name, sums]) => [name, difference(sums, earlier[name])]))

export type History = ReturnType<typeof createHistory>
export const historyService = service<History>('history of figures')

/**
 * Two hours of figures in D1, one row a minute: what is left of them while Redis is out, and the history of each route, which
 * would make the value in Redis too large. A row has sums of all time, so a missed or repeated minute loses nothing.
 */
export function createHistory(db: DrizzleD1Database) {
  return {
    /**
     * Records the sums as of this minute, and deletes rows that are too old. One D1 batch. Safe to repeat: the later sums
     * win. If D1 fails, the next minute has what this one lacks.
     */
    async record({ since = 0, totals }: Folded, online: number | undefined, now: number): Promise<void> {
      const minute = minuteOf(now)
      const row = { since, online: online ?? null, totals: totals.all, routes: totals.routes, caches: totals.caches }
      await db.batch([
        db
          .insert(statMinutes)
          .values({ minute, ...row })
          .onConflictDoUpdate({ target: statMinutes.minute, set: row }),
        db.delete(statMinutes).where(lt(statMinutes.minute, minute - KEPT_MINUTES)),
      ])
    },

    /**
     * The figures of the last `minutes`, in steps of a minute, and until when they are known (Unix ms). Null: none. One D1
     * query, of at most an hour of rows.
     */
    async read(minutes: number, now: number): Promise<{ folded: Folded; until: number } | null> {
      const from = minuteOf(now) - minutes - 1 // what a row adds to the one before is shown
      const { minute, since, online, totals, routes, caches } = statMinutes
      const isEnd = sql`${minute} IN (
        SELECT ${min(minute)} FROM ${statMinutes} WHERE ${gte(minute, from)} UNION ALL SELECT ${max(minute)} FROM ${statMinutes})`
      const ends = (column: typeof routes | typeof caches) => sql<string | null>`CASE WHEN ${isEnd} THEN ${column} END`
      const rows = await db
        .select({ minute, since, online, totals, routes: ends(routes), caches: ends(caches) })
        .from(statMinutes)
        .where(gte(minute, from))
        .orderBy(asc(minute))
      const last = rows.at(-1)
      if (!last) return null

      const sums = (text: string | null | undefined) => JSON.parse(text ?? '{}') as Sums // `record` wrote it
      /** Whether counting began in the minute that the row ends: then all of its sums are of that minute. */
      const isFirst = (row: (typeof rows)[number]) => row.since >= (row.minute - 1) * MINUTE_MS
      const [first] = rows
      const base = first && first.since === last.since && !isFirst(first) ? first : undefined
      const until = last.minute * MINUTE_MS
      const folded = emptyFolded()
      folded.since = last.since
      for (const [i, row] of rows.entries()) {
        const before = rows[i - 1]
        const step = row.minute * STEPS_PER_MINUTE - 1 // the end of the minute that the row ends
        if (row.online !== null) folded.online[step] = row.online
        const isComparable = before?.since === row.since
        if (!isComparable && !isFirst(row)) continue // unknown: how much of it was earlier
        folded.steps[step] = difference(row.totals, isComparable ? before.totals : undefined)
      }
      folded.slices = {
        [sliceAt(until - 1)]: {
          routes: differences(sums(last.routes), sums(base?.routes)),
          caches: differences(sums(last.caches), sums(base?.caches)),
          keys: {},
        },
      }
      return { folded, until }
    },

    /** The series of one route, by the minute. Null: unknown. One D1 query. */
    async readRoute(route: string, minutes: number, now: number): Promise<InferOutput<typeof schema.RouteStats>> {
      const last = minuteOf(now)
      const first = last - minutes
      const { minute, since } = statMinutes
      const rows = await db
        .select({ minute, since, sums: sql<string | null>`${statMinutes.routes} -> ${route}` })
        .from(statMinutes)
        .where(gte(minute, first))
        .orderBy(asc(minute))
      const byMinute = new Map(rows.map((row) => [row.minute, row]))
      const numbers = Array.from({ length: minutes }, (_, i) => first + i)
      const parsed = (text: string | null) => JSON.parse(text ?? '[]') as number[] // `record` wrote it
      const steps = numbers.map((number) => {
        const [before, after] = [byMinute.get(number), byMinute.get(number + 1)]
        if (!after) return null
        if (before?.since === after.since) return routeOf(difference(parsed(after.sums), parsed(before.sums)))
        return after.since < number * MINUTE_MS ? null : routeOf(parsed(after.sums))
      })
      const column = <T>(of: (step: ReturnType<typeof routeOf>) => T) => steps.map((step) => step && of(step))
      const latencies = steps.map((step) => step && latencyOf(step))
      return {
        route,
        stepSeconds: 60,
        at: numbers.map((number) => number * 60),
        requests: column(({ requests }) => requests),
        refused: column((step) => step['4xx']),
        errors: column((step) => step['5xx']),
        p50Ms: latencies.map((latency) => latency?.p50Ms ?? null),
        p95Ms: latencies.map((latency) => latency?.p95Ms ?? null),
        p99Ms: latencies.map((latency) => latency?.p99Ms ?? null),
        commandsPerRequest: column(({ commands, requests }) => ratio(commands, requests)),
        roundTripsPerRequest: column(({ roundTrips, requests }) => ratio(roundTrips, requests)),
      }
    },
  }
}
