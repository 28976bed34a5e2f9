import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { readLogRequests } from '../config.ts'
import { joinTrace, traceparentOf } from '../trace.ts'
import type { AppEnv } from './context.ts'

/** The pattern of the route that answered: `GET /v1/users/:id`, or `unmatched`. Call it after `next`. */
function routeOf(c: Context): string {
  const route = matchedRoutes(c)[c.req.routeIndex] // the last handler that ran
  return route === undefined || route.method === 'ALL' ? 'unmatched' : `${route.method} ${route.path}` // ALL: middleware
}

/** Logs one line of JSON. It contains patterns, numbers and our own ids, never text of a caller or a row. */
export const log = (line: Record<string, unknown>): void => console.log(JSON.stringify(line))

/**
 * Follows a request from its first step to its last: joins the trace of the caller, returns it as `Traceresponse`, logs
 * one line, and passes the outcome to `onAnswered`.
 */
export const follow = createMiddleware<AppEnv>(async (c, next) => {
  const startedAt = performance.now()
  const trace = joinTrace(c.req.header('traceparent'))
  c.set('trace', trace)
  await next()
  const answer = { route: routeOf(c), status: c.res.status, ms: performance.now() - startedAt }
  c.header('Traceresponse', traceparentOf(trace))

  const which = readLogRequests(c.env)
  const isFailure = answer.status >= 500
  if (which === 'all' || (which === 'failed' && isFailure)) {
    log({
      level: isFailure ? 'error' : 'info',
      message: 'request',
      method: c.req.method,
      route: answer.route,
      status: answer.status,
      durationMs: Number(answer.ms.toFixed(1)),
      redis: redisCost(c.get('meter')),
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
