import { and, desc, eq, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { forViewer, isBlocked } from '../db/relations.ts'
import { removeOwned } from '../db/remove.ts'
import { comments, posts } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { Counters } from '../redis/counter.ts'
import type { WriteThrough } from '../redis/write-through.ts'
import { service } from '../service.ts'
import type { Comment } from './schema.ts'

const content = {
  id: comments.id,
  postId: comments.postId,
  authorId: comments.authorId,
  text: comments.text,
  createdAt: comments.createdAt,
  likesCount: comments.likesCount,
}

export type Comments = ReturnType<typeof createComments>
export const commentsService = service<Comments>('comments')

/**
 * Comments: pages from D1, their likes fresh from Redis where it has them.
 * Without Redis everything works; the count of comments in Redis is settled later, by the cron at the latest.
 */
export function createComments(db: DrizzleD1Database, counters: Counters, outbox: Outbox, writeThrough: WriteThrough) {
  const countOf = (postIds: string[]) =>
    db
      .select({ contentId: posts.id, count: posts.commentsCount, revision: posts.countsRevision })
      .from(posts)
      .where(sql`${posts.id} IN ${listOf(postIds)}`)

  const settle = (rows: Awaited<ReturnType<typeof countOf>>) =>
    // Comments are in D1 before Redis: the revision alone orders their counts.
    counters.settle(rows.map((row) => ({ counter: 'comments', ...row, changedAt: 0 })))

  async function loadLikes(ids: string[]) {
    const rows = await db
      .select({
        id: comments.id,
        likes: comments.likesCount,
        changedAt: comments.likesChangedAt,
        revision: comments.countsRevision,
      })
      .from(comments)
      .where(sql`${comments.id} IN ${listOf(ids)}`)
    return new Map(rows.map((row) => [row.id, row]))
  }

  return {
    /**
     * Writes a comment; `alongside` joins the D1 batch. One D1 round trip, then one for the count. Recorded in D1, then
     * completed: the cron settles a count that Redis missed.
     */
    async create(
      postId: string,
      authorId: string,
      text: string,
      alongside: (created: Comment) => BatchItem<'sqlite'>[] = () => [],
      now = Date.now(),
    ): Promise<Comment> {
      const comment = { id: newId('c', now), postId, authorId, text, createdAt: now }
      const created = { ...comment, createdAt: new Date(now).toISOString(), likesCount: 0 }
      const transaction = outbox.transaction()
      const [, counted] = await db
        .batch([
          // Null, which the column refuses, unless the post exists and no block hides it.
          db.insert(comments).values({
            ...comment,
            postId: sql`(SELECT id FROM posts WHERE id = ${postId} AND NOT ${isBlocked(authorId, sql`posts.author_id`)})`,
          }),
          countOf([postId]),
          transaction.record(
            { type: 'comment_created', data: { commentId: comment.id, postId, authorId, text } },
            sql`true`,
            now,
          ),
          ...alongside(created),
        ])
        .catch((error: unknown) => {
          // D1 undoes the whole batch, with the record of an idempotency key.
          if (isPostMissing(error)) throw new Problem('not-found', `There is no post ${postId}`)
          throw error
        })
      transaction.enqueue()
      const refresh = () => [settle(counted)]
      await writeThrough(refresh, refresh)
      return created
    },

    /**
     * Removes a comment, if it or its post is `userId`'s. Two D1 round trips, then one for the counts. Recorded in D1, then
     * completed: the cron settles what Redis missed.
     */
    async remove(id: string, userId: string): Promise<void> {
      const [found] = await db
        .select({ postId: comments.postId, authorId: comments.authorId, postAuthorId: posts.authorId })
        .from(comments)
        .innerJoin(posts, eq(posts.id, comments.postId))
        .where(eq(comments.id, id))
      if (!found) throw new Problem('not-found', `There is no comment ${id}`)
      const { postId, authorId, postAuthorId } = found // these never change
      if (userId !== authorId && userId !== postAuthorId) {
        throw new Problem('not-yours', 'Only its author, or that of the post, may do this')
      }
      const transaction = outbox.transaction()
      const [, , counted] = await db.batch([
        transaction.record(
          { type: 'comment_deleted', data: { commentId: id, postId, authorId } },
          sql`EXISTS (SELECT 1 FROM ${comments} WHERE ${comments.id} = ${id})`,
        ),
        db.delete(comments).where(eq(comments.id, id)),
        countOf([postId]),
      ])
      transaction.enqueue()
      const refresh = () => [counters.evict(['likes'], [id]), settle(counted)]
      await writeThrough(refresh, refresh)
    },

    /** Deletes at most `most` comments of a deleted post. Returns how many. Safe to repeat. */
    removeOfPost: (postId: string, most: number): Promise<number> =>
      removeOwned(db, [comments, comments.postId], posts, postId, most),

    /** Brings the counts of comments of `postIds` to those in D1. D1, then one round trip. */
    async recount(postIds: string[]): Promise<void> {
      if (postIds.length > 0) await settle(await countOf(postIds))
    },

    /** The comments on `postId` that `viewerId` sees, newest first. D1 for the page, one round trip for the likes. */
    async ofPost(postId: string, limit: number, cursor?: string, viewerId?: string): Promise<Page<Comment>> {
      const rows = await db
        .select(content)
        .from(comments)
        .where(
          and(
            eq(comments.postId, postId),
            cursor === undefined ? undefined : lt(comments.id, cursor),
            forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, comments.authorId)}`),
          ),
        )
        .orderBy(desc(comments.id))
        .limit(limit + 1)
      const page = rows.slice(0, limit)
      const counts = await counters.read(
        ['likes'],
        page.map((row) => row.id),
        loadLikes,
        new Map(page.map((row) => [row.id, { likes: row.likesCount }])),
      )
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        ({ createdAt, ...row }, i) => ({
          ...row,
          createdAt: new Date(createdAt).toISOString(),
          likesCount: counts[i]?.[0] ?? row.likesCount,
        }),
      )
    },
  }
}

/** Whether D1 refused a comment because there is no such post. */
const isPostMissing = (error: unknown) =>
  error instanceof Error &&
  `${error.message} ${String(error.cause)}`.includes('NOT NULL constraint failed: comments.post_id')
