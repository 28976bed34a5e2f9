import * as v from 'valibot'
import { Time } from '../http/input.ts'
import { OwnUser } from '../users/schema.ts'

export const Credentials = v.object({
  login: v.pipe(v.string(), v.trim(), v.minLength(1, 'must not be empty'), v.maxLength(254)),
  password: v.pipe(v.string(), v.minLength(1, 'must not be empty'), v.maxLength(200)),
})
export type Credentials = v.InferOutput<typeof Credentials>

export const SignedIn = v.pipe(
  v.object({
    token: v.pipe(v.string(), v.description('Send it as `Authorization: Bearer`.')),
    expiresAt: v.pipe(Time, v.description('When the session ends at the latest.')),
    user: OwnUser,
  }),
  v.description('A new session.'),
)

/** A device where a user is signed in: one session. */
export const Device = v.object({
  id: v.string(),
  userAgent: v.string(),
  createdAt: Time,
  lastSeenAt: v.pipe(Time, v.description('Accurate to a few minutes')),
  expiresAt: Time,
  isCurrent: v.boolean(),
})
export type Device = v.InferOutput<typeof Device>
