import { eq, inArray, lte } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { countUpTo } from '../db/count.ts'
import { listOf } from '../db/list.ts'
import { removals } from '../db/schema.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'

/** Rows that one statement deletes at most, in some 20 ms; and statements of one step. */
const ROWS = 1_000
const STATEMENTS = 10

/** The queue has this long for a step. After that the cron enqueues the next one. */
const PATIENCE_MS = 300_000

/** What can be deleted with everything that belongs to it, by the kind of its id. */
export type RemovedKind = 'post' | 'comment'

/** Deletes at most `most` rows that belong to the deleted content `id`. Returns how many. */
type RunRemoval = (id: string, most: number) => Promise<number>

export type Removals = ReturnType<typeof createRemovals>
export const removalsService = service<Removals>('removals')

/**
 * Deletes what belongs to deleted contents, a bounded step at a time, however much it is: a post with ten million likes
 * would take D1 longer than its limit of 30 s.
 *
 * The row of a content is deleted at once. Readers find a like or comment only through its post, so all of them are gone
 * at once. In the same transaction a trigger records the content in `removals` (migrations/0014_removals.sql). The event
 * of the deletion begins, and each step enqueues the next: up to 10,000 rows. A deleted comment with likes is recorded
 * likewise, so what belongs to it goes in steps of its own. The cron continues what the queue lost. No Redis.
 */
export function createRemovals(
  db: DrizzleD1Database,
  steps: Record<RemovedKind, RunRemoval[]>,
  enqueue: (ids: string[]) => Promise<unknown>,
) {
  /** Does one step. Returns whether more is left. Safe to repeat, and to run twice at once. */
  async function step(id: string, now: number): Promise<boolean> {
    const claimed = await db
      .update(removals)
      .set({ dueAt: now + PATIENCE_MS })
      .where(eq(removals.contentId, id))
      .returning({ id: removals.contentId })
    if (claimed.length === 0) return false // done before
    let left = STATEMENTS
    for (const remove of steps[kindOf(id)]) {
      for (;;) {
        if (left === 0) return true
        left -= 1
        if ((await remove(id, ROWS)) < ROWS) break
      }
    }
    await db.delete(removals).where(eq(removals.contentId, id))
    return false
  }

  const listener: Listener = {
    name: 'removals',
    wants: ({ type }) => type === 'post_deleted' || type === 'comment_deleted',
    /** The subject of `comment_deleted` is the post. */
    async handle(happened) {
      const ids = happened.flatMap(({ data }) => [data['commentId'] ?? data['postId']]).map(String)
      const found = await db
        .select({ id: removals.contentId })
        .from(removals)
        .where(inArray(removals.contentId, listOf(ids)))
      return found.map((row) => row.id)
    },
    proceed: async (id) => ((await step(id, Date.now())) ? [id] : []),
  }

  return {
    listener,

    /** Enqueues up to `most` removals that the queue lost, the oldest first. Returns how many contents are not removed. */
    async resume(most: number, now: number): Promise<number> {
      const due = await db
        .select({ id: removals.contentId })
        .from(removals)
        .where(lte(removals.dueAt, now))
        .orderBy(removals.dueAt)
        .limit(most)
      const ids = due.map((row) => row.id)
      if (ids.length > 0) {
        await enqueue(ids)
        await db
          .update(removals)
          .set({ dueAt: now + PATIENCE_MS })
          .where(inArray(removals.contentId, listOf(ids)))
      }
      return countUpTo(db, removals)
    },
  }
}

const kindOf = (id: string): RemovedKind => (id.startsWith('c_') ? 'comment' : 'post')
