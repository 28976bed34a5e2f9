import { createHash, timingSafeEqual } from 'node:crypto'
import type { Context } from 'hono'
import { getCookie } from 'hono/cookie'
import { createMiddleware } from 'hono/factory'
import type { LimitName, LimitPolicy } from '../config.ts'
import { Problem } from '../errors.ts'
import type { Allowance } from '../redis/rate-limit.ts'
import type { Claims } from '../redis/session.ts'
import type { AppEnv } from './context.ts'

/**
 * Lets a request in: limits it by a policy of the configuration, per user or else per address, and finds out who is
 * signed in, both in one round trip.
 *
 * `user`: `required` answers 401 to who is not signed in; `optional` sets `userId` where somebody is; `ignored` does
 * not ask, so it costs nothing (`ownUserId` asks later, where it matters).
 *
 * Who is known to this isolate to be over a limit is refused without a round trip. A strict policy is checked before
 * the work, and on an outage it lets pass or answers 503 as it says, never 429. Any other is counted after the
 * answer: no waiting, at the price of a few requests too many.
 *
 * Headers: `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10; `Retry-After` (RFC 9110).
 */
export const admit = (name: LimitName, user: 'required' | 'optional' | 'ignored') =>
  createMiddleware<AppEnv>(async (c, next) => {
    const { config, services, defer } = c.var
    const policy = config.limits[name]
    const claims = readClaims(c)
    if (user === 'required' && !claims) throw new Problem('not-signed-in')
    const subject = subjectOf(c)
    const known = services.rateLimit.known(name, subject)
    if (known?.isAllowed === false) throw overLimit(c, name, policy, known)

    // Asked in the same turn, they travel together.
    const [taken, isLive] = await Promise.all([
      policy.isStrict ? take(c, name, subject) : known,
      user !== 'ignored' && claims ? services.sessions.check(claims) : false,
    ])
    if (taken?.isAllowed === false) throw overLimit(c, name, policy, taken)
    if (claims && isLive) c.set('userId', claims.userId)
    else if (user === 'required') throw new Problem('not-signed-in', 'This session is over')

    await next()
    setHeaders(c, name, policy, taken)
    if (!policy.isStrict) defer(() => services.rateLimit.takeLater(name, subject))
  })

/**
 * Reads for whoever the token claims to be while the session is checked in the same round trip; if that is over, reads
 * again for nobody.
 */
export async function readAsViewer<T>(c: Context<AppEnv>, read: (viewerId?: string) => Promise<T>): Promise<T> {
  const claims = readClaims(c)
  if (!claims) return read()
  const [answer, isLive] = await Promise.all([read(claims.userId), c.var.services.sessions.check(claims)])
  return isLive ? answer : read()
}

/** The same where somebody must be signed in: one round trip for session and answer, 401 for nobody. */
export async function readAsUser<T>(c: Context<AppEnv>, read: (userId: string) => Promise<T>): Promise<T> {
  const claims = readClaims(c)
  if (!claims) throw new Problem('not-signed-in')
  const [answer, isLive] = await Promise.all([read(claims.userId), c.var.services.sessions.check(claims)])
  if (!isLive) throw new Problem('not-signed-in', 'This session is over')
  return answer
}

/** Who is signed in, on a route that requires it. */
export function requireUserId(c: Context<AppEnv>): string {
  const { userId } = c.var
  if (userId === undefined) throw new Problem('not-signed-in')
  return userId
}

/** Whether `userId` is who is asking, on a route that ignores users otherwise: one round trip if they claim to be. */
export async function isOwn(c: Context<AppEnv>, userId: string): Promise<boolean> {
  const { claims, services } = c.var
  return claims?.userId === userId && services.sessions.check(claims)
}

/**
 * Spends one request of a strict policy: one round trip, none for who is known to be over it. Undefined when it cannot
 * be counted and the policy lets pass.
 */
export async function take(c: Context<AppEnv>, name: LimitName, subject: string): Promise<Allowance | undefined> {
  const known = c.var.services.rateLimit.known(name, subject)
  if (known?.isAllowed === false) return known
  try {
    return await c.var.services.rateLimit.take(name, subject)
  } catch (cause) {
    if (c.var.config.limits[name].onOutage === 'open') return undefined
    throw new Problem('unavailable', 'Limits cannot be checked right now', { retryAfter: 5 }, { cause })
  }
}

/** The 429 of a policy, with its headers set. */
export function overLimit(c: Context<AppEnv>, name: LimitName, policy: LimitPolicy, allowance: Allowance): Problem {
  setHeaders(c, name, policy, allowance)
  const retryAfter = secondsUntil(allowance.resetsAt)
  return new Problem('rate-limited', `Try again in ${retryAfter} s`, { retryAfter, 'violated-policies': [name] })
}

/** Whether a back end is asking: it presents the service token as bearer. */
export function isService(c: Context<AppEnv>): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest() // equal lengths, for the comparison
  const presented = bearerOf(c)
  return presented !== undefined && timingSafeEqual(digest(presented), digest(c.var.config.serviceToken))
}

/** Only for back ends. */
export const requireService = createMiddleware<AppEnv>(async (c, next) => {
  if (!isService(c)) {
    c.header('WWW-Authenticate', 'Bearer')
    throw new Problem('service-token-required')
  }
  await next()
})

export const SESSION_COOKIE = 'session'

/** What the bearer token or else the cookie claims; undefined where there is none, or not one of ours. */
export function readClaims(c: Context<AppEnv>): Claims | undefined {
  if (c.var.claims) return c.var.claims
  const token = bearerOf(c) ?? getCookie(c, SESSION_COOKIE, 'host')
  const claims = token === undefined ? undefined : c.var.services.tokens.read(token)
  if (claims) c.set('claims', claims)
  return claims
}

const bearerOf = (c: Context<AppEnv>) => /^Bearer +(\S+)$/i.exec(c.req.header('Authorization') ?? '')?.[1]

/** Whom a limit is about: the user of a genuine token, or the network a request came from. */
export const subjectOf = (c: Context<AppEnv>) => {
  const claims = readClaims(c)
  return claims ? claims.userId : addressOf(c)
}

export const addressOf = (c: Context<AppEnv>) => `ip:${networkOf(c.req.header('CF-Connecting-IP') ?? 'unknown')}`

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
