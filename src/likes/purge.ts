import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { commentLikes, postLikes } from '../db/schema.ts'

/**
 * How long D1 keeps a like that was taken back (ms). An older message of the queue could restore it afterwards: queues
 * keep a message for at most 14 days.
 */
const KEPT_MS = 30 * 86_400_000

/** Deletes at most `most` likes that were taken back more than a month ago. Returns how many. Safe to repeat. */
export async function purgeRemovedLikes(db: DrizzleD1Database, most: number, now: number): Promise<number> {
  let purged = 0
  for (const likes of [postLikes, commentLikes]) {
    const old = sql`(SELECT rowid FROM ${likes} WHERE NOT is_liked AND changed_at < ${now - KEPT_MS} LIMIT ${most - purged})`
    const { meta } = await db.run(sql`DELETE FROM ${likes} WHERE rowid IN ${old}`)
    purged += meta.changes
    if (purged >= most) break
  }
  return purged
}
