import { Hono } from 'hono'
import * as v from 'valibot'
import { unavailable } from '../errors.ts'
import { admit } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { requireAllowed, spend } from '../http/limit.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { forgetCookie } from '../http/session.ts'
import { newId } from '../ids.ts'
import { addressOf, credentialsService } from './credentials.ts'
import { PasswordChange, PasswordReset, ResetRequest, Verification, VerificationRequest } from './schema.ts'

const tag = 'Credentials'
const Accepted = v.pipe(v.object({}), v.description('The request was accepted. Mail says the rest.'))

export const password = new Hono<AppEnv>().post(
  '/',
  doc({
    id: 'changePassword',
    tag,
    summary: 'Change my password',
    description:
      'Requires the old password. Ends my other sessions and keeps this one. A repeated request succeeds and changes ' +
      'nothing. Without Redis: 503, because attempts cannot be counted.',
    status: 204,
    problems: [
      'invalid-request',
      'malformed-json',
      'not-signed-in',
      'wrong-password',
      'unsupported-media-type',
      'unavailable',
    ],
  }),
  admit('credentials', { session: 'required' }),
  requireJson,
  valid('json', PasswordChange),
  async (c) => {
    const { password, newPassword } = c.req.valid('json')
    await c.var.use(credentialsService).changePassword(c.var.claims, password, newPassword)
    return c.body(null, 204)
  },
)

export const passwordResets = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'requestPasswordReset',
      tag,
      summary: 'Ask for a password reset',
      description:
        'Mails a link to this address, if an account has it. The link works once, for 30 minutes. Neither the answer nor ' +
        'its time shows whether an account has the address. Repeating the request sends another link. Without Redis: 503.',
      answer: Accepted,
      status: 202,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'unavailable'],
    }),
    admit('credentials', { session: 'none' }, { by: 'address' }),
    requireJson,
    valid('json', ResetRequest),
    async (c) => {
      const { email } = c.req.valid('json')
      requireAllowed(c, 'mail', await spend(c, 'mail', addressOf(email)))
      // The same for every address: the consumer of the queue looks for the account.
      await c.var.platform
        .enqueue('EVENTS', [{ body: { kind: 'password-reset', id: newId('ev'), email } }])
        .catch(unavailable('Mail cannot be sent right now'))
      return c.json({}, 202)
    },
  )
  .put(
    '/',
    doc({
      id: 'resetPassword',
      tag,
      summary: 'Reset a password',
      description:
        'Sets a new password with the token from the mail, and ends every session of the account. A token works once; a ' +
        'repeated request succeeds and changes nothing. ' +
        'Without Redis: 503, because attempts cannot be counted.',
      status: 204,
      sends: ['Set-Cookie'],
      problems: ['invalid-request', 'malformed-json', 'token-expired', 'unsupported-media-type', 'unavailable'],
    }),
    forgetCookie,
    admit('credentials', { session: 'none' }, { by: 'address' }),
    requireJson,
    valid('json', PasswordReset),
    async (c) => {
      const { token, password } = c.req.valid('json')
      await c.var.use(credentialsService).resetPassword(token, password)
      return c.body(null, 204)
    },
  )

export const emailVerifications = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'requestEmailVerification',
      tag,
      summary: 'Ask to confirm my email address',
      description:
        'Mails a link to my address, if it is not confirmed yet. With `email` and `password`: to this address, which ' +
        'replaces mine once I confirm it. Whether another account has the address is not in the answer, only in the ' +
        'mail. Repeating the request sends another link.',
      answer: Accepted,
      status: 202,
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'wrong-password',
        'unsupported-media-type',
        'unavailable',
      ],
    }),
    admit('credentials', { session: 'required' }),
    requireJson,
    valid('json', VerificationRequest),
    async (c) => {
      await c.var.use(credentialsService).requestVerification(c.var.userId, c.req.valid('json'))
      return c.json({}, 202)
    },
  )
  .put(
    '/',
    doc({
      id: 'verifyEmail',
      tag,
      summary: 'Confirm an email address',
      description:
        'With the token from the mail, which is valid for a day and works once; a repeated request succeeds and changes ' +
        'nothing. No session is needed.',
      status: 204,
      problems: [
        'invalid-request',
        'malformed-json',
        'taken',
        'token-expired',
        'unsupported-media-type',
        'unavailable',
      ],
    }),
    admit('credentials', { session: 'none' }, { by: 'address' }),
    requireJson,
    valid('json', Verification),
    async (c) => {
      await c.var.use(credentialsService).verify(c.req.valid('json').token)
      return c.body(null, 204)
    },
  )
