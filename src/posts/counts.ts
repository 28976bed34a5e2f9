import { gt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { NOW } from '../db/clock.ts'
import { countUpTo } from '../db/count.ts'
import { listOf } from '../db/list.ts'
import { comments, posts, unsettledCounts } from '../db/schema.ts'
import type { CountRead } from '../events/hints.ts'
import type { FencedRun, Fences } from '../locks/fences.ts'
import type { Counters } from '../redis/counter.ts'
import { service } from '../service.ts'

/** How many contents one step reconciles. */
const RECONCILED_AT_ONCE = 500

export type Counts = ReturnType<typeof createCounts>
export const countsService = service<Counts>('counts')

/**
 * Brings the counts in Redis to those in D1, however long Redis was away. D1 triggers record each content whose counts
 * changed or that was deleted (`unsettled_counts`, migrations/0010_unsettled_counts.sql), and only `reconcile` removes
 * the record. The request or consumer that makes a change settles it at once and sends its hint; this is for what it missed,
 * and for what is deleted with an account. Likes record only what the queue may not repeat (`likes`).
 *
 * It compares counts and reads no likes: triggers keep the counts in D1. `POST /v1/listeners/counts/rebuild` corrects
 * those that were written around the triggers.
 */
export function createCounts(
  db: DrizzleD1Database,
  counters: Counters,
  fences: Fences,
  sendCounts: (counts: CountRead[]) => Promise<unknown>,
) {
  /** Brings the counts of `ids` in Redis to those in D1, and sends them as hints. Safe to repeat. */
  async function reconcileAll(ids: string[], lock: FencedRun['lock']): Promise<void> {
    const [foundPosts, foundComments] = await db.batch([
      db
        .select({
          id: posts.id,
          likes: posts.likesCount,
          comments: posts.commentsCount,
          revision: posts.countsRevision,
          changedAt: posts.likesChangedAt,
          at: NOW,
        })
        .from(posts)
        .where(sql`${posts.id} IN ${listOf(ids)}`),
      db
        .select({
          id: comments.id,
          likes: comments.likesCount,
          revision: comments.countsRevision,
          changedAt: comments.likesChangedAt,
          at: NOW,
        })
        .from(comments)
        .where(sql`${comments.id} IN ${listOf(ids)}`),
    ])
    const revisions = new Map([...foundPosts, ...foundComments].map(({ id, revision }) => [id, revision]))
    const gone = ids.filter((id) => !revisions.has(id))
    const isComment = (id: string) => id.startsWith('c_')
    const counts = [
      ...[...foundPosts, ...foundComments].map(({ id, likes: count, revision, changedAt, at }) => ({
        counter: 'likes' as const,
        contentId: id,
        count,
        revision,
        changedAt,
        at,
      })),
      ...foundPosts.map(({ id, comments: count, revision, at }) => ({
        counter: 'comments' as const,
        contentId: id,
        count,
        revision,
        changedAt: 0,
        at,
      })),
    ]
    const [differing] = await Promise.all([
      counters.differing(counts),
      sendCounts(counts),
      counters.evict(
        ['likes', 'comments', 'views'],
        gone.filter((id) => !isComment(id)),
      ),
      counters.evict(['likes'], gone.filter(isComment)),
    ])
    await counters.settle(differing)
    // A content that changed since then stays. Fenced: a run that lost its lock must not remove what a later run needs.
    const settled = JSON.stringify(ids.map((id) => [id, revisions.get(id) ?? null]))
    const remove = db.delete(unsettledCounts).where(
      sql`${unsettledCounts.contentId} IN (
        SELECT value ->> 0 FROM json_each(${settled}) WHERE value ->> 1 IS coalesce(
          (SELECT counts_revision FROM posts WHERE id = value ->> 0),
          (SELECT counts_revision FROM comments WHERE id = value ->> 0)
        )
      )`,
    )
    await fences.batch(lock, [remove])
  }

  return {
    /**
     * Reconciles up to `most` contents whose counts changed since they were last reconciled, and evicts the counts of
     * deleted ones. Returns how many are left, counted up to 10,000. For the cron. Safe to repeat. Stops between steps
     * when `signal` aborts, or when a later run has the lock. Each step: three D1 round trips, two of Redis. D1 reads
     * some rows per content, however many likes it has.
     */
    async reconcile(most: number, { signal, lock }: FencedRun): Promise<number> {
      let cursor = ''
      for (let done = 0; done < most; done += RECONCILED_AT_ONCE) {
        signal.throwIfAborted()
        const rows = await db
          .select({ id: unsettledCounts.contentId })
          .from(unsettledCounts)
          .where(gt(unsettledCounts.contentId, cursor))
          .orderBy(unsettledCounts.contentId)
          .limit(RECONCILED_AT_ONCE)
        const ids = rows.map((row) => row.id)
        cursor = ids.at(-1) ?? ''
        if (ids.length > 0) await reconcileAll(ids, lock)
        if (ids.length < RECONCILED_AT_ONCE) break
      }
      return countUpTo(db, unsettledCounts)
    },
  }
}
