import { exported } from '../db/exported.ts'
import { credentialTokens as rows } from '../db/schema.ts'

/** The tokens that were mailed to a user, without the tokens. */
export const credentialExports = {
  mailedToken: exported(rows, rows.userId, 'rowid', {
    purpose: rows.purpose,
    email: rows.email,
    expiresAt: rows.expiresAt,
  }),
}
