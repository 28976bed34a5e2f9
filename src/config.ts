import * as v from 'valibot'

/** A variable or binding that is absent or not usable. `variables` names each, with what is expected of it. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly variables: Record<string, string>

  constructor(variables: Record<string, string>) {
    super(`Not configured: ${Object.keys(variables).join(', ')}`)
    this.variables = variables
  }
}

/** A number from a variable (those of wrangler are strings), or its default. An empty one is a mistake, not 0. */
const number = (fallback: number, min: number, max: number) =>
  v.optional(
    v.pipe(
      v.union([v.string(), v.number()]),
      v.transform((given) => (String(given).trim() === '' ? NaN : Number(given))),
      v.number('a number'),
      v.minValue(min, `at least ${min}`),
      v.maxValue(max, `at most ${max}`),
    ),
    fallback,
  )

/** The same without fractions: Redis and the rate limiter know none. */
const whole = (fallback: number, min: number, max: number) =>
  v.pipe(number(fallback, min, max), v.integer('a whole number'))

/** Something that the platform binds to the Worker, as `wrangler.toml` declares it. */
const bound = (what: string) =>
  v.custom<object>((given) => typeof given === 'object' && given !== null, `${what}, bound to the Worker`)

/** What is separated by commas. */
const listed = (text: string) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter(Boolean)

const toMs = (seconds: number) => Math.round(seconds * 1_000)

const LogRequests = v.optional(v.picklist(['all', 'failed', 'none'], 'all, failed or none'), 'all')

/** A wait before a retry is at most so much longer than the schedule says. */
const MOST_JITTER = 1.2

/** Seconds separated by commas: the wait before each retry. A queue message waits for 12 h at most, jitter included. */
const Schedule = v.optional(
  v.pipe(
    v.string(),
    v.regex(/^\d{1,5}(\.\d{1,3})?(,\d{1,5}(\.\d{1,3})?){0,19}$/, '1 to 20 numbers of seconds, separated by commas'),
    v.transform((text) => text.split(',').map((seconds) => Number(seconds) * 1_000)),
    v.check((waits) => waits.every((ms) => ms <= 36_000_000), 'at most 36000 s each'),
  ),
  '5,300,1800,7200,18000,36000,36000',
)

/** Which requests are logged. Known however little else is configured: what is not configured is told in the log too. */
export const readLogRequests = (env: object) =>
  v.parse(v.object({ LOG_REQUESTS: v.fallback(LogRequests, 'all') }), env).LOG_REQUESTS

/** Every variable and binding the Worker reads. What has no default must be set. */
const Variables = v.object({
  DB: bound('a D1 database'),
  LIKES: bound('a queue'),
  EVENTS: bound('a queue'),
  DELIVERIES: bound('a queue'),
  UPSTASH_REDIS_REST_URL: v.pipe(v.string('the URL of the Redis REST API'), v.url('a URL')),
  UPSTASH_REDIS_REST_TOKEN: v.pipe(v.string('the token of the Redis REST API'), v.minLength(1, 'not empty')),
  /** What back ends send as bearer token to the service routes. */
  SERVICE_TOKEN: v.pipe(v.string('a secret'), v.minLength(16, 'at least 16 characters')),
  /** Authenticates session tokens. Without it the service token does, and changing that signs everyone out. */
  SESSION_KEY: v.optional(v.pipe(v.string(), v.minLength(16, 'at least 16 characters'))),
  /** Origins of browsers that may call the API, separated by commas. */
  CORS_ORIGINS: v.optional(v.string(), ''),

  // Redis
  REDIS_READ_TIMEOUT_MS: whole(250, 1, 10_000),
  REDIS_SOFT_TIMEOUT_MS: whole(60, 1, 10_000),
  REDIS_WRITE_TIMEOUT_MS: whole(1_000, 1, 10_000),
  REDIS_BREAKER_FAILURES: whole(5, 1, 1_000),
  REDIS_BREAKER_SECONDS: number(5, 0.05, 600),

  // Caches
  MEMORY_MAX_BYTES: whole(8_000_000, 10_000, 64_000_000),
  MEMORY_SECONDS: number(5, 0, 60),
  USER_FRESH_SECONDS: number(300, 1, 86_400),
  POST_FRESH_SECONDS: number(300, 1, 86_400),
  HOT_FRESH_SECONDS: number(60, 1, 3_600),
  RECOMMENDED_FRESH_SECONDS: number(300, 1, 86_400),
  NEGATIVE_SECONDS: number(30, 1, 3_600),
  /** Stale-while-revalidate, beyond fresh. */
  STALE_SECONDS: number(60, 0, 86_400),
  /** Stale-if-error, beyond fresh. */
  STALE_IF_ERROR_SECONDS: number(3_600, 0, 604_800),
  LEASE_SECONDS: number(5, 0.05, 60),
  /** How long a reader waits for another's load. */
  LEASE_WAIT_MS: whole(1_000, 0, 10_000),
  MAX_VALUE_BYTES: whole(65_536, 1_000, 1_000_000),

  // Sessions
  SESSION_IDLE_SECONDS: number(3_600, 60, 2_592_000),
  SESSION_ABSOLUTE_SECONDS: number(30 * 86_400, 60, 31_536_000),
  /** A session seen again within this long is not written again. */
  SESSION_TOUCH_SECONDS: number(300, 1, 3_600),

  // Presence
  PRESENCE_SECONDS: number(300, 5, 86_400),
  /** How many users one key holds: above that, presence is spread over several. */
  PRESENCE_SHARD_USERS: number(50_000, 10_000, 1_000_000),
  /** How many users may be online at once: as many shards as that takes. */
  PRESENCE_MAX_USERS: number(50_000, 1, 10_000_000),
  PRESENCE_MAX_DEVICES: number(20, 1, 1_000),

  // Locks
  LOCK_SECONDS: number(10, 0.1, 600),

  // The hot feed
  HOT_DAYS: whole(7, 1, 31),

  // Notifications
  NOTIFICATION_DAYS: whole(30, 1, 365),
  /** How many of a user's newest Redis holds; the unread ones are counted among them. */
  INBOX_SIZE: whole(100, 1, 200),
  /** How long an inbox may be wrong where Redis was not told of a change. */
  INBOX_FRESH_SECONDS: number(300, 1, 86_400),

  // Rate limits: requests in a window
  LIMIT_READS: whole(1_200, 1, 1_000_000),
  LIMIT_READS_SECONDS: whole(60, 1, 86_400),
  /** Each kind of write has a window of its own. */
  LIMIT_WRITES: whole(100, 1, 1_000_000),
  LIMIT_WRITES_SECONDS: whole(3_600, 1, 86_400),
  /** Signs of life come more often: every minute from ten devices. */
  LIMIT_PRESENCE: whole(600, 1, 1_000_000),
  /** Requests for what remains of limits, per minute. */
  LIMIT_STATUS: whole(60, 1, 1_000_000),
  LIMIT_SIGN_IN: whole(10, 1, 1_000_000),
  LIMIT_SIGN_IN_ADDRESS: whole(100, 1, 1_000_000),
  LIMIT_SIGN_IN_SECONDS: whole(900, 1, 86_400),

  // Events
  /** The CloudEvents `source` of ours: a URI reference. */
  EVENT_SOURCE: v.optional(v.pipe(v.string(), v.minLength(1, 'not empty'), v.maxLength(200)), '/threads-edge'),
  /** How long dispatched events are kept, for replays. */
  EVENT_DAYS: number(7, 1, 90),

  // Webhooks
  /** `true`: endpoints may be http on loopback. For development only. */
  ALLOW_PRIVATE_WEBHOOKS: v.optional(v.picklist(['true', 'false'], 'true or false'), 'false'),
  /** Hosts of ours, separated by commas: no endpoint may be on one. That of the request is always among them. */
  PUBLIC_HOSTS: v.optional(v.string(), ''),
  /** How many endpoints there may be: every batch of events reads all of them. */
  WEBHOOK_MAX_ENDPOINTS: whole(1_000, 1, 10_000),
  WEBHOOK_TIMEOUT_SECONDS: number(15, 0.1, 15), // the platform ends work 30 s after a batch
  WEBHOOK_RETRY_SECONDS: Schedule,
  /** After so many failures in a row an endpoint rests for as long as says the next. */
  WEBHOOK_CIRCUIT_FAILURES: whole(5, 1, 1_000),
  WEBHOOK_CIRCUIT_SECONDS: number(30, 0.1, 3_600),
  /** An endpoint that took nothing for so long is disabled. */
  WEBHOOK_FAILING_DAYS: number(5, 0, 90),
  /** How often one that was disabled for that is asked whether it is back. */
  WEBHOOK_PROBE_SECONDS: number(3_600, 1, 604_800),
  /** How long deliveries and their attempts are kept. */
  DELIVERY_DAYS: number(7, 1, 90),

  // Streams
  /** How many events are kept for who resumes. */
  STREAM_EVENTS: whole(5_000, 100, 100_000),
  STREAM_HEARTBEAT_SECONDS: number(15, 0.05, 60),
  /** How often an open stream checks its session: a round trip each time. */
  STREAM_CHECK_SECONDS: number(60, 0.05, 3_600),
  /** A stream ends after at most this long, and is continued by another. */
  STREAM_LIFE_SECONDS: number(900, 0.5, 86_400),
  /** When clients come back, at the earliest; at most twice that. */
  STREAM_RETRY_SECONDS: number(2, 0.1, 60),
  /** What waits for a slow reader; when it takes nothing for so long then, it is dropped. */
  STREAM_QUEUED_BYTES: whole(262_144, 1_000, 8_000_000),
  STREAM_STALL_SECONDS: number(10, 0.05, 60),

  // Requests
  MAX_BODY_BYTES: whole(65_536, 1_000, 10_000_000),

  // Monitoring
  /** How often an isolate reports its figures, one command each time. 0: never, then each knows itself alone. */
  STATS_FLUSH_SECONDS: number(10, 0, 25), // the platform ends work 30 s after the answer
  /** A round trip to Redis that takes longer is listed. */
  SLOW_COMMAND_MS: whole(100, 1, 10_000),
  /** What 100 000 commands cost, in dollars. */
  COMMANDS_USD: number(0.2, 0, 1_000),
  /** How many commands a minute the walk over all keys may send. 0: no walk. */
  SCAN_COMMANDS: whole(100, 0, 10_000),
  /** One line of JSON for every request, for those answered 500 and above, or for none. */
  LOG_REQUESTS: LogRequests,
})

/** What is not in `env` is told as what was expected, not as a key that is missing. */
const ABSENT = Object.fromEntries(Object.keys(Variables.entries).map((name) => [name, undefined]))

export type Config = ReturnType<typeof readConfig>

/** What a limit allows, and how strictly: see `http/admit`. */
export interface LimitPolicy {
  limit: number
  windowSeconds: number
  /** Strict: checked before the work, one round trip. Else counted after the answer. */
  isStrict: boolean
  /** When Redis cannot be asked: let it pass, or answer 503. */
  onOutage: 'open' | 'closed'
}

/** Every limit, by the name that clients see. A route belongs to one. */
export type LimitName =
  | 'reads'
  | 'status'
  | 'sign-up'
  | 'sign-in'
  | 'sign-in-address'
  | 'sessions'
  | 'profile'
  | 'follows'
  | 'posts'
  | 'comments'
  | 'likes'
  | 'views'
  | 'presence'
  | 'notifications'

/**
 * Every tunable: the variables of `env`, or their defaults. Durations become ms where code compares them to the clock.
 * Throws `ConfigError` naming each variable or binding that is missing or out of range.
 */
export function readConfig(env: object) {
  const parsed = v.safeParse(Variables, { ...ABSENT, ...env }, { abortPipeEarly: true })
  if (!parsed.success) {
    throw new ConfigError(
      Object.fromEntries(parsed.issues.map((issue) => [String(issue.path?.[0].key), `expected ${issue.message}`])),
    )
  }
  const set = parsed.output
  const retriedForDays = (set.WEBHOOK_RETRY_SECONDS.reduce((sum, ms) => sum + ms, 0) * MOST_JITTER) / 86_400_000
  if (set.EVENT_DAYS < retriedForDays) {
    const most = Math.ceil(retriedForDays * 10) / 10
    throw new ConfigError({ EVENT_DAYS: `expected at least the ${most} days that WEBHOOK_RETRY_SECONDS takes` })
  }
  const cache = {
    staleMs: toMs(set.STALE_SECONDS),
    staleIfErrorMs: toMs(set.STALE_IF_ERROR_SECONDS),
    negativeMs: toMs(set.NEGATIVE_SECONDS),
    memoryMs: toMs(set.MEMORY_SECONDS),
    softTimeoutMs: set.REDIS_SOFT_TIMEOUT_MS,
    leaseMs: toMs(set.LEASE_SECONDS),
    waitMs: set.LEASE_WAIT_MS,
    maxValueBytes: set.MAX_VALUE_BYTES,
  }
  const write: LimitPolicy = {
    limit: set.LIMIT_WRITES,
    windowSeconds: set.LIMIT_WRITES_SECONDS,
    isStrict: true,
    onOutage: 'open',
  }
  const signIn: LimitPolicy = {
    limit: set.LIMIT_SIGN_IN,
    windowSeconds: set.LIMIT_SIGN_IN_SECONDS,
    isStrict: true,
    onOutage: 'closed', // without a count anyone could try passwords without end
  }
  const limits: Record<LimitName, LimitPolicy> = {
    reads: { limit: set.LIMIT_READS, windowSeconds: set.LIMIT_READS_SECONDS, isStrict: false, onOutage: 'open' },
    status: { limit: set.LIMIT_STATUS, windowSeconds: 60, isStrict: false, onOutage: 'open' },
    'sign-up': write,
    'sign-in': signIn,
    'sign-in-address': { ...signIn, limit: set.LIMIT_SIGN_IN_ADDRESS },
    sessions: write,
    profile: write,
    follows: write,
    posts: write,
    comments: write,
    likes: write,
    views: { ...write, isStrict: false },
    presence: { ...write, limit: set.LIMIT_PRESENCE, isStrict: false },
    notifications: write,
  }
  return {
    redis: {
      url: set.UPSTASH_REDIS_REST_URL,
      token: set.UPSTASH_REDIS_REST_TOKEN,
      readTimeoutMs: set.REDIS_READ_TIMEOUT_MS,
      writeTimeoutMs: set.REDIS_WRITE_TIMEOUT_MS,
      breakerFailures: set.REDIS_BREAKER_FAILURES,
      breakerCoolDownMs: toMs(set.REDIS_BREAKER_SECONDS),
    },
    serviceToken: set.SERVICE_TOKEN,
    sessions: {
      key: set.SESSION_KEY ?? set.SERVICE_TOKEN,
      idleMs: toMs(set.SESSION_IDLE_SECONDS),
      absoluteMs: toMs(set.SESSION_ABSOLUTE_SECONDS),
      touchMs: toMs(set.SESSION_TOUCH_SECONDS),
    },
    presence: {
      windowMs: set.PRESENCE_SECONDS * 1_000,
      shardUsers: set.PRESENCE_SHARD_USERS,
      shards: Math.ceil(set.PRESENCE_MAX_USERS / set.PRESENCE_SHARD_USERS),
      maxDevices: set.PRESENCE_MAX_DEVICES,
    },
    lockTtlMs: set.LOCK_SECONDS * 1_000,
    corsOrigins: listed(set.CORS_ORIGINS),
    maxBodyBytes: set.MAX_BODY_BYTES,
    monitoring: {
      flushMs: toMs(set.STATS_FLUSH_SECONDS),
      slowMs: set.SLOW_COMMAND_MS,
      usdPerCommand: set.COMMANDS_USD / 100_000,
      scanCommands: set.SCAN_COMMANDS,
    },
    logRequests: set.LOG_REQUESTS,
    memoryMaxBytes: set.MEMORY_MAX_BYTES,
    caches: {
      users: { ...cache, freshMs: toMs(set.USER_FRESH_SECONDS) },
      posts: { ...cache, freshMs: toMs(set.POST_FRESH_SECONDS) },
      hot: { ...cache, freshMs: toMs(set.HOT_FRESH_SECONDS) },
      inboxes: { ...cache, freshMs: toMs(set.INBOX_FRESH_SECONDS) },
      // Nothing invalidates it: memory may keep it as long as it is fresh.
      recommended: {
        ...cache,
        freshMs: toMs(set.RECOMMENDED_FRESH_SECONDS),
        memoryMs: toMs(set.RECOMMENDED_FRESH_SECONDS),
      },
    },
    events: { source: set.EVENT_SOURCE, keptMs: set.EVENT_DAYS * 86_400_000 },
    webhooks: {
      isPrivateAllowed: set.ALLOW_PRIVATE_WEBHOOKS === 'true',
      ownHosts: listed(set.PUBLIC_HOSTS.toLowerCase()),
      maxEndpoints: set.WEBHOOK_MAX_ENDPOINTS,
      timeoutMs: toMs(set.WEBHOOK_TIMEOUT_SECONDS),
      retryMs: set.WEBHOOK_RETRY_SECONDS,
      circuitFailures: set.WEBHOOK_CIRCUIT_FAILURES,
      circuitMs: toMs(set.WEBHOOK_CIRCUIT_SECONDS),
      failingMs: set.WEBHOOK_FAILING_DAYS * 86_400_000,
      probeMs: toMs(set.WEBHOOK_PROBE_SECONDS),
      keptMs: set.DELIVERY_DAYS * 86_400_000,
    },
    streams: {
      maxEntries: set.STREAM_EVENTS,
      heartbeatMs: toMs(set.STREAM_HEARTBEAT_SECONDS),
      checkMs: toMs(set.STREAM_CHECK_SECONDS),
      lifeMs: toMs(set.STREAM_LIFE_SECONDS),
      retryMs: toMs(set.STREAM_RETRY_SECONDS),
      maxQueuedBytes: set.STREAM_QUEUED_BYTES,
      stallMs: toMs(set.STREAM_STALL_SECONDS),
    },
    hotWindowMs: set.HOT_DAYS * 86_400_000,
    notifications: { inboxSize: set.INBOX_SIZE, keptMs: set.NOTIFICATION_DAYS * 86_400_000 },
    limits,
  }
}
