import { and, desc, eq, exists, isNull, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { NOW } from '../db/clock.ts'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { commentLikes, comments, postLikes, posts, unsettledCounts } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import type { CountRead } from '../events/hints.ts'
import type { Counters, LikeState, Settlement, WrittenLike } from '../redis/counter.ts'
import type { Evaluate } from '../redis/script.ts'
import { service } from '../service.ts'
import type { Liked, LikeMessage, UnansweredLike } from './schema.ts'

/** The content that users can like. */
export type LikedKind = LikeMessage['kind']

const contents = {
  post: {
    rows: posts,
    likes: postLikes,
    contentId: postLikes.postId,
    userId: postLikes.userId,
    authors: sql<string>`${posts.authorId}`,
  },
  comment: {
    rows: comments,
    likes: commentLikes,
    contentId: commentLikes.commentId,
    userId: commentLikes.userId,
    authors: sql<string>`${comments.authorId} || ' ' || (SELECT author_id FROM posts WHERE id = ${comments.postId})`,
  },
} as const

const kindOf = (contentId: string): LikedKind => (contentId.startsWith('c_') ? 'comment' : 'post')

/** Where D1 has refused so many messages in a row, it is D1 that fails and not the messages. */
const MAX_REFUSALS = 3

/** Of how many posts, the newest that a user liked or unliked, the states are loaded at once. */
const NEWEST_STATES = 1_000
/** Lower than the id of any post, and higher than that of any comment. */
const FIRST_POST = 'p_'

/** How many contents `onApplied` receives at once while likes of a deleted user are removed. */
const REFRESHED_AT_ONCE = 100

/** How many likes `complete` writes to D1 at once. */
const COMPLETED_AT_ONCE = 100

/** When Redis is asked for a like whose reply was lost. By then the like has happened, or will not. */
const RECOVERED_AFTER_SECONDS = 10

export type Likes = ReturnType<typeof createLikes>
export const likesService = service<Likes>('likes')

/**
 * Likes: counted in Redis at once, written behind to D1 through a queue.
 *
 * A like is acknowledged when Redis has counted it and the queue has it: one round trip. In the same script Redis records
 * it as unwritten, until D1 has it. So where a reply or a message is lost, `complete` writes the like to D1: a like that
 * was refused as unavailable did not happen, or is completed. Where Redis loses the unwritten likes after a lost reply,
 * `recover` finds the like among the states. D1 takes the newest state of each user and content, in whatever order
 * messages arrive and however often; its triggers keep the count. After each message the count and the state in Redis are
 * settled from D1, unless a newer change is in the queue: once the queue is empty both agree, whatever Redis lost
 * meanwhile.
 *
 * States are ordered by the clock of Redis, and each is newer than the one it replaces. Without Redis a like is refused
 * as unavailable (it cannot be counted exactly); reads fall back to D1.
 */
export function createLikes(dependencies: {
  db: DrizzleD1Database
  readCounters: Counters
  writeCounters: Counters
  enqueue: (message: LikeMessage | UnansweredLike, options?: QueueSendOptions) => Promise<unknown>
  /** Whether Redis left a request of this invocation without a reply. */
  isUnanswered: () => boolean
  /** Called after D1 has the likes of these contents. */
  onApplied: (kind: LikedKind, contentIds: string[]) => Promise<unknown>
  sendCounts: (counts: CountRead[]) => Promise<unknown>
}) {
  const { db, readCounters, writeCounters, enqueue, isUnanswered, onApplied, sendCounts } = dependencies

  const postOf = (commentId: string) =>
    db
      .select({ id: posts.id })
      .from(comments)
      .innerJoin(posts, eq(posts.id, comments.postId))
      .where(and(eq(comments.id, commentId), isNull(comments.deletedAt), isPresent(posts.authorId)))

  /** The state of one user and the count, or null where there is no such content. */
  async function load(kind: LikedKind, id: string, userId: string) {
    const { rows, likes, contentId, userId: likerId, authors } = contents[kind]
    const [[content], [like]] = await db.batch([
      db
        .select({ count: rows.likesCount, changedAt: rows.likesChangedAt, revision: rows.countsRevision, authors })
        .from(rows)
        // A comment goes some time after its post.
        .where(and(eq(rows.id, id), isPresent(rows.authorId), kind === 'comment' ? exists(postOf(id)) : undefined)),
      db
        .select({ isLiked: likes.isLiked, changedAt: likes.changedAt, stateSince: likes.since })
        .from(likes)
        .where(and(eq(contentId, id), eq(likerId, userId))),
    ])
    return content ? { ...content, state: like ?? { isLiked: false, changedAt: 0, stateSince: null } } : null
  }

  /** Writes states to D1, each where it is newer; leaves out contents and users that are gone. Safe to repeat. */
  async function write(kind: LikedKind, messages: LikeMessage[]): Promise<void> {
    if (messages.length === 0) return
    const { rows, likes, contentId } = contents[kind]
    const column = sql.identifier(contentId.name)
    await db.run(sql`
      INSERT INTO ${likes} (${column}, user_id, is_liked, changed_at, since)
      SELECT value->>'contentId', value->>'userId', value->>'isLiked', value->>'changedAt', value->>'stateSince'
      FROM json_each(${JSON.stringify(messages)})
      WHERE (EXISTS (SELECT 1 FROM ${rows} WHERE id = value->>'contentId')
          OR EXISTS (SELECT 1 FROM takedowns WHERE content_id = value->>'contentId')) -- it may be restored
        AND EXISTS (SELECT 1 FROM users WHERE id = value->>'userId' AND ${isPresent(sql`users.id`)})
      ON CONFLICT DO UPDATE SET is_liked = excluded.is_liked, changed_at = excluded.changed_at,
        since = coalesce(excluded.since, iif(is_liked = excluded.is_liked, coalesce(since, changed_at), NULL))
      WHERE excluded.changed_at > changed_at`)
  }

  /** Writes states to D1, one by one where D1 refuses them together; returns those that failed. */
  async function writeEach(kind: LikedKind, messages: LikeMessage[]): Promise<LikeMessage[]> {
    const isWritten = await write(kind, messages).then(
      () => true,
      () => false,
    )
    if (isWritten) return []
    const failed: LikeMessage[] = []
    let refusals = 0
    for (const [i, message] of messages.entries()) {
      try {
        await write(kind, [message])
        refusals = 0
      } catch {
        failed.push(message)
        refusals += 1
        if (refusals === MAX_REFUSALS) return [...failed, ...messages.slice(i + 1)]
      }
    }
    return failed
  }

  /** The counts of likes of `ids` in D1, and when it had them. */
  async function countsInD1(kind: LikedKind, ids: string[]): Promise<(Settlement & CountRead)[]> {
    if (ids.length === 0) return []
    const { rows } = contents[kind]
    const found = await db
      .select({
        contentId: rows.id,
        count: rows.likesCount,
        revision: rows.countsRevision,
        changedAt: rows.likesChangedAt,
        at: NOW,
      })
      .from(rows)
      .where(sql`${rows.id} IN ${listOf(ids)}`)
    return found.map(({ contentId, count, revision, changedAt, at }) => ({
      counter: 'likes',
      contentId,
      count,
      revision,
      changedAt,
      at,
    }))
  }

  /** The states in D1 of the users and contents of `messages`. */
  async function statesInD1(kind: LikedKind, messages: LikeMessage[]): Promise<WrittenLike[]> {
    const { likes, contentId, userId } = contents[kind]
    const pairs = JSON.stringify(messages.map((message) => [message.contentId, message.userId]))
    const found = await db
      .select({
        contentId: sql<string>`${contentId}`,
        userId,
        isLiked: likes.isLiked,
        changedAt: likes.changedAt,
        stateSince: likes.since,
      })
      .from(likes)
      .where(sql`(${contentId}, ${userId}) IN (SELECT value ->> 0, value ->> 1 FROM json_each(${pairs}))`)
    const states = new Map<string, LikeState>(found.map((row) => [`${row.contentId} ${row.userId}`, row]))
    return messages.map((message) => ({
      ...message,
      state: states.get(`${message.contentId} ${message.userId}`) ?? null,
    }))
  }

  /** The states of a user for posts, those with the highest ids first. One D1 query. */
  async function statesOf(userId: string, most: number, which?: SQL): Promise<Map<string, LikeState>> {
    const rows = await db
      .select({
        id: postLikes.postId,
        isLiked: postLikes.isLiked,
        changedAt: postLikes.changedAt,
        stateSince: postLikes.since,
      })
      .from(postLikes)
      .where(and(eq(postLikes.userId, userId), which))
      .orderBy(desc(postLikes.postId))
      .limit(most)
    return new Map(rows.map(({ id, ...state }) => [id, state]))
  }

  /** Sends the counts of what `messages` are about as hints, and brings Redis to what D1 has. D1, then one round trip. */
  async function settle(kind: LikedKind, messages: LikeMessage[]): Promise<void> {
    // What D1 left out (the user is gone) it has seen too: no newer change will come and settle the count.
    const seen = new Map<string, number>()
    for (const { contentId, changedAt } of messages) {
      seen.set(contentId, Math.max(changedAt, seen.get(contentId) ?? 0))
    }
    const [counts, states] = await Promise.all([countsInD1(kind, [...seen.keys()]), statesInD1(kind, messages)])
    for (const count of counts) count.changedAt = Math.max(count.changedAt, seen.get(count.contentId) ?? 0)
    await sendCounts(counts)
    await writeCounters.settle(counts, states) // last: it removes the likes from those that `complete` repeats
  }

  /** Lets the cron settle counts within a minute after an outage: a message that has often failed waits longer. */
  const noteUnsettled = (contentIds: string[]) =>
    db
      .insert(unsettledCounts)
      .select(sql`SELECT value FROM json_each(${JSON.stringify(contentIds)}) WHERE true`)
      .onConflictDoNothing()

  /**
   * Applies messages of the queue to D1, notifies `onApplied` of the contents whose likes changed, sends the hints of the
   * counts, then settles Redis.
   * Returns the messages that failed: one that D1 refuses fails alone. D1 has the others already where only Redis or
   * `onApplied` failed. Safe to repeat.
   */
  async function apply(messages: LikeMessage[]): Promise<Set<LikeMessage>> {
    const failed = new Set<LikeMessage>()
    for (const kind of ['post', 'comment'] as const) {
      const ofKind = messages.filter((message) => message.kind === kind)
      for (const message of await writeEach(kind, ofKind)) failed.add(message)
      const applied = ofKind.filter((message) => !failed.has(message))
      if (applied.length === 0) continue
      const contentIds = [...new Set(applied.map((message) => message.contentId))]
      try {
        await onApplied(kind, contentIds)
        await settle(kind, applied)
      } catch {
        for (const message of applied) failed.add(message)
        await noteUnsettled(contentIds).catch(() => {}) // the queue repeats the messages anyway
      }
    }
    return failed
  }

  const cannotCount = unavailable('Likes cannot be counted right now')

  return {
    apply,

    /**
     * Sets whether `userId` likes a content; returns the state and the exact count. One round trip. Safe to repeat.
     * Recorded, then completed: one that is refused as unavailable did not happen, or `complete` writes it to D1. One that
     * `evaluate` refuses did not happen.
     */
    async set(contentId: string, userId: string, isLiked: boolean, evaluate?: Evaluate): Promise<Liked> {
      const kind = kindOf(contentId)
      const counted = await writeCounters
        .like(contentId, userId, isLiked, () => load(kind, contentId, userId), evaluate)
        .catch(async (error: unknown) => {
          const message = { unanswered: { contentId, userId, isLiked } }
          // Where this fails too, `complete` still has the like, unless Redis loses it.
          if (isUnanswered()) await enqueue(message, { delaySeconds: RECOVERED_AFTER_SECONDS }).catch(() => {})
          return cannotCount(error)
        })
      if (!counted) throw new Problem('not-found', `There is no ${kind} ${contentId}`)
      const { count, changedAt, stateSince } = counted
      await enqueue({ kind, contentId, userId, isLiked, changedAt, stateSince }).catch(cannotCount)
      return { liked: isLiked, likes: count }
    },

    /** Makes likes that happened without a reply unwritten again: `complete` writes them to D1. One round trip. Safe to repeat. */
    recover: (messages: UnansweredLike[]): Promise<void> =>
      writeCounters.recover(messages.map(({ unanswered }) => unanswered)),

    /** Which of `postIds` the user likes. One round trip, beside those of the posts themselves. */
    async likedBy(userId: string, postIds: string[]): Promise<boolean[]> {
      const of = (ids: string[]) => statesOf(userId, ids.length, sql`${postLikes.postId} IN ${listOf(ids)}`)
      const states = await readCounters.states(userId, postIds, {
        of,
        async newest(ids) {
          const newest = await statesOf(userId, NEWEST_STATES)
          const [lowest = FIRST_POST] = newest.size < NEWEST_STATES ? [] : [...newest.keys()].slice(-1)
          const older = ids.filter((id) => id < lowest)
          return { states: older.length > 0 ? new Map([...newest, ...(await of(older))]) : newest, from: lowest }
        },
      })
      return states.map((state) => state.isLiked)
    },

    /**
     * Applies up to `most` likes that Redis has counted and D1 has not confirmed: their reply or their message was lost,
     * or is still in the queue, and then arrives twice. For the cron. Returns how many are left. Stops between batches
     * when `signal` aborts.
     */
    async complete(most: number, signal: AbortSignal): Promise<number> {
      for (let done = 0; done < most; done += COMPLETED_AT_ONCE) {
        signal.throwIfAborted()
        const unwritten = await writeCounters.unwrittenLikes(COMPLETED_AT_ONCE)
        const failed = await apply(
          unwritten.map((like) => ({ ...like, kind: kindOf(like.contentId), stateSince: null })),
        )
        if (failed.size > 0) throw new Error(`${failed.size} likes could not be written to D1`)
        if (unwritten.length < COMPLETED_AT_ONCE) return 0
      }
      return writeCounters.unwritten('likes')
    },

    /**
     * Removes at most `most` likes of a deleted user, and what notifications say of them. Returns how many. A like is first
     * taken back, and its row goes last: a step that dies in between finds it again. Safe to repeat; the cron settles the
     * counts that Redis missed.
     */
    async removeOf(userId: string, most: number): Promise<number> {
      let removed = 0
      for (const kind of ['post', 'comment'] as const) {
        const { likes, contentId, userId: likerId } = contents[kind]
        const rows = await db
          .select({ id: sql<string>`${contentId}` })
          .from(likes)
          .where(eq(likerId, userId))
          .limit(most - removed)
        if (rows.length === 0) continue
        const ids = rows.map(({ id }) => id)
        const isTheirs = and(eq(likerId, userId), sql`${contentId} IN ${listOf(ids)}`)
        await db.update(likes).set({ isLiked: false }).where(and(isTheirs, likes.isLiked))
        for (let done = 0; done < ids.length; done += REFRESHED_AT_ONCE) {
          await onApplied(kind, ids.slice(done, done + REFRESHED_AT_ONCE))
        }
        await db.delete(likes).where(isTheirs)
        await writeCounters.settle(await countsInD1(kind, ids)).catch(() => {})
        removed += rows.length
        if (removed === most) return removed
      }
      await writeCounters.forgetStates(userId)
      return removed
    },

    /** Brings the counts of posts to those in D1, unless a newer change is in the queue. D1, then one round trip. */
    async recount(postIds: string[]): Promise<void> {
      await writeCounters.settle(await countsInD1('post', postIds))
    },
  }
}
