import { listOf } from '../db/list.ts'
import { eq, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { encodeTime } from 'ulid'
import { commentLikes, comments, notificationReads, notifications, postLikes, posts } from '../db/schema.ts'
import type { EventType, StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'
import { type Page, pageOf } from '../page.ts'
import type { Cache } from '../redis/cache.ts'
import type { WriteThrough } from '../redis/write-through.ts'
import type { Notification } from './schema.ts'

/** A notification as it is held: whether it is read depends on the reader's mark. */
interface Told {
  id: string
  type: Notification['type']
  actorIds: string[]
  actorsCount: number
  postId: string | null
  commentId: string | null
  /** Unix ms. */
  createdAt: number
  /** Unix ms: when D1 had it. */
  notedAt: number
}

/** The same as D1 answers what is written down. `actorIds` is JSON. */
type WrittenRow = Omit<Told, 'actorIds'> & { actorIds: string }

/** A post or follow that is told of without being written down. */
interface ReadRow {
  id: string
  actorId: string
  createdAt: number
}

/** How far a member has read: all that was noted until `readAt`, up to the place `readUntil`. */
interface Mark {
  readUntil: string
  readAt: number
}

/** The newest of a member, at most one more than are held, and their mark. */
export interface Inbox extends Mark {
  items: Told[]
}

export interface NotificationsDependencies {
  db: DrizzleD1Database
  inboxes: Cache<Inbox>
  writeThrough: WriteThrough
  /** How many of a member's newest are held in Redis. */
  inboxSize: number
  /** Older ones are not told of. */
  keptMs: number
}

/** Sorts after every id. */
const LATEST = 'n_~~'

/**
 * How many followers' inboxes are dropped by one command, a request of some 160 KB; and how many such pages are one step
 * of the queue. A batch of a hundred steps stays below the 1 000 requests that an invocation may make.
 */
const PAGE = 2_000
const PAGES = 4

/** How many contents one step of a rebuild looks at. */
const REBUILT_AT_ONCE = 500

/** What `noted_at` is of what comes to light by a rebuild: nobody who read since then is told again. */
const AS_IT_HAPPENED = sql`created_at`

export type Notifications = ReturnType<typeof createNotifications>
export const notificationsService = service<Notifications>('notifications')

/**
 * Notifications: what a member is told of, newest first, and how far they have read.
 *
 * Whatever is told follows from D1 as it is now; so events may come twice, late or in any order, and what was taken
 * back is gone. Likes and comments are written down: a row for each content that is liked, and for each comment. Posts
 * and follows are not: they are read where they are, by one index probe per author followed (fan-out on read, as in
 * the feed), and told from the moment D1 has them. Rows for them would be two written and two purged per follower and
 * post, $4 per million, the last of 100 000 late; loading an inbox reads some hundred rows, $0.2 per million loads.
 *
 * Redis holds the newest of who looked lately, as cache entries. So the fan-out of a post is to drop those of all
 * followers, `PAGE` by one command, whether they are there or not: for 100 000 of them 50 commands and 51 queries of
 * D1, in 14 steps of the queue. A step taken twice does nothing new. If one is given up for good, or Redis could not
 * be told, inboxes are behind for as long as they are fresh.
 *
 * Reading is one round trip, D1 beside it for pages beyond what Redis holds; three and D1 when Redis holds nothing, the
 * fill among them after the answer. Without Redis all is read from D1.
 */
export function createNotifications({ db, inboxes, writeThrough, inboxSize, keptMs }: NotificationsDependencies) {
  /** The first `limit` that `userId` is told of before the place `cursor`. Three queries of D1, at once. */
  async function read(userId: string, limit: number, cursor: string, now: number): Promise<Told[]> {
    const since = encoded(now - keptMs)
    const before = cursor.slice(2, -1) // without the letter of its kind
    const [written, posted, followed] = await Promise.all([
      db.all<WrittenRow>(sql`
        SELECT told.id, kind AS type, actor_ids AS actorIds, actors_count AS actorsCount, told.post_id AS postId,
          comments.id AS commentId, told.created_at AS createdAt, noted_at AS notedAt
        FROM ${notifications} AS told
          LEFT JOIN ${comments} ON comments.id = told.content_id
          LEFT JOIN ${posts} ON posts.id = told.content_id
        WHERE told.user_id = ${userId} AND told.id < ${cursor} AND told.id > ${`n_${since}`}
          AND coalesce(comments.id, posts.id) IS NOT NULL
        ORDER BY told.id DESC LIMIT ${limit}`),
      db.all<ReadRow>(sql`
        WITH RECURSIVE queue (id, author_id, since) AS (
          SELECT (SELECT max(id) FROM posts WHERE author_id = followed_id AND id < ${`p_${before}`} AND id > told.since),
            followed_id, told.since
          FROM (
            SELECT followed_id, max('p_' || substr(id, 3, 10), ${`p_${since}`}) AS since
            FROM follows WHERE follower_id = ${userId}
          ) AS told
          UNION ALL
          SELECT (SELECT max(id) FROM posts WHERE author_id = queue.author_id AND id < queue.id AND id > queue.since),
            author_id, since
          FROM queue WHERE id IS NOT NULL
          ORDER BY 1 DESC LIMIT ${limit}
        )
        SELECT posts.id, posts.author_id AS actorId, created_at AS createdAt
        FROM queue CROSS JOIN posts ON posts.id = queue.id`),
      db.all<ReadRow>(sql`
        SELECT id, follower_id AS actorId, created_at AS createdAt FROM follows
        WHERE followed_id = ${userId} AND id < ${`f_${before}`} AND id > ${`f_${since}`}
        ORDER BY id DESC LIMIT ${limit}`),
    ])
    return [
      ...written.map(parsed),
      ...posted.map((row) => simple('post', row)),
      ...followed.map((row) => simple('follow', row)),
    ]
      .sort((a, b) => (a.id < b.id ? 1 : -1))
      .slice(0, limit)
  }

  async function load(userId: string, now: number): Promise<Inbox> {
    const [items, [mark]] = await Promise.all([
      read(userId, inboxSize + 1, LATEST, now),
      db.select(markOf).from(notificationReads).where(eq(notificationReads.userId, userId)),
    ])
    return { items, ...(mark ?? { readUntil: '', readAt: 0 }) }
  }

  const isRead = ({ id, notedAt }: Told, { readUntil, readAt }: Mark) => id <= readUntil && notedAt <= readAt

  const unreadOf = (inbox: Inbox) => inbox.items.slice(0, inboxSize).filter((told) => !isRead(told, inbox)).length

  /** Lets inboxes be loaded again. One command; where Redis is gone it is tried again later. */
  async function drop(userIds: string[]): Promise<void> {
    const tell = () => [inboxes.drop(userIds)]
    if (userIds.length > 0) await writeThrough(tell, tell)
  }

  /**
   * Writes down what `told` selects (content_id, user_id, post_id, place, actor_ids, actors_count, created_at); answers
   * who is told of something else than before. What moves down in the list (a like was taken back) is no news.
   */
  const write = (kind: 'like' | 'comment', told: SQL, notedAt: SQL) =>
    db.all<{ userId: string }>(sql`
      WITH told AS MATERIALIZED (${told})
      INSERT INTO ${notifications}
        (kind, content_id, user_id, post_id, id, actor_ids, actors_count, created_at, noted_at)
      SELECT ${kind}, content_id, user_id, post_id, 'n_' || ${ENCODED_TIME} || place, actor_ids, actors_count, created_at,
        ${notedAt}
      FROM told WHERE created_at IS NOT NULL
      ON CONFLICT DO UPDATE SET id = excluded.id, actor_ids = excluded.actor_ids, actors_count = excluded.actors_count,
        created_at = excluded.created_at, noted_at = iif(excluded.id > id, excluded.noted_at, noted_at)
      WHERE (id, actor_ids, actors_count) <> (excluded.id, excluded.actor_ids, excluded.actors_count)
      RETURNING user_id AS userId`)

  /** Brings what is told of the likes of `ids` to what D1 has. One D1 round trip; answers whom it concerns. */
  async function writeLikes(kind: 'post' | 'comment', ids: string[], notedAt: SQL): Promise<string[]> {
    const { rows, likes, contentId, postId } = contents[kind]
    const list = JSON.stringify(ids)
    const ofOthers = (content: SQL, author: SQL) =>
      sql`FROM ${likes} WHERE ${contentId} = ${content} AND is_liked AND user_id <> ${author}`
    const [content, author] = [sql`content.id`, sql`content.author_id`]
    const latest = sql`${ofOthers(content, author)} ORDER BY ${SINCE} DESC, user_id DESC`
    const told = await Promise.all([
      db.all<{ userId: string }>(sql`
        DELETE FROM ${notifications}
        WHERE kind = 'like' AND content_id IN ${listOf(ids)}
          AND NOT EXISTS (SELECT 1 ${ofOthers(sql`content_id`, sql`notifications.user_id`)})
        RETURNING user_id AS userId`),
      write(
        'like',
        sql`SELECT content.id AS content_id, author_id AS user_id, ${postId} AS post_id,
            substr(content.id, 3) || substr(content.id, 1, 1) || 'l' AS place,
            (SELECT json_group_array(user_id) FROM (SELECT user_id ${latest} LIMIT 3) AS latest) AS actor_ids,
            likes_count - EXISTS (
              SELECT 1 FROM ${likes} WHERE ${contentId} = ${content} AND user_id = ${author} AND is_liked
            ) AS actors_count,
            (SELECT ${SINCE} ${latest} LIMIT 1) AS created_at
          FROM json_each(${list}) CROSS JOIN ${rows} AS content ON content.id = value`,
        notedAt,
      ),
    ])
    return told.flat().map((row) => row.userId)
  }

  /** Brings what is told of the comments `ids` to what D1 has. One D1 round trip; answers whom it concerns. */
  async function refreshComments(ids: string[], notedAt: SQL): Promise<string[]> {
    const list = JSON.stringify(ids)
    const told = await Promise.all([
      db.all<{ userId: string }>(sql`
        DELETE FROM ${notifications}
        WHERE kind IN ('comment', 'like') AND content_id IN ${listOf(ids)}
          AND NOT EXISTS (SELECT 1 FROM ${comments} WHERE comments.id = content_id)
        RETURNING user_id AS userId`),
      write(
        'comment',
        sql`SELECT comments.id AS content_id, posts.author_id AS user_id, post_id,
            substr(comments.id, 3) || 'c' AS place, json_array(comments.author_id) AS actor_ids, 1 AS actors_count,
            comments.created_at AS created_at
          FROM json_each(${list}) CROSS JOIN ${comments} ON comments.id = value
            CROSS JOIN ${posts} ON posts.id = post_id AND posts.author_id <> comments.author_id`,
        notedAt,
      ),
    ])
    return told.flat().map((row) => row.userId)
  }

  /** Removes what authors are told of their posts that are gone. To others `read` does not show them. */
  async function removeOfPosts(gone: { postId: string; authorId: string }[]): Promise<string[]> {
    const removed = await db.all<{ userId: string }>(sql`
      DELETE FROM ${notifications}
      WHERE rowid IN (
        SELECT told.rowid FROM json_each(${JSON.stringify(gone)}) AS gone
          CROSS JOIN ${notifications} AS told ON told.user_id = value ->> 'authorId' AND told.post_id = value ->> 'postId'
        WHERE NOT EXISTS (SELECT 1 FROM ${posts} WHERE posts.id = told.post_id)
      )
      RETURNING user_id AS userId`)
    return removed.map((row) => row.userId)
  }

  /** Drops the inboxes of the next `PAGE` followers after a place; answers the place of the last, null at the end. */
  async function dropFollowers(authorId: string, after: string): Promise<string | null> {
    const page = await db.all<{ id: string; userId: string }>(sql`
      SELECT id, follower_id AS userId FROM follows WHERE followed_id = ${authorId} AND id > ${after}
      ORDER BY id LIMIT ${PAGE}`)
    await drop(page.map((row) => row.userId))
    return page.length === PAGE ? (page.at(-1)?.id ?? null) : null
  }

  const listener: Listener = {
    name: 'notifications',
    wants: ({ type }) => WANTED.has(type),

    async handle(happened) {
      const of = (...types: EventType[]) => happened.filter(({ type }) => types.some((wanted) => wanted === type))
      const commentIds = of('comment_created', 'comment_deleted').map((event) => field(event, 'commentId'))
      const removed = of('post_deleted').map((event) => ({
        postId: field(event, 'postId'),
        authorId: field(event, 'authorId'),
      }))
      const told = of('user_followed', 'user_unfollowed').flatMap((event) => [
        field(event, 'followerId'), // who is told of posts from now on, or no longer
        field(event, 'followedId'),
      ])
      if (commentIds.length > 0) told.push(...(await refreshComments(commentIds, sql`${Date.now()}`)))
      if (removed.length > 0) told.push(...(await removeOfPosts(removed)))
      await drop([...new Set(told)])

      const authors = new Set(of('post_created', 'post_deleted').map((event) => field(event, 'authorId')))
      const left = []
      for (const authorId of authors) {
        const next = await dropFollowers(authorId, '')
        if (next !== null) left.push(`${authorId} ${next}`)
      }
      return left
    },

    async proceed(cursor) {
      const [authorId = '', after = ''] = cursor.split(' ')
      let next: string | null = after
      for (let page = 0; page < PAGES && next !== null; page += 1) next = await dropFollowers(authorId, next)
      return next === null ? null : `${authorId} ${next}`
    },

    async rebuild(cursor) {
      const since = Date.now() - keptMs
      const [phase = 'post', from = String(since), row = '0'] = cursor?.split(' ') ?? []
      if (phase === 'post' || phase === 'comment') {
        const liked = await db.all<{ id: string; at: number; row: number }>(sql`
          SELECT id, likes_changed_at AS at, rowid AS row FROM ${contents[phase].rows}
          WHERE (likes_changed_at, rowid) > (${Number(from)}, ${Number(row)})
          ORDER BY likes_changed_at, rowid LIMIT ${REBUILT_AT_ONCE}`)
        const ids = liked.map((content) => content.id)
        if (ids.length > 0) await drop([...new Set(await writeLikes(phase, ids, AS_IT_HAPPENED))])
        const last = liked.at(-1)
        if (last && liked.length === REBUILT_AT_ONCE) return `${phase} ${last.at} ${last.row}`
        return phase === 'post' ? `comment ${since} 0` : `comments c_${encoded(since)}`
      }
      const written = await db.all<{ id: string }>(sql`
        SELECT id FROM ${comments} WHERE id > ${from} ORDER BY id LIMIT ${REBUILT_AT_ONCE}`)
      const ids = written.map((comment) => comment.id)
      if (ids.length > 0) await drop([...new Set(await refreshComments(ids, AS_IT_HAPPENED))])
      return ids.length === REBUILT_AT_ONCE ? `comments ${ids.at(-1)}` : null
    },
  }

  return {
    /** Is told of events, and builds again what is written down. */
    listener,

    /** The likes of contents of one kind changed. D1 in one round trip, then one command; throws when D1 fails. */
    async refreshLikes(kind: 'post' | 'comment', contentIds: string[], now = Date.now()): Promise<void> {
      await drop([...new Set(await writeLikes(kind, contentIds, sql`${now}`))])
    },

    /**
     * The page of what `userId` is told of after `cursor`, and how many are unread of those that Redis holds. One round
     * trip; for a page beyond those, D1 too.
     */
    async page(
      userId: string,
      limit: number,
      cursor: string = LATEST,
      now = Date.now(),
    ): Promise<Page<Notification> & { unreadCount: number }> {
      const inbox = (await inboxes.get(userId, () => load(userId, now))) ?? (await load(userId, now))
      const held = inbox.items.filter((told) => told.id < cursor)
      const isAllHeld = inbox.items.length <= inboxSize
      const rows = held.length > limit || isAllHeld ? held : await read(userId, limit + 1, cursor, now)
      const page = pageOf(
        rows,
        limit,
        (told) => told.id,
        (told) => toNotification(told, isRead(told, inbox)),
      )
      return { ...page, unreadCount: unreadOf(inbox) }
    },

    /**
     * Marks as read what `userId` is told of now, up to and with the place `until`, or all; answers how many are left
     * unread of those that Redis holds. A mark never goes back. One D1 round trip, then one command.
     */
    async markRead(userId: string, until: string = LATEST, now = Date.now()): Promise<number> {
      const latest = `n_${encoded(now + 1)}` // what is to come is not read
      const [[mark], items] = await Promise.all([
        db
          .insert(notificationReads)
          .values({ userId, readUntil: until < latest ? until : latest, readAt: now })
          .onConflictDoUpdate({
            target: notificationReads.userId,
            set: {
              readUntil: sql`max(${notificationReads.readUntil}, excluded.read_until)`,
              readAt: sql`max(${notificationReads.readAt}, excluded.read_at)`,
            },
          })
          .returning(markOf),
        read(userId, inboxSize + 1, LATEST, now),
      ])
      await drop([userId])
      return mark ? unreadOf({ items, ...mark }) : 0
    },

    /** Deletes at most `most` of what nobody is told of any more; answers how many. For the cron. */
    async purge(most: number, now: number): Promise<number> {
      const gone = await db.all(sql`
        DELETE FROM ${notifications}
        WHERE rowid IN (SELECT rowid FROM ${notifications} WHERE id < ${`n_${encoded(now - keptMs)}`} LIMIT ${most})
        RETURNING id`)
      return gone.length
    },
  }
}

const markOf = { readUntil: notificationReads.readUntil, readAt: notificationReads.readAt }

const WANTED = new Set<string>([
  'post_created',
  'post_deleted',
  'user_followed',
  'user_unfollowed',
  'comment_created',
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

/** When a like was given, not when it was last said again; as `post_likes_latest` and `comment_likes_latest` have it. */
const SINCE = sql.raw('coalesce(since, changed_at)')

/** A field that the schema of the event's type has, as text. */
function field({ data }: StoredEvent, name: string): string {
  const value = data[name]
  return typeof value === 'string' ? value : ''
}

/** A time (Unix ms) as ids begin with it; they know none before 1970. */
const encoded = (ms: number) => encodeTime(Math.max(0, ms), 10).toLowerCase()

/** The same of the column `created_at`: five bits a character, in Crockford's base 32. */
const ENCODED_TIME = sql.raw(
  [45, 40, 35, 30, 25, 20, 15, 10, 5, 0]
    .map((bit) => `substr('0123456789abcdefghjkmnpqrstvwxyz', (created_at >> ${bit} & 31) + 1, 1)`)
    .join(' || '),
)

/** What is written down; its JSON is that of `write`. */
const parsed = ({ actorIds, ...row }: WrittenRow): Told => ({ ...row, actorIds: JSON.parse(actorIds) as string[] })

/** What is told of one post or follow: it takes its place from there. */
const simple = (type: 'post' | 'follow', { id, actorId, createdAt }: ReadRow): Told => ({
  id: `n_${id.slice(2)}${type[0]}`,
  type,
  actorIds: [actorId],
  actorsCount: 1,
  postId: type === 'post' ? id : null,
  commentId: null,
  createdAt,
  notedAt: createdAt,
})

function toNotification(told: Told, isRead: boolean): Notification {
  const { id, type, actorIds, actorsCount, postId, commentId } = told
  return {
    id,
    type,
    actorIds,
    actorsCount,
    ...(postId === null ? {} : { postId }),
    ...(commentId === null ? {} : { commentId }),
    createdAt: new Date(told.createdAt).toISOString(),
    isRead,
  }
}
