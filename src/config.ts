import * as v from 'valibot'

/** A variable or binding that is missing or invalid. `variables` states for each by name what was expected. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly variables: Record<string, string>

  constructor(variables: Record<string, string>) {
    super(`Not configured: ${Object.keys(variables).join(', ')}`)
    this.variables = variables
  }
}

const SECOND_MS = 1_000
const DAY_MS = 86_400_000

/** What docs/configuration.md shows about a variable: the metadata of its schema. */
export type Declaration = {
  /** Unit of the default and the bounds, or how the text is read. */
  unit: string
  /** Null: there is none, and the variable or binding is required. */
  default: string | number | null
  bounds: string
  meaning: string
}

const declare = <Input>(unit: string, fallback: string | number | null, bounds: string, meaning: string) =>
  v.metadata<Input, Declaration>({ unit, default: fallback, bounds, meaning })

/** A number. wrangler passes variables as strings; an empty string is an error, not 0. */
const numeric = (min: number, max: number) =>
  v.pipe(
    v.union([v.string(), v.number()]),
    v.transform((given) => (String(given).trim() === '' ? NaN : Number(given))),
    v.number('a number'),
    v.minValue(min, `at least ${min}`),
    v.maxValue(max, `at most ${max}`),
  )

const decimal = (unit: string, fallback: number, min: number, max: number, meaning: string) =>
  v.pipe(v.optional(numeric(min, max), fallback), declare(unit, fallback, `${min} to ${max}`, meaning))

/** Redis and the rate limiter accept no fractions. */
const whole = (unit: string, fallback: number, min: number, max: number, meaning: string) =>
  v.pipe(
    v.optional(v.pipe(numeric(min, max), v.integer('a whole number')), fallback),
    declare(unit, fallback, `${min} to ${max}, whole`, meaning),
  )

const duration = (unit: 'seconds' | 'days', fallback: number, min: number, max: number, meaning: string) =>
  v.pipe(
    decimal(unit, fallback, min, max, meaning),
    v.transform((given) => Math.round(given * (unit === 'days' ? DAY_MS : SECOND_MS))),
  )

/** A duration in seconds, with fractions. The result is in whole ms. */
const seconds = (fallback: number, min: number, max: number, meaning: string) =>
  duration('seconds', fallback, min, max, meaning)

/** A duration in days, with fractions. The result is in whole ms. */
const days = (fallback: number, min: number, max: number, meaning: string) =>
  duration('days', fallback, min, max, meaning)

/** A value from a list. */
const choice = <const Options extends readonly [string, ...string[]]>(
  options: Options,
  fallback: Options[number],
  meaning: string,
) => {
  const listed = `${options.slice(0, -1).join(', ')} or ${options.at(-1)}`
  return v.pipe(v.optional(v.picklist(options, listed), fallback), declare('text', fallback, listed, meaning))
}

const splitList = (text: string) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter(Boolean)

/** Values separated by commas. */
const list = (meaning: string) =>
  v.pipe(v.optional(v.string(), ''), v.transform(splitList), declare('separated by commas', '', 'any', meaning))

/** An object that the platform binds to the Worker, as `wrangler.toml` declares it. */
const binding = (kind: string, meaning: string) =>
  v.pipe(
    v.custom<object>((given) => typeof given === 'object' && given !== null, `${kind}, bound to the Worker`),
    declare('binding', null, kind, meaning),
  )

/** Jitter makes a retry delay at most this much longer than scheduled. */
const MAX_JITTER = 1.2

/** Delays in seconds, separated by commas. Queues delay a message by at most 12 h: 10 h and the jitter. */
const schedule = (fallback: string, meaning: string) =>
  v.pipe(
    v.optional(
      v.pipe(
        v.string(),
        v.regex(/^\d{1,5}(\.\d{1,3})?(,\d{1,5}(\.\d{1,3})?){0,19}$/, '1 to 20 numbers of seconds, separated by commas'),
        v.transform((text) => text.split(',').map((delay) => Number(delay) * SECOND_MS)),
        v.check((delaysMs) => delaysMs.every((ms) => ms <= 36_000_000), 'at most 36000 s each'),
      ),
      fallback,
    ),
    declare('seconds, separated by commas', fallback, '1 to 20 numbers, each at most 36000', meaning),
  )

const bindings = {
  DB: binding('a D1 database', 'The source of truth.'),
  LIKES: binding('a queue', 'Like states to write to D1.'),
  EVENTS: binding('a queue', 'Ids of stored events to dispatch to listeners, webhooks and streams.'),
  DELIVERIES: binding('a queue', 'Webhook deliveries to send.'),
  EMAIL: v.pipe(
    v.optional(v.custom<object>((given) => typeof given === 'object' && given !== null, 'an Email binding')),
    declare(
      'binding',
      'none',
      'an Email binding',
      'Sends mail from MAIL_FROM. Without it, `mail_requested` events ask a back end to send it.',
    ),
  ),
  ASSETS: v.pipe(
    v.optional(v.custom<object>((given) => typeof given === 'object' && given !== null, 'the static assets')),
    declare(
      'binding',
      'none',
      'the static assets',
      'Has the list of common passwords. Without it, no password is too common.',
    ),
  ),
  BACKUPS: v.pipe(
    v.optional(v.custom<object>((given) => typeof given === 'object' && given !== null, 'an R2 bucket')),
    declare('binding', 'none', 'an R2 bucket', 'Daily backups. Without it the cron writes none.'),
  ),
}

const access = {
  UPSTASH_REDIS_REST_URL: v.pipe(
    v.string('the URL of the Redis REST API'),
    v.url('a URL'),
    v.regex(/^https?:/i, 'an http or https URL'),
    declare('URL', null, 'http or https', 'Address of the Redis REST API.'),
  ),
  UPSTASH_REDIS_REST_TOKEN: v.pipe(
    v.string('the token of the Redis REST API'),
    v.minLength(1, 'not empty'),
    declare('secret', null, 'not empty', 'Token of the Redis REST API.'),
  ),
  SERVICE_TOKEN: v.pipe(
    v.string('a secret'),
    v.minLength(16, 'at least 16 characters'),
    declare(
      'secret',
      null,
      'at least 16 characters',
      'Root token: may use every service route, and creates the tokens of back ends.',
    ),
  ),
  SESSION_KEY: v.pipe(
    v.optional(v.pipe(v.string(), v.minLength(16, 'at least 16 characters'))),
    declare(
      'secret',
      'SERVICE_TOKEN',
      'at least 16 characters',
      'Key that authenticates session tokens. Without it, a new SERVICE_TOKEN signs everyone out.',
    ),
  ),
  SERVICE_TOKEN_SECONDS: seconds(
    30,
    0,
    300,
    'How long an isolate trusts a service token that it has read. A revoked one stops within this time.',
  ),
  CORS_ORIGINS: list('Origins whose pages may call the API from a browser.'),
  MAX_BODY_BYTES: whole('bytes', 65_536, 1_000, 10_000_000, 'Largest request body.'),
}

const database = {
  READ_REPLICAS: choice(
    ['true', 'false'],
    'false',
    '`true` lets lists read from replicas of D1. Enable read replication of the database first.',
  ),
}

const redis = {
  REDIS_READ_TIMEOUT_MS: whole('ms', 250, 1, 10_000, 'Timeout of a Redis read. Longer where replies take long.'),
  REDIS_MAX_READ_TIMEOUT_MS: whole('ms', 1_000, 1, 10_000, 'Longest timeout of a Redis read, where Redis is far away.'),
  REDIS_SOFT_TIMEOUT_MS: whole(
    'ms',
    60,
    1,
    10_000,
    'Time a reader waits for Redis when memory has a stale value. Longer where replies take long.',
  ),
  REDIS_WRITE_TIMEOUT_MS: whole('ms', 1_000, 1, 10_000, 'Timeout of a Redis write.'),
  REDIS_BREAKER_FAILURES: whole(
    'failures',
    5,
    1,
    1_000,
    'Failures in a row that open the circuit breaker of an isolate.',
  ),
  REDIS_BREAKER_SECONDS: seconds(5, 0.05, 600, 'Time an open circuit breaker waits before it probes Redis.'),
}

const caches = {
  MEMORY_MAX_BYTES: whole('bytes', 8_000_000, 10_000, 64_000_000, 'Size of the memory tier of an isolate.'),
  MEMORY_SECONDS: seconds(5, 0, 60, 'Time an isolate serves a value from memory without asking Redis.'),
  EDGE_CACHE: choice(
    ['true', 'false'],
    'true',
    "`true` lets Cloudflare's cache and browsers keep answers to anonymous callers, at most MEMORY_SECONDS long.",
  ),
  USER_FRESH_SECONDS: seconds(300, 1, 86_400, 'Time a cached profile is fresh.'),
  POST_FRESH_SECONDS: seconds(300, 1, 86_400, 'Time a cached post is fresh.'),
  HOT_FRESH_SECONDS: seconds(60, 1, 3_600, 'Time a cached hot feed is fresh.'),
  RECOMMENDED_FRESH_SECONDS: seconds(300, 1, 86_400, "Time a user's recommendations are fresh, in memory too."),
  NEGATIVE_SECONDS: seconds(30, 1, 3_600, 'Time a cache remembers that an id does not exist.'),
  STALE_SECONDS: seconds(
    60,
    0,
    86_400,
    'Time after fresh in which a stale value is served while one reader refreshes it.',
  ),
  STALE_IF_ERROR_SECONDS: seconds(
    3_600,
    0,
    604_800,
    'Time after fresh in which a stale value is served when loading fails.',
  ),
  LEASE_SECONDS: seconds(5, 0.05, 60, 'Time one reader holds the lease to load a missing value.'),
  LEASE_WAIT_MS: whole('ms', 1_000, 0, 10_000, 'Time the other readers wait for that load.'),
  MAX_VALUE_BYTES: whole('bytes', 65_536, 1_000, 1_000_000, 'Largest value that a cache stores.'),
}

const sessions = {
  SESSION_IDLE_SECONDS: seconds(3_600, 60, 2_592_000, 'Time without a request after which a session expires.'),
  SESSION_ABSOLUTE_SECONDS: seconds(2_592_000, 60, 31_536_000, 'Time after sign-in at which a session expires.'),
  SESSION_TOUCH_SECONDS: seconds(300, 1, 3_600, 'Interval at which an active session records its last use.'),
  SESSION_RECHECK_SECONDS: seconds(
    5,
    0,
    20,
    'Interval at which an isolate asks D1 for ended sessions that Redis missed. A sign-out that Redis misses waits as long.',
  ),
}

const mail = {
  MAIL_FROM: v.pipe(
    v.optional(v.pipe(v.string(), v.email('an email address')), 'noreply@localhost.invalid'),
    declare(
      'email address',
      'noreply@localhost.invalid',
      'an email address',
      'Sender of mail, where the binding EMAIL sends it.',
    ),
  ),
  APP_URL: v.pipe(
    v.optional(v.pipe(v.string(), v.url('a URL')), 'http://127.0.0.1:8787/app/'),
    declare(
      'URL',
      'http://127.0.0.1:8787/app/',
      'a URL',
      'The page that links in mail open, with `#reset-password=` or `#verify-email=` and the token.',
    ),
  ),
}

const presence = {
  PRESENCE_SECONDS: seconds(300, 5, 86_400, 'Time after the last heartbeat at which a user is offline.'),
  PRESENCE_SHARD_USERS: whole('users', 50_000, 10_000, 1_000_000, 'Users in one presence key.'),
  PRESENCE_MAX_USERS: whole(
    'users',
    50_000,
    1,
    10_000_000,
    'Users who can be online at once. It sets the number of keys.',
  ),
  PRESENCE_MAX_DEVICES: whole('devices', 20, 1, 1_000, 'Devices of one user that can be online at once.'),
}

const features = {
  LOCK_SECONDS: seconds(10, 0.1, 600, 'Time a lock is held when the caller names none.'),
  HOT_DAYS: whole('days', 7, 1, 31, 'Age up to which a post can be in the hot feed.'),
  REPORT_DAYS: whole('days', 365, 1, 3_650, 'Time a report to moderators is kept after they have resolved it.'),
  NOTIFICATION_DAYS: whole('days', 30, 1, 365, 'Time a notification is kept.'),
  INBOX_SIZE: whole(
    'notifications',
    100,
    1,
    200,
    "A user's newest notifications in Redis. Unread ones are counted among these.",
  ),
  INBOX_FRESH_SECONDS: seconds(
    300,
    1,
    86_400,
    'Time a cached inbox is fresh: the longest delay of a change that Redis missed.',
  ),
}

const limits = {
  LIMIT_READS: whole('requests', 1_200, 1, 1_000_000, 'Reads of one caller in a window.'),
  LIMIT_READS_SECONDS: whole('seconds', 60, 1, 86_400, 'Window of LIMIT_READS.'),
  LIMIT_WRITES: whole('requests', 100, 1, 1_000_000, 'Writes of one kind by one caller in a window.'),
  LIMIT_WRITES_SECONDS: whole('seconds', 3_600, 1, 86_400, 'Window of LIMIT_WRITES and LIMIT_PRESENCE.'),
  LIMIT_PRESENCE: whole('requests', 600, 1, 1_000_000, 'Heartbeats of one user in a window.'),
  LIMIT_SIGN_IN: whole('requests', 10, 1, 1_000_000, 'Sign-ins to one account from one source in a window.'),
  LIMIT_SIGN_IN_ADDRESS: whole('requests', 100, 1, 1_000_000, 'Sign-ins from one network in a window.'),
  LIMIT_SIGN_IN_SECONDS: whole('seconds', 900, 1, 86_400, 'Window of LIMIT_SIGN_IN and LIMIT_SIGN_IN_ADDRESS.'),
  LIMIT_SIGN_IN_ACCOUNT: whole(
    'requests',
    100,
    1,
    1_000_000,
    'Sign-ins to one account from all unknown sources in a window.',
  ),
  LIMIT_CREDENTIALS: whole(
    'requests',
    20,
    1,
    1_000_000,
    'Changes of a password or email address, confirmations and deletions of an account, by one user or network in a window.',
  ),
  LIMIT_MAIL: whole('messages', 5, 1, 1_000_000, 'Messages with links to one email address in a window.'),
  LIMIT_CREDENTIALS_SECONDS: whole(
    'seconds',
    3_600,
    1,
    86_400,
    'Window of LIMIT_CREDENTIALS, LIMIT_MAIL and LIMIT_EXPORTS.',
  ),
  LIMIT_EXPORTS: whole('requests', 10, 1, 1_000_000, 'Exports of everything about one user in a window.'),
  LIMIT_SIGN_IN_ACCOUNT_SECONDS: whole('seconds', 3_600, 1, 86_400, 'Window of LIMIT_SIGN_IN_ACCOUNT.'),
}

const events = {
  EVENT_SOURCE: v.pipe(
    v.optional(v.pipe(v.string(), v.minLength(1, 'not empty'), v.maxLength(200)), '/threads-edge'),
    declare('URI reference', '/threads-edge', '1 to 200 characters', 'CloudEvents `source` of our events.'),
  ),
  EVENT_DAYS: days(7, 1, 90, 'Time a dispatched event is kept for replays. At least the sum of WEBHOOK_RETRY_SECONDS.'),
}

const webhooks = {
  ALLOW_PRIVATE_WEBHOOKS: choice(['true', 'false'], 'false', '`true` allows http on loopback. For development only.'),
  PUBLIC_HOSTS: list('Our own hosts, which endpoints may not use. The host of the request is always one of them.'),
  WEBHOOK_KEY: v.pipe(
    v.optional(
      v.pipe(
        v.string(),
        v.transform(splitList),
        v.check((keys) => keys.length > 0 && keys.every((key) => key.length >= 16), 'keys of at least 16 characters'),
      ),
    ),
    declare(
      'secrets, separated by commas',
      'SERVICE_TOKEN',
      'at least 16 characters each',
      'Keys for webhook secrets and header values. The first encrypts, all decrypt. Without it, list the old SERVICE_TOKEN here before you change that token.',
    ),
  ),
  WEBHOOK_KEY_NEXT: v.pipe(
    v.optional(v.pipe(v.string(), v.minLength(16, 'at least 16 characters'))),
    declare(
      'secret',
      'none',
      'at least 16 characters',
      'The next WEBHOOK_KEY, to rotate one that nobody knows: this one encrypts, all decrypt.',
    ),
  ),
  WEBHOOK_MAX_ENDPOINTS: whole(
    'endpoints',
    1_000,
    1,
    10_000,
    'Endpoints that can exist. Each batch of events reads all.',
  ),
  // The platform ends an invocation 30 s after its batch.
  WEBHOOK_TIMEOUT_SECONDS: seconds(15, 0.1, 15, 'Timeout of a delivery attempt.'),
  WEBHOOK_RETRY_SECONDS: schedule('5,300,1800,7200,18000,36000,36000', 'Delay before each retry of a delivery.'),
  WEBHOOK_CIRCUIT_FAILURES: whole('failures', 5, 1, 1_000, 'Failures in a row that open the circuit of an endpoint.'),
  WEBHOOK_CIRCUIT_SECONDS: seconds(
    30,
    0.1,
    3_600,
    'Time the circuit stays open. Each failed probe doubles it, at most five times.',
  ),
  WEBHOOK_FAILING_DAYS: days(5, 0, 90, 'Time of failures only after which an endpoint is disabled.'),
  WEBHOOK_PROBE_SECONDS: seconds(3_600, 1, 604_800, 'Interval at which a disabled endpoint is probed.'),
  DELIVERY_DAYS: days(7, 1, 90, 'Time a delivery and its attempts are kept.'),
}

const streams = {
  STREAM_EVENTS: whole('events', 5_000, 100, 100_000, 'Newest events that a client can resume from.'),
  STREAM_HEARTBEAT_SECONDS: seconds(15, 0.05, 60, 'Interval of heartbeats on an open stream.'),
  STREAM_CHECK_SECONDS: seconds(60, 0.05, 3_600, 'Interval of session checks on a stream: one round trip each.'),
  STREAM_LIFE_SECONDS: seconds(900, 0.5, 86_400, 'Time after which a stream ends. The client reconnects and resumes.'),
  STREAM_RETRY_SECONDS: seconds(2, 0.1, 60, 'Shortest time before a client reconnects. The longest is twice this.'),
  STREAM_QUEUED_BYTES: whole('bytes', 262_144, 1_000, 8_000_000, 'Data queued for a slow reader.'),
  STREAM_STALL_SECONDS: seconds(10, 0.05, 60, 'Time after which a reader with a full queue is disconnected.'),
  STREAM_MAX_PER_CALLER: whole(
    'streams',
    50,
    1,
    100_000,
    'Open streams of one user or, without a session, of one network.',
  ),
  STREAM_MAX_TOTAL: whole('streams', 10_000, 1, 10_000_000, 'Open streams in total.'),
  STREAM_MAX_PER_ISOLATE: whole('streams', 500, 1, 100_000, 'Open streams of one isolate. Each uses memory.'),
}

const monitoring = {
  // The platform ends an invocation 30 s after its answer.
  STATS_FLUSH_SECONDS: seconds(10, 0, 25, 'Interval of the reports of an isolate: two commands each. 0: no reports.'),
  SLOW_COMMAND_MS: whole('ms', 100, 1, 10_000, 'Duration from which a Redis round trip is listed as slow.'),
  COMMANDS_USD: decimal('dollars', 0.2, 0, 1_000, 'Price of 100,000 Redis commands.'),
  SCAN_COMMANDS: whole('commands', 100, 0, 10_000, 'Commands a minute that the scan of all keys may send. 0: no scan.'),
  LOG_REQUESTS: choice(
    ['all', 'failed', 'none'],
    'all',
    'Requests to log. `failed`: those answered with status 500 or above.',
  ),
}

/** Every variable and binding the Worker reads, by the heading it has in docs/configuration.md. */
export const sections = {
  Access: access,
  Bindings: bindings,
  D1: database,
  Redis: redis,
  Caches: caches,
  Sessions: sessions,
  Mail: mail,
  Presence: presence,
  'Locks, feeds and notifications': features,
  'Rate limits': limits,
  Events: events,
  Webhooks: webhooks,
  Streams: streams,
  Monitoring: monitoring,
}

const Variables = v.object({
  ...access,
  ...bindings,
  ...database,
  ...redis,
  ...caches,
  ...sessions,
  ...mail,
  ...presence,
  ...features,
  ...limits,
  ...events,
  ...webhooks,
  ...streams,
  ...monitoring,
})

/** A name missing in `env` counts as undefined: then the error states what was expected, not "missing key". */
const ABSENT = Object.fromEntries(Object.keys(Variables.entries).map((name) => [name, undefined]))

/** Which requests to log. Also known when other variables are invalid, because that is logged too. */
export const readLogRequests = (env: object) =>
  v.parse(v.object({ LOG_REQUESTS: v.fallback(monitoring.LOG_REQUESTS, 'all') }), env).LOG_REQUESTS

export type Config = ReturnType<typeof readConfig>

export interface LimitPolicy {
  /** Requests in a window. */
  limit: number
  windowSeconds: number
  /** True: counted before the work, in one round trip. False: counted after the answer. */
  isStrict: boolean
  /** What a request gets when Redis is unavailable. `open`: it passes. `closed`: 503. */
  onOutage: 'open' | 'closed'
}

/** Every rate limit, by the name clients see. Each route belongs to one. */
export type LimitName =
  | 'reads'
  | 'sign-up'
  | 'sign-in'
  | 'sign-in-address'
  | 'sign-in-account'
  | 'credentials'
  | 'mail'
  | 'exports'
  | 'sessions'
  | 'profile'
  | 'follows'
  | 'blocks'
  | 'posts'
  | 'comments'
  | 'likes'
  | 'views'
  | 'presence'
  | 'notifications'
  | 'reports'

/**
 * The configuration in `env`, with defaults. Durations are in ms.
 * Throws `ConfigError` if a variable or binding is missing or invalid.
 */
export function readConfig(env: object) {
  const parsed = v.safeParse(Variables, { ...ABSENT, ...env }, { abortPipeEarly: true })
  if (!parsed.success) {
    throw new ConfigError(
      Object.fromEntries(parsed.issues.map((issue) => [String(issue.path?.[0].key), `expected ${issue.message}`])),
    )
  }
  const set = parsed.output // durations in seconds and days are converted to ms
  const retriesMs = set.WEBHOOK_RETRY_SECONDS.reduce((sum, ms) => sum + ms, 0) * MAX_JITTER
  if (set.EVENT_DAYS < retriesMs) {
    const minDays = Math.ceil((retriesMs / DAY_MS) * 10) / 10
    throw new ConfigError({ EVENT_DAYS: `expected at least the ${minDays} days that WEBHOOK_RETRY_SECONDS takes` })
  }
  const cache = {
    staleMs: set.STALE_SECONDS,
    staleIfErrorMs: set.STALE_IF_ERROR_SECONDS,
    negativeMs: set.NEGATIVE_SECONDS,
    memoryMs: set.MEMORY_SECONDS,
    softTimeoutMs: set.REDIS_SOFT_TIMEOUT_MS,
    leaseMs: set.LEASE_SECONDS,
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
    onOutage: 'closed', // without a count, anyone could try any number of passwords
  }
  const limits: Record<LimitName, LimitPolicy> = {
    reads: { limit: set.LIMIT_READS, windowSeconds: set.LIMIT_READS_SECONDS, isStrict: false, onOutage: 'open' },
    'sign-up': write,
    'sign-in': signIn,
    'sign-in-address': { ...signIn, limit: set.LIMIT_SIGN_IN_ADDRESS },
    'sign-in-account': {
      ...signIn,
      limit: set.LIMIT_SIGN_IN_ACCOUNT,
      windowSeconds: set.LIMIT_SIGN_IN_ACCOUNT_SECONDS,
    },
    credentials: { ...signIn, limit: set.LIMIT_CREDENTIALS, windowSeconds: set.LIMIT_CREDENTIALS_SECONDS },
    mail: { ...signIn, limit: set.LIMIT_MAIL, windowSeconds: set.LIMIT_CREDENTIALS_SECONDS },
    exports: { ...write, limit: set.LIMIT_EXPORTS, windowSeconds: set.LIMIT_CREDENTIALS_SECONDS },
    sessions: write,
    profile: write,
    follows: write,
    blocks: write,
    posts: write,
    comments: write,
    likes: write,
    views: write,
    presence: { ...write, limit: set.LIMIT_PRESENCE },
    notifications: write,
    reports: write,
  }
  return {
    redis: {
      url: set.UPSTASH_REDIS_REST_URL,
      token: set.UPSTASH_REDIS_REST_TOKEN,
      readTimeoutMs: set.REDIS_READ_TIMEOUT_MS,
      maxReadTimeoutMs: set.REDIS_MAX_READ_TIMEOUT_MS,
      writeTimeoutMs: set.REDIS_WRITE_TIMEOUT_MS,
      breakerFailures: set.REDIS_BREAKER_FAILURES,
      breakerCoolDownMs: set.REDIS_BREAKER_SECONDS,
    },
    readsReplicas: set.READ_REPLICAS === 'true',
    serviceToken: set.SERVICE_TOKEN,
    serviceTokenTrustMs: set.SERVICE_TOKEN_SECONDS,
    sessions: {
      key: set.SESSION_KEY ?? set.SERVICE_TOKEN,
      idleMs: set.SESSION_IDLE_SECONDS,
      absoluteMs: set.SESSION_ABSOLUTE_SECONDS,
      touchMs: set.SESSION_TOUCH_SECONDS,
      recheckMs: set.SESSION_RECHECK_SECONDS,
    },
    presence: {
      windowMs: set.PRESENCE_SECONDS,
      shardUsers: set.PRESENCE_SHARD_USERS,
      shards: Math.ceil(set.PRESENCE_MAX_USERS / set.PRESENCE_SHARD_USERS),
      maxDevices: set.PRESENCE_MAX_DEVICES,
    },
    mail: { from: set.MAIL_FROM, appUrl: set.APP_URL },
    lockTtlMs: set.LOCK_SECONDS,
    corsOrigins: set.CORS_ORIGINS,
    maxBodyBytes: set.MAX_BODY_BYTES,
    monitoring: {
      flushMs: set.STATS_FLUSH_SECONDS,
      slowMs: set.SLOW_COMMAND_MS,
      usdPerCommand: set.COMMANDS_USD / 100_000,
      scanCommands: set.SCAN_COMMANDS,
    },
    logRequests: set.LOG_REQUESTS,
    memoryMaxBytes: set.MEMORY_MAX_BYTES,
    /** How old an answer may become in a shared cache. 0: none may keep one. */
    edgeCacheMs: set.EDGE_CACHE === 'true' ? set.MEMORY_SECONDS : 0,
    caches: {
      users: { ...cache, freshMs: set.USER_FRESH_SECONDS },
      posts: { ...cache, freshMs: set.POST_FRESH_SECONDS },
      hot: { ...cache, freshMs: set.HOT_FRESH_SECONDS },
      inboxes: { ...cache, freshMs: set.INBOX_FRESH_SECONDS },
      // Never invalidated, so memory may keep them as long as they are fresh.
      recommended: {
        ...cache,
        freshMs: set.RECOMMENDED_FRESH_SECONDS,
        memoryMs: set.RECOMMENDED_FRESH_SECONDS,
      },
    },
    events: { source: set.EVENT_SOURCE, keptMs: set.EVENT_DAYS },
    webhooks: {
      isPrivateAllowed: set.ALLOW_PRIVATE_WEBHOOKS === 'true',
      ownHosts: set.PUBLIC_HOSTS.map((host) => host.toLowerCase()),
      keys: [set.WEBHOOK_KEY_NEXT ?? [], set.WEBHOOK_KEY ?? [], set.SERVICE_TOKEN].flat(),
      maxEndpoints: set.WEBHOOK_MAX_ENDPOINTS,
      timeoutMs: set.WEBHOOK_TIMEOUT_SECONDS,
      retryMs: set.WEBHOOK_RETRY_SECONDS,
      circuitFailures: set.WEBHOOK_CIRCUIT_FAILURES,
      circuitMs: set.WEBHOOK_CIRCUIT_SECONDS,
      failingMs: set.WEBHOOK_FAILING_DAYS,
      probeMs: set.WEBHOOK_PROBE_SECONDS,
      keptMs: set.DELIVERY_DAYS,
    },
    streams: {
      maxEntries: set.STREAM_EVENTS,
      heartbeatMs: set.STREAM_HEARTBEAT_SECONDS,
      checkMs: set.STREAM_CHECK_SECONDS,
      lifeMs: set.STREAM_LIFE_SECONDS,
      retryMs: set.STREAM_RETRY_SECONDS,
      maxQueuedBytes: set.STREAM_QUEUED_BYTES,
      stallMs: set.STREAM_STALL_SECONDS,
      maxPerCaller: set.STREAM_MAX_PER_CALLER,
      maxTotal: set.STREAM_MAX_TOTAL,
      maxPerIsolate: set.STREAM_MAX_PER_ISOLATE,
    },
    hotWindowMs: set.HOT_DAYS * DAY_MS,
    moderation: { keptMs: set.REPORT_DAYS * DAY_MS },
    notifications: { inboxSize: set.INBOX_SIZE, keptMs: set.NOTIFICATION_DAYS * DAY_MS },
    limits,
  }
}
