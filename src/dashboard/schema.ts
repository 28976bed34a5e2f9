import * as v from 'valibot'

/** A sign-in: with a service token, or with the token of a portal link. */
export const SignIn = v.pipe(
  v.strictObject({
    token: v.optional(v.pipe(v.string(), v.maxLength(1_000))),
    link: v.optional(v.pipe(v.string(), v.maxLength(2_000))),
  }),
  v.forward(
    v.check(({ token, link }) => (token === undefined) !== (link === undefined), 'is required, or link instead of it'),
    ['token'],
  ),
)
