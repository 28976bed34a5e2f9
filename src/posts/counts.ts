import { gt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { commentLikes, comments, postLikes, posts, unsettledCounts } from '../db/schema.ts'
import type { FencedRun, Fences } from '../locks/fences.ts'
import type { Counters, Settlement } from '../redis/counter.ts'
import { service } from '../service.ts'

/** How many contents one step reconciles. */
const RECONCILED_AT_ONCE = 500

export type Counts = ReturnType<typeof createCounts>
export const countsService = service<Counts>('counts')

/**
 * Brings the counts in Redis to those in D1, however long Redis was away. D1 triggers record each content whose counts
 * changed or that was deleted (`unsettled_counts`, migrations/0010_unsettled_counts.sql), and only `reconcile` removes
 * the record. The request or consumer that makes a change settles it at once; this is for what it missed.
 */
export function createCounts(db: DrizzleD1Database, counters: Counters, fences: Fences) {
  /** Corrects counts in D1 that differ from the number of rows: triggers keep them, so there should be none. */
  const corrections = (ids: string[]) => {
    const likesOfPost = sql`(SELECT count(*) FROM ${postLikes} WHERE ${postLikes.postId} = ${posts.id} AND ${postLikes.isLiked})`
    const commentsOfPost = sql`(SELECT count(*) FROM ${comments} WHERE ${comments.postId} = ${posts.id})`
    const likesOfComment = sql`(SELECT count(*) FROM ${commentLikes} WHERE ${commentLikes.commentId} = ${comments.id} AND ${commentLikes.isLiked})`
    const nextRevision = sql`counts_revision + 1`
    return [
      db
        .update(posts)
        .set({ likesCount: likesOfPost, countsRevision: nextRevision })
        .where(sql`${posts.id} IN ${listOf(ids)} AND ${posts.likesCount} <> ${likesOfPost}`)
        .returning({ id: posts.id }),
      db
        .update(posts)
        .set({ commentsCount: commentsOfPost, countsRevision: nextRevision })
        .where(sql`${posts.id} IN ${listOf(ids)} AND ${posts.commentsCount} <> ${commentsOfPost}`)
        .returning({ id: posts.id }),
      db
        .update(comments)
        .set({ likesCount: likesOfComment, countsRevision: nextRevision })
        .where(sql`${comments.id} IN ${listOf(ids)} AND ${comments.likesCount} <> ${likesOfComment}`)
        .returning({ id: comments.id }),
    ] as const
  }

  /** Reconciles `ids`; returns how many counts in D1 were wrong. */
  async function reconcileAll(ids: string[], lock: FencedRun['lock']): Promise<number> {
    const [wrongLikes, wrongComments, wrongCommentLikes, foundPosts, foundComments] = await db.batch([
      ...corrections(ids),
      db
        .select({
          id: posts.id,
          likes: posts.likesCount,
          comments: posts.commentsCount,
          revision: posts.countsRevision,
          changedAt: posts.likesChangedAt,
        })
        .from(posts)
        .where(sql`${posts.id} IN ${listOf(ids)}`),
      db
        .select({
          id: comments.id,
          likes: comments.likesCount,
          revision: comments.countsRevision,
          changedAt: comments.likesChangedAt,
        })
        .from(comments)
        .where(sql`${comments.id} IN ${listOf(ids)}`),
    ])
    const revisions = new Map([...foundPosts, ...foundComments].map(({ id, revision }) => [id, revision]))
    const gone = ids.filter((id) => !revisions.has(id))
    const isComment = (id: string) => id.startsWith('c_')
    const [differing] = await Promise.all([
      counters.differing([
        ...[...foundPosts, ...foundComments].map(({ id, likes: count, revision, changedAt }): Settlement => ({
          counter: 'likes',
          contentId: id,
          count,
          revision,
          changedAt,
        })),
        ...foundPosts.map(({ id, comments: count, revision }): Settlement => ({
          counter: 'comments',
          contentId: id,
          count,
          revision,
          changedAt: 0,
        })),
      ]),
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
    return wrongLikes.length + wrongComments.length + wrongCommentLikes.length
  }

  return {
    /**
     * Reconciles up to `most` contents whose counts changed since they were last reconciled, and evicts the counts of
     * deleted ones; returns how many counts in D1 were wrong. For the cron. Safe to repeat. Stops between steps when
     * `signal` aborts, or when a later run has the lock. Each step: three D1 round trips, two of Redis.
     */
    async reconcile(most: number, { signal, lock }: FencedRun): Promise<number> {
      let wrong = 0
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
        if (ids.length > 0) wrong += await reconcileAll(ids, lock)
        if (ids.length < RECONCILED_AT_ONCE) break
      }
      return wrong
    },
  }
}
