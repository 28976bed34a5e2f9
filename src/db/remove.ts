import { type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteColumn, SQLiteTable } from 'drizzle-orm/sqlite-core'

/** A condition: the row is one of at most `most` rows of `table` where `when` holds. */
export const isOneOf = (table: SQLiteTable, when: SQL, most: number): SQL =>
  sql`rowid IN (SELECT rowid FROM ${table} WHERE ${when} LIMIT ${most})`

/**
 * Deletes at most `most` rows of `table` where `when` holds. Returns how many. One D1 query; `when` needs an index. Safe to
 * repeat.
 */
export async function removeSome(db: DrizzleD1Database, table: SQLiteTable, when: SQL, most: number): Promise<number> {
  const removed = await db
    .delete(table)
    .where(isOneOf(table, when, most))
    .returning({ removed: sql`1` })
  return removed.length
}

/** The same for rows whose `column` is `id`, once `owner` has no row of that id. */
export const removeOwned = (
  db: DrizzleD1Database,
  [table, column]: [SQLiteTable, SQLiteColumn],
  owner: SQLiteTable & { id: SQLiteColumn },
  id: string,
  most: number,
): Promise<number> =>
  removeSome(db, table, sql`${column} = ${id} AND NOT EXISTS (SELECT 1 FROM ${owner} WHERE ${owner.id} = ${id})`, most)
