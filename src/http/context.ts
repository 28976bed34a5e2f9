import type { Config } from '../config.ts'
import type { CacheEvent } from '../redis/cache.ts'
import type { Meter } from '../redis/client.ts'
import type { Claims } from '../redis/session.ts'
import type { Services } from '../services.ts'
import type { Trace } from '../trace.ts'

/** What handlers find in the context. */
export interface AppEnv {
  Bindings: Env
  Variables: {
    config: Config
    services: Services
    /** Also the `X-Request-Id` of the answer. */
    requestId: string
    /** Who is signed in, where the route asks: see `http/admit`. */
    userId?: string
    /** What the token of the request claims, where it is genuine. Its session may be over. */
    claims?: Claims
    /** What this request has cost so far. */
    meter: Meter
    /** What happened in the caches so far. */
    cacheEvents: readonly CacheEvent[]
    trace: Trace
    /** Begins what was deferred, and counts the request. Set as soon as there are services. */
    onAnswered?: (outcome: { route: string; status: number; ms: number }) => void
    /** Runs work after the answer, all of it at once: its commands share round trips. A failure is logged. */
    defer: (work: () => Promise<unknown>) => void
  }
}
