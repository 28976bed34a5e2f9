import type { InferOutput } from 'valibot'
import { addAll, type Folded, windowFrom } from './folded.ts'
import { cacheOf, emptyTally, merge, quantile, routeOf, STEP_SECONDS, stepOf, type Sums } from './recorder.ts'
import type * as schema from './schema.ts'

// Computes the figures of `/v1/stats` from the sums.

type Answer = InferOutput<typeof schema.Stats>

const round = (value: number, digits = 3) => Number(value.toFixed(digits))
const ratio = (part: number, whole: number) => (whole === 0 ? null : round(part / whole))

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

const latencyOf = ({ requests, totalMs, histogram }: ReturnType<typeof routeOf> | ReturnType<typeof stepOf>) => ({
  meanMs: requests === 0 ? null : round(totalMs / requests, 1),
  p50Ms: quantile(histogram, 0.5),
  p95Ms: quantile(histogram, 0.95),
  p99Ms: quantile(histogram, 0.99),
})

/** The figures of the last hour: total, by route, by cache. */
export function windowOf(
  folded: Folded,
  usdPerCommand: number,
  now: number,
): Pick<Answer, 'window' | 'routes' | 'caches'> {
  const tally = emptyTally()
  for (const slice of Object.values(folded.slices)) merge(tally, { ...emptyTally(), ...slice })
  const all: number[] = []
  for (const columns of Object.values(folded.steps)) addAll(all, columns)
  const sum = stepOf(all)
  const toRoute = ({ name, columns }: ReturnType<typeof routesOf>[number]) => ({
    route: name,
    requests: columns.requests,
    statuses: { '2xx': columns['2xx'], '3xx': columns['3xx'], '4xx': columns['4xx'], '5xx': columns['5xx'] },
    ...redisCostOf(columns, usdPerCommand),
    ...latencyOf(columns),
  })
  return {
    window: {
      from: new Date(windowFrom(now)).toISOString(),
      requests: sum.requests,
      errors: sum.errors,
      ...redisCostOf(sum, usdPerCommand),
      ...latencyOf(sum),
    },
    routes: routesOf(tally.routes).map(toRoute),
    caches: cachesOf(tally.caches),
  }
}

/** The series of the last `minutes`, one value per step. */
export function seriesOf(folded: Folded, minutes: number, now: number): Answer['series'] {
  const last = Math.floor(now / (STEP_SECONDS * 1_000))
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
