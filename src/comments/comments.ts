import { and, desc, eq, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { comments } from '../db/schema.ts'
import { keys } from '../keys.ts'
import { type Page, pageOf } from '../page.ts'
import type { Counters } from '../redis/counter.ts'

/** A comment on a post. `createdAt` is RFC 3339. */
export interface Comment {
  id: string
  postId: string
  authorId: string
  text: string
  createdAt: string
  likesCount: number
}

const content = {
  id: comments.id,
  postId: comments.postId,
  authorId: comments.authorId,
  text: comments.text,
  createdAt: comments.createdAt,
  likesCount: comments.likesCount,
}

export type Comments = ReturnType<typeof createComments>

/** Comments: pages from D1, their likes fresh from Redis where it has them. */
export function createComments(db: DrizzleD1Database, counters: Counters) {
  return {
    /** The comments on `postId`, newest first. D1 for the page, one round trip for the likes. */
    async ofPost(postId: string, limit: number, cursor?: string): Promise<Page<Comment>> {
      const rows = await db
        .select(content)
        .from(comments)
        .where(and(eq(comments.postId, postId), cursor === undefined ? undefined : lt(comments.id, cursor)))
        .orderBy(desc(comments.id))
        .limit(limit + 1)
      const page = rows.slice(0, limit)
      const keyOf = (id: string) => keys.count('likes', id)
      const likes = await counters.read(
        page.map((row) => keyOf(row.id)),
        async () => new Map(page.map((row) => [keyOf(row.id), row.likesCount])),
      )
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        ({ createdAt, ...row }, i) => ({
          ...row,
          createdAt: new Date(createdAt).toISOString(),
          likesCount: likes[i] ?? row.likesCount,
        }),
      )
    },
  }
}
