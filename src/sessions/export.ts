import { exported } from '../db/exported.ts'
import { sessions as rows, signInSources } from '../db/schema.ts'

/** The sessions of a user, and the networks of sign-ins. */
export const sessionExports = {
  session: exported(rows, rows.userId, rows.id, {
    id: rows.id,
    userAgent: rows.userAgent,
    createdAt: rows.createdAt,
    lastSeenAt: rows.lastSeenAt,
    expiresAt: rows.expiresAt,
  }),
  signInSource: exported(signInSources, signInSources.userId, signInSources.source, {
    networkHash: signInSources.source,
    seenAt: signInSources.seenAt,
  }),
}
