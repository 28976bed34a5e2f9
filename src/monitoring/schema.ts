import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

// The answer of `GET /v1/stats`, which the dashboard shows. A part that is unavailable is null, and `unavailable` names it.

const Amount = v.pipe(v.number(), v.minValue(0))
/** From 0 to 1. Null: no data. */
const Rate = v.nullable(v.pipe(v.number(), v.minValue(0), v.maxValue(1)))

/** Whether a dependency answers, and how fast. */
export const Dependency = v.object({ isUp: v.boolean(), ms: Amount })

const Server = v.object({
  version: v.nullable(v.string()),
  keys: v.nullable(Count),
  usedMemoryBytes: v.nullable(Count),
  /** Null: no limit, or unknown. */
  maxMemoryBytes: v.nullable(Count),
  /** Since the server started. */
  expiredKeys: v.nullable(Count),
  evictedKeys: v.nullable(Count),
})

/** Latencies of answers, in ms, without deferred work. Null: no requests. */
const Latency = {
  meanMs: v.nullable(Amount),
  p50Ms: v.nullable(Amount),
  p95Ms: v.nullable(Amount),
  p99Ms: v.nullable(Amount),
}

/** The use of Redis, before and after the answers. */
const Cost = {
  /** Commands sent. */
  commands: Count,
  /** Billed commands, including those that scripts call: an estimate. The cost derives from it. */
  billedCommands: Count,
  roundTrips: Count,
  commandsPerRequest: v.nullable(Amount),
  roundTripsPerRequest: v.nullable(Amount),
  costPerMillionUsd: v.nullable(Amount),
}

const Route = v.object({
  /** `GET /v1/users/:id`; `QUEUE likes` and `CRON` for other invocations; `unmatched` for unknown paths. */
  route: v.string(),
  requests: Count,
  /** Answers by the first digit of the status. */
  statuses: v.object({ '2xx': Count, '3xx': Count, '4xx': Count, '5xx': Count }),
  ...Cost,
  ...Latency,
})

const Layer = v.object({
  hits: Count,
  /** Stale values served. */
  staleHits: Count,
  /** Keys known not to exist. */
  negativeHits: Count,
  misses: Count,
  errors: Count,
  /** The share of lookups that this layer answered, with hits of all three kinds. */
  hitRate: Rate,
})

const CacheFigures = v.object({
  cache: v.string(),
  memory: Layer,
  redis: Layer,
  loader: v.object({ loads: Count, errors: Count }),
  /** Fills of Redis: stored, lost to a newer write, and refused as too large. */
  stores: v.object({ stored: Count, lost: Count, refused: Count }),
})

/** Null: unknown. */
const Known = v.nullable(Count)
const Amounts = v.array(v.nullable(Amount))

/** Columns of equal length, oldest step first: the format of uPlot. */
const Series = v.object({
  stepSeconds: Count,
  /** The start of each step (Unix seconds). The last step is not complete. */
  at: v.array(Count),
  requests: v.array(Known),
  /** Answers with a status of 500 or above. */
  errors: v.array(Known),
  /** Answers with status 429. */
  limited: v.array(Known),
  p50Ms: v.array(v.nullable(Amount)),
  p95Ms: v.array(v.nullable(Amount)),
  p99Ms: v.array(v.nullable(Amount)),
  memoryHitRate: v.array(Rate),
  redisHitRate: v.array(Rate),
  commands: v.array(Known),
  roundTrips: v.array(Known),
  commandsPerRequest: v.array(v.nullable(Amount)),
  /** Likes. */
  likes: v.array(Known),
  likesPerSecond: v.array(v.nullable(Amount)),
  deliveriesSucceeded: v.array(Known),
  deliveriesFailed: v.array(Known),
  /** The number of users online: once a minute, and now. */
  online: v.array(v.nullable(Count)),
})

const SlowCommand = v.object({
  at: Time,
  route: v.string(),
  /** The commands of one round trip with key patterns: `MGET post:* count:likes:*`. At most 5. */
  commands: v.array(v.string()),
  /** The number of commands in the round trip. */
  count: Count,
  ms: Amount,
  /** False: the round trip failed or timed out. */
  isAnswered: v.boolean(),
})

/** The last run of a cron job. */
const JobFigures = v.object({
  job: v.string(),
  /** When it ended. */
  at: Time,
  durationMs: Amount,
  /** At least so much work is left, in the unit of the job. Null: the job failed. */
  remaining: v.nullable(Count),
  /** The last failure of any run, by the names and codes of its errors. Null: none is known. */
  lastFailure: v.nullable(v.object({ at: Time, reason: v.string() })),
})

const KeyFigures = {
  /** The key. For sessions, limits and usernames only the pattern. */
  key: v.string(),
  /** Null: not measured, or the key no longer exists. */
  type: v.nullable(v.string()),
  /** Null: the key does not expire, or was not measured. */
  ttlSeconds: v.nullable(Count),
  /** Null: unknown, for example on the embedded engine. */
  sizeBytes: v.nullable(Count),
  /** Elements of a collection, or bytes of a string. Null: not measured. */
  length: v.nullable(Count),
}

const Scan = v.object({
  /** The number of keys in the current walk so far. */
  scannedKeys: Count,
  startedAt: v.nullable(Time),
  /** When the last complete walk ended. */
  completedAt: v.nullable(Time),
  /** Keys by pattern, most keys first, of the last complete walk or else of the current one. At most 20. */
  patterns: v.array(v.object({ pattern: v.string(), keys: Count, sizeBytes: v.nullable(Count) })),
})

const QueueFigures = v.object({
  queue: v.string(),
  backlog: Count,
  backlogBytes: Count,
  oldestAgeSeconds: v.nullable(Amount),
})

/** How many users are online, and how many can be. Beyond the capacity, the user who was silent for longest goes offline. */
export const PresenceFigures = v.object({ online: Count, capacity: Count })

/** Events that are stored but not dispatched. */
export const OutboxFigures = v.object({
  /** Counted up to 1,000. */
  pending: Count,
  /** The age of the oldest one. 0: none is pending. */
  oldestAgeSeconds: Amount,
})

/** The figures of one endpoint over the last day. */
export const WebhookFigures = v.object({
  id: v.string(),
  /** The host of its URL. The rest may contain a secret. */
  host: v.string(),
  isEnabled: v.boolean(),
  /** Attempts. */
  succeeded: Count,
  failed: Count,
  successRate: Rate,
  /** Pending and dead deliveries. */
  pending: Count,
  dead: Count,
})

export const Stats = v.pipe(
  v.object({
    at: Time,
    /** The parts that are unavailable now: they are null or incomplete. */
    unavailable: v.array(v.picklist(['redis', 'd1', 'queues', 'outbox', 'webhooks', 'presence'])),
    dependencies: v.object({
      redis: v.object({ ...Dependency.entries, breaker: v.picklist(['closed', 'open', 'half-open']) }),
      d1: Dependency,
    }),
    server: v.nullable(Server),
    /**
     * The last `minutes`, and up to five more, because sums are kept by five minutes. Without Redis they end at `until`: null
     * if that is unknown.
     */
    window: v.object({ from: Time, until: v.nullable(Time), requests: Count, errors: Count, ...Cost, ...Latency }),
    /** Over the same time. Most requests first. */
    routes: v.array(Route),
    /** Over the same time. */
    caches: v.array(CacheFigures),
    series: Series,
    /** The slowest round trips of the last hour, slowest first. */
    slowCommands: v.array(SlowCommand),
    slowCommandMs: Count,
    /** The cron jobs by name. */
    jobs: v.array(JobFigures),
    /** The most used keys of the last hour. */
    topKeys: v.array(v.object({ ...KeyFigures, asked: Count })),
    /** The largest keys that the scan found. */
    bigKeys: v.array(v.object({ ...KeyFigures, seenAt: Time })),
    scan: v.nullable(Scan),
    presence: v.nullable(PresenceFigures),
    queues: v.nullable(v.array(QueueFigures)),
    outbox: v.nullable(OutboxFigures),
    webhooks: v.nullable(v.array(WebhookFigures)),
  }),
  v.metadata({ ref: 'Stats', description: 'All figures. A part that is unavailable is null.' }),
)

/** The history of one route, by the minute: columns of equal length, oldest first. Null: unknown, or no requests. */
export const RouteStats = v.pipe(
  v.object({
    route: v.pipe(v.string(), v.description('Its name.')),
    stepSeconds: v.pipe(Count, v.description('The length of a step.')),
    at: v.pipe(v.array(Count), v.description('The start of each step (Unix seconds).')),
    requests: v.pipe(v.array(Known), v.description('How many there were. Null: unknown.')),
    refused: v.pipe(v.array(Known), v.description('Answers with a status of 400 to 499.')),
    errors: v.pipe(v.array(Known), v.description('Answers with a status of 500 or above.')),
    p50Ms: v.pipe(Amounts, v.description('The median latency.')),
    p95Ms: v.pipe(Amounts, v.description('The latency that 95 % of the answers did not exceed.')),
    p99Ms: v.pipe(Amounts, v.description('The latency that 99 % of the answers did not exceed.')),
    commandsPerRequest: v.pipe(Amounts, v.description('Redis commands.')),
    roundTripsPerRequest: v.pipe(Amounts, v.description('Round trips to Redis.')),
  }),
  v.metadata({ ref: 'RouteStats', description: 'The history of one route, by the minute.' }),
)

export type Dependency = v.InferOutput<typeof Dependency>
export const Readiness = v.pipe(
  v.object({ isReady: v.boolean(), redis: Dependency, d1: Dependency }),
  v.description('Whether D1 and Redis are up, and how fast they answer.'),
)

/** What each purge deleted. */
export const Maintained = v.pipe(
  v.object({
    purged: v.array(v.object({ name: v.string(), isDone: v.boolean(), removed: Count, hasMore: v.boolean() })),
  }),
  v.description('What each purge deleted.'),
)
