import { and, desc, eq, gt, inArray, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { ulid } from 'ulid'
import { comments, posts } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import { service } from '../service.ts'
import { newId } from '../ids.ts'
import { keys } from '../keys.ts'
import { type Page, pageOf } from '../page.ts'
import type { Counters, Settlement } from '../redis/counter.ts'
import type { WriteThrough } from '../redis/write-through.ts'
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
 * Without Redis everything works; the counts of comments follow later.
 */
export function createComments(db: DrizzleD1Database, counters: Counters, outbox: Outbox, writeThrough: WriteThrough) {
  const countOf = (postId: string) =>
    db
      .select({ id: posts.id, value: posts.commentsCount, revision: posts.countsRevision })
      .from(posts)
      .where(eq(posts.id, postId))

  const settlement = ({ id, value, revision }: { id: string; value: number; revision: number }): Settlement => ({
    count: keys.count('comments', id),
    meta: keys.countsMeta(id),
    field: 'comments',
    value,
    revision,
    changedAt: 0, // comments are in D1 before Redis hears of them
  })

  return {
    /** Writes a comment. `alongside` joins the batch that does. One D1 round trip, then one for the count. */
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
      const [, [counted]] = await db
        .batch([
          db.insert(comments).values(comment),
          countOf(postId),
          transaction.record(
            { type: 'comment_created', data: { commentId: comment.id, postId, authorId, text } },
            sql`true`,
            now,
          ),
          ...alongside(created),
        ])
        .catch((error: unknown) => {
          // The batch is undone as a whole, the record of an idempotency key too: nothing was answered yet.
          if (isForeignKeyFailure(error)) throw new Problem('not-found', `There is no post ${postId}`)
          throw error
        })
      transaction.enqueue()
      const refresh = () => (counted ? [counters.settle([settlement(counted)])] : []) // else the post is gone again
      await writeThrough(refresh, refresh)
      return created
    },

    /** Removes a comment, if it or its post is `userId`'s. Two D1 round trips, then one for the counts. */
    async remove(id: string, userId: string): Promise<void> {
      const [found] = await db
        .select({ postId: comments.postId, authorId: comments.authorId, postAuthorId: posts.authorId })
        .from(comments)
        .innerJoin(posts, eq(posts.id, comments.postId))
        .where(eq(comments.id, id))
      if (!found) throw new Problem('not-found', `There is no comment ${id}`)
      const { postId, authorId, postAuthorId } = found // which never change
      if (userId !== authorId && userId !== postAuthorId) {
        throw new Problem('not-yours', 'Only its author, or that of the post, may do this')
      }
      const transaction = outbox.transaction()
      const [, , [counted]] = await db.batch([
        transaction.record(
          { type: 'comment_deleted', data: { commentId: id, postId, authorId } },
          sql`EXISTS (SELECT 1 FROM ${comments} WHERE ${comments.id} = ${id})`,
        ),
        db.delete(comments).where(eq(comments.id, id)),
        countOf(postId),
      ])
      transaction.enqueue()
      const refresh = () => [
        counters.forget([keys.count('likes', id), keys.countsMeta(id)]),
        ...(counted ? [counters.settle([settlement(counted)])] : []),
      ]
      await writeThrough(refresh, refresh)
    },

    /** Brings Redis to the counts of at most `most` posts commented on since `since` (Unix ms), where it missed one. */
    async reconcile(since: number, most: number, signal: AbortSignal): Promise<void> {
      const first = `c_${ulid(since).slice(0, 10).toLowerCase()}` // ids begin with their time
      const commentedOn = db.select({ id: comments.postId }).from(comments).where(gt(comments.id, first))
      const counted = await db
        .select({ id: posts.id, value: posts.commentsCount, revision: posts.countsRevision })
        .from(posts)
        .where(inArray(posts.id, commentedOn))
        .limit(most)
      signal.throwIfAborted()
      await counters.settle(counted.map(settlement))
    },

    /** Brings the counts of `postIds` to what D1 has. D1, then one round trip. */
    async recount(postIds: string[]): Promise<void> {
      if (postIds.length === 0) return
      const counted = await db
        .select({ id: posts.id, value: posts.commentsCount, revision: posts.countsRevision })
        .from(posts)
        .where(inArray(posts.id, postIds))
      await counters.settle(counted.map(settlement))
    },

    /** The comments on `postId`, newest first. D1 for the page, one round trip for the likes. */
    async ofPost(postId: string, limit: number, cursor?: string): Promise<Page<Comment>> {
      const rows = await db
        .select(content)
        .from(comments)
        .where(and(eq(comments.postId, postId), cursor === undefined ? undefined : lt(comments.id, cursor)))
        .orderBy(desc(comments.id))
        .limit(limit + 1)
      const page = rows.slice(0, limit)
      const keyOf = (id: string) => keys.count('likes', id)
      const likes = await counters.read(
        page.map((row) => keyOf(row.id)),
        async () => new Map(page.map((row) => [keyOf(row.id), row.likesCount])),
      )
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        ({ createdAt, ...row }, i) => ({
          ...row,
          createdAt: new Date(createdAt).toISOString(),
          likesCount: likes[i] ?? row.likesCount,
        }),
      )
    },
  }
}

/** Whether D1 refused a row because what it refers to is not there. */
const isForeignKeyFailure = (error: unknown) =>
  error instanceof Error && `${error.message} ${String(error.cause)}`.includes('FOREIGN KEY constraint failed')
