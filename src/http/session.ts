import type { Context } from 'hono'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import { Problem } from '../errors.ts'
import type { Claims } from '../redis/session.ts'
import { sessionStore } from '../sessions/sessions.ts'
import { sessionTokens } from '../sessions/token.ts'
import type { AppEnv } from './context.ts'

const COOKIE = 'session'
// The prefix `__Host-` requires Secure, which browsers accept on http://127.0.0.1 and http://localhost.
const COOKIE_OPTIONS = { prefix: 'host', httpOnly: true, secure: true, sameSite: 'Lax', path: '/' } as const

export const setSessionCookie = (c: Context, token: string, expires: Date) =>
  setCookie(c, COOKIE, token, { ...COOKIE_OPTIONS, expires })
export const deleteSessionCookie = (c: Context) => deleteCookie(c, COOKIE, COOKIE_OPTIONS)

export const bearerOf = (c: Pick<Context, 'req'>) => /^Bearer +(\S+)$/i.exec(c.req.header('Authorization') ?? '')?.[1]

/** The claims of the bearer token, or else of the cookie. Undefined: there is no genuine token. Costs no round trip. */
export function readClaims(c: Context<AppEnv>): Claims | undefined {
  if (c.var.claims === undefined) {
    const token = bearerOf(c) ?? getCookie(c, COOKIE, 'host')
    c.set('claims', (token === undefined ? undefined : c.var.use(sessionTokens).read(token)) ?? null)
  }
  return c.var.claims ?? undefined
}

/** Whether the session of these claims is live. One round trip. */
export const isLive = (c: Context<AppEnv>, claims: Claims): Promise<boolean> => c.var.use(sessionStore).check(claims)

/** The 401 of a session that has ended. */
export const sessionEnded = () => new Problem('not-signed-in', 'This session has ended')
