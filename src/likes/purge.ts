import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { commentLikes, comments, postLikes, posts } from '../db/schema.ts'

/**
 * How long D1 keeps a like that was taken back (ms). An older message of the queue could restore it afterwards: queues
 * keep a message for at most 14 days.
 */
const KEPT_MS = 30 * 86_400_000

/** Deletes at most `most` likes that were taken back more than a month ago. Returns how many. Safe to repeat. */
export async function purgeRemovedLikes(db: DrizzleD1Database, most: number, now: number): Promise<number> {
  let purged = 0
  for (const likes of [postLikes, commentLikes]) {
    const old = sql`(SELECT rowid FROM ${likes} WHERE NOT is_liked AND changed_at < ${now - KEPT_MS} LIMIT ${most - purged})`
    const { meta } = await db.run(sql`DELETE FROM ${likes} WHERE rowid IN ${old}`)
    purged += meta.changes
    if (purged >= most) break
  }
  return purged
}

const contents = {
  post: { rows: posts, likes: postLikes, contentId: postLikes.postId },
  comment: { rows: comments, likes: commentLikes, contentId: commentLikes.commentId },
}

/** Deletes at most `most` likes of a deleted content. Returns how many. Safe to repeat. */
export async function removeLikesOf(
  db: DrizzleD1Database,
  kind: 'post' | 'comment',
  id: string,
  most: number,
): Promise<number> {
  const { rows, likes, contentId } = contents[kind]
  const left = sql`(SELECT rowid FROM ${likes} WHERE ${contentId} = ${id} LIMIT ${most})`
  const removed = await db
    .delete(likes)
    .where(sql`rowid IN ${left} AND NOT EXISTS (SELECT 1 FROM ${rows} WHERE ${rows.id} = ${id})`)
    .returning({ userId: likes.userId })
  return removed.length
}
