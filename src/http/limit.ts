import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import type { LimitName, LimitPolicy } from '../config.ts'
import { Problem } from '../errors.ts'
import type { Allowance } from '../redis/rate-limit.ts'
import type { AppEnv } from './context.ts'

/**
 * Limits a route by a policy of the configuration, per signed-in user or else per address.
 *
 * Who is known to this isolate to be blocked is refused without a round trip. A strict policy is checked before the
 * work: one round trip, and on an outage it lets pass or answers 503 as it says, never 429. Any other is counted
 * after the answer: no waiting, at the price of a few requests too many.
 *
 * Headers: `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10; `Retry-After` (RFC 9110).
 */
export const limit = (name: LimitName) =>
  createMiddleware<AppEnv>(async (c, next) => {
    const { config, services, defer } = c.var
    const policy = config.limits[name]
    const subject = subjectOf(c)
    let allowance = services.rateLimit.known(name, subject)
    if (allowance?.isAllowed !== false && policy.isStrict) {
      try {
        allowance = await services.rateLimit.take(name, subject)
      } catch (error) {
        if (policy.onOutage === 'closed') {
          throw new Problem('unavailable', 'Limits cannot be checked right now', { retryAfter: 5 }, { cause: error })
        }
        allowance = undefined
      }
    }
    if (allowance?.isAllowed === false) {
      const retryAfter = secondsUntil(allowance.resetsAt)
      setHeaders(c, name, policy, allowance)
      throw new Problem('rate-limited', `Try again in ${retryAfter} s`, { retryAfter, 'violated-policies': [name] })
    }
    await next()
    setHeaders(c, name, policy, allowance)
    if (!policy.isStrict) {
      defer(() => services.rateLimit.take(name, subject).catch(() => {})) // these windows are declared ephemeral
    }
  })

/** Whom a limit is about. */
export function subjectOf(c: Context<AppEnv>): string {
  return `ip:${networkOf(c.req.header('CF-Connecting-IP') ?? 'unknown')}`
}

/** The address, or for IPv6 the /64 it is in: one customer has all of that (RFC 6177). */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)
  if (mapped?.[1]) return mapped[1]
  const [head = '', tail] = address.toLowerCase().split('::')
  const groups = head === '' ? [] : head.split(':')
  if (tail !== undefined) {
    const after = tail === '' ? [] : tail.split(':')
    while (groups.length + after.length < 8) groups.push('0')
    groups.push(...after)
  }
  const network = groups.slice(0, 4).map((group) => group.replace(/^0+(?=.)/, ''))
  return `${network.join(':')}::/64`
}

function setHeaders(c: Context<AppEnv>, name: LimitName, policy: LimitPolicy, allowance: Allowance | undefined): void {
  c.header('RateLimit-Policy', `"${name}";q=${policy.limit};w=${policy.windowSeconds}`)
  if (!allowance) return // not counted yet, or Redis is gone: nothing true to say
  c.header('RateLimit', `"${name}";r=${allowance.remaining};t=${secondsUntil(allowance.resetsAt)}`)
}

const secondsUntil = (timeMs: number) => Math.max(1, Math.ceil((timeMs - Date.now()) / 1_000))
