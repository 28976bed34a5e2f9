import { drizzle, type DrizzleD1Database } from 'drizzle-orm/d1'
import type { Redis } from '@upstash/redis/cloudflare'
import type { Config } from './config.ts'
import { createReplication } from './db/replication.ts'
import { createPurges, type EdgeCache } from './edge-cache.ts'
import { createOutbox, type Outbox } from './events/outbox.ts'
import type { EventMessage } from './events/schema.ts'
import type { Feature, Provider } from './feature.ts'
import { keys } from './keys.ts'
import { createFences, type Fences } from './locks/fences.ts'
import { createRecorder, type Outcome } from './monitoring/recorder.ts'
import { type Cache, type CacheEvent, type CacheKind, createCache } from './redis/cache.ts'
import { createBreaker, createConnection, type Meter, newMeter, type Sent } from './redis/client.ts'
import { type Counters, createCounters } from './redis/counter.ts'
import { createLatency } from './redis/latency.ts'
import { createLocks, type Locks } from './redis/lock.ts'
import { createMemory, type Memory } from './redis/memory.ts'
import { createWriteThrough, type WriteThrough } from './redis/write-through.ts'
import type { Service } from './service.ts'

/** Counts that nobody reads for a day leave Redis. D1 holds them too. */
const COUNT_TTL_MS = 86_400_000

/** How many messages one `sendBatch` accepts. */
const QUEUE_BATCH = 100

const QUEUES = ['LIKES', 'EVENTS', 'DELIVERIES'] as const
export type QueueName = (typeof QUEUES)[number]

/** The size of a queue that waits for a consumer. */
export interface QueueBacklog {
  /** In lower case, as `wrangler.toml` names it. */
  queue: string
  backlog: number
  backlogBytes: number
  /** Null: the queue is empty. */
  oldestAgeSeconds: number | null
}

/** Returns a service. Builds it at its first use, once per invocation or isolate. */
export type Use = <T>(service: Service<T>) => T

/** What every feature can use in one invocation of the Worker. Each part is built at its first use. */
export interface Platform {
  config: Config
  use: Use
  /** The primary of D1: for writes, for what caches keep, for queue consumers and jobs. */
  db: DrizzleD1Database
  /** D1 for answers that no cache of ours keeps: maybe a replica, which lags, but has all that the caller wrote or saw before. */
  replica: DrizzleD1Database
  /** The state of D1 that the caller has now written or seen. Undefined: it reads no replicas, or did neither. */
  bookmark: string | undefined
  redis: {
    /** Short timeout; one retry: only for commands that are safe to run twice. */
    reads: Redis
    /** Long timeout; one retry: only for commands that are safe to run twice. */
    writes: Redis
    /** Short timeout; no retry. */
    once: Redis
  }
  breaker: ReturnType<typeof createBreaker>
  memory: Memory
  /** Builds the cache of one kind. `isPrivate` keeps it out of the memory of the isolate. */
  cache: <T>(kind: CacheKind<T>, options?: { isPrivate: boolean }) => Cache<T>
  counters: {
    /** For reads: falls back to D1 soon. */
    reads: Counters
    /** For writes: waits longer. */
    writes: Counters
  }
  writeThrough: WriteThrough
  locks: Locks
  fences: Fences
  outbox: Outbox
  /**
   * Purges answers that contain these users or posts from Cloudflare's cache, after the answer. A failure is logged: the
   * answers expire soon. Call it when the caches have the change.
   */
  purge: (ids: string[]) => void
  /** Sends messages to a queue, a hundred per request. */
  enqueue: (queue: QueueName, messages: MessageSendRequest[]) => Promise<void>
  /** Where the cron writes backups. Undefined: nowhere. */
  bucket: R2Bucket | undefined
  /** Sends mail. Undefined: the mailer of a back end does. */
  email: SendEmail | undefined
  /** The static assets of the Worker. */
  assets: Fetcher | undefined
  /** How much waits in each queue. */
  queueBacklogs: () => Promise<QueueBacklog[]>
  recorder: ReturnType<typeof createRecorder>
  /** What this invocation has cost in Redis so far. */
  meter: Meter
  /** What happened in the caches so far. */
  cacheEvents: readonly CacheEvent[]
  onSent: (sent: Sent) => void
  /** Logs a failure that a later step repairs: the name of the work, and the error. */
  onFailure: (during: string, error: unknown) => void
  /** Runs work after the answer, all of it at once: its commands share round trips. */
  defer: (work: () => Promise<unknown>) => void
  /** The trace of the request, for whatever it causes (W3C Trace Context). */
  traceparent: string | undefined
  /** Every feature of the Worker, for those that gather contributions. */
  features: readonly Feature[]
}

/** What an isolate keeps between requests. */
export type Isolate = ReturnType<typeof createIsolate>

export function createIsolate(config: Config, features: readonly Feature[]) {
  const providers = new Map<Service<unknown>, Provider>()
  for (const { provides = [] } of features) for (const provider of provides) providers.set(provider.service, provider)
  return {
    config,
    features,
    providers,
    /** Services that live as long as the isolate. */
    services: new Map<Service<unknown>, unknown>(),
    memory: createMemory(config.memoryMaxBytes),
    breaker: createBreaker(config.redis.breakerFailures, config.redis.breakerCoolDownMs),
    latency: createLatency({ minMs: config.redis.readTimeoutMs, maxMs: config.redis.maxReadTimeoutMs }),
    recorder: createRecorder(config.monitoring.slowMs),
    purges: createPurges(),
  }
}

/** Bindings of the Worker that the platform uses. */
export type Bindings = { DB: D1Database; BACKUPS?: R2Bucket; EMAIL?: SendEmail; ASSETS?: Fetcher } & Record<
  QueueName,
  Queue
>

/** An invocation's own part of the platform. */
export interface Invocation {
  meter?: Meter
  cacheEvents?: readonly CacheEvent[]
  onCacheEvent?: (event: CacheEvent) => void
  onSent?: (sent: Sent) => void
  onFailure: (during: string, error: unknown) => void
  defer: (work: () => Promise<unknown>) => void
  traceparent?: string | undefined
  /** For requests. Absent: replicas are not read. */
  replication?: { isWrite: boolean; constraint: () => string } | undefined
  /** Where `purge` goes. Absent: nowhere. */
  edgeCache?: () => EdgeCache | undefined
}

/** What the runtime gives an invocation. */
export interface InvocationContext {
  waitUntil: (work: Promise<unknown>) => void
  cache?: EdgeCache
}

/** Builds the platform of one invocation. */
export const createPlatform = (isolate: Isolate, bindings: Bindings, invocation: Invocation): Platform =>
  new InvocationPlatform(isolate, bindings, invocation)

/** A class, because its getters then cost an invocation nothing until they are used. */
class InvocationPlatform implements Platform {
  readonly #isolate: Isolate
  readonly #bindings: Bindings
  readonly #invocation: Invocation
  readonly #services = new Map<Service<unknown>, unknown>()
  readonly meter: Meter
  readonly #replication: ReturnType<typeof createReplication> | undefined
  #db: Platform['db'] | undefined
  #replica: Platform['db'] | undefined
  #redis: Platform['redis'] | undefined
  #counters: Platform['counters'] | undefined
  #writeThrough: WriteThrough | undefined
  #locks: Locks | undefined
  #fences: Fences | undefined
  #outbox: Outbox | undefined
  /** What the next purge of this invocation removes. */
  #purged: string[] | undefined

  constructor(isolate: Isolate, bindings: Bindings, invocation: Invocation) {
    this.#isolate = isolate
    this.#bindings = bindings
    this.#invocation = invocation
    this.meter = invocation.meter ?? newMeter()
    const { replication } = invocation
    if (replication) this.#replication = createReplication(bindings.DB, replication.constraint)
  }

  // Features take what they need out of the platform, so its functions know it without `this`.

  readonly use = <T>(service: Service<T>): T => {
    const { config, providers, services: kept } = this.#isolate
    const provider = providers.get(service)
    if (!provider) throw new Error(`No feature provides ${service.name}`)
    const built = provider.per === 'isolate' ? kept : this.#services
    let value = built.get(service)
    if (value === undefined) {
      value = provider.per === 'isolate' ? provider.build(config) : provider.build(this)
      built.set(service, value)
    }
    return value as T // `provide` types the builder by the service
  }

  readonly cache = <T>(kind: CacheKind<T>, { isPrivate } = { isPrivate: false }): Cache<T> => {
    const { onCacheEvent: onEvent = () => {}, defer } = this.#invocation
    const memory = isPrivate ? createMemory(0) : this.memory
    const { softMs } = this.#isolate.latency
    return createCache({ redis: () => this.redis.reads, memory, defer, onEvent, softMs }, kind)
  }

  readonly purge = (ids: string[]): void => {
    const edgeCache = this.config.edgeCacheMs > 0 ? this.#invocation.edgeCache?.() : undefined
    if (!edgeCache) return
    if (this.#purged) return void this.#purged.push(...ids)
    const tags = (this.#purged = [...ids])
    this.defer(() => {
      this.#purged = undefined // what comes later is purged by itself
      return this.#isolate
        .purges(edgeCache, [...new Set(tags)])
        .catch((error: unknown) => this.onFailure('purge', error))
    })
  }

  readonly enqueue = async (queue: QueueName, messages: MessageSendRequest[]): Promise<void> => {
    const [first, ...rest] = messages
    if (first && rest.length === 0) return void (await this.#bindings[queue].send(first.body, delayOf(first)))
    for (let sent = 0; sent < messages.length; sent += QUEUE_BATCH) {
      await this.#bindings[queue].sendBatch(messages.slice(sent, sent + QUEUE_BATCH))
    }
  }

  readonly queueBacklogs = (): Promise<QueueBacklog[]> =>
    Promise.all(QUEUES.map(async (name) => toBacklog(name.toLowerCase(), await this.#bindings[name].metrics())))

  get config() {
    return this.#isolate.config
  }
  get features() {
    return this.#isolate.features
  }
  get breaker() {
    return this.#isolate.breaker
  }
  get memory() {
    return this.#isolate.memory
  }
  get recorder() {
    return this.#isolate.recorder
  }
  get cacheEvents() {
    return this.#invocation.cacheEvents ?? []
  }
  get onSent() {
    return this.#invocation.onSent ?? (() => {})
  }
  get onFailure() {
    return this.#invocation.onFailure
  }
  get defer() {
    return this.#invocation.defer
  }
  get traceparent() {
    return this.#invocation.traceparent
  }
  get bucket() {
    return this.#bindings.BACKUPS
  }

  get email() {
    return this.#bindings.EMAIL
  }
  get assets() {
    return this.#bindings.ASSETS
  }

  get db() {
    const isWrite = this.#invocation.replication?.isWrite
    const primary = isWrite ? this.#replication?.primary : undefined
    // Drizzle uses only `prepare` and `batch` of the binding.
    return (this.#db ??= drizzle((primary ?? this.#bindings.DB) as D1Database))
  }
  get replica() {
    if (!this.#replication) return this.db
    return (this.#replica ??= drizzle(this.#replication.replica() as unknown as D1Database)) // the same
  }
  get bookmark() {
    return this.#replication?.bookmark()
  }
  get redis() {
    if (this.#redis) return this.#redis
    const { breaker, onSent } = this
    const { latency } = this.#isolate
    const connect = createConnection(this.config.redis, breaker, this.meter, (sent) => {
      if (sent.isAnswered) latency.answered(sent.ms)
      else latency.failed(sent.ms, breaker.state(Date.now()) !== 'closed')
      onSent(sent)
    })
    const readTimeoutMs = latency.hardMs()
    const writeTimeoutMs = Math.max(readTimeoutMs, this.config.redis.writeTimeoutMs)
    return (this.#redis = {
      reads: connect({ timeoutMs: readTimeoutMs, isSafeTwice: true }),
      writes: connect({ timeoutMs: writeTimeoutMs, isSafeTwice: true }),
      once: connect({ timeoutMs: readTimeoutMs, isSafeTwice: false }),
    })
  }
  get counters() {
    return (this.#counters ??= {
      reads: createCounters(this.redis.reads, keys, COUNT_TTL_MS, this.defer),
      writes: createCounters(this.redis.writes, keys, COUNT_TTL_MS, this.defer),
    })
  }
  get writeThrough() {
    return (this.#writeThrough ??= createWriteThrough(this.defer, this.config.redis.breakerCoolDownMs))
  }
  get locks() {
    return (this.#locks ??= createLocks({ redis: this.redis.writes, keys }))
  }
  get fences() {
    return (this.#fences ??= createFences(this.db))
  }
  get outbox() {
    if (this.#outbox) return this.#outbox
    const enqueue = (messages: EventMessage[]) =>
      this.enqueue(
        'EVENTS',
        messages.map((body) => ({ body })),
      )
    return (this.#outbox = createOutbox(this.db, enqueue, this.defer, this.traceparent))
  }
}

/**
 * Begins one invocation of the Worker and measures it. Work given to `defer` waits for `end`, then runs all at once, so
 * that its commands share round trips; what is deferred later runs at once. `end` records the invocation when all
 * deferred work is done, including what deferred work defers in turn.
 */
export function beginInvocation(
  isolate: Isolate,
  bindings: Bindings,
  context: InvocationContext,
  onFailure: (during: string, error: unknown) => void,
  traceparent?: string,
  replication?: Invocation['replication'],
) {
  const watch = isolate.recorder.watch()
  const running: Promise<unknown>[] = []
  let waiting: (() => Promise<unknown>)[] | undefined = []
  const run = (work: () => Promise<unknown>) => {
    const done = work().catch((error: unknown) => onFailure('deferred', error))
    running.push(done)
    context.waitUntil(done)
  }
  const platform = createPlatform(isolate, bindings, {
    cacheEvents: watch.cacheEvents,
    onCacheEvent: watch.onCacheEvent,
    onSent: watch.onSent,
    onFailure,
    defer: (work) => (waiting ? void waiting.push(work) : run(work)),
    traceparent,
    replication,
    edgeCache: () => context.cache,
  })
  return {
    platform,
    end: (outcome: Omit<Outcome, 'meter'>): void => {
      const deferred = waiting ?? []
      waiting = undefined
      for (const work of deferred) run(work)
      const record = () => {
        watch.end({ ...outcome, meter: platform.meter })
        for (const { afterInvocation } of isolate.features) afterInvocation?.(platform)
      }
      if (running.length === 0) return record()
      const recordLater = async () => {
        for (const work of running) await work
        record()
      }
      context.waitUntil(recordLater())
    },
  }
}

const delayOf = ({ delaySeconds }: MessageSendRequest) => (delaySeconds === undefined ? {} : { delaySeconds })

const toBacklog = (
  queue: string,
  { backlogCount, backlogBytes, oldestMessageTimestamp }: QueueMetrics,
): QueueBacklog => ({
  queue,
  backlog: backlogCount,
  backlogBytes,
  oldestAgeSeconds: oldestMessageTimestamp
    ? Math.max(0, (Date.now() - oldestMessageTimestamp.getTime()) / 1_000)
    : null,
})
