import { Redis, type Requester, type UpstashRequest, type UpstashResponse } from '@upstash/redis/cloudflare'

/** Redis did not answer: refused, cut, timed out, a 5xx, or not asked because the breaker is open. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisUnavailable'
}

export type Breaker = ReturnType<typeof createBreaker>

/**
 * A circuit breaker: after `failures` failures in a row nothing is asked for `coolDownMs`; then one probe
 * goes through, and its outcome closes the breaker or opens it again. One per isolate, shared by its requests.
 *
 * Source: M. Nygard, Release It!, "Circuit Breaker".
 */
export function createBreaker(failures: number, coolDownMs: number) {
  let failed = 0
  let closedAgainAt = 0
  return {
    /** Whether a request may go out now. While half-open only one may, until its outcome is known. */
    admits(now: number): boolean {
      if (failed < failures) return true
      if (now < closedAgainAt) return false
      closedAgainAt = now + coolDownMs // the others wait for this probe, or for its loss
      return true
    },
    succeeded(): void {
      failed = 0
    },
    failed(now: number): void {
      failed += 1
      if (failed >= failures) closedAgainAt = now + coolDownMs
    },
    state(now: number): 'closed' | 'open' | 'half-open' {
      if (failed < failures) return 'closed'
      return now < closedAgainAt ? 'open' : 'half-open'
    },
  }
}

/** What the Redis of one Worker invocation has cost so far. */
export interface Meter {
  /** Commands sent; those inside a script are not among them. */
  commands: number
  /**
   * Commands as Upstash bills them, with those that scripts call: an estimate, since a script is read and not watched.
   * Each call in its text counts once, in a loop or not; one of many branches says itself what it `usually calls`.
   */
  billed: number
  /** HTTP requests sent, retries included. */
  roundTrips: number
  /** Milliseconds spent waiting, summed: parallel requests count each. */
  waitedMs: number
  failures: number
}

export const newMeter = (): Meter => ({ commands: 0, billed: 0, roundTrips: 0, waitedMs: 0, failures: 0 })

/** One HTTP request to Redis, as it went. */
export interface Sent {
  /** Names and arguments, as they were sent. */
  commands: unknown[][]
  ms: number
  /** False: it timed out or failed. What Redis answered as an error is an answer. */
  isAnswered: boolean
}

/** How the commands of one client may be treated. */
export interface Use {
  /** Hard timeout of one HTTP request. */
  timeoutMs: number
  /** Whether every command sent may run twice: then a lost reply is asked for again, once. */
  isSafeTwice: boolean
}

/**
 * The way to Redis of one Worker invocation: one place that knows about timeouts, the retry, the breaker and the
 * meter, and tells `onSent` of each request that ended; the SDK's own HTTP client does the protocol. The answer makes
 * SDK clients, one for each `Use`.
 *
 * Commands and pipelines issued in the same turn of the event loop travel in one HTTP request, whichever modules
 * and clients they come from. Such a request waits as long as its most patient part, and is sent again only if
 * all of it is safe twice. `multi()` is sent on its own.
 *
 * Throws `RedisUnavailable` when there was no answer (original in `cause`); what Redis itself answered as an
 * error stays an `UpstashError`. A timed-out request is not retried: its caller has waited long enough.
 */
export function createConnection(
  server: { url: string; token: string },
  breaker: Breaker,
  meter: Meter,
  onSent: (sent: Sent) => void = () => {},
): (use: Use) => Redis {
  /** The SDK's HTTP client: every SDK client comes with one, the first one's serves all. */
  let http: Requester | undefined

  async function send<T>(request: UpstashRequest, use: Use): Promise<UpstashResponse<T>> {
    for (let attempt = 1; ; attempt += 1) {
      if (!breaker.admits(Date.now())) throw new RedisUnavailable('Redis is not asked: the circuit is open')
      const startedAt = performance.now()
      let isAnswered = true
      const sent = isBatch(request) ? request.body : [request.body]
      meter.commands += sent.length
      for (const command of sent) meter.billed += billedFor(command)
      meter.roundTrips += 1
      try {
        // A plain AbortSignal would turn a timed-out command into a successful reply; the SDK takes a function here
        // too, which its type does not say.
        const signal = (() => AbortSignal.timeout(use.timeoutMs)) as unknown as AbortSignal
        if (!http) throw new Error('only an SDK client sends') // and making it has set this
        const answer = await http.request<T>({ ...request, signal })
        breaker.succeeded()
        return answer
      } catch (error) {
        if (isAnswer(error)) {
          breaker.succeeded()
          throw error
        }
        isAnswered = false
        meter.failures += 1
        breaker.failed(Date.now())
        const isTimeout = error instanceof Error && error.name === 'TimeoutError'
        if (!use.isSafeTwice || isTimeout || attempt === 2) {
          const message = isTimeout ? `Redis took over ${use.timeoutMs} ms` : 'Redis did not answer'
          throw new RedisUnavailable(message, { cause: error })
        }
      } finally {
        const ms = performance.now() - startedAt
        meter.waitedMs += ms
        onSent({ commands: sent.filter((command) => Array.isArray(command)), ms, isAnswered })
      }
    }
  }

  /** What this turn has asked for so far, and the replies to come, in order. */
  let turn: { commands: unknown[]; use: Use; replies: Promise<UpstashResponse<unknown>[]> } | undefined

  async function join(commands: unknown[], use: Use): Promise<UpstashResponse<unknown>[]> {
    if (!turn) {
      const opened = { commands: [] as unknown[], use, replies: Promise.resolve().then(depart) }
      turn = opened
    }
    const first = turn.commands.length
    turn.commands.push(...commands)
    turn.use = {
      timeoutMs: Math.max(turn.use.timeoutMs, use.timeoutMs),
      isSafeTwice: turn.use.isSafeTwice && use.isSafeTwice,
    }
    const replies = await turn.replies
    return replies.slice(first, first + commands.length)
  }

  async function depart(): Promise<UpstashResponse<unknown>[]> {
    const { commands, use } = turn ?? { commands: [], use: { timeoutMs: 0, isSafeTwice: true } }
    turn = undefined
    if (commands.length === 1) return [await send({ body: commands[0] }, use)]
    // A pipeline is answered by a list, which the SDK's type does not say.
    return (await send({ path: ['pipeline'], body: commands }, use)) as unknown as UpstashResponse<unknown>[]
  }

  return (use) =>
    whenUsed(() => {
      const client = new OpenRedis(server)
      http ??= client.requester
      client.requester = {
        async request<T>(request: UpstashRequest) {
          if (isBatch(request) && request.path?.[0] === 'pipeline') {
            return (await join(request.body, use)) as UpstashResponse<T> // a list again
          }
          if (request.path || request.headers) return send<T>(request, use)
          const [reply] = await join([request.body], use)
          return reply as UpstashResponse<T>
        },
      }
      return client
    })
}

/** An SDK client is some 200 closures: it is made when it is first used, and most invocations use one of several. */
function whenUsed(make: () => Redis): Redis {
  let made: Redis | undefined
  // Nobody asks it for more than its members.
  return new Proxy({} as Redis, { get: (_, name) => Reflect.get((made ??= make()), name) as unknown })
}

/** The SDK keeps its HTTP client to itself and its subclasses. */
class OpenRedis extends Redis {
  constructor(server: { url: string; token: string }) {
    super({ ...server, retry: { retries: 0 }, enableTelemetry: false, enableAutoPipelining: false })
  }
  get requester(): Requester {
    return this.client
  }
  set requester(requester: Requester) {
    this.client = requester
  }
}

const isBatch = (request: UpstashRequest): request is UpstashRequest & { body: unknown[] } =>
  (request.path?.[0] === 'pipeline' || request.path?.[0] === 'multi-exec') && Array.isArray(request.body)

/** How many commands each script calls, by its text. There are as many as the program has. */
const calledBy = new Map<string, number>()
/** Only `@upstash/ratelimit` sends a script by its hash: two `GET` and an `INCRBY`. */
const CALLED_BY_HASH = 3

/** What a command costs, with what it calls if it is a script. */
function billedFor(command: unknown): number {
  const [name, script] = Array.isArray(command) ? (command as unknown[]) : []
  if (name === 'evalsha') return 1 + CALLED_BY_HASH
  if (name !== 'eval' || typeof script !== 'string') return 1
  let called = calledBy.get(script)
  if (called === undefined) {
    const [, usually] = /^-- usually calls (\d+)$/m.exec(script) ?? []
    called = usually === undefined ? script.split('redis.call(').length - 1 : Number(usually)
    calledBy.set(script, called)
  }
  return 1 + called
}

/** Whether Redis answered, if only to refuse the command: its own errors begin with a code in capitals. */
const isAnswer = (error: unknown): boolean =>
  error instanceof Error && error.name === 'UpstashError' && /^[A-Z]{3,} /.test(error.message)
