import { type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteTable } from 'drizzle-orm/sqlite-core'

/** The highest count. D1 reads, and bills, each row that it counts. */
const MAX_COUNTED = 10_000

/** How many rows of `table` match, counted up to 10,000. One D1 query; `where` needs an index. */
export async function countUpTo(db: DrizzleD1Database, table: SQLiteTable, where: SQL = sql`true`): Promise<number> {
  const [row] = await db.all<{ counted: number }>(
    sql`SELECT count(*) AS counted FROM (SELECT 1 FROM ${table} WHERE ${where} LIMIT ${MAX_COUNTED}) AS first`,
  )
  return row?.counted ?? 0
}
