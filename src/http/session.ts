import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import { Problem } from '../errors.ts'
import { limitState } from '../rate-limit/rate-limit.ts'
import type { Claims, HeldSession } from '../redis/session.ts'
import type { Relations } from '../relations/schema.ts'
import { sessionStore } from '../sessions/sessions.ts'
import { sessionTokens } from '../sessions/token.ts'
import type { AppEnv } from './context.ts'
import { parseBearer } from './headers.ts'

const COOKIE = 'session'
// The prefix `__Host-` requires Secure, which browsers accept on http://127.0.0.1 and http://localhost.
const COOKIE_OPTIONS = { prefix: 'host', httpOnly: true, secure: true, sameSite: 'Lax', path: '/' } as const

/** How long an isolate remembers that a session was live, to choose whom a request counts against. */
const REMEMBERED_MS = 60_000

export const setSessionCookie = (c: Context, token: string, expires: Date) =>
  setCookie(c, COOKIE, token, { ...COOKIE_OPTIONS, expires })

/** Deletes the cookie of a session that has ended, now or before. */
export const forgetCookie = createMiddleware<AppEnv>(async (c, next) => {
  await next()
  if (c.res.status === 204 || c.res.status === 401) deleteCookie(c, COOKIE, COOKIE_OPTIONS)
})

const cookieOf = (c: Context) => (c.req.header('Cookie') === undefined ? undefined : getCookie(c, COOKIE, 'host'))

/** The bearer token of the request. */
export function bearerOf(c: Pick<Context, 'req'>): string | undefined {
  const header = c.req.header('Authorization')
  return header === undefined ? undefined : parseBearer(header)
}

/** Whether the request presents a credential, genuine or not. */
export const hasCredential = (c: Context) => c.req.header('Authorization') !== undefined || cookieOf(c) !== undefined

/** The claims of the bearer token, or else of the cookie. Undefined: there is no genuine token. Costs no round trip. */
export function readClaims(c: Context<AppEnv>): Claims | undefined {
  let claims = c.get('claims')
  if (claims === undefined) {
    const isAnonymous = c.req.header('Authorization') === undefined && c.req.header('Cookie') === undefined
    const token = isAnonymous ? undefined : (bearerOf(c) ?? cookieOf(c))
    claims = (token === undefined ? undefined : c.get('use')(sessionTokens).read(token)) ?? null
    c.set('claims', claims)
    c.get('answer').isAnonymous = isAnonymous
  }
  return claims ?? undefined
}

/**
 * The relations of the user if the session of these claims is live. One round trip; none if a guard has just read what
 * Redis holds: `held`.
 */
export async function checkSession(
  c: Context<AppEnv>,
  claims: Claims,
  held?: Promise<HeldSession<Relations>>,
): Promise<Relations | undefined> {
  const relations = await c.get('use')(sessionStore).check(claims, Date.now(), held)
  if (relations) rememberLive(c, claims)
  else c.get('use')(limitState).live.delete(claims.sessionId)
  return relations
}

/** Notes for `wasLive` that the session is live. */
export const rememberLive = (c: Context<AppEnv>, { sessionId }: Claims): void =>
  c
    .get('use')(limitState)
    .live.set(sessionId, Date.now() + REMEMBERED_MS)

/** Whether this isolate has seen the session live within a minute. Costs no round trip. */
export function wasLive(c: Context<AppEnv>, { sessionId }: Claims): boolean {
  const remainingMs = (c.get('use')(limitState).live.get(sessionId) ?? 0) - Date.now()
  return remainingMs > 0 && remainingMs <= REMEMBERED_MS // more: the clock was set back
}

/**
 * Throws if another site may have caused this request: the cookie is its only credential, and the browser says that the
 * request comes from an origin that is neither ours nor in `CORS_ORIGINS`. Clients that are not browsers send neither
 * `Sec-Fetch-Site` nor `Origin`.
 */
export function requireOwnSite(c: Context<AppEnv>): void {
  if (bearerOf(c) !== undefined || cookieOf(c) === undefined) return
  const [site, origin] = [c.req.header('Sec-Fetch-Site'), c.req.header('Origin')]
  if (site === 'same-origin' || site === 'none') return
  if (site === undefined && origin === undefined) return
  const allowed = [new URL(c.req.url).origin, ...c.get('config').corsOrigins]
  if (origin === undefined || !allowed.includes(origin)) throw new Problem('cross-site')
}

/** The 401 of a session that has ended. */
export const sessionEnded = () => new Problem('not-signed-in', 'This session has ended')
