import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteColumn, SQLiteTable } from 'drizzle-orm/sqlite-core'

/**
 * Deletes at most `most` rows of `table` whose `column` is `id`, once `owner` has no row of that id. Returns how many. One
 * D1 query; `column` needs an index. Safe to repeat.
 */
export async function removeOwned(
  db: DrizzleD1Database,
  [table, column]: [SQLiteTable, SQLiteColumn],
  owner: SQLiteTable & { id: SQLiteColumn },
  id: string,
  most: number,
): Promise<number> {
  const owned = sql`(SELECT rowid FROM ${table} WHERE ${column} = ${id} LIMIT ${most})`
  const removed = await db
    .delete(table)
    .where(sql`rowid IN ${owned} AND NOT EXISTS (SELECT 1 FROM ${owner} WHERE ${owner.id} = ${id})`)
    .returning({ removed: sql`1` })
  return removed.length
}
