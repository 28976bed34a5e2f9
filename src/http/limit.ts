import ipaddr from 'ipaddr.js'
import type { Context, MiddlewareHandler } from 'hono'
import type { LimitName } from '../config.ts'
import { Problem, unavailable } from '../errors.ts'
import { limitsService } from '../rate-limit/rate-limit.ts'
import type { Allowance } from '../redis/rate-limit.ts'
import type { AppEnv } from './context.ts'
import { described } from './openapi.ts'

/**
 * Spends one request of a strict policy. One round trip, none when this isolate knows that the subject is over the limit.
 * Undefined: Redis cannot count, and the policy admits requests then. Otherwise 503.
 */
export async function spend(c: Context<AppEnv>, name: LimitName, subject: string): Promise<Allowance | undefined> {
  const limits = c.get('use')(limitsService)
  const known = limits.known(name, subject)
  if (known?.isAllowed === false) return known
  return limits.take(name, subject).catch((cause: unknown) => requireOpen(c, name, cause))
}

/** Admits a request that Redis cannot count. Throws a 503 if the policy does not. */
export function requireOpen(c: Context<AppEnv>, name: LimitName, cause: unknown): undefined {
  if (c.get('config').limits[name].onOutage === 'closed') unavailable('Limits cannot be checked right now')(cause)
}

/** Throws the 429 of a policy if the allowance is spent. */
export function requireAllowed(c: Context<AppEnv>, name: LimitName, allowance: Allowance | undefined): void {
  if (allowance?.isAllowed !== false) return
  setLimitHeaders(c, name, allowance)
  const retryAfter = secondsUntil(allowance.resetsAt)
  throw new Problem('rate-limited', `Try again in ${retryAfter} s`, { retryAfter, 'violated-policies': [name] })
}

/**
 * Gives the answer `RateLimit-Policy`, and `RateLimit` if the allowance is known (draft-ietf-httpapi-ratelimit-headers-10).
 */
export function setLimitHeaders(c: Context<AppEnv>, name: LimitName, allowance: Allowance | undefined): void {
  const { limit, windowSeconds } = c.get('config').limits[name]
  const headers: Record<string, string> = { 'RateLimit-Policy': `"${name}";q=${limit};w=${windowSeconds}` }
  if (allowance) headers['RateLimit'] = `"${name}";r=${allowance.remaining};t=${secondsUntil(allowance.resetsAt)}`
  c.get('answer').limitHeaders = headers
}

/** The network of the request as the subject of a limit. */
export const addressSubject = (c: Pick<Context, 'req'>) =>
  `ip:${networkOf(c.req.header('CF-Connecting-IP') ?? 'unknown')}`

/** How many requests of one network an isolate answers per minute on a cheap route. */
const LOCAL_LIMIT = 1_200
const LOCAL_WINDOW_MS = 60_000
const LOCAL_SUBJECTS = 10_000

/**
 * Limits a cheap route per network and isolate, in memory: counting in Redis would cost more than the answer. Works on a
 * Worker that is not configured, and while Redis fails.
 */
export function limitLocally(limit = LOCAL_LIMIT, security: Record<string, string[]>[] = []): MiddlewareHandler {
  const local = createLocalLimit(limit)
  return described({ 'x-rate-limit': 'local', security }, async (c, next) => {
    local.spend(addressSubject(c))
    await next()
  })
}

/** A limit per subject and minute, in the memory of the isolate. */
export function createLocalLimit(limit: number) {
  const counts = new Map<string, number>()
  let endsAt = 0
  return {
    /** Counts one request. Throws 429 over the limit. */
    spend(subject: string): void {
      const now = Date.now()
      const isOver = now >= endsAt || endsAt - now > LOCAL_WINDOW_MS // or the clock was set back
      if (isOver || counts.size >= LOCAL_SUBJECTS) {
        counts.clear()
        endsAt = now + LOCAL_WINDOW_MS
      }
      const requests = (counts.get(subject) ?? 0) + 1
      counts.set(subject, requests)
      if (requests <= limit) return
      const retryAfter = secondsUntil(endsAt)
      throw new Problem('rate-limited', `Try again in ${retryAfter} s`, { retryAfter })
    },
    /** Takes back one request. */
    refund: (subject: string) => void counts.set(subject, (counts.get(subject) ?? 1) - 1),
  }
}

/** An IPv4 address as Cloudflare writes it. Parsing it would return the same. */
const PLAIN_IPV4 = /^(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})$/

/** The IPv4 address, or the /64 network of an IPv6 address: one customer has all of it (RFC 6177). */
export function networkOf(address: string): string {
  if (PLAIN_IPV4.test(address)) return address
  if (!ipaddr.isValid(address)) return address
  const parsed = ipaddr.process(address) // IPv4-mapped IPv6 becomes IPv4
  if (!('parts' in parsed)) return parsed.toString()
  const network = parsed.parts.slice(0, 4).map((part) => part.toString(16))
  return `${network.join(':')}::/64`
}

const secondsUntil = (timeMs: number) => Math.max(1, Math.ceil((timeMs - Date.now()) / 1_000))
