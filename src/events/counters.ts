import { lte, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { countUpTo } from '../db/count.ts'
import { counterChanges } from '../db/schema.ts'
import { service } from '../service.ts'
import type { Outbox } from './outbox.ts'

/** The shortest time between two events about one count. */
const COALESCE_MS = 1_000
/** How many counts one call publishes. */
const MAX_COUNTS = 500

export type CounterUpdates = ReturnType<typeof createCounterUpdates>
export const counterUpdatesService = service<CounterUpdates>('counter updates')

/**
 * Coalesced `counter_update` events. Triggers record which counts changed (migrations/0004_events.sql). One second after
 * the record, an event carries the count of that moment: a post with a thousand likes a second causes one event a second.
 * The last event is right, because D1 writes the record and the count in one transaction.
 */
export function createCounterUpdates(db: DrizzleD1Database, outbox: Outbox) {
  return {
    /**
     * Publishes the counts that changed; returns whether more remain. Two D1 round trips, or one when nothing
     * changed. Safe to repeat: the batch that records the events removes the records of the changes.
     */
    async publish(now = Date.now()): Promise<boolean> {
      const changes = await db
        .select({
          contentId: counterChanges.contentId,
          counterType: counterChanges.counterType,
          changedAt: counterChanges.changedAt,
        })
        .from(counterChanges)
        .where(lte(counterChanges.changedAt, now))
        .orderBy(counterChanges.changedAt)
        .limit(MAX_COUNTS)
      const due = changes.filter((change) => change.changedAt <= now - COALESCE_MS)
      if (due.length > 0) {
        const updates = due.map(({ contentId, counterType }) => ({
          type: 'counter_update' as const,
          data: {
            contentId,
            contentType: contentId.startsWith('c_') ? ('comment' as const) : ('post' as const),
            counterType,
            value: COUNT,
          },
        }))
        const published = JSON.stringify(due.map(({ contentId, counterType }) => [contentId, counterType]))
        const transaction = outbox.transaction()
        await db.batch([
          transaction.record(updates, IS_DUE, now),
          db
            .delete(counterChanges)
            .where(
              sql`(${counterChanges.contentId}, ${counterChanges.counterType}) IN (SELECT value ->> 0, value ->> 1 FROM json_each(${published}))`,
            ),
        ])
        transaction.enqueue()
      }
      return due.length < changes.length || changes.length === MAX_COUNTS
    },

    /** How many counts have changed and are not published, counted up to 10,000. */
    waiting: () => countUpTo(db, counterChanges),
  }
}

/** Another call may have published the change since this one read it, and the content may be gone. */
const IS_DUE = sql`EXISTS (
    SELECT 1 FROM counter_changes
    WHERE content_id = value -> 'data' ->> 'contentId' AND counter_type = value -> 'data' ->> 'counterType'
  ) AND (
    EXISTS (SELECT 1 FROM posts WHERE id = value -> 'data' ->> 'contentId')
    OR EXISTS (SELECT 1 FROM comments WHERE id = value -> 'data' ->> 'contentId')
  )`

/** The current count for the event `value`. */
const COUNT = sql`CASE value -> 'data' ->> 'contentType'
  WHEN 'comment' THEN (SELECT likes_count FROM comments WHERE id = value -> 'data' ->> 'contentId')
  ELSE (
    SELECT CASE value -> 'data' ->> 'counterType'
      WHEN 'likes' THEN likes_count WHEN 'comments' THEN comments_count ELSE views_count END
    FROM posts WHERE id = value -> 'data' ->> 'contentId'
  ) END`
