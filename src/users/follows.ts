import { and, desc, eq, lt, sql } from 'drizzle-orm'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { forViewer, isBlocked } from '../db/relations.ts'
import { follows, users } from '../db/schema.ts'
import { invalidField, Problem } from '../errors.ts'
import { service } from '../service.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { Platform } from '../platform.ts'
import type { Following, User } from './schema.ts'
import { type CachedUser, profile, toUser, type Users } from './users.ts'

export type Follows = ReturnType<typeof createFollows>
export const followsService = service<Follows>('follows')

/**
 * Who follows whom, from D1 only: pages differ too much by user and cursor to be worth caching. A pair has one row or
 * none, and triggers maintain the counts, so repeated and concurrent changes of a pair count once. Without Redis follows
 * work the same; the counts in cached profiles change later.
 */
export function createFollows(
  platform: Pick<Platform, 'db' | 'outbox' | 'replica' | 'writeThrough'>,
  profiles: Users,
  /** Called after follows of a deleted user are removed, with the other users. */
  onRemoved: (userIds: string[]) => Promise<unknown>,
) {
  const { db, outbox, writeThrough } = platform
  const { followerId, followedId, id: position } = follows

  /** A page of the users in column `listed` of the follows whose column `at` is `userId`, latest first. */
  async function page(
    at: typeof followerId | typeof followedId,
    listed: typeof followerId | typeof followedId,
    userId: string,
    limit: number,
    cursor?: string,
    viewerId?: string,
  ): Promise<Page<User>> {
    const rows = await platform.replica
      .select({ position, user: profile })
      .from(follows)
      .innerJoin(users, eq(users.id, listed))
      .where(
        and(
          eq(at, userId),
          isPresent(users.id),
          cursor === undefined ? undefined : lt(position, cursor),
          forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, listed)}`),
        ),
      )
      .orderBy(desc(position))
      .limit(limit + 1)
    return pageOf(
      rows,
      limit,
      (row) => row.position,
      (row) => toUser(row.user),
    )
  }

  /** Whether a block hides two users from each other. */
  const hiding = (follower: string, followed: string) =>
    db
      .select({ id: users.id })
      .from(users)
      .where(and(eq(users.id, followed), isBlocked(follower, followed)))

  /** Writes both profiles through and returns the result of a change. One round trip. */
  async function changed(
    isFollowing: boolean,
    followed: string,
    rows: CachedUser[],
    hidden: unknown[],
  ): Promise<Following> {
    const user = rows.find((row) => row.id === followed)
    if (!user || hidden.length > 0) throw new Problem('not-found', `There is no user ${followed}`)
    await writeThrough(
      () => profiles.refreshCache(rows),
      () => [profiles.invalidateCache(rows)],
    )
    return { isFollowing, followersCount: user.followersCount }
  }

  const pair = (follower: string, followed: string) => and(eq(followerId, follower), eq(followedId, followed))

  function refuseSelf(follower: string, followed: string): void {
    if (follower !== followed) return
    throw invalidField('path', 'id', 'must be another user')
  }

  return {
    /** Makes `follower` follow `followed`. One D1 round trip, then one for the cache. Safe to repeat. */
    async follow(follower: string, followed: string, now = Date.now()): Promise<Following> {
      refuseSelf(follower, followed)
      const isPossible = sql`${users.id} = ${followed} AND ${isPresent(users.id)} AND ${isPresent(sql`${follower}`)}
        AND NOT ${isBlocked(follower, followed)}`
      const isNew = sql`EXISTS (SELECT 1 FROM ${users} WHERE ${isPossible})
        AND NOT EXISTS (SELECT 1 FROM ${follows} WHERE ${pair(follower, followed)})`
      const transaction = outbox.transaction()
      const [, , rows, hidden] = await db.batch([
        transaction.record({ type: 'user_followed', data: { followerId: follower, followedId: followed } }, isNew, now),
        db
          .insert(follows)
          .select(
            db
              .select({
                followerId: sql<string>`${follower}`.as('follower_id'),
                followedId: users.id,
                id: sql<string>`${newId('f', now)}`.as('position'),
                createdAt: sql<number>`${now}`.as('followed_at'),
              })
              .from(users)
              .where(isPossible), // inserts nothing for an unknown user
          )
          .onConflictDoNothing(),
        profiles.select(follower, followed),
        hiding(follower, followed),
      ])
      transaction.enqueue()
      return changed(true, followed, rows, hidden)
    },

    /** Makes `follower` unfollow `followed`. One D1 round trip, then one for the cache. Safe to repeat. */
    async unfollow(follower: string, followed: string): Promise<Following> {
      refuseSelf(follower, followed)
      const transaction = outbox.transaction()
      const [, , rows, hidden] = await db.batch([
        transaction.record(
          { type: 'user_unfollowed', data: { followerId: follower, followedId: followed } },
          sql`EXISTS (SELECT 1 FROM ${follows} WHERE ${pair(follower, followed)})`,
        ),
        db.delete(follows).where(pair(follower, followed)),
        profiles.select(follower, followed),
        hiding(follower, followed),
      ])
      transaction.enqueue()
      return changed(false, followed, rows, hidden)
    },

    /**
     * Removes at most `most` follows of a deleted user, in both directions. Returns how many. The counts of the others
     * change in the same statement; their cached profiles and inboxes are invalidated before, because a failed step is
     * repeated only while it has rows, and after. Safe to repeat.
     */
    async removeOf(userId: string, most: number): Promise<number> {
      const rows = await db.all<{ row: number; other: string }>(sql`
        SELECT rowid AS row, followed_id AS other FROM follows WHERE follower_id = ${userId}
        UNION ALL SELECT rowid, follower_id FROM follows WHERE followed_id = ${userId}
        LIMIT ${most}`)
      if (rows.length === 0) return 0
      const others = rows.map(({ other }) => other)
      const invalidate = () => [profiles.invalidateCounts(others), onRemoved(others)]
      await Promise.all(invalidate())
      await db.delete(follows).where(sql`rowid IN ${listOf(rows.map(({ row }) => row))}`)
      await writeThrough(invalidate, invalidate)
      return rows.length
    },

    /** A page of the users who follow `userId`, as `viewerId` sees them. */
    followers: (userId: string, limit: number, cursor?: string, viewerId?: string) =>
      page(followedId, followerId, userId, limit, cursor, viewerId),
    /** A page of the users whom `userId` follows. */
    followings: (userId: string, limit: number, cursor?: string, viewerId?: string) =>
      page(followerId, followedId, userId, limit, cursor, viewerId),
  }
}
