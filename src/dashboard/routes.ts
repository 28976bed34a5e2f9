import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import { Problem } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { addressSubject, createLocalLimit } from '../http/limit.ts'
import { requireJson, valid } from '../http/openapi.ts'
import { identifyService } from '../http/service-token.ts'
import { SCOPES } from '../service-tokens/scopes.ts'
import { dashboardService, type DashboardSession } from './dashboard.ts'
import { SignIn } from './schema.ts'

const COOKIE = 'dashboard'
/** Browsers accept Secure on http://127.0.0.1 and http://localhost. No route outside this path gets the cookie. */
const COOKIE_OPTIONS = {
  prefix: 'secure',
  httpOnly: true,
  secure: true,
  sameSite: 'Strict',
  path: '/dashboard',
} as const

/** How many wrong tokens an isolate takes from one network per minute. */
const guesses = createLocalLimit(30)

/**
 * Refuses requests that a page of another origin may have caused, whatever `CORS_ORIGINS` allows. Requests that change
 * something must also have a header that no form can send, and that other origins may not.
 */
const requireOwnPage: MiddlewareHandler<AppEnv> = async (c, next) => {
  const [site, origin] = [c.req.header('Sec-Fetch-Site'), c.req.header('Origin')]
  const isRead = c.req.method === 'GET' || c.req.method === 'HEAD'
  const isOwn =
    site === undefined
      ? origin === undefined || origin === new URL(c.req.url).origin
      : site === 'same-origin' || (isRead && site === 'none') // typed by the user
  if (!isOwn) throw new Problem('cross-site')
  if (!isRead && c.req.header('X-Dashboard') === undefined) {
    throw new Problem('cross-site', 'A request that changes something must have the header X-Dashboard')
  }
  await next()
}

const cookieOf = (c: Context<AppEnv>): string => getCookie(c, COOKIE, 'secure') ?? ''

async function requireSession(c: Context<AppEnv>): Promise<DashboardSession> {
  const cookie = cookieOf(c)
  const session = await c.var.use(dashboardService).find(cookie)
  if (session) return session
  throw new Problem('not-signed-in', cookie === '' ? 'Sign in to the dashboard first' : 'This session has ended')
}

/** A session as the page sees it. */
const shown = ({ caller: { name, scopes, tenant }, expiresAt }: DashboardSession) => ({
  name,
  scopes: scopes === 'all' ? SCOPES : scopes,
  tenant: tenant ?? null,
  expiresAt: new Date(expiresAt).toISOString(),
})

/**
 * Sessions of the dashboard, for its page only: the OpenAPI document leaves out everything below `/dashboard`. They work
 * without Redis, and with `SERVICE_TOKEN` without D1; only signing out needs D1.
 */
export const session = new Hono<AppEnv>()
  .use(requireOwnPage)
  .post('/', requireJson, valid('json', SignIn), async (c) => {
    const { token = '' } = c.req.valid('json')
    const network = addressSubject(c)
    guesses.spend(network)
    const caller = await identifyService(c, token)
    if (!caller) throw new Problem('service-token-required', 'This service token is not valid')
    guesses.refund(network)
    const { cookie, session } = c.var.use(dashboardService).signIn(caller)
    setCookie(c, COOKIE, cookie, { ...COOKIE_OPTIONS, expires: new Date(session.expiresAt) })
    return c.json(shown(session))
  })
  .get('/', async (c) => c.json(shown(await requireSession(c))))
  .delete('/', async (c) => {
    await c.var.use(dashboardService).signOut(cookieOf(c))
    deleteCookie(c, COOKIE, COOKIE_OPTIONS)
    return c.body(null, 204)
  })

/** Lets the routes below it know who uses the dashboard. They check scopes, as they do for a bearer token. */
export const guard = new Hono<AppEnv>().use('/*', requireOwnPage, async (c, next) => {
  c.set('dashboard', (await requireSession(c)).caller)
  await next()
})
