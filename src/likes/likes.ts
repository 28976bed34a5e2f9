import { listOf } from '../db/list.ts'
import { and, eq, gt, inArray, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { commentLikes, comments, postLikes, posts } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import { service } from '../service.ts'
import { keys } from '../keys.ts'
import type { Counters, Settlement } from '../redis/counter.ts'
import type { Liked, LikeMessage } from './schema.ts'

/** The content that users can like. */
export type LikedKind = LikeMessage['kind']

const contents = {
  post: { rows: posts, likes: postLikes, contentId: postLikes.postId, userId: postLikes.userId },
  comment: { rows: comments, likes: commentLikes, contentId: commentLikes.commentId, userId: commentLikes.userId },
} as const

const kindOf = (contentId: string): LikedKind => (contentId.startsWith('c_') ? 'comment' : 'post')

/** Like states that one query of `unwritten` compares with D1. */
const COMPARED = 1_000

export type Likes = ReturnType<typeof createLikes>
export const likesService = service<Likes>('likes')

/**
 * Likes: counted in Redis at once, written behind to D1 through a queue.
 *
 * A like is acknowledged when Redis has counted it and the queue has it: one round trip. D1 gets the newest state of
 * each member and content in whatever order messages arrive, and twice is once; its triggers keep the count. When a
 * message has been applied, the count and the state in Redis are settled from D1 unless a newer change is on its way,
 * so after the queue has drained both agree, even if Redis lost everything in between.
 *
 * Without Redis a like is refused as unavailable (it could not be counted exactly); reading falls back to D1.
 */
export function createLikes(dependencies: {
  db: DrizzleD1Database
  readCounters: Counters
  writeCounters: Counters
  enqueue: (message: LikeMessage) => Promise<unknown>
  /** Called after D1 has the likes of these contents. */
  onApplied: (kind: LikedKind, contentIds: string[]) => Promise<unknown>
}) {
  const { db, readCounters, writeCounters, enqueue, onApplied } = dependencies

  /** The state of one member and the count, or null where there is no such content. */
  async function load(kind: LikedKind, id: string, userId: string) {
    const { rows, likes, contentId, userId: memberId } = contents[kind]
    const [[content], [like]] = await db.batch([
      db.select({ count: rows.likesCount }).from(rows).where(eq(rows.id, id)),
      db
        .select({ isLiked: likes.isLiked, changedAt: likes.changedAt, since: likes.since })
        .from(likes)
        .where(and(eq(contentId, id), eq(memberId, userId))),
    ])
    return content ? { count: content.count, state: like ?? { isLiked: false, changedAt: 0, since: null } } : null
  }

  /** Writes states to D1, each where it is newer; leaves out contents and members that are gone. */
  async function write(kind: LikedKind, messages: LikeMessage[]): Promise<void> {
    if (messages.length === 0) return
    const { rows, likes, contentId } = contents[kind]
    const column = sql.identifier(contentId.name)
    await db.run(sql`
      INSERT INTO ${likes} (${column}, user_id, is_liked, changed_at, since)
      SELECT value->>'contentId', value->>'userId', value->>'isLiked', value->>'changedAt', value->>'since'
      FROM json_each(${JSON.stringify(messages)})
      WHERE EXISTS (SELECT 1 FROM ${rows} WHERE id = value->>'contentId')
        AND EXISTS (SELECT 1 FROM users WHERE id = value->>'userId')
      ON CONFLICT DO UPDATE SET is_liked = excluded.is_liked, changed_at = excluded.changed_at,
        since = excluded.since
      WHERE excluded.changed_at > changed_at`)
  }

  /** What D1 has now of the counts of `ids`. */
  async function settlements(kind: LikedKind, ids: string[]): Promise<Settlement[]> {
    if (ids.length === 0) return []
    const { rows } = contents[kind]
    const found = await db
      .select({
        id: rows.id,
        value: rows.likesCount,
        revision: rows.countsRevision,
        changedAt: rows.likesChangedAt,
      })
      .from(rows)
      .where(sql`${rows.id} IN ${listOf(ids)}`)
    return found.map(({ id, value, revision, changedAt }) => ({
      count: keys.count('likes', id),
      meta: keys.countsMeta(id),
      field: 'likes',
      value,
      revision,
      changedAt,
    }))
  }

  async function settle(kind: LikedKind, messages: LikeMessage[]): Promise<void> {
    const ids = [...new Set(messages.map((message) => message.contentId))]
    await writeCounters.settle(
      await settlements(kind, ids),
      messages.map((message) => ({ key: keys.likedBy(message.userId), contentId: message.contentId, state: message })),
    )
  }

  const cannotCount = unavailable('Likes cannot be counted right now')

  return {
    /** Sets whether `userId` likes a content; answers as asked, with the exact count. One round trip. */
    async set(contentId: string, userId: string, isLiked: boolean): Promise<Liked> {
      const kind = kindOf(contentId)
      const like = {
        count: keys.count('likes', contentId),
        meta: keys.countsMeta(contentId),
        states: keys.likedBy(userId),
      }
      const counted = await writeCounters
        .like(like, contentId, isLiked, () => load(kind, contentId, userId))
        .catch(cannotCount)
      if (!counted) throw new Problem('not-found', `There is no ${kind} ${contentId}`)
      const { count, changedAt, since } = counted
      await enqueue({ kind, contentId, userId, isLiked, changedAt, since }).catch(async (cause: unknown) => {
        await writeCounters.forget(Object.values(like)).catch(() => {}) // D1 will not hear of it: count from there again
        cannotCount(cause)
      })
      return { liked: isLiked, likes: count }
    },

    /** Which of `postIds` the member likes. One round trip, beside those of the posts themselves. */
    async likedBy(userId: string, postIds: string[]): Promise<boolean[]> {
      const states = await readCounters.states(keys.likedBy(userId), postIds, async (missing) => {
        const rows = await db
          .select({ id: posts.id, isLiked: postLikes.isLiked, changedAt: postLikes.changedAt, since: postLikes.since })
          .from(posts)
          .leftJoin(postLikes, and(eq(postLikes.postId, posts.id), eq(postLikes.userId, userId)))
          .where(inArray(posts.id, missing))
        return new Map(
          rows.map(({ id, isLiked, changedAt, since }) => [
            id,
            { isLiked: isLiked ?? false, changedAt: changedAt ?? 0, since },
          ]),
        )
      })
      return states.map((state) => state.isLiked)
    },

    /**
     * Applies messages of the queue to D1, settles Redis, and tells `onApplied` whose likes changed; if that throws,
     * they have failed. Answers which failed: one that D1 will not take does so alone. Redis may be down meanwhile: then
     * the cron settles.
     */
    async apply(messages: LikeMessage[]): Promise<Set<LikeMessage>> {
      const failed = new Set<LikeMessage>()
      for (const kind of ['post', 'comment'] as const) {
        const ofKind = messages.filter((message) => message.kind === kind)
        try {
          await write(kind, ofKind)
        } catch {
          for (const message of ofKind) await write(kind, [message]).catch(() => failed.add(message))
        }
        const applied = ofKind.filter((message) => !failed.has(message))
        await settle(kind, applied).catch(() => {}) // `reconcile` makes up for it
        if (applied.length === 0) continue
        await onApplied(kind, [...new Set(applied.map((message) => message.contentId))]).catch(() => {
          for (const message of applied) failed.add(message)
        })
      }
      return failed
    },

    /** The like states of users that Redis has and D1 lacks: their messages are queued, or were lost. One round trip, and D1. */
    async unwritten(userIds: string[]): Promise<LikeMessage[]> {
      const held = await writeCounters.held(userIds.map(keys.likedBy))
      const states = userIds.flatMap((userId, i) =>
        (held[i] ?? []).map(([contentId, { isLiked, changedAt, since }]) => ({
          kind: kindOf(contentId),
          contentId,
          userId,
          isLiked,
          changedAt,
          since,
        })),
      )
      const found: LikeMessage[] = []
      for (let done = 0; done < states.length; done += COMPARED) {
        const some = states.slice(done, done + COMPARED)
        for (const [kind, { likes, contentId, userId }] of Object.entries(contents)) {
          const missing = await db.all<{ i: number }>(sql`
            SELECT key AS i FROM json_each(${JSON.stringify(some)}) AS state
            WHERE value->>'kind' = ${kind} AND value->>'changedAt' > 0 AND NOT EXISTS (
              SELECT 1 FROM ${likes} WHERE ${contentId} = value->>'contentId' AND ${userId} = value->>'userId'
                AND ${likes.changedAt} >= value->>'changedAt'
            )`)
          found.push(...missing.flatMap(({ i }) => some[i] ?? []))
        }
      }
      return found
    },

    /** Brings the counts of posts to what D1 has, where nothing newer is on its way. D1, then one round trip. */
    async recount(postIds: string[]): Promise<void> {
      await writeCounters.settle(await settlements('post', postIds))
    },

    /**
     * Counts the rows of what was liked since `since` (Unix ms) again, and settles Redis. At most `most` of each
     * kind, the latest changes first; answers how many counts in D1 were wrong (triggers keep them: it should be 0).
     * Stops between steps when `signal` aborts: what it did is right by itself.
     */
    async reconcile(since: number, most: number, signal: AbortSignal): Promise<number> {
      let wrong = 0
      for (const kind of ['post', 'comment'] as const) {
        signal.throwIfAborted()
        const { rows, likes, contentId } = contents[kind]
        const recent = await db
          .select({ id: rows.id })
          .from(rows)
          .where(gt(rows.likesChangedAt, since))
          .orderBy(sql`${rows.likesChangedAt} DESC`)
          .limit(most)
        const ids = recent.map((row) => row.id)
        if (ids.length === 0) continue
        const counted = sql`(SELECT count(*) FROM ${likes} WHERE ${contentId} = ${rows.id} AND ${likes.isLiked})`
        const mended = await db
          .update(rows)
          .set({ likesCount: counted, countsRevision: sql`${rows.countsRevision} + 1` })
          .where(sql`${rows.id} IN ${listOf(ids)} AND ${rows.likesCount} <> ${counted}`)
          .returning({ id: rows.id })
        wrong += mended.length
        signal.throwIfAborted()
        await writeCounters.settle(await settlements(kind, ids))
      }
      return wrong
    },
  }
}
