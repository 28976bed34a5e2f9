import type { SQL } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteUpdateSetSource } from 'drizzle-orm/sqlite-core'
import { repeatOnce } from '../db/repeat.ts'
import { webhooks } from '../db/schema.ts'

/** Changes the endpoint that `where` names. Safe to repeat, and repeated once. Undefined: there is none. */
export async function updateWebhook(
  db: DrizzleD1Database,
  where: SQL | undefined,
  changes: SQLiteUpdateSetSource<typeof webhooks>,
): Promise<typeof webhooks.$inferSelect | undefined> {
  const [row] = await repeatOnce(() => db.update(webhooks).set(changes).where(where).returning())
  return row
}
