import type { SQL } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteUpdateSetSource } from 'drizzle-orm/sqlite-core'
import { webhooks } from '../db/schema.ts'

/**
 * Runs a D1 write that is safe to repeat, a second time if the first fails: its reply may have been lost after it was
 * executed. The second run must find that state and answer the same.
 */
export async function repeatOnce<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write()
  } catch {
    return write()
  }
}

/** Changes the endpoint that `where` names. Safe to repeat, and repeated once. Undefined: there is none. */
export async function updateWebhook(
  db: DrizzleD1Database,
  where: SQL | undefined,
  changes: SQLiteUpdateSetSource<typeof webhooks>,
): Promise<typeof webhooks.$inferSelect | undefined> {
  const [row] = await repeatOnce(() => db.update(webhooks).set(changes).where(where).returning())
  return row
}
