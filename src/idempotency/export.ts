import { exported } from '../db/exported.ts'
import { idempotencyKeys as rows } from '../db/schema.ts'

/** The repeated answers that are stored for a user. */
export const idempotencyExports = {
  idempotencyKey: exported(rows, rows.userId, rows.key, {
    key: rows.key,
    answer: rows.answer,
    createdAt: rows.createdAt,
  }),
}
