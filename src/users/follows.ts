import { and, desc, eq, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { follows, users } from '../db/schema.ts'
import { type Page, pageOf } from '../page.ts'
import { profile, toUser, type User } from './users.ts'

export type Follows = ReturnType<typeof createFollows>

/** Who follows whom. D1 alone: pages differ by viewer and cursor too much to be worth caching. */
export function createFollows(db: DrizzleD1Database) {
  const { followerId, followedId, id: position } = follows

  /** A page of the users at one end of the follows whose other end is `userId`, latest first. */
  async function page(
    at: typeof followerId | typeof followedId,
    listed: typeof followerId | typeof followedId,
    userId: string,
    limit: number,
    cursor?: string,
  ): Promise<Page<User>> {
    const rows = await db
      .select({ position, user: profile })
      .from(follows)
      .innerJoin(users, eq(users.id, listed))
      .where(and(eq(at, userId), cursor === undefined ? undefined : lt(position, cursor)))
      .orderBy(desc(position))
      .limit(limit + 1)
    return pageOf(
      rows,
      limit,
      (row) => row.position,
      (row) => toUser(row.user),
    )
  }

  return {
    /** Those who follow `userId`. */
    followers: (userId: string, limit: number, cursor?: string) => page(followedId, followerId, userId, limit, cursor),
    /** Those whom `userId` follows. */
    followings: (userId: string, limit: number, cursor?: string) => page(followerId, followedId, userId, limit, cursor),
  }
}
