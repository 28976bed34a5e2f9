import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

// The answer of `GET /v1/stats`, which the dashboard shows. A part that is unavailable is null, and `unavailable` names it.

const Amount = v.pipe(v.number(), v.minValue(0))
/** From 0 to 1; null where nothing was asked. */
const Rate = v.nullable(v.pipe(v.number(), v.minValue(0), v.maxValue(1)))

/** Whether a dependency answers, and how fast. */
export const Dependency = v.object({ isUp: v.boolean(), ms: Amount })

const Server = v.object({
  version: v.nullable(v.string()),
  keys: v.nullable(Count),
  usedMemoryBytes: v.nullable(Count),
  /** Null where the server sets none, or does not say. */
  maxMemoryBytes: v.nullable(Count),
  /** Since the server began. */
  expiredKeys: v.nullable(Count),
  evictedKeys: v.nullable(Count),
})

/** Latencies are those of the answer, in ms: what Redis is asked for after it is not in them. Null without requests. */
const Latency = {
  meanMs: v.nullable(Amount),
  p50Ms: v.nullable(Amount),
  p95Ms: v.nullable(Amount),
  p99Ms: v.nullable(Amount),
}

/** What Redis was asked for, before and after the answers. */
const Cost = {
  /** Sent. */
  commands: Count,
  /** With those that scripts call, as they are billed: an estimate, for scripts are not watched. The cost is of these. */
  billedCommands: Count,
  roundTrips: Count,
  commandsPerRequest: v.nullable(Amount),
  roundTripsPerRequest: v.nullable(Amount),
  costPerMillionUsd: v.nullable(Amount),
}

const Route = v.object({
  /** `GET /v1/users/:id`; `QUEUE likes` and `CRON` for what no request did; `unmatched` for paths that are none. */
  route: v.string(),
  requests: Count,
  /** By the first digit of the status. */
  statuses: v.object({ '2xx': Count, '3xx': Count, '4xx': Count, '5xx': Count }),
  ...Cost,
  ...Latency,
})

const Layer = v.object({
  hits: Count,
  /** Served past their time. */
  staleHits: Count,
  /** Known not to exist. */
  negativeHits: Count,
  misses: Count,
  errors: Count,
  /** Of what was asked of this layer, how much it answered: hits of all three kinds. */
  hitRate: Rate,
})

const CacheFigures = v.object({
  cache: v.string(),
  memory: Layer,
  redis: Layer,
  loader: v.object({ loads: Count, errors: Count }),
  /** Fills of Redis: taken, overtaken meanwhile, and too large. */
  stores: v.object({ stored: Count, lost: Count, refused: Count }),
})

/** Columns of equal length, the oldest first: what uPlot takes. */
const Series = v.object({
  stepSeconds: Count,
  /** Unix seconds at which each step begins. The last is still under way. */
  at: v.array(Count),
  requests: v.array(Count),
  /** Answers of 500 and above. */
  errors: v.array(Count),
  /** Answers of 429. */
  limited: v.array(Count),
  p50Ms: v.array(v.nullable(Amount)),
  p95Ms: v.array(v.nullable(Amount)),
  p99Ms: v.array(v.nullable(Amount)),
  memoryHitRate: v.array(Rate),
  redisHitRate: v.array(Rate),
  commands: v.array(Count),
  roundTrips: v.array(Count),
  commandsPerRequest: v.array(v.nullable(Amount)),
  /** Likes given. */
  likes: v.array(Count),
  likesPerSecond: v.array(Amount),
  deliveriesSucceeded: v.array(Count),
  deliveriesFailed: v.array(Count),
  /** Who was online: noted once a minute, and now. */
  online: v.array(v.nullable(Count)),
})

const SlowCommand = v.object({
  at: Time,
  route: v.string(),
  /** The commands of one round trip, ids in keys replaced: `MGET post:* count:likes:*`. At most 5 are named. */
  commands: v.array(v.string()),
  /** How many they were. */
  count: Count,
  ms: Amount,
  /** False: timed out or failed. */
  isAnswered: v.boolean(),
})

const KeyFigures = {
  /** As it is; of sessions, limits and usernames the pattern alone. */
  key: v.string(),
  /** Null where it was not looked up, or is gone. */
  type: v.nullable(v.string()),
  /** Null: it does not expire, or was not looked up. */
  ttlSeconds: v.nullable(Count),
  /** Null where the server does not tell (the embedded engine). */
  sizeBytes: v.nullable(Count),
  /** Elements of a collection, bytes of a string. Null where it was not asked for. */
  length: v.nullable(Count),
}

const Scan = v.object({
  /** Of the walk over all keys that is under way. */
  scannedKeys: Count,
  startedAt: v.nullable(Time),
  /** When the last whole walk ended. */
  completedAt: v.nullable(Time),
  /** Where the keys are: by pattern, most keys first, of the last whole walk or else of this one. At most 20. */
  patterns: v.array(v.object({ pattern: v.string(), keys: Count, sizeBytes: v.nullable(Count) })),
})

const QueueFigures = v.object({
  queue: v.string(),
  backlog: Count,
  backlogBytes: Count,
  oldestAgeSeconds: v.nullable(Amount),
})

/** Events stored and not yet handed to the queue. */
export const OutboxFigures = v.object({
  pending: Count,
  /** The lag: how long the oldest of them has been due. 0 with none pending. */
  oldestAgeSeconds: Amount,
})

/** Of one endpoint, over the last day. */
export const WebhookFigures = v.object({
  id: v.string(),
  /** Of its url: the rest may hold a secret. */
  host: v.string(),
  isEnabled: v.boolean(),
  /** Attempts. */
  succeeded: Count,
  failed: Count,
  successRate: Rate,
  /** Deliveries waiting for an attempt, and given up. */
  pending: Count,
  dead: Count,
})

export const Stats = v.pipe(
  v.object({
    at: Time,
    /** What could not be asked for now: those parts are null or known in part. */
    unavailable: v.array(v.picklist(['redis', 'd1', 'queues', 'outbox', 'webhooks', 'presence'])),
    dependencies: v.object({
      redis: v.object({ ...Dependency.entries, breaker: v.picklist(['closed', 'open', 'half-open']) }),
      d1: Dependency,
    }),
    server: v.nullable(Server),
    /** Of the last hour, in steps of ten minutes: 60 to 70 minutes. */
    window: v.object({ from: Time, requests: Count, errors: Count, ...Cost, ...Latency }),
    /** Of the same time; most requests first. */
    routes: v.array(Route),
    /** Of the same time. */
    caches: v.array(CacheFigures),
    series: Series,
    /** The slowest of the last hour, slowest first. */
    slowCommands: v.array(SlowCommand),
    slowCommandMs: Count,
    /** What Redis was asked for most in the last hour. */
    topKeys: v.array(v.object({ ...KeyFigures, asked: Count })),
    /** The largest found by the scan. */
    bigKeys: v.array(v.object({ ...KeyFigures, seenAt: Time })),
    scan: v.nullable(Scan),
    presence: v.nullable(v.object({ online: Count })),
    queues: v.nullable(v.array(QueueFigures)),
    outbox: v.nullable(OutboxFigures),
    webhooks: v.nullable(v.array(WebhookFigures)),
  }),
  v.metadata({ ref: 'Stats' }),
)

export type Dependency = v.InferOutput<typeof Dependency>
export const Readiness = v.object({ isReady: v.boolean(), redis: Dependency, d1: Dependency })

/** What each purge deleted. */
export const Maintained = v.object({
  purged: v.array(v.object({ name: v.string(), isDone: v.boolean(), removed: Count, hasMore: v.boolean() })),
})
