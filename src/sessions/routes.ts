import { createHash } from 'node:crypto'
import { type Context, Hono, type MiddlewareHandler } from 'hono'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { addressSubject, requireAllowed, spend } from '../http/limit.ts'
import { described, doc, requireJson, valid } from '../http/openapi.ts'
import { forgetCookie, readClaims, requireOwnSite, setSessionCookie } from '../http/session.ts'
import { limitsService } from '../rate-limit/rate-limit.ts'
import { usersService } from '../users/users.ts'
import { Credentials, Device, SignedIn } from './schema.ts'
import { accountsService, type Login } from './sessions.ts'

const tag = 'Sessions'

/**
 * Limits guesses at the password of one account, however the login names it. The defaults:
 *
 * | limit | guesses | counted per |
 * | --- | --- | --- |
 * | `sign-in` | 10 in 15 min | account and source |
 * | `sign-in-address` | 100 in 15 min | network |
 * | `sign-in-account` | 100 in an hour | account, from all unknown sources together |
 *
 * A source is a device that presents a genuine token of this account, of an ended session too, or else a network. A device
 * is known, and so is a network from which the user has signed in within 90 days. Guesses by others never spend the
 * allowance of a known source. They lock out unknown sources only at 100 guesses in an hour, which takes ten networks.
 *
 * One round trip. Unknown sources: one more, so that what the first two limits refuse does not spend the third.
 */
async function limitGuesses(c: Context<AppEnv>, login: string, { user, isKnownSource }: Login): Promise<void> {
  const address = addressSubject(c)
  const claims = readClaims(c)
  const device = user && claims?.userId === user.id ? claims.sessionId : undefined
  // A hash: keys contain no email addresses.
  const account = user?.id ?? createHash('sha256').update(login.toLowerCase()).digest('base64url')
  const [bySource, byAddress] = await Promise.all([
    spend(c, 'sign-in', `login:${account}:${device ?? address}`),
    spend(c, 'sign-in-address', address),
  ])
  requireAllowed(c, 'sign-in', bySource)
  requireAllowed(c, 'sign-in-address', byAddress)
  if (device !== undefined || isKnownSource) return
  requireAllowed(c, 'sign-in-account', await spend(c, 'sign-in-account', `login:${account}`))
}

/** Refuses sign-ins that another site causes, and addresses that this isolate knows to be over the limit. */
const admitSignIn: MiddlewareHandler<AppEnv> = described(
  { security: [], 'x-rate-limit': 'sign-in' },
  async (c, next) => {
    requireOwnSite(c)
    requireAllowed(c, 'sign-in-address', c.var.use(limitsService).known('sign-in-address', addressSubject(c)))
    await next()
  },
)

export const sessions = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'signIn',
      tag,
      summary: 'Sign in',
      description:
        'The login is a username or a confirmed email address. Send the token as `Authorization: Bearer`. Browsers also get it as ' +
        'a cookie. If the request presents a session, sign-in ends that session. Without Redis: 503, because attempts ' +
        'cannot be counted.',
      answer: SignedIn,
      status: 201,
      sends: ['Set-Cookie'],
      problems: [
        'invalid-request',
        'malformed-json',
        'unsupported-media-type',
        'wrong-credentials',
        'suspended',
        'unavailable',
      ],
    }),
    admitSignIn,
    requireJson,
    valid('json', Credentials),
    async (c) => {
      const { use } = c.var
      const { login, password } = c.req.valid('json')
      const network = addressSubject(c)
      const account = await use(accountsService).identify(login, network)
      await limitGuesses(c, login, account)
      const userAgent = c.req.header('User-Agent') ?? ''
      const device = { userAgent, network, replaced: readClaims(c) }
      const signedIn = await use(accountsService).signIn(account, password, device)
      const expires = new Date(signedIn.expiresAt)
      setSessionCookie(c, signedIn.token, expires)
      c.header('Cache-Control', 'no-store')
      const user = await use(usersService).getOwn(signedIn.userId)
      return c.json({ token: signedIn.token, expiresAt: expires.toISOString(), user }, 201)
    },
  )
  .get(
    '/',
    doc({
      id: 'listSessions',
      tag,
      summary: 'List my devices',
      answer: v.pipe(v.object({ items: v.array(Device), nextCursor: v.null() }), v.description('My devices.')),
      problems: ['not-signed-in'],
    }),
    admit('reads', { session: 'required' }),
    async (c) => {
      const items = await c.var.use(accountsService).devices(c.var.claims)
      c.header('Cache-Control', 'no-store')
      return c.json({ items, nextCursor: null })
    },
  )
  .delete(
    '/',
    doc({
      id: 'signOutEverywhere',
      tag,
      summary: 'Sign out everywhere',
      description:
        'Ends all my sessions, including this one, everywhere. Works without Redis: the answer then takes ' +
        '`SESSION_RECHECK_SECONDS` (5 s).',
      status: 204,
      sends: ['Set-Cookie'],
      problems: ['not-signed-in'],
    }),
    forgetCookie,
    admit('sessions', { session: 'required' }),
    async (c) => {
      await c.var.use(accountsService).signOutEverywhere(c.var.userId)
      return c.body(null, 204)
    },
  )
  .delete(
    '/current',
    doc({
      id: 'signOut',
      tag,
      summary: 'Sign out',
      description:
        'Ends this session everywhere, and takes its device offline. Works without Redis: the answer then takes ' +
        '`SESSION_RECHECK_SECONDS` (5 s).',
      status: 204,
      sends: ['Set-Cookie'],
      problems: ['not-signed-in'],
    }),
    forgetCookie,
    admit('sessions', { session: 'required' }),
    async (c) => {
      await c.var.use(accountsService).signOut(c.var.claims)
      return c.body(null, 204)
    },
  )
