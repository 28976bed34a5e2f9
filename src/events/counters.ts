import { lte, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { counterChanges } from '../db/schema.ts'
import { service } from '../service.ts'
import type { Outbox } from './outbox.ts'

/** However often a count changes, it is told of at most this often. */
const COALESCE_MS = 1_000
/** How many counts one flush tells of. */
const MOST = 500

export type CounterUpdates = ReturnType<typeof createCounterUpdates>
export const counterUpdatesService = service<CounterUpdates>('counter updates')

/**
 * Coalesced `counter_update` events. Triggers note which counts changed (migrations/0004_events.sql), and each is told
 * of once it has been noted for a second, with what it is by then: a post liked a thousand times a second sends one
 * update a second, and the last one is right, because the note and the count are of one transaction.
 */
export function createCounterUpdates(db: DrizzleD1Database, outbox: Outbox) {
  return {
    /** Tells of the counts that changed; answers whether there are more to tell. Two D1 round trips, one for none. */
    async publish(now = Date.now()): Promise<boolean> {
      const noted = await db
        .select({
          contentId: counterChanges.contentId,
          counterType: counterChanges.counterType,
          changedAt: counterChanges.changedAt,
        })
        .from(counterChanges)
        .where(lte(counterChanges.changedAt, now))
        .orderBy(counterChanges.changedAt)
        .limit(MOST)
      const ripe = noted.filter((note) => note.changedAt <= now - COALESCE_MS)
      if (ripe.length > 0) {
        const updates = ripe.map(({ contentId, counterType }) => ({
          type: 'counter_update' as const,
          data: {
            contentId,
            contentType: contentId.startsWith('c_') ? ('comment' as const) : ('post' as const),
            counterType,
            value: COUNT,
          },
        }))
        const published = JSON.stringify(ripe.map(({ contentId, counterType }) => [contentId, counterType]))
        const transaction = outbox.transaction()
        await db.batch([
          transaction.record(updates, IS_NOTED, now),
          db
            .delete(counterChanges)
            .where(
              sql`(${counterChanges.contentId}, ${counterChanges.counterType}) IN (SELECT value ->> 0, value ->> 1 FROM json_each(${published}))`,
            ),
        ])
        transaction.enqueue()
      }
      return ripe.length < noted.length || noted.length === MOST
    },
  }
}

/** Another may have told of it since it was read, and the content may be gone. */
const IS_NOTED = sql`EXISTS (
    SELECT 1 FROM counter_changes
    WHERE content_id = value -> 'data' ->> 'contentId' AND counter_type = value -> 'data' ->> 'counterType'
  ) AND (
    EXISTS (SELECT 1 FROM posts WHERE id = value -> 'data' ->> 'contentId')
    OR EXISTS (SELECT 1 FROM comments WHERE id = value -> 'data' ->> 'contentId')
  )`

/** What the count of the event `value` is now. */
const COUNT = sql`CASE value -> 'data' ->> 'contentType'
  WHEN 'comment' THEN (SELECT likes_count FROM comments WHERE id = value -> 'data' ->> 'contentId')
  ELSE (
    SELECT CASE value -> 'data' ->> 'counterType'
      WHEN 'likes' THEN likes_count WHEN 'comments' THEN comments_count ELSE views_count END
    FROM posts WHERE id = value -> 'data' ->> 'contentId'
  ) END`
