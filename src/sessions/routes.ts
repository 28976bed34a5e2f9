import { createHash } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { deleteCookie, setCookie } from 'hono/cookie'
import { createMiddleware } from 'hono/factory'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import { addressOf, admit, overLimit, readClaims, requireUserId, SESSION_COOKIE, take } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Time } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { OwnUser } from '../users/routes.ts'

const tag = 'Sessions'

const Credentials = v.object({
  login: v.pipe(v.string(), v.trim(), v.minLength(1, 'must not be empty'), v.maxLength(254, 'is too long')),
  password: v.pipe(v.string(), v.minLength(1, 'must not be empty'), v.maxLength(200, 'is too long')),
})

const SignedIn = v.object({ token: v.string(), expiresAt: Time, user: OwnUser })

const Device = v.object({
  id: v.string(),
  userAgent: v.string(),
  createdAt: Time,
  lastSeenAt: Time,
  expiresAt: Time,
  isCurrent: v.boolean(),
})

/** Limits guesses per account and per address, both in one round trip. */
const limitGuesses = createMiddleware<AppEnv, string, { out: { json: v.InferOutput<typeof Credentials> } }>(
  async (c, next) => {
    const login = c.req.valid('json').login.toLowerCase()
    const subjects = [
      // A hash: addresses of people are not for keys.
      ['sign-in', `login:${createHash('sha256').update(login).digest('base64url')}`],
      ['sign-in-address', addressOf(c)],
    ] as const
    const allowances = await Promise.all(subjects.map(([name, subject]) => take(c, name, subject)))
    for (const [i, [name]] of subjects.entries()) {
      const allowance = allowances[i]
      if (allowance?.isAllowed === false) throw overLimit(c, name, c.var.config.limits[name], allowance)
    }
    await next()
  },
)

// `__Host-` wants Secure, which browsers grant to http://127.0.0.1 and http://localhost.
const COOKIE = { prefix: 'host', httpOnly: true, secure: true, sameSite: 'Lax', path: '/' } as const

function requireClaims(c: Context<AppEnv>) {
  const claims = readClaims(c)
  if (!claims) throw new Problem('not-signed-in')
  return claims
}

export const sessions = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      tag,
      summary: 'Sign in',
      description:
        'With a username or an email address. The token is for `Authorization: Bearer`; browsers get it as a cookie too. ' +
        'A session presented along is ended. Without Redis attempts cannot be counted: 503.',
      answer: SignedIn,
      status: 201,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'wrong-credentials', 'unavailable'],
    }),
    requireJson,
    valid('json', Credentials),
    limitGuesses,
    async (c) => {
      const { accounts, users } = c.var.services
      const userAgent = c.req.header('User-Agent') ?? ''
      const signedIn = await accounts.signIn(c.req.valid('json'), { userAgent, replaced: readClaims(c) })
      const expires = new Date(signedIn.expiresAt)
      setCookie(c, SESSION_COOKIE, signedIn.token, { ...COOKIE, expires })
      c.header('Cache-Control', 'no-store')
      const user = await users.getOwn(signedIn.userId)
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
    admit('reads', 'required'),
    async (c) => {
      const items = await c.var.services.accounts.devices(requireClaims(c))
      c.header('Cache-Control', 'no-store')
      return c.json({ items, nextCursor: null })
    },
  )
  .delete(
    '/',
    doc({
      tag,
      summary: 'Sign out everywhere',
      description: 'Ends all my sessions, this one too. 503 when Redis could not be told: try again.',
      status: 204,
      problems: ['not-signed-in', 'unavailable'],
    }),
    admit('sessions', 'required'),
    async (c) => {
      await c.var.services.accounts.signOutEverywhere(requireUserId(c))
      deleteCookie(c, SESSION_COOKIE, COOKIE)
      return c.body(null, 204)
    },
  )
  .delete(
    '/current',
    doc({
      tag,
      summary: 'Sign out',
      description: '503 when Redis could not be told: try again.',
      status: 204,
      problems: ['not-signed-in', 'unavailable'],
    }),
    admit('sessions', 'required'),
    async (c) => {
      await c.var.services.accounts.signOut(requireClaims(c))
      deleteCookie(c, SESSION_COOKIE, COOKIE)
      return c.body(null, 204)
    },
  )
