import type { Context } from 'hono'
import type { CacheEvent } from '../redis/cache.ts'
import { traceparentOf } from '../trace.ts'
import { bookmarkHeaders } from './bookmark.ts'
import type { AppEnv, RequestContext } from './context.ts'

/** What protects answers that are not pages. `public/_headers` has what protects pages. */
const SECURITY = {
  'Strict-Transport-Security': 'max-age=15552000; includeSubDomains',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'SAMEORIGIN',
  'Cross-Origin-Resource-Policy': 'same-origin',
}

/** Response headers that scripts on other origins may read. */
export const EXPOSED_HEADERS = [
  'ETag',
  'Idempotent-Replayed',
  'Link',
  'Location',
  'RateLimit',
  'RateLimit-Policy',
  'Retry-After',
  'Traceresponse',
  'X-D1-Bookmark',
  'X-Request-Id',
]

const EXPOSED = EXPOSED_HEADERS.join(', ')

/**
 * The headers of every answer: security, the ids of the request, CORS, the limit, and what the answer has cost so far.
 * `Server-Timing` (W3C) has the commands, round trips and milliseconds of Redis, `Cache-Status` (RFC 9211) the outcome of
 * each cache layer.
 */
export function answerHeaders(c: RequestContext): Record<string, string> {
  const headers: Record<string, string> = {
    ...SECURITY,
    'X-Request-Id': c.get('requestId'),
    Traceresponse: traceparentOf(c.get('trace')),
    ...c.get('answer').limitHeaders,
  }
  const platform = c.get('platform') as AppEnv['Variables']['platform'] | undefined // the Worker may not be configured
  if (!platform) return headers
  const { corsOrigins } = platform.config
  if (corsOrigins.length > 0) {
    headers['Vary'] = 'Origin'
    const origin = c.req.header('Origin')
    if (origin !== undefined && corsOrigins.includes(origin)) {
      headers['Access-Control-Allow-Origin'] = origin
      headers['Access-Control-Allow-Credentials'] = 'true'
      headers['Access-Control-Expose-Headers'] = EXPOSED
    }
  }
  const { commands, roundTrips, waitedMs } = platform.meter
  const ms = waitedMs === 0 ? '0.0' : waitedMs.toFixed(1)
  headers['Server-Timing'] = `redis;dur=${ms};desc="${commands} commands, ${roundTrips} round trips"`
  const { bookmark } = platform
  if (bookmark !== undefined) Object.assign(headers, bookmarkHeaders(c, bookmark))
  const status = cacheStatus(platform.cacheEvents)
  if (status !== '') headers['Cache-Status'] = status
  return headers
}

/**
 * Answers JSON that nobody stores, or 204 without `value`. Like `answerCacheable` it has all its headers at once; those set
 * by `c.header` are not part of it.
 */
export function answerUnstored(c: RequestContext, value?: object): Response {
  const headers = answerHeaders(c)
  headers['Cache-Control'] = 'no-store'
  if (value) headers['Content-Type'] = 'application/json'
  const answer = new Response(value ? JSON.stringify(value) : null, { status: value ? 200 : 204, headers })
  c.get('answer').complete = answer
  return answer
}

/** Gives the answer the headers that it lacks. An answer is private unless its route says otherwise. */
export function completeAnswer(c: Context<AppEnv>): void {
  if (c.get('answer').complete === c.res) return
  const { headers } = c.res
  const { Vary, 'Set-Cookie': cookie, ...others } = answerHeaders(c)
  if (cookie !== undefined) headers.append('Set-Cookie', cookie) // a sign-in has one too
  for (const [name, value] of Object.entries(others)) headers.set(name, value)
  if (Vary !== undefined && !/\bOrigin\b/i.test(headers.get('Vary') ?? '')) headers.append('Vary', Vary)
  if (!headers.has('Cache-Control')) headers.set('Cache-Control', 'no-store')
}

/** The value of `Cache-Status`: the cache layers of a request, the layer nearest to the source of truth first. */
export function cacheStatus(events: readonly CacheEvent[]): string {
  const redis = layerStatus('redis', events)
  const memory = layerStatus('memory', events)
  return redis === '' || memory === '' ? redis + memory : `${redis}, ${memory}`
}

/** What one layer did. Every cached read runs this: one pass, no copies. */
function layerStatus(layer: CacheEvent['layer'], events: readonly CacheEvent[]): string {
  let hasMiss = false
  let shortestMs = Infinity // without a hit
  for (const event of events) {
    if (event.layer !== layer) continue
    if (event.outcome === 'error') return `${layer}; fwd=bypass; detail=error`
    if (event.outcome === 'miss') hasMiss = true
    else if (event.ttlMs !== undefined) shortestMs = Math.min(shortestMs, event.ttlMs)
  }
  const hasHit = shortestMs < Infinity
  if (hasMiss) return `${layer}; fwd=${hasHit ? 'partial' : 'uri-miss'}`
  return hasHit ? `${layer}; hit; ttl=${Math.floor(shortestMs / 1_000)}` : ''
}
