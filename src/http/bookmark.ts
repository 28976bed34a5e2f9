import { generateCookie, getCookie } from 'hono/cookie'
import type { Context } from 'hono'
import type { AppEnv, RequestContext } from './context.ts'
import { bearerOf } from './session.ts'

const HEADER = 'X-D1-Bookmark'
const COOKIE = 'bookmark'
/** Replicas have caught up long before. */
const COOKIE_OPTIONS = {
  prefix: 'host',
  httpOnly: true,
  secure: true,
  sameSite: 'Lax',
  path: '/',
  maxAge: 3_600,
} as const

/** A bookmark of D1. Anything else counts as none: D1 would refuse it. */
const PATTERN = /^[\da-f]{8}-[\da-f]{8}-[\da-f]{8}-[\da-f]{32}$/

function given(c: Pick<Context, 'req'>): string | undefined {
  const bookmark = c.req.header(HEADER) ?? getCookie(c as Context, COOKIE, 'host') // it reads the request only
  return bookmark !== undefined && PATTERN.test(bookmark) ? bookmark : undefined
}

/**
 * Where D1 may run the first read of a replica: where it has what the caller wrote or saw before, as the bookmark of the
 * caller says. A signed-in caller who sends none reads from the primary, and gets one.
 */
export const readConstraint = (c: Context<AppEnv>): string =>
  given(c) ?? (c.get('claims') ? 'first-primary' : 'first-unconstrained')

/**
 * The headers that give the caller its new bookmark: a cookie if its session is one, else `X-D1-Bookmark`. Not for reads by
 * anonymous callers: these have written nothing, and shared caches keep their answers.
 */
export function bookmarkHeaders(c: RequestContext, bookmark: string): Record<string, string> {
  const isRead = c.req.method === 'GET' || c.req.method === 'HEAD'
  if ((isRead && !c.get('claims')) || bookmark === given(c)) return {}
  const hasCookie = bearerOf(c) === undefined && c.req.header('Cookie') !== undefined
  return hasCookie ? { 'Set-Cookie': generateCookie(COOKIE, bookmark, COOKIE_OPTIONS) } : { [HEADER]: bookmark }
}
