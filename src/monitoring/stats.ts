import type { Redis } from '@upstash/redis/cloudflare'
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { InferOutput } from 'valibot'
import { service } from '../service.ts'
import { keys } from '../keys.ts'
import { isAfter } from '../redis/entry-id.ts'
import { cachesOf, routesOf, seriesOf, serverOf, windowOf } from './figures.ts'
import { emptyFolded, fold, type Folded, recordOnline, prune, type Report, topKeys, windowFrom } from './folded.ts'
import type { History } from './history.ts'
import { type Recorder, STEP_SECONDS, stepOf } from './recorder.ts'
import type { Scan } from './scan.ts'
import type * as schema from './schema.ts'

type Answer = InferOutput<typeof schema.Stats>
type Part = Answer['unavailable'][number]

/** The figures that features contribute. Each source may fail: then its part of the answer is unavailable. */
export interface FigureSources {
  /** How many users are online, and can be. */
  presence: () => Promise<InferOutput<typeof schema.PresenceFigures>>
  /** Events that are stored but not dispatched. */
  outbox: () => Promise<InferOutput<typeof schema.OutboxFigures>>
  /** The outcome of deliveries, by endpoint. */
  webhooks: () => Promise<InferOutput<typeof schema.WebhookFigures>[]>
}

interface Reported {
  folded: Folded
  /** The reports that are not folded yet, by id. */
  reports: [string, Report][]
}

/** Redis keeps this many unfolded reports, about. More arrive only while folding fails. */
const MAX_REPORTS = 5_000
const REPORTS_AT_ONCE = 500
/** An isolate whose report makes the number of unfolded reports a multiple of this folds them. */
const FOLD_EVERY = 200
/** A reader that finds this many reports folds them, so that nobody reads them again. */
const FOLD_AT = 50
/** A report that is this late will not arrive. */
const LATE_MS = 5_000
const KEEP_MS = 30 * 86_400_000
const HISTORY_STEP_SECONDS = 60

/**
 * Replaces the folded figures unless another invocation has folded since the read, and deletes the folded reports.
 * KEYS: folded, reports. ARGV: last report at the read, folded, first id to keep, TTL (ms).
 */
const STORE = `#!lua flags=allow-key-locking
local held = redis.call('GET', KEYS[1])
local upTo = held and string.match(held, '^{"upTo":"([%d-]*)"') or ''
if upTo ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1`

function following(id: string): string {
  const [ms = '0', number = '0'] = id.split('-')
  return `${ms}-${Number(number) + 1}`
}

/** Whether an isolate should report what it counted: no other invocation of it is about to. */
export const isReportDue = (recorder: Recorder, flushMs: number, now = Date.now()) =>
  flushMs > 0 && now >= recorder.reportDueAt + LATE_MS

export type Stats = ReturnType<typeof createStats>
export const statsService = service<Stats>('stats')

/**
 * The figures of the Worker, for the dashboard and for Prometheus.
 *
 * Isolates count in memory, and report at most every `flushMs`, after an answer: `XADD` and `XLEN`. The isolate that sees
 * `FOLD_EVERY` reports, a reader, or else the cron folds the reports into one value; a compare-and-set lets exactly one do
 * so. So the number of isolates has no limit. A stopped isolate loses at most `flushMs` of figures. A report with a lost
 * reply may count twice.
 *
 * Redis types: a capped stream of reports, a string of JSON. `read` and `expose` cost one round trip of five commands,
 * and one command per shard of presence. When Redis fails, they return the figures of this isolate; `read` adds those that
 * D1 has, up to the last minute before (one D1 query more).
 */
export function createStats(dependencies: {
  /** `redis` reads. `once` sends writes that must not run twice. */
  redis: Redis
  once: Redis
  db: DrizzleD1Database
  recorder: Recorder
  scan: Scan
  history: Pick<History, 'read' | 'record'>
  breakerState: () => 'open' | 'closed' | 'half-open'
  queueBacklogs: () => Promise<NonNullable<Answer['queues']>>
  sources: FigureSources
  policy: { flushMs: number; slowMs: number; usdPerCommand: number }
  defer: (work: () => Promise<unknown>) => void
}) {
  const { redis, once, db, recorder, scan, history, breakerState, queueBacklogs, sources, policy, defer } = dependencies

  async function send(now: number): Promise<void> {
    const taken = recorder.take()
    const report: Report = { at: now, ...taken }
    const trim = { type: 'MAXLEN', threshold: MAX_REPORTS, comparison: '~' } as const
    const [length] = await Promise.all([
      once.xlen(keys.statsReports).catch(() => 0),
      once.xadd(keys.statsReports, '*', { r: JSON.stringify(report) }, { trim }).catch(() => recorder.putBack(taken)), // the next report contains them
    ])
    if ((length + 1) % FOLD_EVERY === 0) await foldReports(now).catch(() => {}) // the cron repeats it
  }

  /** Reads the folded figures, and the reports since. One round trip. */
  async function load(): Promise<Reported> {
    // In this order, a report that is folded between the two reads appears in both. Its id shows that.
    const [found, held] = await Promise.all([
      redis.xrange<{ r: Report }>(keys.statsReports, '-', '+', REPORTS_AT_ONCE),
      redis.get<Folded>(keys.stats),
    ])
    const folded = held ?? emptyFolded()
    const reports = Object.entries(found)
      .filter(([id]) => isAfter(id, folded.upTo))
      .map(([id, { r }]): [string, Report] => [id, r])
    return { folded, reports }
  }

  async function timed<T>(asked: Promise<T>): Promise<{ value: T | undefined; isUp: boolean; ms: number }> {
    const startedAt = performance.now()
    const value = await asked.then(
      (answer) => ({ answer }),
      () => undefined,
    )
    return { value: value?.answer, isUp: value !== undefined, ms: Number((performance.now() - startedAt).toFixed(1)) }
  }

  /** Folds the reports, and returns the result. Two round trips per 500 reports. */
  async function foldReports(now: number, online?: number): Promise<Folded> {
    for (;;) {
      const { folded, reports } = await load()
      const last = reports.at(-1)?.[0]
      if (last === undefined && online === undefined) return folded
      const before = folded.upTo
      for (const [, report] of reports) fold(folded, report)
      if (online !== undefined) recordOnline(folded, now, online)
      prune(folded, now)
      const next: Folded = { ...folded, upTo: last ?? before } // `upTo` stays the first field
      const isOurs = await once.eval<string[], number>(
        STORE,
        [keys.stats, keys.statsReports],
        [before, JSON.stringify(next), following(next.upTo || '0-0'), String(KEEP_MS)],
      )
      // 0: another invocation has folded them.
      if (isOurs === 0 || reports.length < REPORTS_AT_ONCE) return folded
    }
  }

  /** Reads all sources at once: one round trip, one query. */
  async function gather(now: number) {
    const unavailable: Part[] = []
    const ask = async <T>(part: Part, work: () => Promise<T>): Promise<T | null> => {
      try {
        return await work()
      } catch {
        unavailable.push(part)
        return null
      }
    }
    // Sent in the same turn, all Redis commands travel in one request.
    const [server, d1, presence, queues, outbox, webhooks] = await Promise.all([
      timed(
        Promise.all([
          load(),
          redis.exec<string>(['INFO']).catch(() => ''), // a server without INFO is up too
          redis.dbsize(),
          scan.read(),
        ]),
      ),
      timed(db.run(sql`SELECT 1`)),
      ask('presence', sources.presence),
      ask('queues', queueBacklogs),
      ask('outbox', sources.outbox),
      ask('webhooks', sources.webhooks),
    ])
    if (!server.isUp) unavailable.push('redis')
    if (!d1.isUp) unavailable.push('d1')
    const [found, info, size, scanned] = server.value ?? []
    if (found && found.reports.length > FOLD_AT) defer(() => foldReports(now))
    return { found, info, size, scanned, server, d1, presence, queues, outbox, webhooks, unavailable }
  }

  /** A copy of the reported figures. `isAll` adds what this isolate has not reported. */
  function known(found: Reported | undefined, now: number, isAll: boolean, earlier = emptyFolded()): Folded {
    const folded = found ? structuredClone(found.folded) : earlier
    for (const [, report] of found?.reports ?? []) fold(folded, report)
    if (isAll) fold(folded, { at: now, ...recorder.held() })
    prune(folded, now)
    return folded
  }

  /** `kept`: what D1 has, if Redis fails. `fromMs`: where the series begins (Unix ms), if later than the window. */
  function answer(
    gathered: Awaited<ReturnType<typeof gather>>,
    {
      minutes,
      fromMs = 0,
      kept = null,
    }: { minutes: number; fromMs?: number; kept?: Awaited<ReturnType<History['read']>> },
    now: number,
  ): Answer {
    const { found, info, size, scanned, server, d1, presence, queues, outbox, webhooks, unavailable } = gathered
    const folded = known(found, now, true, kept?.folded)
    if (presence !== null) recordOnline(folded, now, presence.online)
    return {
      at: new Date(now).toISOString(),
      unavailable,
      dependencies: {
        redis: { isUp: server.isUp, ms: server.ms, breaker: breakerState() },
        d1: { isUp: d1.isUp, ms: d1.ms },
      },
      server: info === undefined || size === undefined ? null : { ...serverOf(info), keys: size },
      ...windowOf(folded, policy.usdPerCommand, minutes, now, found ? now : (kept?.until ?? null)),
      series: seriesOf(
        folded,
        Math.max(windowFrom(minutes, now), fromMs),
        now,
        kept ? HISTORY_STEP_SECONDS : STEP_SECONDS,
      ),
      slowCommands: folded.slow.map((trip) => ({ ...trip, at: new Date(trip.at).toISOString() })),
      slowCommandMs: policy.slowMs,
      jobs: Object.entries(folded.jobs ?? {})
        .map(([job, { at, ms, remaining, failure }]) => ({
          job,
          at: new Date(at).toISOString(),
          durationMs: ms,
          remaining,
          lastFailure: failure ? { at: new Date(failure.at).toISOString(), reason: failure.reason } : null,
        }))
        .sort((a, b) => (a.job < b.job ? -1 : 1)),
      topKeys: Object.entries(topKeys(folded)).map(([key, [asked = 0]]) => scan.figuresOf(scanned, key, asked)),
      bigKeys: scan.bigKeys(scanned),
      scan: scanned ? scan.progress(scanned) : null,
      presence,
      queues,
      outbox,
      webhooks,
    }
  }

  return {
    /**
     * Reports the figures of this isolate, `flushMs` from now. Does nothing while another invocation is about to report.
     * A report that is more than `LATE_MS` late does not count: the platform has ended its invocation.
     */
    reportSoon(now = Date.now()): void {
      if (!isReportDue(recorder, policy.flushMs, now)) return
      recorder.reportDueAt = now + policy.flushMs
      defer(async () => {
        await new Promise((resolve) => setTimeout(resolve, policy.flushMs))
        recorder.reportDueAt = 0
        await send(Date.now())
      })
    },

    /**
     * For the cron, each minute: folds the reports, and records the number of users online, and the minute in the history.
     * Returns the most used keys.
     */
    async fold(now = Date.now()): Promise<string[]> {
      if (policy.flushMs === 0) return []
      const presence = await sources.presence().catch(() => undefined)
      const folded = await foldReports(now, presence?.online)
      await history.record(folded, presence?.online, now)
      return Object.keys(topKeys(folded))
    },

    /** All figures of the last `minutes`. `fromMs` (Unix ms): the caller has the series before that. */
    async read(minutes: number, fromMs?: number, now = Date.now()): Promise<Answer> {
      const gathered = await gather(now)
      const kept = gathered.found ? null : await history.read(minutes, now).catch(() => null)
      return answer(gathered, { minutes, ...(fromMs !== undefined && !kept ? { fromMs } : {}), kept }, now)
    },

    /**
     * The figures for Prometheus, with totals of all time. Totals only rise, on every isolate, because they exclude what
     * this isolate has not reported (unless it never reports). Without Redis there are no totals.
     */
    async expose(now = Date.now()) {
      const gathered = await gather(now)
      const { found } = gathered
      const { totals } = found ? known(found, now, policy.flushMs === 0) : emptyFolded()
      const figures = answer(gathered, { minutes: 1 }, now)
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
