import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import { Problem } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { addressSubject, createLocalLimit } from '../http/limit.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { identifyService, requireService } from '../http/service-token.ts'
import { SCOPES } from '../service-tokens/scopes.ts'
import { dashboardService, type DashboardSession } from './dashboard.ts'
import { NewPortalLink, PortalLink, SignIn } from './schema.ts'

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
/** How many requests of the people of one tenant an isolate answers per minute. */
const byTenant = createLocalLimit(300)

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

async function signIn(c: Context<AppEnv>, token: string) {
  const caller = await identifyService(c, token)
  if (!caller) throw new Problem('service-token-required', 'This service token is not valid')
  return c.var.use(dashboardService).signIn(caller)
}

async function enter(c: Context<AppEnv>, link: string) {
  const entered = await c.var.use(dashboardService).enter(link)
  if (entered) return entered
  throw new Problem('not-signed-in', 'This link has expired or is not complete: ask for a new one')
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
    const { token = '', link } = c.req.valid('json')
    const network = addressSubject(c)
    guesses.spend(network)
    const { cookie, session } = link === undefined ? await signIn(c, token) : await enter(c, link)
    guesses.refund(network)
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
  const { caller } = await requireSession(c)
  if (caller.tenant !== undefined) byTenant.spend(caller.tenant)
  c.set('dashboard', caller)
  await next()
})

export const portalLinks = new Hono<AppEnv>().post(
  '/',
  doc({
    id: 'createPortalLink',
    tag: 'Webhooks',
    summary: 'Create a link to the webhooks of a tenant',
    description:
      'Opens the dashboard with the endpoints of that tenant only: its people can add, verify, test, pause, enable, rotate and ' +
      'delete them, see their deliveries and replay them. The link ends at `expiresAt`, and when the service token that made it is ' +
      'revoked or rotated. Nothing is stored, so repeating the request is safe. Works without Redis.',
    answer: PortalLink,
    status: 201,
    problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'service-token-required'],
  }),
  requireService('webhooks:manage'),
  requireJson,
  valid('json', NewPortalLink),
  (c) => {
    const { tenant, expiresInSeconds } = c.req.valid('json')
    const expiresAt = Date.now() + expiresInSeconds * 1_000
    const token = c.var.use(dashboardService).link(c.var.service, tenant, expiresAt)
    const url = `${new URL(c.req.url).origin}/#portal=${token}`
    c.header('Cache-Control', 'no-store')
    return c.json({ url, expiresAt: new Date(expiresAt).toISOString() }, 201)
  },
)
