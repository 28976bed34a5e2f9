import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import type { Listener } from '../events/dispatch.ts'

const count = (table: string, column: string, id: string, condition = 'true') =>
  `(SELECT count(*) FROM ${table} WHERE ${table}.${column} = ${id} AND ${condition})`

/** The counts of each table: the columns, how to count the rows, and the revision that rises with a change. */
const COUNTS = {
  users: {
    followers_count: count('follows', 'followed_id', 'users.id'),
    followings_count: count('follows', 'follower_id', 'users.id'),
    posts_count: count('posts', 'author_id', 'users.id'),
    revision: 'revision + 1',
  },
  posts: {
    likes_count: count('post_likes', 'post_id', 'posts.id', 'is_liked'),
    comments_count: count('comments', 'post_id', 'posts.id', 'deleted_at IS NULL'),
    counts_revision: 'counts_revision + 1',
  },
  comments: {
    likes_count: count('comment_likes', 'comment_id', 'comments.id', 'is_liked'),
    replies_count: '(SELECT count(*) FROM comments AS reply WHERE reply.parent_id = comments.id)',
    counts_revision: 'counts_revision + 1',
  },
}
const STAGES = Object.entries(COUNTS)

/** Rows that one step of a rebuild counts. */
const STEP = 200

/**
 * Counts the rows of all users, posts and comments again. Triggers keep the counts, so this corrects only what was written
 * around them: a backup that was taken during writes, for example. The cron settles corrected counts in Redis. Safe to
 * repeat.
 */
export const createCounts = (db: DrizzleD1Database): Listener => ({
  name: 'counts',
  wants: () => false,
  handle: async () => {},

  async rebuild(cursor) {
    const [stage = '', after = ''] = cursor?.split(':') ?? []
    const at = Math.max(
      0,
      STAGES.findIndex(([table]) => table === stage),
    )
    const [table, columns] = STAGES[at] ?? []
    if (!table || !columns) return null
    const rows = await db.all<{ id: string }>(
      sql`SELECT id FROM ${sql.identifier(table)} WHERE id > ${after} ORDER BY id LIMIT ${STEP}`,
    )
    const ids = rows.map(({ id }) => id)
    const counts = Object.entries(columns).slice(0, -1)
    await db.run(sql`
      UPDATE ${sql.identifier(table)}
      SET ${sql.raw(
        Object.entries(columns)
          .map(([column, value]) => `${column} = ${value}`)
          .join(', '),
      )}
      WHERE id IN ${listOf(ids)} AND (${sql.raw(counts.map(([column, value]) => `${column} <> ${value}`).join(' OR '))})`)
    if (rows.length === STEP) return `${table}:${ids.at(-1)}`
    const next = STAGES[at + 1]
    return next ? `${next[0]}:` : null
  },
})
