import { createHash } from 'node:crypto'
import { Hono } from 'hono'
import { createMiddleware } from 'hono/factory'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { addressSubject, requireAllowed, spend } from '../http/limit.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { deleteSessionCookie, readClaims, setSessionCookie } from '../http/session.ts'
import { usersService } from '../users/users.ts'
import { Credentials, Device, SignedIn } from './schema.ts'
import { accountsService } from './sessions.ts'

const tag = 'Sessions'

/** Limits guesses per account and per address, both in one round trip. */
const limitGuesses = createMiddleware<AppEnv, string, { out: { json: Credentials } }>(async (c, next) => {
  const login = c.req.valid('json').login.toLowerCase()
  const account = `login:${createHash('sha256').update(login).digest('base64url')}` // a hash: no email addresses in keys
  const [byAccount, byAddress] = await Promise.all([
    spend(c, 'sign-in', account),
    spend(c, 'sign-in-address', addressSubject(c)),
  ])
  requireAllowed(c, 'sign-in', byAccount)
  requireAllowed(c, 'sign-in-address', byAddress)
  await next()
})

export const sessions = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      tag,
      summary: 'Sign in',
      description:
        'The login is a username or an email address. Send the token as `Authorization: Bearer`. Browsers also get it as ' +
        'a cookie. If the request presents a session, sign-in ends that session. Without Redis: 503, because attempts ' +
        'cannot be counted.',
      answer: SignedIn,
      status: 201,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'wrong-credentials', 'unavailable'],
    }),
    requireJson,
    valid('json', Credentials),
    limitGuesses,
    async (c) => {
      const { use } = c.var
      const userAgent = c.req.header('User-Agent') ?? ''
      const signedIn = await use(accountsService).signIn(c.req.valid('json'), { userAgent, replaced: readClaims(c) })
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
      tag,
      summary: 'List my devices',
      answer: v.object({ items: v.array(Device), nextCursor: v.null() }),
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
      tag,
      summary: 'Sign out everywhere',
      description: 'Ends all my sessions, including this one. Without Redis: 503, try again.',
      status: 204,
      problems: ['not-signed-in', 'unavailable'],
    }),
    admit('sessions', { session: 'required' }),
    async (c) => {
      await c.var.use(accountsService).signOutEverywhere(c.var.userId)
      deleteSessionCookie(c)
      return c.body(null, 204)
    },
  )
  .delete(
    '/current',
    doc({
      tag,
      summary: 'Sign out',
      description: 'Ends this session. Without Redis: 503, try again.',
      status: 204,
      problems: ['not-signed-in', 'unavailable'],
    }),
    admit('sessions', { session: 'required' }),
    async (c) => {
      await c.var.use(accountsService).signOut(c.var.claims)
      deleteSessionCookie(c)
      return c.body(null, 204)
    },
  )
