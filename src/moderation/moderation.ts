import { and, desc, eq, getTableColumns, isNull, lt, type SQL, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { SQLiteColumn, SQLiteTable } from 'drizzle-orm/sqlite-core'
import { isOneOf, removeSome } from '../db/remove.ts'
import { comments, moderationLog, posts, reports, suspensions, takedowns, users } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { Platform } from '../platform.ts'
import { service } from '../service.ts'
import type { ServiceCaller } from '../service-tokens/service-tokens.ts'
import type { Content, LogEntry, NewReport, Report, Resolution } from './schema.ts'

/** How many reports one request resolves. */
const RESOLVED_AT_ONCE = 500

/** In the log, in place of a user who is deleted: what was done stays, and with which token. */
const DELETED_USER = 'u_deleted'

/** The comment that a comment replies to, if any. */
interface Parent {
  parentId?: string
}

/** What a moderator decides, and with which token. */
export interface Decision {
  by: Pick<ServiceCaller, 'id' | 'name'>
  note: string
}

/** What moderation uses of other features. */
export interface ModerationDependencies {
  /** Brings caches to D1 after a content went or came back. Safe to repeat. */
  refresh: (contentId: string, postId: string, authorId: string) => Promise<unknown>[]
  /** Ends all sessions of a user. Safe to repeat. */
  signOutEverywhere: (userId: string) => Promise<void>
  /** A statement that records the end of all sessions of the users where `when` holds. Its batch raises their epochs after it. */
  recordEnd: (when: SQL | undefined, now: number) => BatchItem<'sqlite'>
}

export type Moderation = ReturnType<typeof createModeration>
export const moderationService = service<Moderation>('moderation')

const isComment = (id: string) => id.startsWith('c_')
const tableOf = (id: string) => (isComment(id) ? comments : posts)

/** The columns of a content in the order of its table, but for generated ones. */
const columnsOf = (table: typeof posts | typeof comments) =>
  Object.values(getTableColumns(table)).flatMap((column) => (column.generated ? [] : [column.name]))

/**
 * Reports, takedowns and suspensions.
 *
 * A takedown moves the row of a content from `posts` or `comments` to `takedowns`, in one transaction. So it is gone from
 * every answer exactly as a deleted one, and no read costs more. Its likes and comments stay, found by no reader. `restore`
 * moves it back and counts them: two index scans, as long as the content has likes and comments.
 *
 * Replies to a comment that is taken down are content of others, and stay: they reply to what is above it (a trigger moves
 * them), also once it is restored.
 *
 * Each write is one D1 batch with its event and its entry in the log, and safe to repeat: a repetition changes nothing.
 * Works without Redis: sessions and caches follow then, as after any other write.
 */
export function createModeration(
  { db, outbox, writeThrough }: Pick<Platform, 'db' | 'outbox' | 'writeThrough'>,
  { refresh, recordEnd, signOutEverywhere }: ModerationDependencies,
) {
  const log = (action: LogEntry['action'], subjectId: string, { by, note }: Decision, when: SQL, now: number) =>
    db
      .insert(moderationLog)
      .select(
        sql`SELECT ${newId('ml', now)}, ${action}, ${subjectId}, ${note}, ${by.id}, ${by.name}, ${now} WHERE ${when}`,
      )

  /** What makes a row of a content one that readers find: a deleted comment may keep its place for its replies. */
  const isFound = (id: string) =>
    isComment(id) ? and(eq(comments.id, id), isNull(comments.deletedAt)) : eq(posts.id, id)

  /** A content, and for a comment the one that it replies to, if that is there. */
  async function find(id: string): Promise<Content & Parent> {
    const table = tableOf(id)
    const above = sql`coalesce((SELECT parent_id FROM comments WHERE id = ${id}),
      (SELECT content ->> 'parent_id' FROM takedowns WHERE content_id = ${id}))`
    const [[up], [down], [parent]] = await db.batch([
      db
        .select({ authorId: table.authorId, text: table.text, postId: isComment(id) ? comments.postId : posts.id })
        .from(table)
        .where(isFound(id)),
      db.select().from(takedowns).where(eq(takedowns.contentId, id)),
      db
        .select({ id: comments.id })
        .from(comments)
        .where(sql`${comments.id} = ${above}`),
    ])
    const found = up ?? (down && { authorId: down.authorId, text: String(down.content['text']), postId: down.postId })
    if (!found) throw new Problem('not-found', `There is no ${isComment(id) ? 'comment' : 'post'} ${id}`)
    const takenDown = up || !down ? null : { at: timeOf(down.createdAt), note: down.note }
    return { id, ...found, takenDown, ...(parent && { parentId: parent.id }) }
  }

  async function read(id: string): Promise<Content> {
    const { parentId: _parentId, ...content } = await find(id)
    return content
  }

  return {
    read,

    /**
     * Reports a subject: once per reporter and subject, so a repetition answers the first report, after a lost reply
     * too. Throws `not-found` if there is no such subject. One D1 batch.
     */
    async report(reporterId: string, { subjectId, reason, text }: NewReport, now = Date.now()) {
      const table = subjectId.startsWith('u_') ? users : tableOf(subjectId)
      const transaction = outbox.transaction()
      const id = newId('rp', now)
      const isMine = and(eq(reports.subjectId, subjectId), eq(reports.reporterId, reporterId))
      const isNew = sql`EXISTS (SELECT 1 FROM ${reports} WHERE ${reports.id} = ${id})`
      const [, , [stored]] = await db.batch([
        db
          .insert(reports)
          .select(
            sql`SELECT ${id}, ${subjectId}, ${reporterId}, ${reason}, ${text}, 'open', ${now}, NULL FROM ${table}
              WHERE ${subjectId.startsWith('u_') ? eq(users.id, subjectId) : isFound(subjectId)}`,
          )
          .onConflictDoNothing(),
        transaction.record(
          { type: 'report_created', data: { reportId: id, subjectId, reason }, audience: 'services' },
          isNew,
          now,
        ),
        db.select().from(reports).where(isMine),
      ])
      transaction.enqueue()
      if (!stored) throw new Problem('not-found', `There is no ${subjectId}`)
      return shownReport(stored)
    },

    /**
     * Deletes at most `most` rows of each kind that belong to a deleted user: reports by and about them, and their content
     * that was taken down. Entries of the log lose the user and the note. Returns how many. Safe to repeat. One D1 batch, by
     * indexes.
     */
    async removeOf(userId: string, most: number): Promise<number> {
      const some = (table: SQLiteTable, owner: SQLiteColumn) => isOneOf(table, eq(owner, userId), most)
      const removed = await db.batch([
        db.delete(reports).where(some(reports, reports.reporterId)).returning({ id: reports.id }),
        db.delete(reports).where(some(reports, reports.subjectId)).returning({ id: reports.id }),
        db.delete(takedowns).where(some(takedowns, takedowns.authorId)).returning({ id: takedowns.contentId }),
        db.delete(suspensions).where(eq(suspensions.userId, userId)).returning({ id: suspensions.userId }),
        db
          .update(moderationLog)
          .set({ subjectId: DELETED_USER, note: '' })
          .where(isOneOf(moderationLog, eq(moderationLog.subjectId, userId), most))
          .returning({ id: moderationLog.id }),
      ])
      return removed.flat().length
    },

    /** Deletes at most `most` reports that were resolved before `before` (Unix ms). Returns how many. Safe to repeat. */
    purge: (most: number, before: number): Promise<number> =>
      removeSome(db, reports, lt(reports.resolvedAt, before), most),

    /** A page of reports with a status, newest first. */
    async reports(status: Report['status'], limit: number, cursor = 'rp_~'): Promise<Page<Report>> {
      const rows = await db
        .select()
        .from(reports)
        .where(and(eq(reports.status, status), lt(reports.id, cursor)))
        .orderBy(desc(reports.id))
        .limit(limit + 1)
      return pageOf(rows, limit, (row) => row.id, shownReport)
    },

    /**
     * Resolves open reports about a subject, at most 500. Repeat it while there are more. One D1 batch. Safe to repeat,
     * after a lost reply too: it counts and logs only what was still open.
     */
    async resolve({ subjectId, outcome, note }: Resolution, by: Decision['by'], now = Date.now()) {
      // `+`: by the index of the subject. That of the status has every open report.
      const isOpen = sql`${reports.subjectId} = ${subjectId} AND +${reports.status} = 'open'`
      const open = sql`SELECT ${reports.id} FROM ${reports} WHERE ${isOpen}`
      const some = sql`${reports.id} IN (${open} LIMIT ${RESOLVED_AT_ONCE})`
      const hasSome = sql`EXISTS (${open})`
      const transaction = outbox.transaction()
      const action = outcome === 'acted' ? 'act-on-reports' : 'dismiss-reports'
      const [, , resolved, left] = await db.batch([
        log(action, subjectId, { by, note }, hasSome, now),
        transaction.record(
          { type: 'reports_resolved', data: { subjectId, outcome, tokenId: by.id }, audience: 'services' },
          hasSome,
          now,
        ),
        db.update(reports).set({ status: outcome, resolvedAt: now }).where(some).returning({ id: reports.id }),
        db.select({ id: reports.id }).from(reports).where(isOpen).limit(1),
      ])
      transaction.enqueue()
      return { resolved: resolved.length, hasMore: left.length > 0 }
    },

    /**
     * Takes a post or comment down. Safe to repeat. Recorded in D1 first, in two round trips and one to read the result; then two
     * D1 queries for the counts and at most three round trips to Redis. What Redis misses expires, or the cron settles.
     */
    async takeDown(id: string, decision: Decision, now = Date.now()): Promise<Content> {
      const { authorId, postId, takenDown, parentId, ...content } = await find(id)
      if (takenDown) return { ...content, authorId, postId, takenDown }
      const table = tableOf(id)
      const isUp = sql`EXISTS (SELECT 1 FROM ${table} WHERE ${isFound(id)})`
      const fields = columnsOf(table).map((name) => sql`${name}, ${sql.identifier(name)}`)
      const transaction = outbox.transaction()
      await db.batch([
        log('take-down', id, decision, isUp, now),
        transaction.record(gone(id, postId, authorId, parentOf(parentId)), isUp, now),
        transaction.record(
          {
            type: 'content_taken_down',
            data: { contentId: id, authorId, tokenId: decision.by.id },
            audience: 'services',
          },
          isUp,
          now,
        ),
        db
          .insert(takedowns)
          .select(
            sql`SELECT ${id}, author_id, ${postId}, json_object(${sql.join(fields, sql`, `)}), ${decision.note}, ${now} FROM ${table} WHERE ${isFound(id)}`,
          )
          // A backup that was read while the content came back has both rows.
          .onConflictDoUpdate({
            target: takedowns.contentId,
            set: { content: sql`excluded.content`, note: decision.note, createdAt: now },
          }),
        db.delete(table).where(isFound(id)),
      ])
      transaction.enqueue()
      await writeThrough(
        () => refresh(id, postId, authorId),
        () => refresh(id, postId, authorId),
      )
      return read(id)
    },

    /**
     * Restores what was taken down, with all its likes and comments. Two D1 round trips, then at most four to Redis.
     * Throws `not-found` for a comment whose post was deleted meanwhile. Recorded in D1 first; what Redis misses
     * expires, or the cron settles. Safe to repeat, after a lost reply too: then it answers the content.
     */
    async restore(id: string, decision: Decision, now = Date.now()): Promise<Content> {
      const { authorId, postId, text, takenDown, parentId } = await find(id)
      if (!takenDown) return { id, authorId, postId, text, takenDown }
      const table = tableOf(id)
      const isPostKept = sql`(EXISTS (SELECT 1 FROM posts WHERE id = ${postId})
        OR EXISTS (SELECT 1 FROM takedowns WHERE content_id = ${postId}))`
      const isDown = sql`EXISTS (SELECT 1 FROM ${takedowns} WHERE ${takedowns.contentId} = ${id}) AND ${isPostKept}`
      const values = columnsOf(table).map((name) => restored[name] ?? sql`json_extract(content, ${`$.${name}`})`)
      const likes = isComment(id)
        ? sql`(SELECT count(*) FROM comment_likes WHERE comment_id = ${id} AND is_liked)`
        : sql`(SELECT count(*) FROM post_likes WHERE post_id = ${id} AND is_liked)`
      // An update, so that the triggers publish the counts and bring Redis to them.
      const recount: BatchItem<'sqlite'> = isComment(id)
        ? db
            .update(comments)
            .set({ likesCount: likes, countsRevision: sql`counts_revision + 1` })
            .where(and(eq(comments.id, id), isDown))
        : db
            .update(posts)
            .set({
              likesCount: likes,
              commentsCount: sql`(SELECT count(*) FROM comments WHERE post_id = ${id} AND deleted_at IS NULL)`,
              countsRevision: sql`counts_revision + 1`,
            })
            .where(and(eq(posts.id, id), isDown))
      const transaction = outbox.transaction()
      const version = sql`(SELECT content ->> 'version' FROM takedowns WHERE content_id = ${id})`
      await db.batch([
        log('restore', id, decision, isDown, now),
        transaction.record(
          isComment(id)
            ? { type: 'comment_created', data: { commentId: id, postId, authorId, text, ...parentOf(parentId) } }
            : { type: 'post_created', data: { postId: id, authorId, text, version } },
          isDown,
          now,
        ),
        transaction.record(
          {
            type: 'content_restored',
            data: { contentId: id, authorId, tokenId: decision.by.id },
            audience: 'services',
          },
          isDown,
          now,
        ),
        db
          .insert(table)
          .select(
            sql`SELECT ${sql.join(values, sql`, `)} FROM ${takedowns} WHERE ${takedowns.contentId} = ${id} AND ${isPostKept}`,
          ),
        recount,
        db.delete(takedowns).where(and(eq(takedowns.contentId, id), isPostKept)),
      ])
      transaction.enqueue()
      await writeThrough(
        () => refresh(id, postId, authorId),
        () => refresh(id, postId, authorId),
      )
      const content = await read(id)
      if (content.takenDown) throw new Problem('not-found', `The post of ${id} was deleted`)
      return content
    },

    /**
     * Suspends an account: no sign-in succeeds, and its sessions end. Recorded in D1 with the revocation of the sessions, which
     * the cron sends to Redis if this request cannot. Safe to repeat: it ends the sessions again, and logs nothing.
     */
    async suspend(userId: string, decision: Decision, now = Date.now()): Promise<void> {
      const isFree = sql`EXISTS (SELECT 1 FROM ${users} WHERE ${users.id} = ${userId})
        AND NOT EXISTS (SELECT 1 FROM ${suspensions} WHERE ${suspensions.userId} = ${userId})`
      const transaction = outbox.transaction()
      const [, , , , , [suspended]] = await db.batch([
        log('suspend', userId, decision, isFree, now),
        transaction.record(
          { type: 'user_suspended', data: { userId, tokenId: decision.by.id }, audience: 'services' },
          isFree,
          now,
        ),
        db
          .insert(suspensions)
          .select(sql`SELECT ${users.id}, ${decision.note}, ${now} FROM ${users} WHERE ${users.id} = ${userId}`)
          .onConflictDoNothing(),
        recordEnd(eq(users.id, userId), now),
        db
          .update(users)
          .set({ sessionEpoch: sql`${users.sessionEpoch} + 1` })
          .where(eq(users.id, userId)),
        db.select({ userId: suspensions.userId }).from(suspensions).where(eq(suspensions.userId, userId)),
      ])
      transaction.enqueue()
      if (!suspended) throw new Problem('not-found', `There is no user ${userId}`)
      await signOutEverywhere(userId)
    },

    /**
     * Ends the suspension of an account. Its sessions do not come back. One D1 batch. Safe to repeat, after a lost
     * reply too: then it logs nothing.
     */
    async reinstate(userId: string, decision: Decision, now = Date.now()): Promise<void> {
      const isSuspended = sql`EXISTS (SELECT 1 FROM ${suspensions} WHERE ${suspensions.userId} = ${userId})`
      const transaction = outbox.transaction()
      const [, , , [user]] = await db.batch([
        log('reinstate', userId, decision, isSuspended, now),
        transaction.record(
          { type: 'user_reinstated', data: { userId, tokenId: decision.by.id }, audience: 'services' },
          isSuspended,
          now,
        ),
        db.delete(suspensions).where(eq(suspensions.userId, userId)),
        db.select({ id: users.id }).from(users).where(eq(users.id, userId)),
      ])
      transaction.enqueue()
      if (!user) throw new Problem('not-found', `There is no user ${userId}`)
    },

    /** A page of the log, newest first. */
    async log(limit: number, cursor = 'ml_~'): Promise<Page<LogEntry>> {
      const rows = await db
        .select()
        .from(moderationLog)
        .where(lt(moderationLog.id, cursor))
        .orderBy(desc(moderationLog.id))
        .limit(limit + 1)
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        ({ createdAt, ...row }) => ({ ...row, createdAt: timeOf(createdAt) }),
      )
    },
  }
}

/** The event that makes everyone forget a content. It does not say why the content is gone. */
const gone = (id: string, postId: string, authorId: string, parent: Parent) =>
  isComment(id)
    ? ({ type: 'comment_deleted', data: { commentId: id, postId, authorId, ...parent } } as const)
    : ({ type: 'post_deleted', data: { postId: id, authorId } } as const)

const parentOf = (parentId: string | undefined): Parent => (parentId === undefined ? {} : { parentId })

/**
 * Columns of a content that is restored and that are not as they were. Counts are counted again. The replies to a comment
 * have moved to what is above it, and the comment follows if what it replies to is gone. A takedown may be older than
 * versions of comments.
 */
const restored: Record<string, SQL> = {
  likes_count: sql`0`,
  comments_count: sql`0`,
  replies_count: sql`0`,
  parent_id: sql`(SELECT id FROM comments AS above WHERE above.id = content ->> 'parent_id')`,
  version: sql`coalesce(content ->> 'version', 1)`,
}

const shownReport = ({ createdAt, resolvedAt, ...row }: typeof reports.$inferSelect): Report => ({
  ...row,
  createdAt: timeOf(createdAt),
  resolvedAt: resolvedAt === null ? null : timeOf(resolvedAt),
})

const timeOf = (ms: number) => new Date(ms).toISOString()
