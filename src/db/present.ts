import { type SQL, sql } from 'drizzle-orm'
import type { SQLiteColumn } from 'drizzle-orm/sqlite-core'

/**
 * Whether the user with the id in `column` is not being deleted. A deleted account keeps its row until everything that
 * belongs to it is removed. Costs a probe of `removals`, which is empty most of the time.
 */
export const isPresent = (column: SQLiteColumn | SQL): SQL =>
  sql`NOT EXISTS (SELECT 1 FROM removals WHERE removals.content_id = ${column})`
