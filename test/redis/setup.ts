import { Redis, type Requester } from '@upstash/redis/cloudflare'
import { env } from 'cloudflare:workers'
import { createControl } from '../../emulator/control.ts'
import { type Breaker, type ClientOptions, createBreaker, createConnection, newMeter } from '../../src/redis/client.ts'

/** A Redis keyspace of its own, its control path, and clients for it as the Worker makes them. */
export function newKeyspace() {
  const server = { url: env.UPSTASH_REDIS_REST_URL, token: `test-${crypto.randomUUID()}` }
  const patient: ClientOptions = { timeoutMs: 20_000, isSafeTwice: true }
  return {
    server,
    control: createControl(server.url, server.token),
    /** A client of one more invocation: by default with a long timeout, and safe twice. */
    connect: (
      options: Partial<ClientOptions> = {},
      breaker: Breaker = createBreaker(1_000, 1_000),
      meter = newMeter(),
    ) => createConnection(server, breaker, meter)({ ...patient, ...options }),
  }
}

/** The keys that match, in no order. Not by KEYS, which docs/redis.md denies the Worker's user of Redis: `.ci/run` has it. */
export async function keysOf(redis: Pick<Redis, 'scan'>, match = '*'): Promise<string[]> {
  const found = new Set<string>()
  for (let cursor = '0'; ;) {
    const [next, keys] = await redis.scan(cursor, { match, count: 1_000 })
    for (const key of keys) found.add(key)
    if (next === '0') return [...found]
    cursor = next
  }
}

/** Collects what is deferred to after the answer. */
export function newDeferral() {
  const works: Promise<unknown>[] = []
  return {
    defer: (work: () => Promise<unknown>) => void works.push(work()),
    /** Waits for all of it, and for what that defers in turn. */
    settle: async (): Promise<void> => {
      while (works.length > 0) await Promise.all(works.splice(0))
    },
  }
}

/** What a test does with the request of a client: it decides when `send` runs, and when its reply is returned. */
export type Intercept = <T>(send: () => Promise<T>) => Promise<T>

/** An SDK client whose requests pass through `intercept`. */
export class InterceptedRedis extends Redis {
  constructor(server: { url: string; token: string }, intercept: Intercept) {
    super({ ...server, retry: { retries: 0 }, enableTelemetry: false, enableAutoPipelining: false })
    const http: Requester = this.client
    this.client = { request: (request) => intercept(() => http.request(request)) }
  }
}

/** A client that can withhold a request, or its reply: then Redis has executed it, and the caller does not know yet. */
export function newWithholdingRedis(server: { url: string; token: string }) {
  let next:
    | { what: 'request' | 'reply'; withheld: PromiseWithResolvers<void>; released: PromiseWithResolvers<void> }
    | undefined
  const redis = new InterceptedRedis(server, async (send) => {
    const held = next
    next = undefined
    const hold = async (what: 'request' | 'reply') => {
      if (held?.what !== what) return
      held.withheld.resolve()
      await held.released.promise
    }
    await hold('request')
    const reply = await send()
    await hold('reply')
    return reply
  })
  return {
    redis,
    /** Withholds the next request, or its reply, until `release`. */
    withholdNext(what: 'request' | 'reply') {
      next = { what, withheld: Promise.withResolvers(), released: Promise.withResolvers() }
      return { withheld: next.withheld.promise, release: next.released.resolve }
    },
  }
}
