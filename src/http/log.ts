import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { readLogRequests } from '../config.ts'
import type { AppEnv } from './context.ts'

/** Where a request stands in a trace (W3C Trace Context). */
export interface Trace {
  /** 32 hex digits: of the caller, or new. */
  traceId: string
  /** 16 hex digits: this request. */
  spanId: string
  /** Two hex digits: of the caller, or 00. */
  flags: string
}

const hex = (bytes: number) =>
  Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, '0')).join('')

/**
 * Joins the trace of a `traceparent`, or begins one where there is none that is valid (W3C Trace Context §3.2): hex in
 * lower case, ids that are not all zeros, no version ff; of versions to come what 00 has is read, and more may follow.
 */
export function joinTrace(header: string | undefined): Trace {
  const [, version, traceId, parentId, flags, rest] =
    /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/.exec(header ?? '') ?? []
  const isValid =
    version !== undefined &&
    version !== 'ff' &&
    (version !== '00' || rest === undefined) &&
    !/^0+$/.test(traceId ?? '') &&
    !/^0+$/.test(parentId ?? '')
  const joined = isValid ? { traceId, flags } : {}
  return { traceId: joined.traceId ?? hex(16), spanId: hex(8), flags: joined.flags ?? '00' }
}

/** What whoever is called on behalf of a request gets, to go on with its trace. */
export const traceparentOf = ({ traceId, spanId, flags }: Trace) => `00-${traceId}-${spanId}-${flags}`

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
