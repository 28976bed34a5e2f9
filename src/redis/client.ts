import { Redis, type Requester, type UpstashRequest, type UpstashResponse } from '@upstash/redis/cloudflare'
import { callsIn } from './script.ts'

/** Redis did not answer (connection refused or cut, timeout, 5xx), or was not asked because the breaker is open. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisUnavailable'
}

export type Breaker = ReturnType<typeof createBreaker>

/**
 * A circuit breaker: after `failures` incidents in a row it admits nothing for `coolDownMs`. Then it admits one probe,
 * whose outcome closes the breaker or opens it again. One per isolate, shared by its requests.
 *
 * Failures of requests that were in flight together are one incident: a request counts only if it began after the last
 * incident became known. If the clock is set back while the breaker is open, the cool-down ends.
 *
 * Source: M. Nygard, Release It!, "Circuit Breaker".
 */
export function createBreaker(failures: number, coolDownMs: number) {
  let incidents = 0
  let incidentsInARow = 0
  let openedAt = 0
  const isCoolingDown = (now: number) => now >= openedAt && now < openedAt + coolDownMs

  return {
    /** Admits a request: returns its ticket for `fail`, or undefined while the breaker is open. Half-open admits one. */
    admit(now: number): number | undefined {
      if (incidentsInARow >= failures) {
        if (isCoolingDown(now)) return undefined
        openedAt = now // the others wait for this probe, or until it is overdue
      }
      return incidents
    },
    succeed(): void {
      incidentsInARow = 0
    },
    fail(ticket: number, now: number): void {
      if (ticket !== incidents) return
      incidents += 1
      incidentsInARow += 1
      openedAt = now
    },
    state(now: number): 'closed' | 'open' | 'half-open' {
      if (incidentsInARow < failures) return 'closed'
      return isCoolingDown(now) ? 'open' : 'half-open'
    },
  }
}

/** What Redis has cost one Worker invocation so far. */
export interface Meter {
  /** Commands sent, without those that scripts call. */
  commands: number
  /** Commands as Upstash bills them, with those that scripts call: an estimate (`callsIn`). */
  billed: number
  /** HTTP requests sent, retries included. */
  roundTrips: number
  /** Milliseconds spent waiting, summed: parallel requests count each. */
  waitedMs: number
  failures: number
}

export const newMeter = (): Meter => ({ commands: 0, billed: 0, roundTrips: 0, waitedMs: 0, failures: 0 })

/** One HTTP request to Redis that has ended. */
export interface Sent {
  /** Names and arguments. */
  commands: unknown[][]
  ms: number
  /** False if the request timed out or failed. An error reply of Redis is an answer. */
  isAnswered: boolean
}

/** How one client sends its commands. */
export interface ClientOptions {
  /** Hard timeout of one HTTP request. */
  timeoutMs: number
  /** Whether every command may run twice: then a request without a reply is sent again, once. */
  isSafeTwice: boolean
}

/**
 * The connection of one Worker invocation to Redis. It adds timeouts, one retry, the breaker and the meter to the SDK's
 * HTTP client, and calls `onSent` when a request has ended. Returns a function that makes SDK clients.
 *
 * Commands and pipelines issued in the same turn of the event loop share one HTTP request, whichever modules and clients
 * they come from. That request has the longest timeout of its parts, and is retried only if all of them are safe twice.
 * `MGET`s that follow one another become one, because Upstash bills each. `multi()` is sent alone.
 *
 * Throws `RedisUnavailable` when there was no answer (original in `cause`). An error reply of Redis stays an
 * `UpstashError`. A request that timed out is not retried: its caller has waited long enough.
 */
export function createConnection(
  server: { url: string; token: string },
  breaker: Breaker,
  meter: Meter,
  onSent: (sent: Sent) => void = () => {},
): (options: ClientOptions) => Redis {
  /** The HTTP client of the first SDK client. It serves all. */
  let http: Requester | undefined

  async function send<T>(request: UpstashRequest, options: ClientOptions): Promise<UpstashResponse<T>> {
    let ticket: number | undefined // of the first attempt: both attempts are one incident
    for (let attempt = 1; ; attempt += 1) {
      const admitted = breaker.admit(Date.now())
      if (admitted === undefined) throw new RedisUnavailable('Redis was not asked: the circuit is open')
      ticket ??= admitted
      const startedAt = performance.now()
      let isAnswered = true
      const commands = isBatch(request) ? request.body : [request.body]
      meter.commands += commands.length
      for (const command of commands) meter.billed += billedFor(command)
      meter.roundTrips += 1
      try {
        // A plain AbortSignal would turn a timed-out command into a successful reply. The SDK also takes a function,
        // which its type does not say.
        const signal = (() => AbortSignal.timeout(options.timeoutMs)) as unknown as AbortSignal
        if (!http) throw new Error('an SDK client must exist before a request') // creating one sets `http`
        const answer = await http.request<T>({ ...request, signal })
        breaker.succeed()
        return answer
      } catch (error) {
        if (isAnswer(error)) {
          breaker.succeed()
          throw error
        }
        isAnswered = false
        meter.failures += 1
        breaker.fail(ticket, Date.now())
        const isTimeout = error instanceof Error && error.name === 'TimeoutError'
        if (!options.isSafeTwice || isTimeout || attempt === 2) {
          const message = isTimeout ? `Redis took over ${options.timeoutMs} ms` : 'Redis did not answer'
          throw new RedisUnavailable(message, { cause: error })
        }
      } finally {
        const ms = performance.now() - startedAt
        meter.waitedMs += ms
        onSent({ commands: commands.filter((command) => Array.isArray(command)), ms, isAnswered })
      }
    }
  }

  /** The commands of this turn of the event loop, and their future replies in order. */
  let turn: { commands: unknown[]; options: ClientOptions; replies: Promise<UpstashResponse<unknown>[]> } | undefined

  async function addToTurn(commands: unknown[], options: ClientOptions): Promise<UpstashResponse<unknown>[]> {
    turn ??= { commands: [], options, replies: endOfTurn().then(sendTurn) }
    const first = turn.commands.length
    turn.commands.push(...commands)
    turn.options = {
      timeoutMs: Math.max(turn.options.timeoutMs, options.timeoutMs),
      isSafeTwice: turn.options.isSafeTwice && options.isSafeTwice,
    }
    const replies = await turn.replies
    return replies.slice(first, first + commands.length)
  }

  async function sendTurn(): Promise<UpstashResponse<unknown>[]> {
    const { commands, options } = turn ?? { commands: [], options: { timeoutMs: 0, isSafeTwice: true } }
    turn = undefined
    const { joined, separate } = joinMgets(commands)
    if (joined.length === 1) return separate([await send({ body: joined[0] }, options)])
    // A pipeline returns a list, which the SDK's type does not say.
    const replies: unknown = await send({ path: ['pipeline'], body: joined }, options)
    return separate(replies as UpstashResponse<unknown>[])
  }

  return (options) =>
    onFirstUse(() => {
      const client = new OpenRedis(server)
      http ??= client.requester
      client.requester = {
        async request<T>(request: UpstashRequest) {
          if (isBatch(request) && request.path?.[0] === 'pipeline') {
            return (await addToTurn(request.body, options)) as UpstashResponse<T> // a list, as above
          }
          if (request.path || request.headers) return send<T>(request, options)
          const [reply] = await addToTurn([request.body], options)
          return reply as UpstashResponse<T>
        },
      }
      return client
    })
}

/** How many microtasks a turn waits for: a read that memory answers takes fewer before its next command. */
const TURN_STEPS = 8

/** Waits until what memory answers has issued its commands too. Needs no timer. */
async function endOfTurn(): Promise<void> {
  for (let step = 0; step < TURN_STEPS; step += 1) await Promise.resolve()
}

/** Creates an SDK client when it is first used: it has about 200 closures, and most invocations use one client of several. */
function onFirstUse(create: () => Redis): Redis {
  let client: Redis | undefined
  // Callers only read members.
  return new Proxy({} as Redis, { get: (_, name) => Reflect.get((client ??= create()), name) as unknown })
}

/** The SDK's HTTP client is protected. */
class OpenRedis extends Redis {
  constructor(server: { url: string; token: string }) {
    // All that we store is valid UTF-8, so Redis need not encode its replies: decoding Base64 took longer than parsing.
    super({
      ...server,
      retry: { retries: 0 },
      enableTelemetry: false,
      enableAutoPipelining: false,
      responseEncoding: false,
    })
  }
  get requester(): Requester {
    return this.client
  }
  set requester(requester: Requester) {
    this.client = requester
  }
}

const isMget = (command: unknown): command is unknown[] => Array.isArray(command) && command[0] === 'mget'

/**
 * Joins each `MGET` to one directly before it: `[MGET a, MGET b]` becomes `[MGET a b]`. `separate` turns the replies into
 * those of `commands`.
 */
function joinMgets(commands: unknown[]): {
  joined: unknown[]
  separate: (replies: UpstashResponse<unknown>[]) => UpstashResponse<unknown>[]
} {
  const joined: unknown[] = []
  const places = commands.map((command) => {
    const last = joined.at(-1)
    if (!isMget(command) || !isMget(last)) return { at: joined.push(command) - 1, from: 0 }
    const from = last.length - 1
    joined[joined.length - 1] = [...last, ...command.slice(1)]
    return { at: joined.length - 1, from }
  })
  if (joined.length === commands.length) return { joined, separate: (replies) => replies }
  const separate = (replies: UpstashResponse<unknown>[]) =>
    places.map(({ at, from }, i): UpstashResponse<unknown> => {
      const reply = replies[at] ?? {}
      const command = commands[i]
      if (!isMget(command) || !Array.isArray(reply.result)) return reply // or an error
      return { result: reply.result.slice(from, from + command.length - 1) }
    })
  return { joined, separate }
}

const isBatch = (request: UpstashRequest): request is UpstashRequest & { body: unknown[] } =>
  (request.path?.[0] === 'pipeline' || request.path?.[0] === 'multi-exec') && Array.isArray(request.body)

/** Only `@upstash/ratelimit` sends a script by its hash: two `GET` and an `INCRBY`. */
const CALLS_BY_HASH = 3

/** How many commands are billed for `command`: a script and the commands it calls. */
function billedFor(command: unknown): number {
  const [name, script] = Array.isArray(command) ? (command as unknown[]) : []
  if (name === 'evalsha') return 1 + CALLS_BY_HASH
  return name === 'eval' && typeof script === 'string' ? 1 + callsIn(script) : 1
}

/** Whether an error is a reply of Redis: those begin with a code in capitals. */
const isAnswer = (error: unknown): boolean =>
  error instanceof Error && error.name === 'UpstashError' && /^[A-Z]{3,} /.test(error.message)
