import type { InferOutput } from 'valibot'
import { addAll, firstKnownStep, type Folded, recent, windowFrom } from './folded.ts'
import { cacheOf, emptyTally, merge, quantile, routeOf, STEP_SECONDS, stepOf, type Sums } from './recorder.ts'
import type * as schema from './schema.ts'

// Computes the figures of `/v1/stats` from the sums.

type Answer = InferOutput<typeof schema.Stats>

const round = (value: number, digits = 3) => Number(value.toFixed(digits))
export const ratio = (part: number, whole: number) => (whole === 0 ? null : round(part / whole))

function redisCostOf(
  { requests, commands, billed, roundTrips }: Record<'requests' | 'commands' | 'billed' | 'roundTrips', number>,
  usdPerCommand: number,
) {
  return {
    commands,
    billedCommands: billed,
    roundTrips,
    commandsPerRequest: ratio(commands, requests),
    roundTripsPerRequest: ratio(roundTrips, requests),
    costPerMillionUsd: requests === 0 ? null : round((billed / requests) * 1_000_000 * usdPerCommand),
  }
}

/** Latencies of a histogram and its sums. */
export const latencyOf = ({
  requests,
  totalMs,
  histogram,
}: ReturnType<typeof routeOf> | ReturnType<typeof stepOf>) => ({
  meanMs: requests === 0 ? null : round(totalMs / requests, 1),
  p50Ms: quantile(histogram, 0.5),
  p95Ms: quantile(histogram, 0.95),
  p99Ms: quantile(histogram, 0.99),
})

/** The figures of the last `minutes`: total, by route, by cache. `until` (Unix ms): when they ended. Null: it is unknown. */
export function windowOf(
  folded: Folded,
  usdPerCommand: number,
  minutes: number,
  now: number,
  until: number | null = now,
): Pick<Answer, 'window' | 'routes' | 'caches'> {
  const tally = emptyTally()
  const { slices, steps } = recent(folded, minutes, now)
  for (const slice of slices) merge(tally, { ...emptyTally(), ...slice })
  const all: number[] = []
  for (const columns of steps) addAll(all, columns)
  const sum = stepOf(all)
  const toRoute = ({ name, columns }: ReturnType<typeof routesOf>[number]) => ({
    route: name,
    requests: columns.requests,
    statuses: { '2xx': columns['2xx'], '3xx': columns['3xx'], '4xx': columns['4xx'], '5xx': columns['5xx'] },
    ...redisCostOf(columns, usdPerCommand),
    ...latencyOf(columns),
    ...(name === 'CRON' ? { costPerMillionUsd: null } : {}), // it runs once a minute, whatever the traffic
  })
  return {
    window: {
      from: new Date(Math.max(windowFrom(minutes, now), folded.since ?? 0)).toISOString(),
      until: until === null ? null : new Date(until).toISOString(),
      requests: sum.requests,
      errors: sum.errors,
      ...redisCostOf(sum, usdPerCommand),
      ...latencyOf(sum),
    },
    routes: routesOf(tally.routes).map(toRoute),
    caches: cachesOf(tally.caches),
  }
}

/**
 * The series from `fromMs` on (Unix ms), one value per step. Steps before the first known one are null. `stepSeconds`: a
 * multiple of `STEP_SECONDS`; then a step without data is null too.
 */
export function seriesOf(folded: Folded, fromMs: number, now: number, stepSeconds = STEP_SECONDS): Answer['series'] {
  const parts = stepSeconds / STEP_SECONDS
  const last = Math.floor(now / (stepSeconds * 1_000))
  const first = Math.min(last, Math.ceil(fromMs / (stepSeconds * 1_000)))
  const numbers = Array.from({ length: last - first + 1 }, (_, i) => first + i)
  const known = firstKnownStep(folded)
  const sums = numbers.map((number) => {
    const found = Array.from({ length: parts }, (_, i) => folded.steps[number * parts + i]).filter((each) => each)
    if (found.length === 0) return parts === 1 && number >= known ? [] : null
    const sum: number[] = []
    for (const columns of found) addAll(sum, columns ?? [])
    return sum
  })
  const steps = sums.map((columns) => columns && stepOf(columns))
  const online = numbers.map((number) =>
    Array.from({ length: parts }, (_, i) => folded.online[number * parts + i]).findLast((each) => each !== undefined),
  )
  const per = <T>(of: (step: ReturnType<typeof stepOf>) => T) => steps.map((step) => (step ? of(step) : null))
  const column = (
    of:
      | 'requests'
      | 'errors'
      | 'limited'
      | 'commands'
      | 'roundTrips'
      | 'likes'
      | 'deliveriesSucceeded'
      | 'deliveriesFailed',
  ) => per((step) => step[of])
  return {
    stepSeconds,
    at: numbers.map((number) => number * stepSeconds),
    requests: column('requests'),
    errors: column('errors'),
    limited: column('limited'),
    p50Ms: per((step) => quantile(step.histogram, 0.5)),
    p95Ms: per((step) => quantile(step.histogram, 0.95)),
    p99Ms: per((step) => quantile(step.histogram, 0.99)),
    memoryHitRate: per((step) => ratio(step.memoryHits, step.memoryHits + step.memoryMisses)),
    redisHitRate: per((step) => ratio(step.redisHits, step.redisHits + step.redisMisses)),
    commands: column('commands'),
    roundTrips: column('roundTrips'),
    commandsPerRequest: per((step) => ratio(step.commands, step.requests)),
    likes: column('likes'),
    likesPerSecond: per((step) => round(step.likes / stepSeconds)),
    deliveriesSucceeded: column('deliveriesSucceeded'),
    deliveriesFailed: column('deliveriesFailed'),
    online: online.map((count) => count ?? null),
  }
}

/** Routes by their columns, most requests first. */
export const routesOf = (routes: Sums) =>
  Object.entries(routes)
    .map(([name, sums]) => ({ name, columns: routeOf(sums) }))
    .sort((a, b) => b.columns.requests - a.columns.requests || (a.name < b.name ? -1 : 1))

/** Caches by layer and outcome. */
export function cachesOf(caches: Sums): Answer['caches'] {
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

/** The figures of the server from `INFO`. Null: the field is absent, or 0 for memory sizes. */
export function serverOf(info: string): Omit<NonNullable<Answer['server']>, 'keys'> {
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
