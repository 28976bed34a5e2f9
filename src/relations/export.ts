import { eq } from 'drizzle-orm'
import { exported } from '../db/exported.ts'
import { relations as rows } from '../db/schema.ts'

/** Whom a user blocks or mutes. Who blocks or mutes the user is nobody else's business. */
const ofKind = (kind: 'block' | 'mute') =>
  exported(
    rows,
    rows.userId,
    rows.id,
    { id: rows.id, userId: rows.otherId, createdAt: rows.createdAt },
    eq(rows.kind, kind),
  )

export const relationExports = { block: ofKind('block'), mute: ofKind('mute') }
