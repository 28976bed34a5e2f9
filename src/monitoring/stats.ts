import type { Redis } from '@upstash/redis/cloudflare'
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { InferOutput } from 'valibot'
import { keys } from '../keys.ts'
import {
  add,
  cacheOf,
  emptyTally,
  largest,
  merge,
  quantile,
  type Recorder,
  routeOf,
  slowest,
  STEP_SECONDS,
  stepOf,
  type Sums,
  type Tally,
} from './recorder.ts'
import type { Scan } from './scan.ts'
import type * as schema from './schema.ts'

type Answer = InferOutput<typeof schema.Stats>
type Part = Answer['unavailable'][number]

/** Figures that other modules have. Each may fail, and is then unavailable. */
export interface Sources {
  /** What each queue says of itself. */
  queues: () => Promise<NonNullable<Answer['queues']>>
  /** How many are online. */
  online: () => Promise<number>
  /** Events stored and not yet queued. Absent: nothing is published. */
  outbox?: () => Promise<InferOutput<typeof schema.OutboxFigures>>
  /** How deliveries went, by endpoint. Absent: there are none. */
  webhooks?: () => Promise<InferOutput<typeof schema.WebhookFigures>[]>
}

/** What a report carries: figures of one isolate since its last. */
interface Report extends Tally {
  /** When it was sent (Unix ms). */
  at: number
}

/** Every report so far, in one value. */
interface Folded {
  /** The last report in it. The script below reads it off the beginning: it comes first. */
  upTo: string
  /** Of all time: the sum of all steps, and routes and caches. */
  totals: { all: number[]; routes: Sums; caches: Sums }
  /** By number (Unix seconds / 600): what came in those ten minutes. */
  slices: Record<string, Pick<Tally, 'routes' | 'caches' | 'keys'>>
  steps: Sums
  /** By step: who was online, where it was noted. */
  online: Record<string, number>
  slow: Tally['slow']
}

interface Found {
  folded: Folded
  /** Those that are not in it yet, by id. */
  reports: [string, Report][]
}

const HOUR_MS = 3_600_000
const SLICE_MS = 600_000
const STEP_MS = STEP_SECONDS * 1_000
/** Six whole slices and the one under way. */
const WINDOW_SLICES = 6
const MAX_REPORTS = 1_000
const REPORTS_AT_ONCE = 500
/** When a reader finds so many reports, it folds them, not to read them again. */
const FOLD_AT = 50
const KEEP_MS = 30 * 86_400_000
const SLICE_KEYS = 50
const TOP_KEYS = 20

/**
 * Replaces the folded figures, unless another has folded meanwhile, and drops what is in them. KEYS: folded, reports.
 * ARGV: last report in what was read, folded, last report in it, next id, TTL (ms).
 */
const STORE = `#!lua flags=allow-key-locking
local held = redis.call('GET', KEYS[1])
local upTo = held and string.match(held, '^{"upTo":"([%d-]*)"') or ''
if upTo ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1`

const sliceAt = (now: number) => Math.floor(now / SLICE_MS)

/** Ids of a stream are `<ms>-<number>`. */
function isAfter(id: string, other: string): boolean {
  const [ms = 0, number = 0] = id.split('-').map(Number)
  const [otherMs = -1, otherNumber = 0] = other === '' ? [] : other.split('-').map(Number)
  return ms > otherMs || (ms === otherMs && number > otherNumber)
}

function following(id: string): string {
  const [ms = '0', number = '0'] = id.split('-')
  return `${ms}-${Number(number) + 1}`
}

const emptyFolded = (): Folded => ({
  upTo: '',
  totals: { all: [], routes: {}, caches: {} },
  slices: {},
  steps: {},
  online: {},
  slow: [],
})

/** Adds a report, and forgets what is too old to be shown. */
function fold(folded: Folded, { at, ...tally }: Report): void {
  merge(emptyTallyOver(folded, at), tally)
  folded.slow = slowest([...folded.slow, ...tally.slow])
  for (const columns of Object.values(tally.steps)) addAll(folded.totals.all, columns)
  for (const part of ['routes', 'caches'] as const) {
    for (const [name, columns] of Object.entries(tally[part])) add(folded.totals[part], name, columns)
  }
}

/** The slice of `at`, with all steps, as one tally to add to. */
function emptyTallyOver(folded: Folded, at: number): Tally {
  const slice = (folded.slices[sliceAt(at)] ??= { routes: {}, caches: {}, keys: {} })
  return { ...slice, steps: folded.steps, slow: [] }
}

function addAll(into: number[], columns: number[]): void {
  for (const [i, value] of columns.entries()) into[i] = (into[i] ?? 0) + value
}

function prune(folded: Folded, now: number): void {
  const oldest = sliceAt(now) - WINDOW_SLICES
  for (const slice of Object.keys(folded.slices)) if (Number(slice) < oldest) delete folded.slices[slice]
  for (const slice of Object.values(folded.slices)) slice.keys = largest(slice.keys, SLICE_KEYS)
  const firstStep = (oldest * SLICE_MS) / STEP_MS
  for (const part of [folded.steps, folded.online]) {
    for (const step of Object.keys(part)) if (Number(step) < firstStep) delete part[step]
  }
  folded.slow = folded.slow.filter(({ at }) => at > now - HOUR_MS)
}

const round = (value: number, digits = 3) => Number(value.toFixed(digits))
const ratio = (part: number, whole: number) => (whole === 0 ? null : round(part / whole))

export type Stats = ReturnType<typeof createStats>

/**
 * What the Worker knows of itself, for the dashboard and for Prometheus.
 *
 * Isolates count in memory, at no cost, and report what they counted at most every `flushMs`, after an answer: one
 * `XADD`. Whoever reads, or else the cron, folds the reports into one value; a compare-and-set lets exactly one do so.
 * An isolate that is stopped takes at most `flushMs` of figures with it; a report whose reply was lost may count twice.
 *
 * Redis types: a capped stream of reports, a string of JSON. `read` and `expose` are one round trip of five commands,
 * and one for each shard of presence; they never throw for Redis, but answer what this isolate knows.
 */
export function createStats(dependencies: {
  /** Reads; and writes that may not run twice. */
  redis: Redis
  once: Redis
  db: DrizzleD1Database
  recorder: Recorder
  scan: Scan
  breakerState: () => 'open' | 'closed' | 'half-open'
  sources: Sources
  policy: { flushMs: number; slowMs: number; usdPerCommand: number }
  defer: (work: () => Promise<unknown>) => void
}) {
  const { redis, once, db, recorder, scan, breakerState, sources, policy, defer } = dependencies

  async function send(now: number): Promise<void> {
    const taken = recorder.take()
    const report: Report = { at: now, ...taken }
    const trim = { type: 'MAXLEN', threshold: MAX_REPORTS, comparison: '~' } as const
    await once
      .xadd(keys.statsReports, '*', { r: JSON.stringify(report) }, { trim })
      .catch(() => recorder.putBack(taken)) // it goes with the next
  }

  /** What Redis has: the folded figures as they are, and the reports since. One round trip. */
  async function load(): Promise<Found> {
    const [held, found] = await Promise.all([
      redis.get<Folded>(keys.stats),
      redis.xrange<{ r: Report }>(keys.statsReports, '-', '+', REPORTS_AT_ONCE),
    ])
    const folded = held ?? emptyFolded()
    const reports = Object.entries(found)
      .filter(([id]) => isAfter(id, folded.upTo))
      .map(([id, { r }]): [string, Report] => [id, r])
    return { folded, reports }
  }

  function costOf({ requests, commands, roundTrips }: { requests: number; commands: number; roundTrips: number }) {
    const perRequest = ratio(commands, requests)
    return {
      commands,
      roundTrips,
      commandsPerRequest: perRequest,
      roundTripsPerRequest: ratio(roundTrips, requests),
      costPerMillionUsd: requests === 0 ? null : round((commands / requests) * 1_000_000 * policy.usdPerCommand),
    }
  }

  const latencyOf = ({ requests, totalMs, histogram }: ReturnType<typeof routeOf> | ReturnType<typeof stepOf>) => ({
    meanMs: requests === 0 ? null : round(totalMs / requests, 1),
    p50Ms: quantile(histogram, 0.5),
    p95Ms: quantile(histogram, 0.95),
    p99Ms: quantile(histogram, 0.99),
  })

  function seriesOf(folded: Folded, minutes: number, now: number): Answer['series'] {
    const last = Math.floor(now / STEP_MS)
    const first = last - Math.round((minutes * 60) / STEP_SECONDS) + 1
    const numbers = Array.from({ length: last - first + 1 }, (_, i) => first + i)
    const steps = numbers.map((number) => stepOf(folded.steps[number]))
    const column = (of: 'requests' | 'errors' | 'limited' | 'commands' | 'roundTrips' | 'likes') =>
      steps.map((step) => step[of])
    return {
      stepSeconds: STEP_SECONDS,
      at: numbers.map((number) => number * STEP_SECONDS),
      requests: column('requests'),
      errors: column('errors'),
      limited: column('limited'),
      p50Ms: steps.map((step) => quantile(step.histogram, 0.5)),
      p95Ms: steps.map((step) => quantile(step.histogram, 0.95)),
      p99Ms: steps.map((step) => quantile(step.histogram, 0.99)),
      memoryHitRate: steps.map((step) => ratio(step.memoryHits, step.memoryHits + step.memoryMisses)),
      redisHitRate: steps.map((step) => ratio(step.redisHits, step.redisHits + step.redisMisses)),
      commands: column('commands'),
      roundTrips: column('roundTrips'),
      commandsPerRequest: steps.map((step) => ratio(step.commands, step.requests)),
      likes: column('likes'),
      likesPerSecond: steps.map((step) => round(step.likes / STEP_SECONDS)),
      deliveriesSucceeded: steps.map((step) => step.deliveriesSucceeded),
      deliveriesFailed: steps.map((step) => step.deliveriesFailed),
      online: numbers.map((number) => folded.online[number] ?? null),
    }
  }

  async function timed<T>(asked: Promise<T>): Promise<{ value: T | undefined; isUp: boolean; ms: number }> {
    const startedAt = performance.now()
    const value = await asked.then(
      (answer) => ({ answer }),
      () => undefined,
    )
    return { value: value?.answer, isUp: value !== undefined, ms: round(performance.now() - startedAt, 1) }
  }

  /** Folds what was reported, and answers it. Two round trips for each 500 reports. */
  async function foldReports(now: number, online?: number): Promise<Folded> {
    for (;;) {
      const { folded, reports } = await load()
      const last = reports.at(-1)?.[0]
      if (last === undefined && online === undefined) return folded
      const before = folded.upTo
      for (const [, report] of reports) fold(folded, report)
      if (online !== undefined) folded.online[Math.floor(now / STEP_MS)] = online
      prune(folded, now)
      const next: Folded = { ...folded, upTo: last ?? before } // `upTo` stays the first of its fields
      const isOurs = await once.eval<string[], number>(
        STORE,
        [keys.stats, keys.statsReports],
        [before, JSON.stringify(next), following(next.upTo || '0-0'), String(KEEP_MS)],
      )
      // When another has folded them, it is done as well.
      if (isOurs === 0 || reports.length < REPORTS_AT_ONCE) return folded
    }
  }

  const topKeys = ({ slices }: Folded): Sums => {
    const counted: Sums = {}
    for (const { keys } of Object.values(slices)) {
      for (const [key, count] of Object.entries(keys)) add(counted, key, count)
    }
    return largest(counted, TOP_KEYS)
  }

  /** Asks for all there is, at once: one round trip, one query. */
  async function gather(now: number) {
    const unavailable: Part[] = []
    const ask = async <T>(part: Part, work: (() => Promise<T>) | undefined): Promise<T | null> => {
      if (!work) return null
      try {
        return await work()
      } catch {
        unavailable.push(part)
        return null
      }
    }
    // Asked in the same turn, all that is for Redis travels in one request.
    const [server, d1, online, queues, outbox, webhooks] = await Promise.all([
      timed(
        Promise.all([
          load(),
          redis.exec<string>(['INFO']).catch(() => ''), // a server that has none is up all the same
          redis.dbsize(),
          scan.read(),
        ]),
      ),
      timed(db.run(sql`SELECT 1`)),
      ask('presence', sources.online),
      ask('queues', sources.queues),
      ask('outbox', sources.outbox),
      ask('webhooks', sources.webhooks),
    ])
    if (!server.isUp) unavailable.push('redis')
    if (!d1.isUp) unavailable.push('d1')
    const [found, info, size, scanned] = server.value ?? []
    if (found && found.reports.length > FOLD_AT) defer(() => foldReports(now))
    return { found, info, size, scanned, server, d1, online, queues, outbox, webhooks, unavailable }
  }

  /** What was reported, with what this isolate has not reported if `isAll`. A copy. */
  function known(found: Found | undefined, now: number, isAll: boolean): Folded {
    const folded = found ? structuredClone(found.folded) : emptyFolded()
    for (const [, report] of found?.reports ?? []) fold(folded, report)
    if (isAll) fold(folded, { at: now, ...recorder.held() })
    prune(folded, now)
    return folded
  }

  function answer(gathered: Awaited<ReturnType<typeof gather>>, minutes: number, now: number): Answer {
    const { found, info, size, scanned, server, d1, online, queues, outbox, webhooks, unavailable } = gathered
    const folded = known(found, now, true)
    if (online !== null) folded.online[Math.floor(now / STEP_MS)] = online
    const window = emptyTally()
    for (const slice of Object.values(folded.slices)) merge(window, { ...emptyTally(), ...slice })
    const all: number[] = []
    for (const columns of Object.values(folded.steps)) addAll(all, columns)
    const sum = stepOf(all)
    return {
      at: new Date(now).toISOString(),
      unavailable,
      dependencies: {
        redis: { isUp: server.isUp, ms: server.ms, breaker: breakerState() },
        d1: { isUp: d1.isUp, ms: d1.ms },
      },
      server: info === undefined || size === undefined ? null : { ...serverOf(info), keys: size },
      window: {
        from: new Date((sliceAt(now) - WINDOW_SLICES) * SLICE_MS).toISOString(),
        requests: sum.requests,
        errors: sum.errors,
        ...costOf(sum),
        ...latencyOf(sum),
      },
      routes: routesOf(window.routes).map(({ name, columns }) => ({
        route: name,
        requests: columns.requests,
        statuses: { '2xx': columns['2xx'], '3xx': columns['3xx'], '4xx': columns['4xx'], '5xx': columns['5xx'] },
        ...costOf(columns),
        ...latencyOf(columns),
      })),
      caches: cachesOf(window.caches),
      series: seriesOf(folded, minutes, now),
      slowCommands: folded.slow.map((trip) => ({ ...trip, at: new Date(trip.at).toISOString() })),
      slowCommandMs: policy.slowMs,
      topKeys: Object.entries(topKeys(folded)).map(([key, [asked = 0]]) => ({
        ...scan.figuresOf(scanned, key),
        asked,
      })),
      bigKeys: scan.bigKeys(scanned),
      scan: scanned ? scan.progress(scanned) : null,
      presence: online === null ? null : { online },
      queues,
      outbox,
      webhooks,
    }
  }

  return {
    /** Reports what this isolate has counted, `flushMs` from now; until then others may call it for nothing. */
    reportSoon(): void {
      if (policy.flushMs === 0 || recorder.isReporting) return
      recorder.isReporting = true
      defer(async () => {
        await new Promise((resolve) => setTimeout(resolve, policy.flushMs))
        recorder.isReporting = false
        await send(Date.now())
      })
    },

    /** For the cron, each minute: folds the reports and notes who is online. Answers the keys asked for most. */
    async fold(now = Date.now()): Promise<string[]> {
      if (policy.flushMs === 0) return []
      return Object.keys(topKeys(await foldReports(now, await sources.online().catch(() => undefined))))
    },

    /** All figures of this moment. */
    read: async (minutes: number, now = Date.now()): Promise<Answer> => answer(await gather(now), minutes, now),

    /**
     * The same for Prometheus, and the totals of all time. These only rise, whichever isolate is asked: what this one
     * has not reported is not in them, unless it never reports. Without Redis there are none.
     */
    async expose(now = Date.now()) {
      const gathered = await gather(now)
      const { found } = gathered
      const { totals } = found ? known(found, now, policy.flushMs === 0) : emptyFolded()
      const figures = answer(gathered, 1, now)
      return {
        figures,
        totals: found && {
          all: stepOf(totals.all),
          routes: routesOf(totals.routes),
          caches: cachesOf(totals.caches),
        },
      }
    },
  }
}

const routesOf = (routes: Sums) =>
  Object.entries(routes)
    .map(([name, sums]) => ({ name, columns: routeOf(sums) }))
    .sort((a, b) => b.columns.requests - a.columns.requests || (a.name < b.name ? -1 : 1))

function cachesOf(caches: Sums): Answer['caches'] {
  const names = [...new Set(Object.keys(caches).map((name) => name.split(' ', 1)[0] ?? ''))].sort()
  return names.map((cache) => {
    const outcomes = (layer: string) => cacheOf(caches[`${cache} ${layer}`])
    const layer = (name: string) => {
      const { hit, stale, negative, miss, error } = outcomes(name)
      const answered = hit + stale + negative
      return {
        hits: hit,
        staleHits: stale,
        negativeHits: negative,
        misses: miss,
        errors: error,
        hitRate: ratio(answered, answered + miss + error),
      }
    }
    const { store, lost, refused } = outcomes('redis')
    const { load, error } = outcomes('loader')
    return {
      cache,
      memory: layer('memory'),
      redis: layer('redis'),
      loader: { loads: load, errors: error },
      stores: { stored: store, lost, refused },
    }
  })
}

/** What `INFO` says. A field that is absent, or a memory of 0 bytes, is not known; a limit of 0 is none. */
function serverOf(info: string): Omit<NonNullable<Answer['server']>, 'keys'> {
  const fields = new Map(
    info.split(/\r?\n/).flatMap((line): [string, string][] => {
      const colon = line.indexOf(':')
      return colon === -1 ? [] : [[line.slice(0, colon), line.slice(colon + 1)]]
    }),
  )
  const figure = (name: string) => {
    const text = fields.get(name)
    return text !== undefined && /^\d+$/.test(text) ? Number(text) : null
  }
  return {
    version: fields.get('redis_version') ?? null,
    usedMemoryBytes: figure('used_memory') || null,
    maxMemoryBytes: figure('maxmemory') || null,
    expiredKeys: figure('expired_keys'),
    evictedKeys: figure('evicted_keys'),
  }
}
