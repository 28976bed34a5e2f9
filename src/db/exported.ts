import { and, eq, gt, type SQL, sql } from 'drizzle-orm'
import type { SQLiteColumn, SQLiteTable } from 'drizzle-orm/sqlite-core'
import type { DrizzleD1Database } from 'drizzle-orm/d1'

/** Rows of a page: some hundred KB. */
const PAGE_ROWS = 1_000

/**
 * Exports the `columns` of the rows of `table` whose `owner` is the user, in the order of `place`: all of them, or those
 * where `when` holds. An index must have `owner`, what `when` compares, then `place`: SQLite appends the rowid to every index.
 */
export const exported =
  (
    table: SQLiteTable,
    owner: SQLiteColumn,
    place: SQLiteColumn | 'rowid',
    columns: Record<string, SQLiteColumn>,
    when?: SQL,
  ) =>
  async ({ db }: { db: DrizzleD1Database }, userId: string, after: string | null) => {
    const at = place === 'rowid' ? sql`rowid` : sql`${place}`
    const found = await db
      .select({ ...columns, exportPlace: sql<string | number>`${at}` })
      .from(table)

      .where(and(eq(owner, userId), when, after === null ? undefined : gt(at, after)))
      .orderBy(at)
      .limit(PAGE_ROWS)
    const last = found.at(-1)
    return {
      rows: found.map(({ exportPlace: _place, ...row }) => row),
      next: last && found.length === PAGE_ROWS ? String(last.exportPlace) : null,
    }
  }
