import * as v from 'valibot'
import { Count, id, Time, written } from '../http/input.ts'
import { Email, KnownPassword, NewPassword } from '../credentials/schema.ts'
import { notReserved } from './reserved.ts'

/** A profile as everyone sees it. */
export const User = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    username: v.pipe(v.string(), v.description('Unique, in lower case.')),
    displayName: v.pipe(v.string(), v.description('1 to 50 characters.')),
    bio: v.pipe(v.string(), v.description('At most 160 characters.')),
    followersCount: v.pipe(Count, v.description('How many users follow this user.')),
    followingsCount: v.pipe(Count, v.description('How many users this user follows.')),
    postsCount: v.pipe(Count, v.description('How many posts this user has.')),
    createdAt: v.pipe(Time, v.description('When the user signed up.')),
    version: v.pipe(Count, v.description('The version of the profile, for `If-Match`. Counts do not raise it.')),
  }),
  v.metadata({ ref: 'User', description: 'A profile as everyone sees it.' }),
)
export type User = v.InferOutput<typeof User>

/** A profile as its owner sees it. */
export const OwnUser = v.pipe(
  v.object({
    ...User.entries,
    email: v.pipe(v.string(), v.description('Only the owner sees it.')),
    pendingEmail: v.pipe(
      v.nullable(v.string()),
      v.description('An address that I have not confirmed. Until I confirm the first one, it is also `email`.'),
    ),
  }),
  v.metadata({ ref: 'OwnUser', description: 'A profile as its owner sees it.' }),
)
export type OwnUser = v.InferOutput<typeof OwnUser>

const DisplayName = written({ max: 50 })

export const NewAccount = v.object({
  username: v.pipe(
    v.string(),
    v.regex(/^\w{3,30}$/, 'must be 3 to 30 letters, digits or underscores'),
    v.toLowerCase(),
    notReserved,
  ),
  email: Email,
  password: NewPassword,
  displayName: DisplayName,
})
export type NewAccount = v.InferOutput<typeof NewAccount>

export const ProfileChanges = v.pipe(
  v.strictObject({
    displayName: v.exactOptional(DisplayName),
    bio: v.exactOptional(written({ max: 160, isLong: true, isOptional: true })),
  }),
  v.forward(
    v.check((changes) => Object.keys(changes).length > 0, 'is required, or bio'),
    ['displayName'],
  ),
)
export type ProfileChanges = v.InferOutput<typeof ProfileChanges>

/** Whether the caller follows a user, and how many users do. */
export const Following = v.pipe(
  v.object({ isFollowing: v.boolean(), followersCount: Count }),
  v.description('Whether I follow the user, and how many users do.'),
)
export type Following = v.InferOutput<typeof Following>

/** The password of the caller, for what a stolen session must not do. */
export const Confirmation = v.object({ password: KnownPassword })

export const UserId = v.object({ id: id('u') })
export const Username = v.object({
  username: v.pipe(
    v.string(),
    v.regex(/^\w{1,30}$/, 'must be 1 to 30 letters, digits or underscores'),
    v.description('Upper and lower case are equal.'),
  ),
})
