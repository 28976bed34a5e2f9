import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { removeOwned, removeSome } from '../db/remove.ts'
import { commentLikes, comments, postLikes, posts } from '../db/schema.ts'

/**
 * How long D1 keeps a like that was taken back (ms). An older message of the queue could restore it afterwards: queues
 * keep a message for at most 14 days.
 */
const KEPT_MS = 30 * 86_400_000

/** Deletes at most `most` likes that were taken back more than a month ago. Returns how many. Safe to repeat. */
export const purgeRemoved = (
  db: DrizzleD1Database,
  of: 'post' | 'comment',
  most: number,
  now: number,
): Promise<number> =>
  removeSome(db, of === 'post' ? postLikes : commentLikes, sql`NOT is_liked AND changed_at < ${now - KEPT_MS}`, most)

/** Deletes at most `most` likes of a deleted post. Returns how many. Safe to repeat. */
export const removeLikesOfPost = (db: DrizzleD1Database, id: string, most: number): Promise<number> =>
  removeOwned(db, [postLikes, postLikes.postId], posts, id, most)

/** As `removeLikesOfPost`, for a comment. */
export const removeLikesOfComment = (db: DrizzleD1Database, id: string, most: number): Promise<number> =>
  removeOwned(db, [commentLikes, commentLikes.commentId], comments, id, most)
