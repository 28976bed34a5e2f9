import { NOW } from '../db/clock.ts'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { isBlocked, isBlockedOrMuted } from '../db/relations.ts'
import { removeSome } from '../db/remove.ts'
import { eq, inArray, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { integer, sqliteTable } from 'drizzle-orm/sqlite-core'
import { encodeTime } from 'ulid'
import {
  commentLikes,
  comments,
  notificationColumns,
  notificationReads,
  notifications,
  postLikes,
  posts,
} from '../db/schema.ts'
import type { EventType, StoredEvent } from '../events/catalog.ts'
import type { Cursor, Listener } from '../events/dispatch.ts'
import { type Page, pageOf } from '../page.ts'
import type { Cache } from '../redis/cache.ts'
import type { Viewer } from '../relations/schema.ts'
import type { WriteThrough } from '../redis/write-through.ts'
import { service } from '../service.ts'
import type { Mentions } from './mentions.ts'
import type { Notification } from './schema.ts'

/** A notification in an inbox. Whether it is read depends on the mark of its user. */
interface InboxItem {
  id: string
  type: Notification['type']
  actorIds: string[]
  actorsCount: number
  postId: string | null
  commentId: string | null
  /** Unix ms. */
  createdAt: number
  /** When D1 had it (Unix ms by D1's clock). 0 for posts and follows: they have a place from the moment they exist. */
  notedAt: number
}

/** A stored notification as D1 returns it. `actorIds` is JSON. */
type StoredRow = Omit<InboxItem, 'actorIds'> & { actorIds: string }

/** A post, mention or follow, which is a notification without being stored as one. */
interface SourceRow {
  id: string
  actorId: string
  createdAt: number
  postId: string | null
  commentId: string | null
}

/** How far a user has read: everything up to the id `readUntil` that D1 had at `readAt` (Unix ms by D1's clock). */
interface Mark {
  readUntil: string
  readAt: number
}

/** The newest notifications of a user, at most one more than `inboxSize`, and the user's mark. */
export interface Inbox extends Mark {
  items: InboxItem[]
}

export interface NotificationsDependencies {
  db: DrizzleD1Database
  mentions: Mentions
  /** For pages beyond what Redis holds. */
  replica: () => DrizzleD1Database
  inboxes: Pick<Cache<Inbox>, 'get' | 'drop'>
  writeThrough: WriteThrough
  /** How many of a user's newest notifications Redis holds. */
  inboxSize: number
  /** Older notifications are not listed, and purged. */
  keptMs: number
}

/** Sorts after every id. */
const LATEST = 'n_~~'

/** How the followers of an author are divided. */
export interface FollowerSizes {
  /** Inboxes that one command invalidates. */
  page: number
  /** Pages of one step of the queue. */
  pages: number
  /** Steps that are enqueued at once. */
  steps: number
}

/**
 * A command of 2 000 keys is a request of some 160 KB. A batch of a hundred steps stays below the 1 000 requests that an
 * invocation may make. With the cursor of the rest, 99 steps are one `sendBatch`, which the queue takes or refuses.
 */
const SIZES: FollowerSizes = { page: 2_000, pages: 4, steps: 99 }
/** The rest of the followers waits this long, because each step is work for D1, which has one thread. */
const PAUSE_SECONDS = 10
/** The end of a step that has no other: sorts after every follow. */
const LAST_FOLLOW = 'f_~'

/** How many rows one step of a rebuild reads. */
const REBUILD_STEP = 500

/**
 * The rowid of a notification is the second when it was stored, or last happened, with these bits below for its place among
 * the others. So the purge finds in the first rows what may be expired, and no like writes an index by age.
 */
const PLACE_BITS = 21 // a rowid stays a safe integer until 2106

/** What a stored row has besides what its sources say. */
interface Stored {
  rowid: SQL
  notedAt: SQL
}
const nextAfter = (rowids: string) => sql.raw(`${rowids} + row_number() OVER ()`)
/** Above all others, and not below the current second. */
const NEW: Stored = {
  rowid: nextAfter(`max((SELECT coalesce(max(rowid), 0) FROM notifications), unixepoch() << ${PLACE_BITS})`),
  notedAt: NOW,
}
/** From a rebuild: who read since it happened has read it. Below all seconds, from where the purge moves it to its own. */
const RESTORED: Stored = {
  rowid: nextAfter(`(SELECT coalesce(max(rowid), 0) FROM notifications WHERE rowid < 1 << ${2 * PLACE_BITS})`),
  notedAt: sql.raw('created_at'),
}

/** The table with its rowid. */
const placed = sqliteTable('notifications', { rowid: integer().notNull(), ...notificationColumns })

export type Notifications = ReturnType<typeof createNotifications>
export const notificationsService = service<Notifications>('notifications')

/**
 * Notifications of users, newest first, and how far users have read.
 *
 * All of them follow from what D1 has now: events may arrive twice, late or in any order, and what was undone is gone.
 * D1 stores a row for each content that is liked, and for each comment. Posts and follows have no rows of their own: they
 * are read where they are, by one index probe per author followed (fan-out on read, as in the feed). Rows for them would
 * be two written and two purged per follower and post, $4 per million, the last of 100 000 late; loading an inbox reads
 * some hundred rows, $0.2 per million loads.
 *
 * Redis holds the newest notifications of recent readers, as cache entries. So the fan-out of a post is to invalidate the
 * inboxes of all followers, 2 000 by one command, whether Redis has them or not: for 100 000 of them 51 commands and 53
 * queries of D1. The step that handles the event invalidates the first page and cuts the rest into steps, which the queue
 * delivers together. Of more than 794 000 followers the rest follows in portions, one in `PAUSE_SECONDS`. If the queue
 * gives up a step for good, or Redis fails, inboxes are stale for as long as their entries are fresh.
 *
 * Every write is safe to repeat, and a repeat also invalidates the inboxes of a first attempt whose reply was lost: which
 * inboxes a change concerns follows from the change, not from the rows that an attempt wrote.
 *
 * Reading is one round trip, D1 beside it for pages beyond what Redis holds; three and D1 when Redis holds nothing, the
 * fill among them after the answer. Without Redis all is read from D1.
 */
export function createNotifications(platform: NotificationsDependencies, sizes = SIZES) {
  const { db, mentions, inboxes, writeThrough, inboxSize, keptMs } = platform

  /** The first `limit` notifications of `userId` below the id `cursor`. Four queries of D1, at once. */
  async function read(
    userId: string,
    limit: number,
    cursor: string,
    now: number,
    from: DrizzleD1Database = db,
  ): Promise<InboxItem[]> {
    const since = encoded(now - keptMs)
    const before = cursor.slice(2, -1) // without the letter of its kind
    const isHidden = (actorId: SQL) => isBlockedOrMuted(userId, actorId)
    const [stored, posted, followed, named] = await Promise.all([
      from.all<StoredRow>(sql`
        SELECT stored.id, kind AS type, actor_ids AS actorIds, actors_count AS actorsCount, stored.post_id AS postId,
          comments.id AS commentId, stored.created_at AS createdAt, noted_at AS notedAt
        FROM ${notifications} AS stored
          CROSS JOIN ${posts} ON posts.id = stored.post_id
          LEFT JOIN ${comments} ON comments.id = stored.content_id
        WHERE stored.user_id = ${userId} AND stored.id < ${cursor} AND stored.id > ${`n_${since}`}
          AND (stored.content_id = stored.post_id OR comments.id IS NOT NULL)
          AND EXISTS (SELECT 1 FROM json_each(actor_ids) WHERE NOT ${isHidden(sql`value`)})
          AND NOT ${isBlocked(userId, sql`posts.author_id`)} AND ${isPresent(sql`posts.author_id`)}
        ORDER BY stored.id DESC LIMIT ${limit}`),
      from.all<SourceRow>(sql`
        WITH RECURSIVE queue (id, author_id, since) AS (
          SELECT (
              SELECT max(id) FROM posts WHERE author_id = followed_id AND id < ${`p_${before}`} AND id > followed.since
            ),
            followed_id, followed.since
          FROM (
            SELECT followed_id, max('p_' || substr(id, 3, 10), ${`p_${since}`}) AS since
            FROM follows WHERE follower_id = ${userId} AND ${isPresent(sql`followed_id`)} AND NOT ${isHidden(sql`followed_id`)}
          ) AS followed
          UNION ALL
          SELECT (SELECT max(id) FROM posts WHERE author_id = queue.author_id AND id < queue.id AND id > queue.since),
            author_id, since
          FROM queue WHERE id IS NOT NULL
          ORDER BY 1 DESC LIMIT ${limit}
        )
        SELECT posts.id, posts.author_id AS actorId, created_at AS createdAt, posts.id AS postId, NULL AS commentId
        FROM queue CROSS JOIN posts ON posts.id = queue.id`),
      from.all<SourceRow>(sql`
        SELECT id, follower_id AS actorId, created_at AS createdAt, NULL AS postId, NULL AS commentId FROM follows
        WHERE followed_id = ${userId} AND id < ${`f_${before}`} AND id > ${`f_${since}`}
          AND ${isPresent(sql`follower_id`)} AND NOT ${isHidden(sql`follower_id`)}
        ORDER BY id DESC LIMIT ${limit}`),
      from.all<SourceRow>(sql`
        SELECT named.id, coalesce(comments.author_id, posts.author_id) AS actorId, named.created_at AS createdAt,
          posts.id AS postId, comments.id AS commentId
        FROM mentions AS named CROSS JOIN ${posts} ON posts.id = named.post_id
          LEFT JOIN ${comments} ON comments.id = named.content_id AND comments.deleted_at IS NULL
        WHERE named.user_id = ${userId} AND named.id < ${`m_${before}`} AND named.id > ${`m_${since}`} AND is_named
          AND ${isPresent(sql`coalesce(comments.author_id, posts.author_id)`)}
          AND (named.content_id = named.post_id OR comments.id IS NOT NULL)
          AND NOT ${isHidden(sql`coalesce(comments.author_id, posts.author_id)`)} AND NOT ${isHidden(sql`posts.author_id`)}
        ORDER BY named.id DESC LIMIT ${limit}`),
    ])
    return [
      ...stored.map(itemOfStored),
      ...posted.map((row) => itemOfSource('post', row)),
      ...followed.map((row) => itemOfSource('follow', row)),
      ...named.map((row) => itemOfSource('mention', row)),
    ]
      .sort((a, b) => (a.id < b.id ? 1 : -1))
      .slice(0, limit)
  }

  const markOf = (userId: string) =>
    db
      .select({ readUntil: notificationReads.readUntil, readAt: notificationReads.readAt })
      .from(notificationReads)
      .where(eq(notificationReads.userId, userId))

  async function load(userId: string, now: number): Promise<Inbox> {
    const [items, [mark]] = await Promise.all([read(userId, inboxSize + 1, LATEST, now), markOf(userId)])
    return { items, ...(mark ?? { readUntil: '', readAt: 0 }) }
  }

  const isRead = ({ id, notedAt }: InboxItem, { readUntil, readAt }: Mark) => id <= readUntil && notedAt <= readAt

  /** Notifications without the actors whom the viewer blocks or mutes, or who block the viewer. */
  async function visible(items: InboxItem[], viewer: Viewer): Promise<InboxItem[]> {
    const hidden = await viewer.hidden(
      items.flatMap((item) => item.actorIds),
      'feed',
    )
    if (hidden.size === 0) return items
    return items.flatMap((item) => {
      const actorIds = item.actorIds.filter((id) => !hidden.has(id))
      return actorIds.length === 0 ? [] : [{ ...item, actorIds }]
    })
  }

  const unreadOf = (inbox: Inbox) => inbox.items.slice(0, inboxSize).filter((item) => !isRead(item, inbox)).length

  /** Invalidates inboxes. One command; if Redis fails, once more a little later. */
  async function invalidate(userIds: string[]): Promise<void> {
    const drop = () => [inboxes.drop([...new Set(userIds)])]
    if (userIds.length > 0) await writeThrough(drop, drop)
  }

  /**
   * Stores the notifications that `sources` selects (content_id, user_id, post_id, place, actor_ids, actors_count,
   * created_at). One that moves down in the list, because a like was taken back, is not new again.
   */
  const store = (kind: 'like' | 'comment' | 'reply', sources: SQL, { rowid, notedAt }: Stored) =>
    db
      .insert(placed)
      .select(
        sql`
          WITH sources AS MATERIALIZED (${sources})
          SELECT ${rowid}, ${kind}, content_id, user_id, post_id, 'n_' || ${ENCODED_TIME} || place, actor_ids, actors_count,
            created_at, ${notedAt}
          FROM sources WHERE created_at IS NOT NULL`,
      )
      .onConflictDoUpdate({
        target: [placed.kind, placed.contentId],
        set: {
          id: sql`excluded.id`,
          actorIds: sql`excluded.actor_ids`,
          actorsCount: sql`excluded.actors_count`,
          createdAt: sql`excluded.created_at`,
          notedAt: sql`iif(excluded.id > id, excluded.noted_at, noted_at)`,
        },
        setWhere: sql`(id, actor_ids, actors_count) <> (excluded.id, excluded.actor_ids, excluded.actors_count)`,
      })

  /**
   * Stores the likes of `ids` as D1 has them now, or removes them. Users whom the author does not see, or mutes, are no
   * actors; they count. One D1 round trip. Returns the authors of those that others like or have liked. Safe to
   * repeat.
   */
  async function storeLikes(kind: 'post' | 'comment', ids: string[], as: Stored): Promise<string[]> {
    const { rows, likes, contentId, postId } = contents[kind]
    const ofOthers = (content: SQL, author: SQL) =>
      sql`FROM ${likes} WHERE ${contentId} = ${content} AND is_liked AND user_id <> ${author}
        AND NOT ${isBlockedOrMuted(author, sql`user_id`)}`
    const [content, author] = [sql`content.id`, sql`content.author_id`]
    const latest = sql`${ofOthers(content, author)} ORDER BY ${SINCE} DESC, user_id DESC`
    const [authors] = await db.batch([
      db
        .select({ id: rows.authorId })
        .from(rows)
        .where(
          sql`${rows.id} IN ${listOf(ids)}
            AND EXISTS (SELECT 1 FROM ${likes} WHERE ${contentId} = ${rows.id} AND user_id <> ${rows.authorId})`,
        ),
      db.delete(notifications).where(
        sql`kind = 'like' AND content_id IN ${listOf(ids)}
          AND NOT EXISTS (SELECT 1 ${ofOthers(sql`content_id`, sql`notifications.user_id`)})`,
      ),
      store(
        'like',
        sql`SELECT content.id AS content_id, author_id AS user_id, ${postId} AS post_id,
            substr(content.id, 3) || substr(content.id, 1, 1) || 'l' AS place,
            (SELECT json_group_array(user_id) FROM (SELECT user_id ${latest} LIMIT 3) AS latest) AS actor_ids,
            likes_count - EXISTS (
              SELECT 1 FROM ${likes} WHERE ${contentId} = ${content} AND user_id = ${author} AND is_liked
            ) AS actors_count,
            (SELECT ${SINCE} ${latest} LIMIT 1) AS created_at
          FROM json_each(${JSON.stringify(ids)}) CROSS JOIN ${rows} AS content ON content.id = value`,
        as,
      ),
    ])
    return authors.map(({ id }) => id)
  }

  /**
   * Stores comments and replies as D1 has them now, or removes them. One D1 round trip. Returns the authors of their posts
   * and of the comments above them. Of a reply, the author of the post is notified as of any comment, and only once.
   */
  async function storeComments(
    ofPosts: { id: string; postId: string; parentId: string }[],
    as: Stored,
  ): Promise<string[]> {
    const ids = ofPosts.map(({ id }) => id)
    const [authors, above] = await db.batch([
      db
        .select({ id: posts.authorId })
        .from(posts)
        .where(inArray(posts.id, listOf(ofPosts.map(({ postId }) => postId)))),
      db
        .select({ id: comments.authorId })
        .from(comments)
        .where(inArray(comments.id, listOf(ofPosts.map(({ parentId }) => parentId)))),
      db.delete(notifications).where(
        sql`kind IN ('comment', 'reply', 'like') AND content_id IN ${listOf(ids)}
          AND NOT EXISTS (SELECT 1 FROM ${comments} WHERE comments.id = content_id AND deleted_at IS NULL)`,
      ),
      store(
        'comment',
        sql`SELECT comments.id AS content_id, posts.author_id AS user_id, post_id,
            substr(comments.id, 3) || 'c' AS place, json_array(comments.author_id) AS actor_ids, 1 AS actors_count,
            comments.created_at AS created_at
          FROM json_each(${JSON.stringify(ids)}) CROSS JOIN ${comments} ON comments.id = value
            CROSS JOIN ${posts} ON posts.id = post_id AND posts.author_id <> comments.author_id
          WHERE comments.deleted_at IS NULL`,
        as,
      ),
      store(
        'reply',
        sql`SELECT comments.id AS content_id, above.author_id AS user_id, comments.post_id,
            substr(comments.id, 3) || 'r' AS place, json_array(comments.author_id) AS actor_ids, 1 AS actors_count,
            comments.created_at AS created_at
          FROM json_each(${JSON.stringify(ids)}) CROSS JOIN ${comments} ON comments.id = value
            CROSS JOIN ${comments} AS above ON above.id = comments.parent_id AND above.author_id <> comments.author_id
            CROSS JOIN ${posts} ON posts.id = comments.post_id AND posts.author_id <> above.author_id
          WHERE comments.deleted_at IS NULL AND above.deleted_at IS NULL`,
        as,
      ),
    ])
    return [...authors, ...above].map(({ id }) => id)
  }

  /** Invalidates the inboxes of the next page of followers, up to the follow `until`. Returns the last one, null at the end. */
  async function invalidateFollowers(authorId: string, after: string, until = LAST_FOLLOW): Promise<string | null> {
    const page = await db.all<{ id: string; userId: string }>(sql`
      SELECT id, follower_id AS userId FROM follows WHERE followed_id = ${authorId} AND id > ${after} AND id <= ${until}
      ORDER BY id LIMIT ${sizes.page}`)
    await invalidate(page.map((row) => row.userId))
    const last = page.at(-1)?.id
    return page.length < sizes.page || last === undefined || last === until ? null : last
  }

  /**
   * Cuts the followers after the follow `after` into steps, so many as are enqueued at once, and the rest. One query,
   * which reads an index entry per follower.
   */
  async function splitFollowers(authorId: string, after: string): Promise<Cursor[]> {
    const endAfter = (id: SQL) => sql`(
      SELECT id FROM follows WHERE followed_id = ${authorId} AND id > ${id}
      ORDER BY id LIMIT 1 OFFSET ${sizes.page * sizes.pages - 1})`
    const ends = await db.all<{ id: string }>(sql`
      WITH RECURSIVE step (id) AS (
        SELECT ${endAfter(sql`${after}`)}
        UNION ALL SELECT ${endAfter(sql`step.id`)} FROM step WHERE id IS NOT NULL LIMIT ${sizes.steps}
      ) SELECT id FROM step WHERE id IS NOT NULL`)
    const bounds = [after, ...ends.map(({ id }) => id)]
    const steps: Cursor[] = ends.map(({ id }, i) => `${authorId} ${bounds[i]} ${id}`)
    const last = bounds.at(-1)
    if (ends.length < sizes.steps) return [...steps, `${authorId} ${last} ${LAST_FOLLOW}`]
    return [...steps, { cursor: `${authorId} ${last}`, delaySeconds: PAUSE_SECONDS }]
  }

  const listener: Listener = {
    name: 'notifications',
    wants: ({ type }) => WANTED.has(type),

    /** Safe to repeat: it stores what D1 has now, then invalidates every inbox that the events concern. */
    async handle(happened) {
      const of = (...types: EventType[]) => happened.filter(({ type }) => types.some((wanted) => wanted === type))
      const follows = of('user_followed', 'user_unfollowed')
      const commented = of('comment_created', 'comment_deleted')
      const userIds = [
        ...follows.flatMap((event) => [field(event, 'followerId'), field(event, 'followedId')]),
        ...commented.map((event) => field(event, 'authorId')), // a deleted comment takes its likes along
        ...of('post_deleted').map((event) => field(event, 'authorId')), // triggers delete the rows of its contents
      ]
      if (commented.length > 0) {
        const ofPosts = commented.map((event) => ({
          id: field(event, 'commentId'),
          postId: field(event, 'postId'),
          parentId: field(event, 'parentId'),
        }))
        userIds.push(...(await storeComments(ofPosts, NEW)))
      }
      const written = of('post_created', 'post_updated', 'comment_created', 'comment_updated').map(contentOf)
      const gone = of('post_deleted', 'comment_deleted').map(contentOf)
      userIds.push(...(await mentions.of([...written, ...gone])))
      await invalidate(userIds)
      await mentions.forget(gone) // last: a repetition must find whom to inform

      const authors = new Set(of('post_created', 'post_deleted').map((event) => field(event, 'authorId')))
      const left = []
      for (const authorId of authors) {
        const next = await invalidateFollowers(authorId, '')
        if (next !== null) left.push(...(await splitFollowers(authorId, next)))
      }
      return left
    },

    /** Invalidates the inboxes of the followers of one step, or splits those of an author who has more. Safe to repeat. */
    async proceed(cursor) {
      const [authorId = '', after = '', until] = cursor.split(' ')
      if (until === undefined) return splitFollowers(authorId, after)
      let next: string | null = after
      for (let page = 0; page < sizes.pages && next !== null; page += 1)
        next = await invalidateFollowers(authorId, next, until)
      return next === null ? [] : [`${authorId} ${next} ${until}`]
    },

    /** Stores the likes of posts, then of comments, then comments. Safe to repeat. */
    async rebuild(cursor) {
      const since = Date.now() - keptMs
      const [phase = 'post', from = ''] = cursor?.split(' ') ?? []
      if (phase === 'post' || phase === 'comment') {
        const page = await db.all<{ id: string; likedAt: number }>(sql`
          SELECT id, likes_changed_at AS likedAt FROM ${contents[phase].rows}
          WHERE id > ${from} ORDER BY id LIMIT ${REBUILD_STEP}`)
        const ids = page.filter(({ likedAt }) => likedAt > since).map(({ id }) => id)
        if (ids.length > 0) await invalidate(await storeLikes(phase, ids, RESTORED))
        if (page.length === REBUILD_STEP) return `${phase} ${page.at(-1)?.id}`
        return phase === 'post' ? 'comment' : `comments c_${encoded(since)}`
      }
      const written = await db.all<{ id: string; postId: string; parentId: string }>(sql`
        SELECT id, post_id AS postId, coalesce(parent_id, '') AS parentId FROM ${comments} WHERE id > ${from} ORDER BY id LIMIT ${REBUILD_STEP}`)
      if (written.length > 0) await invalidate(await storeComments(written, RESTORED))
      return written.length === REBUILD_STEP ? `comments ${written.at(-1)?.id}` : null
    },
  }

  return {
    /** Keeps notifications by the events, and rebuilds what D1 stores of them. */
    listener,

    /** Drops the inboxes of users whose blocks or mutes changed. One command. Throws if Redis fails. */
    dropInboxes: (userIds: string[]): Promise<void> => inboxes.drop(userIds),
    /** Invalidates the inboxes of users. One command; never throws. Safe to repeat. */
    invalidate,

    /** Deletes at most `most` notifications of a deleted user; with the last, the read mark and the inbox. Returns how many. Safe to repeat. */
    async removeOf(userId: string, most: number): Promise<number> {
      const removed = await removeSome(db, notifications, eq(notifications.userId, userId), most)
      if (removed === most) return most
      await inboxes.drop([userId])
      await db.delete(notificationReads).where(eq(notificationReads.userId, userId))
      return removed
    },

    /**
     * Stores the notifications of changed likes, then invalidates the inboxes of the authors. D1 in one round trip, then
     * one command; throws when D1 fails. Safe to repeat: it stores what D1 has now.
     */
    async refreshLikes(kind: 'post' | 'comment', contentIds: string[]): Promise<void> {
      await invalidate(await storeLikes(kind, contentIds, NEW))
    },

    /**
     * The page of the notifications of `viewer` after `cursor`, and how many of those that Redis holds are unread. One
     * round trip; for a page beyond those, D1 too.
     */
    async page(
      viewer: Viewer,
      limit: number,
      cursor: string = LATEST,
      now = Date.now(),
    ): Promise<Page<Notification> & { unreadCount: number }> {
      const { userId } = viewer
      const cached = (await inboxes.get(userId, () => load(userId, now))) ?? (await load(userId, now))
      const isAllHeld = cached.items.length <= inboxSize
      const inbox = { ...cached, items: await visible(cached.items, viewer) }
      const held = inbox.items.filter((item) => item.id < cursor)
      const rows =
        held.length > limit || isAllHeld
          ? held
          : await visible(await read(userId, limit + 1, cursor, now, platform.replica()), viewer)
      const page = pageOf(
        rows,
        limit,
        (item) => item.id,
        (item) => toNotification(item, isRead(item, inbox)),
      )
      return { ...page, unreadCount: unreadOf(inbox) }
    },

    /**
     * Marks as read the notifications of `userId` that D1 has now, all or up to the id `until`. Returns how many of those
     * that Redis holds are still unread. Two D1 round trips, then one command.
     *
     * A mark never goes back. A mark below an earlier one covers what arrived below it since then: those notifications
     * count as noted when the earlier mark was made, and all others stay as they are.
     *
     * Safe to repeat; a repeat also marks what arrived up to `until` meanwhile.
     */
    async markRead(userId: string, until: string = LATEST, now = Date.now()): Promise<number> {
      const items = await read(userId, inboxSize + 1, LATEST, now)
      const newest = items[0]?.id ?? `n_${encoded(now + 1)}`
      const readUntil = until < newest ? until : newest // what is to come is not read
      const [, , [mark]] = await db.batch([
        db
          .update(notifications)
          .set({ notedAt: sql`read_at` })
          .from(notificationReads)
          .where(
            sql`notification_reads.user_id = ${userId} AND read_until > ${readUntil} AND notifications.user_id = ${userId}
              AND id > ${`n_${encoded(now - keptMs)}`} AND id <= ${readUntil} AND noted_at > read_at`,
          ),
        db
          .insert(notificationReads)
          .values({ userId, readUntil, readAt: NOW })
          .onConflictDoUpdate({
            target: notificationReads.userId,
            set: { readUntil, readAt: sql`max(${notificationReads.readAt}, excluded.read_at)` },
            setWhere: sql`excluded.read_until >= ${notificationReads.readUntil}`,
          }),
        markOf(userId),
      ])
      await invalidate([userId])
      const left = items.filter((item) => item.id > readUntil)
      return mark ? unreadOf({ items: left, ...mark }) : 0
    },

    /**
     * Looks at the first `most` rows that were stored long enough ago. Deletes those that are expired, and moves the others,
     * whose likes went on, to the second when they last happened. Returns how many it has looked at; fewer than `most`: no
     * expired one is left. At most three D1 queries, by rowid. For the cron; safe to repeat.
     */
    async purge(most: number, now: number): Promise<number> {
      const since = now - keptMs
      const isExpired = sql`id < ${`n_${encoded(since)}`}`
      const rows = await db.all<{ row: number; isExpired: number }>(sql`
        SELECT rowid AS row, ${isExpired} AS isExpired FROM ${notifications}
        WHERE rowid < (${Math.floor(since / 1_000)} << ${PLACE_BITS}) ORDER BY rowid LIMIT ${most}`)
      const of = (expired: number) => listOf(rows.flatMap((row) => (row.isExpired === expired ? [row.row] : [])))
      if (rows.some((row) => row.isExpired)) {
        await db.run(sql`DELETE FROM ${notifications} WHERE rowid IN ${of(1)} AND +${isExpired}`)
      }
      if (rows.some((row) => !row.isExpired)) {
        // A place is random. A row whose place is taken gets another one in the next step.
        await db.run(sql`
          UPDATE OR IGNORE ${notifications}
          SET rowid = (created_at / 1000 << ${PLACE_BITS}) + (random() & ${(1 << PLACE_BITS) - 1})
          WHERE rowid IN ${of(0)}`)
      }
      return rows.length
    },
  }
}

const WANTED = new Set<string>([
  'post_created',
  'post_updated',
  'post_deleted',
  'user_followed',
  'user_unfollowed',
  'comment_created',
  'comment_updated',
  'comment_deleted',
] satisfies EventType[])

const contents = {
  post: { rows: posts, likes: postLikes, contentId: sql.raw('post_id'), postId: sql.raw('content.id') },
  comment: {
    rows: comments,
    likes: commentLikes,
    contentId: sql.raw('comment_id'),
    postId: sql.raw('content.post_id'),
  },
}

/** When a like began, also if its user repeated it. The expression of `post_likes_latest` and `comment_likes_latest`. */
const SINCE = sql.raw('coalesce(since, changed_at)')

/** A text field of an event, which the schema of its type has. */
function field({ data }: StoredEvent, name: string): string {
  const value = data[name]
  return typeof value === 'string' ? value : ''
}

/** The post or comment of an event. */
const contentOf = (event: StoredEvent) => field(event, 'commentId') || field(event, 'postId')

/** A time (Unix ms) as the beginning of an id. Ids have no times before 1970. */
const encoded = (ms: number) => encodeTime(Math.max(0, ms), 10).toLowerCase()

/** The same of the column `created_at`: five bits a character, in Crockford's base 32. */
const ENCODED_TIME = sql.raw(
  [45, 40, 35, 30, 25, 20, 15, 10, 5, 0]
    .map((bit) => `substr('0123456789abcdefghjkmnpqrstvwxyz', (created_at >> ${bit} & 31) + 1, 1)`)
    .join(' || '),
)

/** A stored notification; `store` wrote its JSON. */
const itemOfStored = ({ actorIds, ...row }: StoredRow): InboxItem => ({
  ...row,
  actorIds: JSON.parse(actorIds) as string[],
})

/** The notification of a post, mention or follow, which takes its id from it. */
const itemOfSource = (
  type: 'post' | 'mention' | 'follow',
  { id, actorId, createdAt, postId, commentId }: SourceRow,
): InboxItem => ({
  id: `n_${id.slice(2)}${type[0]}`,
  type,
  actorIds: [actorId],
  actorsCount: 1,
  postId,
  commentId,
  createdAt,
  notedAt: 0,
})

function toNotification(item: InboxItem, isRead: boolean): Notification {
  const { id, type, actorIds, actorsCount, postId, commentId } = item
  return {
    id,
    type,
    actorIds,
    actorsCount,
    ...(postId === null ? {} : { postId }),
    ...(commentId === null ? {} : { commentId }),
    createdAt: new Date(item.createdAt).toISOString(),
    isRead,
  }
}
