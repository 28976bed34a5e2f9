import { and, asc, desc, eq, exists, gt, inArray, isNull, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import { NOW } from '../db/clock.ts'
import { listOf } from '../db/list.ts'
import { forViewer, isBlocked } from '../db/relations.ts'
import { hasMessage, repeatOnce } from '../db/repeat.ts'
import { isPresent } from '../db/present.ts'
import { comments, posts } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { CountRead } from '../events/hints.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { Mentions } from '../notifications/mentions.ts'
import type { Platform } from '../platform.ts'
import type { Counters } from '../redis/counter.ts'
import { service } from '../service.ts'
import type { Comment, Thread } from './schema.ts'

const content = {
  id: comments.id,
  postId: comments.postId,
  parentId: comments.parentId,
  authorId: comments.authorId,
  text: comments.text,
  createdAt: comments.createdAt,
  updatedAt: comments.updatedAt,
  deletedAt: comments.deletedAt,
  version: comments.version,
  likesCount: comments.likesCount,
  repliesCount: comments.repliesCount,
}

/** A comment as D1 holds it. Times are Unix ms. */
interface Row {
  id: string
  postId: string
  parentId: string | null
  authorId: string
  text: string
  createdAt: number
  updatedAt: number | null
  deletedAt: number | null
  version: number
  likesCount: number
  repliesCount: number
}

/** How many replies a page shows below each of its comments. */
const FIRST_REPLIES = 3

/** How many deleted comments in a row the deletion of their last reply removes. */
const MAX_ANCESTORS = 100

export type Comments = ReturnType<typeof createComments>
export const commentsService = service<Comments>('comments')

/**
 * Comments and their replies: pages from D1, their likes fresh from Redis where it has them. A reply names its parent, at
 * any depth. A page has two levels: comments, and the first replies to each.
 *
 * Pages continue after an id, and ids never change. So what is written or deleted elsewhere moves no page. A deleted comment
 * with replies stays in its place, without text and author, and does not count. It goes with its last reply.
 *
 * Without Redis everything works; the count of comments in Redis is settled later, by the cron at the latest.
 */
export function createComments(
  platform: Pick<Platform, 'db' | 'outbox' | 'purge' | 'replica' | 'writeThrough'>,
  counters: Counters,
  mentions: Mentions,
  /** Sends hints after the answer. The cron sends those that are lost. */
  sendCountsLater: (counts: CountRead[]) => void,
) {
  const { db, outbox, purge, writeThrough } = platform

  const countOf = (postIds: string[]) =>
    db
      .select({ contentId: posts.id, count: posts.commentsCount, revision: posts.countsRevision, at: NOW })
      .from(posts)
      .where(sql`${posts.id} IN ${listOf(postIds)}`)

  const settle = (rows: Awaited<ReturnType<typeof countOf>>) =>
    // Comments are in D1 before Redis: the revision alone orders their counts.
    counters.settle(rows.map((row) => ({ counter: 'comments', ...row, changedAt: 0 })))

  const hintsOf = (rows: Awaited<ReturnType<typeof countOf>>): CountRead[] =>
    rows.map((row) => ({ counter: 'comments', ...row }))

  async function loadLikes(ids: string[]) {
    const rows = await db
      .select({
        id: comments.id,
        likes: comments.likesCount,
        changedAt: comments.likesChangedAt,
        revision: comments.countsRevision,
        authors: sql<string>`${comments.authorId} || ' ' || ${posts.authorId}`,
      })
      .from(comments)
      .innerJoin(posts, eq(posts.id, comments.postId))
      .where(
        and(
          sql`${comments.id} IN ${listOf(ids)}`,
          isNull(comments.deletedAt),
          isPresent(comments.authorId),
          isPresent(posts.authorId),
        ),
      )
    return new Map(rows.map((row) => [row.id, row]))
  }

  /** Whether the author of a comment is there, and no block hides the author from the viewer. */
  const isShown = (viewerId: string | undefined) =>
    and(
      isPresent(comments.authorId),
      forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, comments.authorId)}`),
    )

  /** The post of a comment, if it is there and no block hides it from the viewer. */
  const shownPost = (viewerId: string | undefined) =>
    db
      .select({ id: posts.id })
      .from(posts)
      .where(
        and(
          eq(posts.id, comments.postId),
          isPresent(posts.authorId),
          forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, posts.authorId)}`),
        ),
      )

  /** The first replies to each of `ids`, one more than a page shows. One D1 query, or none. */
  async function firstReplies(ids: string[], viewerId: string | undefined): Promise<Map<string | null, Row[]>> {
    if (ids.length === 0) return new Map()
    const replies = sql`(SELECT id FROM ${comments} AS reply WHERE reply.parent_id = parents.value
      AND ${isPresent(sql`reply.author_id`)} AND ${forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, sql`reply.author_id`)}`)}
      ORDER BY id LIMIT ${FIRST_REPLIES + 1})`
    const rows = await platform.replica
      .select(content)
      .from(sql`json_each(${JSON.stringify(ids)}) AS parents`)
      .innerJoin(comments, sql`${comments.id} IN ${replies}`)
    return Map.groupBy(
      rows.sort((a, b) => (a.id < b.id ? -1 : 1)),
      (row) => row.parentId,
    )
  }

  /** A page of `rows`, which have one more than it, with the first replies to each. A D1 query, then one round trip. */
  async function threads(rows: Row[], limit: number, viewerId: string | undefined): Promise<Page<Thread>> {
    const page = rows.slice(0, limit)
    const replied = page.filter((row) => row.repliesCount > 0)
    const replies = await firstReplies(
      replied.map((row) => row.id),
      viewerId,
    )
    const shown = [...page, ...[...replies.values()].flatMap((some) => some.slice(0, FIRST_REPLIES))].filter(
      (row) => row.deletedAt === null, // Redis must not hold likes of the others: nobody can like them
    )
    const counts = await counters.read(
      ['likes'],
      shown.map((row) => row.id),
      loadLikes,
      new Map(shown.map((row) => [row.id, { likes: row.likesCount }])),
    )
    const likes = new Map(shown.map((row, i) => [row.id, counts[i]?.[0] ?? row.likesCount]))
    const item = (row: Row) => toComment(row, likes.get(row.id) ?? row.likesCount)
    return pageOf(rows, limit, position, (row) => ({
      ...item(row),
      replies: pageOf(replies.get(row.id) ?? [], FIRST_REPLIES, position, item),
    }))
  }

  return {
    /**
     * Writes a comment, or a reply to `parentId`; `alongside` joins the D1 batch. One D1 round trip, then one for the count.
     * Recorded in D1, then completed: the cron settles a count that Redis missed. A lost reply of D1 is resolved by repeating
     * the batch. Repeating the request writes another comment, unless `alongside` records an idempotency key.
     */
    async create(
      postId: string,
      authorId: string,
      { text, parentId }: { text: string; parentId?: string },
      alongside: (created: Comment) => BatchItem<'sqlite'>[] = () => [],
      now = Date.now(),
    ): Promise<Comment> {
      const comment = { id: newId('c', now), postId, parentId: parentId ?? null, authorId, text, createdAt: now }
      const created = toComment(
        { ...comment, updatedAt: null, deletedAt: null, version: 1, likesCount: 0, repliesCount: 0 },
        0,
      )
      const hasParent =
        parentId === undefined
          ? sql`true`
          : sql`EXISTS (SELECT 1 FROM ${comments} AS parent WHERE parent.id = ${parentId} AND parent.post_id = posts.id
              AND parent.deleted_at IS NULL AND ${isPresent(sql`parent.author_id`)} AND NOT ${isBlocked(authorId, sql`parent.author_id`)})`
      const transaction = outbox.transaction()
      const data = { commentId: comment.id, postId, authorId, text, ...(parentId === undefined ? {} : { parentId }) }
      const recording = transaction.record({ type: 'comment_created', data }, sql`true`, now)
      const [, counted] = await repeatOnce(() =>
        db.batch([
          // Null, which the column refuses, unless the post and the parent exist and no block hides them.
          db
            .insert(comments)
            .values({
              ...comment,
              postId: sql`(SELECT id FROM posts WHERE id = ${postId} AND ${isPresent(sql`author_id`)}
                AND NOT ${isBlocked(authorId, sql`posts.author_id`)} AND ${hasParent})`,
            })
            .onConflictDoNothing(), // a second run finds it
          countOf([postId]),
          recording,
          ...mentions.record({ contentId: comment.id, postId, authorId, text, isEdit: false }, sql`true`, now),
          ...alongside(created),
        ]),
      ).catch((error: unknown) => {
        // D1 undoes the whole batch, with the record of an idempotency key.
        if (!isPostMissing(error)) throw error
        const missing = parentId === undefined ? `post ${postId}` : `comment ${parentId} on post ${postId}`
        throw new Problem('not-found', `There is no ${missing}`)
      })
      transaction.enqueue()
      sendCountsLater(hintsOf(counted))
      const refresh = () => [settle(counted)]
      await writeThrough(refresh, refresh)
      return created
    },

    /**
     * Changes the text of a comment, if it is `authorId`'s and at one of `versions`. Two D1 round trips, then one for its
     * likes. Safe to repeat: with `versions`, a change that is there already succeeds (RFC 9110 §13.1.1).
     */
    async update(id: string, authorId: string, text: string, versions?: number[], now = Date.now()): Promise<Comment> {
      const isThere = and(eq(comments.id, id), isNull(comments.deletedAt), exists(shownPost(authorId)))
      const [found] = await db
        .select({ postId: comments.postId, parentId: comments.parentId, authorId: comments.authorId })
        .from(comments)
        .where(and(isThere, isShown(authorId)))
      if (!found) throw notFound(id)
      if (found.authorId !== authorId) throw new Problem('not-yours')
      const { postId, parentId } = found
      const isEditable = and(isThere, versions && sql`${comments.version} IN ${listOf(versions)}`)
      const isWritten = sql`EXISTS (SELECT 1 FROM ${comments} WHERE id = ${id} AND text = ${text} AND updated_at = ${now})`
      const version = sql`(SELECT ${comments.version} + 1 FROM ${comments} WHERE ${comments.id} = ${id})`
      const transaction = outbox.transaction()
      const [, [changed], [latest]] = await db.batch([
        transaction.record(
          {
            type: 'comment_updated',
            data: { commentId: id, postId, authorId, ...(parentId === null ? {} : { parentId }), text, version },
          },
          sql`EXISTS (SELECT 1 FROM ${comments} WHERE ${isEditable})`,
          now,
        ),
        db
          .update(comments)
          .set({ text, updatedAt: now, version: sql`${comments.version} + 1` })
          .where(isEditable)
          .returning(content),
        db.select(content).from(comments).where(isThere),
        ...mentions.record({ contentId: id, postId, authorId, text, isEdit: true }, isWritten, now),
      ])
      transaction.enqueue()
      if (!latest) throw notFound(id)
      const isRepeated = latest.text === text && versions?.includes(latest.version - 1)
      const row = changed ?? (isRepeated ? latest : undefined)
      if (!row) throw new Problem('version-changed', `The comment is at version ${latest.version}`)
      purge([postId])
      const [[likes] = []] = await counters.read(['likes'], [id], loadLikes, new Map([[id, { likes: row.likesCount }]]))
      return toComment(row, likes ?? row.likesCount)
    },

    /**
     * Removes a comment, if it or its post is `userId`'s. A comment with replies stays in its place without its text. Two D1
     * round trips, then one for the counts. With `versions`, only at one of them. Safe to repeat: it is refused as
     * `not-found`, because the comment is gone.
     * Recorded in D1, then completed: the cron settles what Redis missed.
     */
    async remove(id: string, userId: string, versions?: number[], now = Date.now()): Promise<void> {
      const [found] = await db
        .select({
          postId: comments.postId,
          authorId: comments.authorId,
          parentId: comments.parentId,
          postAuthorId: posts.authorId,
          isHidden: sql<number>`${isBlocked(userId, comments.authorId)} OR ${isBlocked(userId, posts.authorId)}`,
        })
        .from(comments)
        .innerJoin(posts, eq(posts.id, comments.postId))
        .where(and(eq(comments.id, id), isNull(comments.deletedAt)))
      if (!found) throw notFound(id)
      const { postId, authorId, parentId, postAuthorId } = found
      if (userId !== authorId && userId !== postAuthorId) {
        if (found.isHidden) throw notFound(id)
        throw new Problem('not-yours', 'Only its author, or that of the post, may do this')
      }
      const isThere = and(
        eq(comments.id, id),
        isNull(comments.deletedAt),
        versions && sql`${comments.version} IN ${listOf(versions)}`,
      )
      const transaction = outbox.transaction()
      const [, , , counted, [left]] = await db.batch([
        transaction.record(
          {
            type: 'comment_deleted',
            data: { commentId: id, postId, authorId, ...(parentId === null ? {} : { parentId }) },
          },
          sql`EXISTS (SELECT 1 FROM ${comments} WHERE ${isThere})`,
          now,
        ),
        db
          .update(comments)
          .set({ deletedAt: now, text: '' })
          .where(and(isThere, gt(comments.repliesCount, 0))),
        // Without replies: with the deleted comments above it that have no other.
        db.delete(comments).where(sql`${comments.id} IN (
          WITH RECURSIVE gone (id, parent_id) AS (
            SELECT id, parent_id FROM comments WHERE ${isThere} AND replies_count = 0
            UNION ALL
            SELECT above.id, above.parent_id FROM gone CROSS JOIN comments AS above ON above.id = gone.parent_id
            WHERE above.deleted_at IS NOT NULL AND above.replies_count = 1
            LIMIT ${MAX_ANCESTORS}
          )
          SELECT id FROM gone
        )`),
        countOf([postId]),
        db
          .select({ version: comments.version })
          .from(comments)
          .where(and(eq(comments.id, id), isNull(comments.deletedAt))),
      ])
      transaction.enqueue()
      if (left) throw new Problem('version-changed', `The comment is at version ${left.version}`)
      sendCountsLater(hintsOf(counted))
      const refresh = () => [counters.evict(['likes'], [id]), settle(counted)]
      await writeThrough(refresh, refresh)
      purge([postId])
    },

    /**
     * Deletes at most `most` comments of a deleted post. Returns how many. Their counts leave Redis first: a failed step is
     * repeated while it has rows. Two D1 queries. Safe to repeat.
     */
    async removeOfPost(postId: string, most: number): Promise<number> {
      const isOrphan = sql`NOT EXISTS (SELECT 1 FROM ${posts} WHERE ${posts.id} = ${postId})`
      const rows = await db
        .select({ id: comments.id })
        .from(comments)
        .where(and(eq(comments.postId, postId), isOrphan))
        .limit(most)
      if (rows.length === 0) return 0
      const ids = rows.map(({ id }) => id)
      await counters.evict(['likes'], ids)
      await db.delete(comments).where(inArray(comments.id, listOf(ids)))
      return ids.length
    },

    /**
     * Deletes at most `most` comments of a deleted author; returns how many, and the ids of those that have likes. Their
     * counts leave Redis first: a failed step is repeated while it has rows. `onCounted` is called with the authors of the
     * posts before and after. Safe to repeat; the cron settles the counts of posts that Redis missed.
     */
    async removeOf(
      authorId: string,
      most: number,
      onCounted: (postAuthorIds: string[]) => Promise<unknown>,
    ): Promise<{ removed: number; owners: string[] }> {
      const rows = await db
        .select({ id: comments.id, postId: comments.postId, postAuthorId: posts.authorId })
        .from(comments)
        .leftJoin(posts, eq(posts.id, comments.postId))
        .where(eq(comments.authorId, authorId))
        .limit(most)
      if (rows.length === 0) return { removed: 0, owners: [] }
      const ids = rows.map(({ id }) => id)
      const postAuthorIds = [...new Set(rows.flatMap((row) => row.postAuthorId ?? []))]
      await Promise.all([counters.evict(['likes'], ids), onCounted(postAuthorIds)])
      const [removed] = await db.batch([
        db
          .delete(comments)
          .where(inArray(comments.id, listOf(ids)))
          .returning({ id: comments.id, likes: comments.likesCount }),
        mentions.forgetting(ids),
      ])
      const postIds = [...new Set(rows.map(({ postId }) => postId))]
      const counted = await countOf(postIds)
      purge(postIds)
      const refresh = () => [settle(counted), onCounted(postAuthorIds)]
      await writeThrough(refresh, refresh)
      return { removed: ids.length, owners: removed.filter(({ likes }) => likes > 0).map(({ id }) => id) }
    },

    /** Brings the counts of comments of `postIds` to those in D1. D1, then one round trip. Safe to repeat. */
    async recount(postIds: string[]): Promise<void> {
      if (postIds.length > 0) await settle(await countOf(postIds))
    },

    /**
     * The comments on `postId` that `viewerId` sees, newest first, each with its first replies. D1 for the page, once more
     * where comments have replies, and one round trip for the likes.
     */
    async ofPost(postId: string, limit: number, cursor?: string, viewerId?: string): Promise<Page<Thread>> {
      const rows = await platform.replica
        .select(content)
        .from(comments)
        .where(
          and(
            eq(comments.postId, postId),
            isNull(comments.parentId),
            cursor === undefined ? undefined : lt(comments.id, cursor),
            isShown(viewerId),
          ),
        )
        .orderBy(desc(comments.id))
        .limit(limit + 1)
      return threads(rows, limit, viewerId)
    },

    /**
     * The replies to comment `id` that `viewerId` sees, oldest first, each with its first replies. Throws `not-found` if the
     * viewer does not see the comment or its post.
     */
    async repliesTo(id: string, limit: number, cursor?: string, viewerId?: string): Promise<Page<Thread>> {
      const { replica } = platform
      const [[parent], rows] = await replica.batch([
        replica
          .select({ id: comments.id })
          .from(comments)
          .where(and(eq(comments.id, id), isShown(viewerId), exists(shownPost(viewerId)))),
        replica
          .select(content)
          .from(comments)
          .where(
            and(
              eq(comments.parentId, id),
              cursor === undefined ? undefined : gt(comments.id, cursor),
              isShown(viewerId),
            ),
          )
          .orderBy(asc(comments.id))
          .limit(limit + 1),
      ])
      if (!parent) throw notFound(id)
      return threads(rows, limit, viewerId)
    },
  }
}

const position = (row: Row) => row.id

const notFound = (id: string) => new Problem('not-found', `There is no comment ${id}`)

/** A comment as readers see it: of a deleted one only its place. */
function toComment({ deletedAt, createdAt, updatedAt, ...row }: Row, likesCount: number): Comment {
  return {
    ...row,
    ...(deletedAt === null ? { likesCount } : { authorId: null, text: '', likesCount: 0 }),
    createdAt: new Date(createdAt).toISOString(),
    updatedAt: new Date(updatedAt ?? createdAt).toISOString(),
  }
}

/** Whether D1 refused a comment because there is no such post, or no such parent. */
const isPostMissing = (error: unknown) => hasMessage(error, 'NOT NULL constraint failed: comments.post_id')
