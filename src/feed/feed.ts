import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { isPresent } from '../db/present.ts'
import { isBlockedOrMuted } from '../db/relations.ts'
import { type Page, pageOf } from '../page.ts'
import type { PostRow } from '../posts/posts.ts'
import type { Post } from '../posts/schema.ts'
import { service } from '../service.ts'

export type Feed = ReturnType<typeof createFeed>
export const feedService = service<Feed>('feed')

/** Sorts after every id of a post. */
const LATEST = 'p_~'

/**
 * The posts of the users that a user follows, newest first: fan-out on read.
 *
 * One query merges the authors' posts. A priority queue holds the newest post of each followed author; when it hands out
 * a post, that author's next older post takes its place. So a page costs one index probe per followed author and one per
 * post, however much the authors wrote. Measured in SQLite with 1 000 000 posts: 0.15 ms for 60 followed authors, 2.5 ms
 * for 1 000. The alternative, to walk the newest posts until enough are by followed authors, took 3.5 ms, and 535 ms
 * where the followed authors write little.
 *
 * Lists in Redis, filled on write, would cost one command per follower and post ($2 per million) and save reads of 200
 * rows each ($0.2 per million). A flush would still need this query to rebuild them, and a follow, a new post or a
 * deletion would leave a list or a cached page wrong for a while.
 *
 * One D1 round trip, to a replica if there are any, then one for the counts. Without Redis the counts come from D1.
 */
export function createFeed(db: DrizzleD1Database, withCounts: (rows: PostRow[], viewerId: string) => Promise<Post[]>) {
  return {
    /** The page of the feed of `userId` after `cursor`. */
    async page(userId: string, limit: number, cursor: string = LATEST): Promise<Page<Post>> {
      const rows = await db.all<PostRow>(feedQuery(userId, limit + 1, cursor))
      const page = pageOf(
        rows,
        limit,
        (row) => row.id,
        (row) => row,
      )
      return { ...page, items: await withCounts(page.items, userId) }
    },
  }
}

/** The rows of a page. The queue returns them in the order of the feed. */
const feedQuery = (userId: string, limit: number, before: string) => sql`
  WITH RECURSIVE queue (id, author_id) AS (
    SELECT (SELECT max(id) FROM posts WHERE author_id = followed_id AND id < ${before}), followed_id
    FROM follows WHERE follower_id = ${userId} AND ${isPresent(sql`followed_id`)}
      AND NOT ${isBlockedOrMuted(userId, sql`followed_id`)}
    UNION ALL
    SELECT (SELECT max(id) FROM posts WHERE author_id = queue.author_id AND id < queue.id), author_id
    FROM queue WHERE id IS NOT NULL
    ORDER BY 1 DESC LIMIT ${limit}
  )
  SELECT posts.id, posts.author_id AS authorId, text, created_at AS createdAt, updated_at AS updatedAt, version,
    likes_count AS likes, comments_count AS comments, views_count AS views
  FROM queue CROSS JOIN posts ON posts.id = queue.id`
