import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { readLogRequests } from '../config.ts'
import { joinTrace, randomHex } from '../trace.ts'
import { completeAnswer } from './answer.ts'
import type { AppEnv } from './context.ts'

/** The pattern of the route that answered: `GET /v1/users/:id`, or `unmatched`. Call it after `next`. */
function routeOf(c: Context): string {
  const route = matchedRoutes(c)[c.req.routeIndex] // the last handler that ran
  return route === undefined || route.method === 'ALL' ? 'unmatched' : `${route.method} ${route.path}` // ALL: middleware
}

/** Logs one line of JSON. It contains patterns, numbers and our own ids, never text of a caller or a row. */
export const log = (line: Record<string, unknown>): void => console.log(JSON.stringify(line))

/** The id of a request: that of the caller if it is plain, or a new one in the form of a UUID. */
function requestIdOf(header: string | undefined): string {
  if (header !== undefined && /^[\w=-]{1,255}$/.test(header)) return header
  const hex = randomHex(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`
}

/**
 * Follows a request from its first step to its last: joins the trace of the caller, completes the headers of the answer,
 * logs one line, and passes the outcome to `onAnswered`.
 */
export const follow = createMiddleware<AppEnv>(async (c, next) => {
  const startedAt = performance.now()
  const trace = joinTrace(c.req.header('traceparent'))
  c.set('trace', trace)
  c.set('answer', {})
  c.set('requestId', requestIdOf(c.req.header('X-Request-Id')))
  await next()
  completeAnswer(c)
  const answer = { route: routeOf(c), status: c.res.status, ms: performance.now() - startedAt }

  const which = c.get('config')?.logRequests ?? readLogRequests(c.env)
  const isFailure = answer.status >= 500
  if (which === 'all' || (which === 'failed' && isFailure)) {
    log({
      level: isFailure ? 'error' : 'info',
      message: 'request',
      method: c.req.method,
      route: answer.route,
      status: answer.status,
      durationMs: Number(answer.ms.toFixed(1)),
      redis: redisCost(c.get('platform')?.meter),
      requestId: c.get('requestId'),
      traceId: trace.traceId,
      spanId: trace.spanId,
    })
  }
  c.get('onAnswered')?.(answer) // last: what it starts is not part of the answer
})

/** What an invocation has cost in Redis so far, for a line of the log. */
export const redisCost = (meter: { commands: number; roundTrips: number; waitedMs: number } | undefined) =>
  meter && { commands: meter.commands, roundTrips: meter.roundTrips, waitedMs: Number(meter.waitedMs.toFixed(1)) }
