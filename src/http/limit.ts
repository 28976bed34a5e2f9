import ipaddr from 'ipaddr.js'
import type { Context } from 'hono'
import type { LimitName } from '../config.ts'
import { Problem, unavailable } from '../errors.ts'
import { limitsService } from '../rate-limit/rate-limit.ts'
import type { Allowance } from '../redis/rate-limit.ts'
import type { AppEnv } from './context.ts'
import { readClaims } from './session.ts'

/**
 * Spends one request of a strict policy. One round trip, none when this isolate knows that the subject is over the limit.
 * Undefined: Redis cannot count, and the policy admits requests then. Otherwise 503.
 */
export async function spend(c: Context<AppEnv>, name: LimitName, subject: string): Promise<Allowance | undefined> {
  const limits = c.var.use(limitsService)
  const known = limits.known(name, subject)
  if (known?.isAllowed === false) return known
  return limits.take(name, subject).catch((cause: unknown) => {
    if (c.var.config.limits[name].onOutage === 'open') return undefined
    return unavailable('Limits cannot be checked right now')(cause)
  })
}

/** Throws the 429 of a policy if the allowance is spent. */
export function requireAllowed(c: Context<AppEnv>, name: LimitName, allowance: Allowance | undefined): void {
  if (allowance?.isAllowed !== false) return
  setLimitHeaders(c, name, allowance)
  const retryAfter = secondsUntil(allowance.resetsAt)
  throw new Problem('rate-limited', `Try again in ${retryAfter} s`, { retryAfter, 'violated-policies': [name] })
}

/**
 * Sets `RateLimit-Policy`, and `RateLimit` if the allowance is known (draft-ietf-httpapi-ratelimit-headers-10).
 */
export function setLimitHeaders(c: Context<AppEnv>, name: LimitName, allowance: Allowance | undefined): void {
  const { limit, windowSeconds } = c.var.config.limits[name]
  c.header('RateLimit-Policy', `"${name}";q=${limit};w=${windowSeconds}`)
  if (!allowance) return
  c.header('RateLimit', `"${name}";r=${allowance.remaining};t=${secondsUntil(allowance.resetsAt)}`)
}

/** The subject of a limit: the user of a genuine token, or else the network of the request. */
export function limitSubject(c: Context<AppEnv>): string {
  const claims = readClaims(c)
  return claims ? claims.userId : addressSubject(c)
}

/** The network of the request as the subject of a limit. */
export const addressSubject = (c: Pick<Context, 'req'>) =>
  `ip:${networkOf(c.req.header('CF-Connecting-IP') ?? 'unknown')}`

/** The IPv4 address, or the /64 network of an IPv6 address: one customer has all of it (RFC 6177). */
export function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return address
  const parsed = ipaddr.process(address) // IPv4-mapped IPv6 becomes IPv4
  if (!('parts' in parsed)) return parsed.toString()
  const network = parsed.parts.slice(0, 4).map((part) => part.toString(16))
  return `${network.join(':')}::/64`
}

const secondsUntil = (timeMs: number) => Math.max(1, Math.ceil((timeMs - Date.now()) / 1_000))
