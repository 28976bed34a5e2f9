import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { readLogRequests } from '../config.ts'
import { joinTrace, traceparentOf } from '../trace.ts'
import type { AppEnv } from './context.ts'

/** The route that answered or refused, by its pattern: `GET /v1/users/:id`; or `unmatched`. To be asked after `next`. */
export function routeOf(c: Context): string {
  const route = matchedRoutes(c)[c.req.routeIndex] // the last handler that ran
  return route === undefined || route.method === 'ALL' ? 'unmatched' : `${route.method} ${route.path}` // ALL: middleware
}

/** One line of JSON, as the platform's log search takes it apart. Never what a caller or a row said. */
export const log = (line: Record<string, unknown>): void => console.log(JSON.stringify(line))

/**
 * Follows a request from its first to its last step: it joins the trace of the caller and tells it on the answer
 * (`Traceresponse`), logs one line, and tells `onAnswered` what became of it.
 *
 * The line has patterns, numbers and ids that were made for the request: no path, query, header, body, name or address.
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
      redis: costOf(c.get('meter')),
      requestId: c.get('requestId'),
      traceId: trace.traceId,
      spanId: trace.spanId,
    })
  }
  c.get('onAnswered')?.(answer) // last: what it begins is not part of the answer
})

/** What Redis was asked for until now, for a line of the log. */
export const costOf = (meter: { commands: number; roundTrips: number; waitedMs: number } | undefined) =>
  meter && { commands: meter.commands, roundTrips: meter.roundTrips, waitedMs: Number(meter.waitedMs.toFixed(1)) }
