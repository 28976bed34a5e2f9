import type { Context } from 'hono'
import type { Config } from '../config.ts'
import type { Platform, Use } from '../platform.ts'
import type { Claims } from '../redis/session.ts'
import type { ServiceCaller } from '../service-tokens/service-tokens.ts'
import type { Trace } from '../trace.ts'

/** What handlers find in the context of every request. `admit` adds the caller. */
export interface AppEnv {
  Bindings: Env
  Variables: {
    config: Config
    platform: Platform
    /** Builds a service at its first use. */
    use: Use
    /** Also the `X-Request-Id` of the answer. */
    requestId: string
    /**
     * What the token of the request claims, if the token is genuine. Null: read, and there is none. Its session may
     * have ended.
     */
    claims?: Claims | null
    /** The back end whose token the route accepted. */
    service?: ServiceCaller
    /** Who uses the dashboard: set below `/dashboard/v1` only, by its cookie. */
    dashboard?: ServiceCaller
    trace: Trace
    /** What is known of the answer before its route has made it. */
    answer: {
      /** What it says about the limit of its route. */
      limitHeaders?: Record<string, string>
      /** Whether the request has neither a credential nor a cookie. Absent: not looked at yet. */
      isAnonymous?: boolean
      /** The answer that has all its headers. */
      complete?: Response
    }
    /** Runs the deferred work and records the request. Set once the Worker is configured. */
    onAnswered?: (outcome: { route: string; status: number; ms: number }) => void
    /** Runs work after the answer, all of it at once: its commands share round trips. Failures are logged. */
    defer: (work: () => Promise<unknown>) => void
  }
}

/** What helpers need of the context. The context of every route has it, whatever `admit` adds. */
export type RequestContext = Pick<Context<AppEnv>, 'req' | 'header' | 'newResponse' | 'var' | 'get'>
