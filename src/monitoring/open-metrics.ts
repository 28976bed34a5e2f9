import { BOUNDS_MS } from './recorder.ts'
import type { Stats } from './stats.ts'

const OPEN_METRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8'
const PROMETHEUS = 'text/plain; version=0.0.4; charset=utf-8'
type Format = typeof OPEN_METRICS | typeof PROMETHEUS

/** How much `Accept` wants a media type (RFC 9110 §12.5.1), from 0 to 1. Names must be whole: `*` counts as 0. */
export function qualityOf(type: string, accept: string): number {
  const range = accept.split(',').find((each) => each.trim().toLowerCase().startsWith(type))
  return range === undefined ? 0 : Number(/;\s*q=([\d.]+)/i.exec(range)?.[1] ?? 1)
}

/** The format that `Accept` prefers: OpenMetrics 1.0, or the text format of Prometheus 0.0.4, which every scraper reads. */
export function formatFor(accept = ''): Format {
  const quality = qualityOf('application/openmetrics-text', accept)
  return quality > 0 && quality >= qualityOf('text/plain', accept) ? OPEN_METRICS : PROMETHEUS
}

type Labels = Record<string, string>
type Value = number | null | undefined

/** One family of metrics. */
interface Family<Sample> {
  name: string
  help: string
  samples: Sample[]
}

const escaped = (text: string) => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')

function labelled(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

/** A bucket bound as the standard writes it: a whole number is `1.0`. */
const canonical = (value: number) => (Number.isInteger(value) ? value.toFixed(1) : String(value))

const head = (type: string, name: string, help: string) => [`# TYPE ${name} ${type}`, `# HELP ${name} ${help}`]

/**
 * Writes metrics in seconds and bytes. Omits unknown values and empty families. OpenMetrics names the family of a counter
 * without `_total` and ends in `# EOF`; Prometheus names the family like its samples.
 */
function createExposition(format: Format) {
  const lines: string[] = []
  const isOpen = format === OPEN_METRICS

  function simple(type: 'gauge' | 'counter', family: Family<[Labels, Value]>): void {
    const known = family.samples.filter(([, value]) => value !== null && value !== undefined)
    if (known.length === 0) return
    const suffix = type === 'counter' ? '_total' : ''
    lines.push(...head(type, isOpen ? family.name : family.name + suffix, family.help))
    for (const [labels, value] of known) lines.push(`${family.name}${suffix}${labelled(labels)} ${value}`)
  }

  return {
    gauge: (name: string, help: string, samples: [Labels, Value][]) => simple('gauge', { name, help, samples }),
    counter: (name: string, help: string, samples: [Labels, Value][]) => simple('counter', { name, help, samples }),

    /** Latencies in the buckets of the recorder. */
    histogram: (name: string, help: string, samples: [Labels, { histogram: number[]; totalMs: number }][]): void => {
      if (samples.length === 0) return
      lines.push(...head('histogram', name, help))
      for (const [labels, { histogram, totalMs }] of samples) {
        let count = 0
        for (const [i, bound] of [...BOUNDS_MS, Infinity].entries()) {
          count += histogram[i] ?? 0
          const le = bound === Infinity ? '+Inf' : canonical(bound / 1_000)
          lines.push(`${name}_bucket${labelled({ ...labels, le })} ${count}`)
        }
        lines.push(`${name}_count${labelled(labels)} ${count}`)
        lines.push(`${name}_sum${labelled(labels)} ${(totalMs / 1_000).toFixed(4)}`)
      }
    },

    text: () => [...lines, ...(isOpen ? ['# EOF'] : []), ''].join('\n'),
  }
}

type Exposed = Awaited<ReturnType<Stats['expose']>>

/** Renders the figures as metrics. Without totals (no Redis), only gauges: a lower counter would look like a restart. */
export function render(format: Format, { figures, totals }: Exposed): string {
  const { counter, gauge, histogram, text } = createExposition(format)
  const { dependencies, server, presence, queues, outbox, webhooks, jobs } = figures
  const up = Object.entries(dependencies)
  gauge(
    'threads_dependency_up',
    'Whether a dependency answers.',
    up.map(([dependency, { isUp }]) => [{ dependency }, Number(isUp)]),
  )
  gauge(
    'threads_dependency_seconds',
    'Response time of a dependency.',
    up.map(([dependency, { ms }]) => [{ dependency }, ms / 1_000]),
  )

  if (totals) {
    const { all, routes, caches } = totals
    histogram(
      'threads_request_duration_seconds',
      'Request duration, by route.',
      routes
        .filter(({ columns }) => columns.histogram.some(Boolean))
        .map(({ name, columns }) => [{ route: name }, columns]),
    )
    counter(
      'threads_answers',
      'Answers by route and class of status.',
      routes.flatMap(({ name, columns }) =>
        (['2xx', '3xx', '4xx', '5xx'] as const)
          .filter((status) => columns[status] > 0)
          .map((status): [Labels, Value] => [{ route: name, status }, columns[status]]),
      ),
    )
    const perRoute = (column: 'commands' | 'billed' | 'roundTrips') =>
      routes.map(({ name, columns }): [Labels, Value] => [{ route: name }, columns[column]])
    counter('threads_redis_commands', 'Redis commands sent, by route.', perRoute('commands'))
    counter(
      'threads_redis_billed_commands',
      'Estimated billed Redis commands, including those that scripts call, by route.',
      perRoute('billed'),
    )
    counter('threads_redis_round_trips', 'HTTP requests to Redis, by route.', perRoute('roundTrips'))
    counter(
      'threads_cache_lookups',
      'Cache lookups, by layer and outcome.',
      caches.flatMap(({ cache, memory, redis }) =>
        Object.entries({ memory, redis }).flatMap(([layer, figures]): [Labels, Value][] => [
          [{ cache, layer, outcome: 'hit' }, figures.hits],
          [{ cache, layer, outcome: 'stale' }, figures.staleHits],
          [{ cache, layer, outcome: 'negative' }, figures.negativeHits],
          [{ cache, layer, outcome: 'miss' }, figures.misses],
          [{ cache, layer, outcome: 'error' }, figures.errors],
        ]),
      ),
    )
    counter(
      'threads_cache_loads',
      'Loads from the database, by cache.',
      caches.flatMap(({ cache, loader }): [Labels, Value][] => [
        [{ cache, outcome: 'load' }, loader.loads],
        [{ cache, outcome: 'error' }, loader.errors],
      ]),
    )
    counter(
      'threads_cache_stores',
      'Fills of Redis, by cache and outcome.',
      caches.flatMap(({ cache, stores }): [Labels, Value][] => [
        [{ cache, outcome: 'stored' }, stores.stored],
        [{ cache, outcome: 'lost' }, stores.lost],
        [{ cache, outcome: 'refused' }, stores.refused],
      ]),
    )
    counter('threads_likes', 'Likes given.', [[{}, all.likes]])
    counter('threads_webhook_attempts', 'Attempts to deliver to webhooks, by outcome.', [
      [{ outcome: 'succeeded' }, all.deliveriesSucceeded],
      [{ outcome: 'failed' }, all.deliveriesFailed],
    ])
  }

  gauge('threads_redis_keys', 'Keys in Redis.', [[{}, server?.keys]])
  gauge('threads_redis_memory_bytes', 'Memory that Redis uses.', [[{}, server?.usedMemoryBytes]])
  gauge('threads_redis_memory_max_bytes', 'Memory limit of Redis.', [[{}, server?.maxMemoryBytes]])
  counter('threads_redis_expired_keys', 'Keys that expired, since Redis began.', [[{}, server?.expiredKeys]])
  counter('threads_redis_evicted_keys', 'Keys that were evicted, since Redis began.', [[{}, server?.evictedKeys]])
  gauge('threads_presence_online', 'Users online.', [[{}, presence?.online]])
  gauge('threads_presence_capacity', 'Users who can be online at once.', [[{}, presence?.capacity]])
  const perQueue = (column: 'backlog' | 'backlogBytes' | 'oldestAgeSeconds') =>
    (queues ?? []).map((queue): [Labels, Value] => [{ queue: queue.queue }, queue[column]])
  gauge('threads_queue_messages', 'Messages waiting, by queue.', perQueue('backlog'))
  gauge('threads_queue_bytes', 'Bytes waiting, by queue.', perQueue('backlogBytes'))
  gauge('threads_queue_oldest_seconds', 'Age of the oldest message, by queue.', perQueue('oldestAgeSeconds'))
  gauge('threads_outbox_events', 'Events stored but not dispatched.', [[{}, outbox?.pending]])
  gauge('threads_outbox_lag_seconds', 'Age of the oldest event that is not dispatched.', [
    [{}, outbox?.oldestAgeSeconds],
  ])
  const perJob = (value: (job: (typeof jobs)[number]) => Value) =>
    jobs.map((job): [Labels, Value] => [{ job: job.job }, value(job)])
  gauge(
    'threads_job_seconds',
    'Duration of the last run, by cron job.',
    perJob(({ durationMs }) => durationMs / 1_000),
  )
  gauge(
    'threads_job_remaining',
    'Work that the last run left, at least, by cron job.',
    perJob(({ remaining }) => remaining),
  )
  gauge(
    'threads_job_failed',
    'Whether the last run failed, by cron job.',
    perJob(({ remaining }) => Number(remaining === null)),
  )
  gauge(
    'threads_job_last_run_seconds',
    'When the last run ended (Unix seconds), by cron job.',
    perJob(({ at }) => Date.parse(at) / 1_000),
  )
  const perWebhook = (column: 'successRate' | 'pending' | 'dead') =>
    (webhooks ?? []).map((webhook): [Labels, Value] => [{ webhook: webhook.id }, webhook[column]])
  gauge(
    'threads_webhook_success_ratio',
    'Share of successful attempts in the last day, by endpoint.',
    perWebhook('successRate'),
  )
  gauge('threads_webhook_pending', 'Deliveries waiting for an attempt, by endpoint.', perWebhook('pending'))
  gauge('threads_webhook_dead', 'Dead deliveries, by endpoint.', perWebhook('dead'))
  return text()
}
