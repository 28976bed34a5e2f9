import * as v from 'valibot'

/** A password that a user chooses. Whether it is a common one, the service checks. */
export const NewPassword = v.pipe(v.string(), v.minLength(8), v.maxLength(200))

/** A password that the caller must know. */
export const KnownPassword = v.pipe(v.string(), v.minLength(1, 'must not be empty'), v.maxLength(200))

export const Email = v.pipe(v.string(), v.trim(), v.email(), v.maxLength(254), v.toLowerCase())

/** A token from a mail. */
const Token = v.pipe(v.string(), v.regex(/^[\w-]{43}$/, 'must be the token from the mail'))

export const PasswordChange = v.object({ password: KnownPassword, newPassword: NewPassword })
export const ResetRequest = v.object({ email: Email })
export const PasswordReset = v.object({ token: Token, password: NewPassword })
export const VerificationRequest = v.pipe(
  v.strictObject({ email: v.exactOptional(Email), password: v.exactOptional(KnownPassword) }),
  v.forward(
    v.check(({ email, password }) => email === undefined || password !== undefined, 'is required for another address'),
    ['password'],
  ),
)
export const Verification = v.object({ token: Token })

/** A message of the queue `events`: somebody asked to reset the password of the account with this address. */
export const ResetMessage = v.object({
  kind: v.literal('password-reset'),
  /** Of the request: a repeated message sends no second mail. */
  id: v.string(),
  email: v.string(),
})
export type ResetMessage = v.InferOutput<typeof ResetMessage>
