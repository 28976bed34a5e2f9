import { and, desc, eq, isNull, lt, sql } from 'drizzle-orm'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { isBlocked, isBlockedOrMuted, relationsJson } from '../db/relations.ts'
import { comments, follows, posts, relations, users } from '../db/schema.ts'
import { invalidField, Problem, unavailable } from '../errors.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { Platform } from '../platform.ts'
import type { Guard } from '../redis/script.ts'
import { service } from '../service.ts'
import type { User } from '../users/schema.ts'
import type { Users } from '../users/users.ts'
import type { Relations, Viewer } from './schema.ts'

type Kind = 'block' | 'mute'

export interface RelationsDependencies {
  profiles: () => Pick<Users, 'getMany' | 'select' | 'refreshCache' | 'invalidateCache'>
  /** Lets a script of a user write to a content unless a block hides it, as far as Redis knows. */
  guard: (userId: string, contentId: string) => Guard
  /** Replaces what the sessions of a user carry. One round trip. */
  change: (userId: string, state: Relations) => Promise<void>
  /** Drops cached inboxes. One command. */
  dropInboxes: (userIds: string[]) => Promise<void>
}

const NOBODY: ReadonlySet<string> = new Set()

export type RelationsService = ReturnType<typeof createRelations>
export const relationsService = service<RelationsService>('relations')

/**
 * Blocks and mutes. A block hides two users from each other, whoever made it: profiles, posts, comments, presence, events;
 * and neither can follow, like, comment or notify. What is hidden answers as if it did not exist, in both directions, so no
 * answer says who blocked whom. A mute hides the posts of a user from one's feeds, and everything from one's notifications.
 *
 * D1 is the truth. Pages that D1 answers filter there. Everything else uses the lists that travel with the check of the
 * session (`createSessionStore`): one more key in its `MGET`. A change is in D1 and Redis before it is acknowledged, so it
 * holds at once; where an isolate answers from memory, after `MEMORY_SECONDS`; where Redis missed the change, within 60 s.
 * A list of more than 2,000 users is not held: then each answer that needs it asks D1.
 *
 * Without Redis D1 answers. Without D1 the lists in Redis hold; if Redis has none either, or the list is too long, the
 * request is refused as unavailable: it is never answered unfiltered.
 */
export function createRelations(
  platform: Pick<Platform, 'db' | 'outbox' | 'writeThrough'>,
  { profiles, guard, change, dropInboxes }: RelationsDependencies,
) {
  const pair = (kind: Kind, userId: string, otherId: string) =>
    and(eq(relations.userId, userId), eq(relations.kind, kind), eq(relations.otherId, otherId))

  const existing = (kind: Kind, userId: string, otherId: string) =>
    sql`EXISTS (SELECT 1 FROM ${relations} WHERE ${pair(kind, userId, otherId)})`

  const selectStates = (userIds: string[]) =>
    platform.db
      .select({ id: users.id, relations: relationsJson(users.id) })
      .from(users)
      .where(sql`${users.id} IN ${listOf(userIds)}`)

  /** Brings Redis to a change that D1 has. One round trip. */
  async function spread(
    changed: { id: string; relations: string }[],
    refresh: () => Promise<unknown>[] = () => [],
    invalidate: () => Promise<unknown>[] = () => [],
  ): Promise<void> {
    const ids = changed.map((row) => row.id)
    const put = () => [
      ...changed.map((row) => change(row.id, JSON.parse(row.relations) as Relations)), // `relationsJson` wrote it
      dropInboxes(ids),
    ]
    await platform.writeThrough(
      () => [...put(), ...refresh()],
      () => [...put(), ...invalidate()],
    )
  }

  function refuseSelf(userId: string, otherId: string): void {
    if (userId === otherId) throw invalidField('path', 'id', 'must be another user')
  }

  const requireFound = (rows: { id: string }[], userId: string): void => {
    if (!rows.some((row) => row.id === userId)) throw new Problem('not-found', `There is no user ${userId}`)
  }

  /** Whether a row is the user, who is not being deleted. */
  const isThere = (userId: string) => sql`${users.id} = ${userId} AND ${isPresent(users.id)}`

  const selectThere = (userId: string) => platform.db.select({ id: users.id }).from(users).where(isThere(userId))

  const insert = (kind: Kind, userId: string, otherId: string, now: number) =>
    platform.db
      .insert(relations)
      .select(
        sql`SELECT ${userId}, ${kind}, ${users.id}, ${newId('r', now)}, ${now} FROM ${users} WHERE ${isThere(otherId)}`,
      )
      .onConflictDoNothing()

  const isNew = (kind: Kind, userId: string, otherId: string) =>
    sql`EXISTS (SELECT 1 FROM ${users} WHERE ${isThere(otherId)}) AND NOT ${existing(kind, userId, otherId)}`

  return {
    /**
     * Makes `userId` block `otherId`, and ends the follows between them. One D1 round trip, then one for Redis. Safe to
     * repeat. Recorded in D1, then completed: see above for when it holds where Redis misses it.
     */
    async block(userId: string, otherId: string, now = Date.now()): Promise<void> {
      refuseSelf(userId, otherId)
      const transaction = platform.outbox.transaction()
      const between = [
        { followerId: userId, followedId: otherId },
        { followerId: otherId, followedId: userId },
      ]
      const pairOf = (followerId: string, followedId: string) =>
        and(eq(follows.followerId, followerId), eq(follows.followedId, followedId))
      const [found, , , , , , states, rows] = await platform.db.batch([
        selectThere(otherId),
        transaction.record(
          { type: 'user_blocked', data: { userId, otherId }, audience: [userId] },
          isNew('block', userId, otherId),
          now,
        ),
        transaction.record(
          between.map((data) => ({ type: 'user_unfollowed' as const, data })),
          sql`EXISTS (SELECT 1 FROM ${follows} WHERE (follower_id, followed_id) =
            (value -> 'data' ->> 'followerId', value -> 'data' ->> 'followedId'))`,
          now,
        ),
        insert('block', userId, otherId, now),
        platform.db.delete(follows).where(pairOf(userId, otherId)),
        platform.db.delete(follows).where(pairOf(otherId, userId)),
        selectStates([userId, otherId]),
        profiles().select(userId, otherId),
      ])
      transaction.enqueue()
      requireFound(found, otherId)
      await spread(
        states,
        () => profiles().refreshCache(rows),
        () => [profiles().invalidateCache(rows)],
      )
    },

    /** Makes `userId` mute `otherId`. One D1 round trip, then one for Redis. Safe to repeat. As `block`. */
    async mute(userId: string, otherId: string, now = Date.now()): Promise<void> {
      refuseSelf(userId, otherId)
      const transaction = platform.outbox.transaction()
      const [found, , , states] = await platform.db.batch([
        selectThere(otherId),
        transaction.record(
          { type: 'user_muted', data: { userId, otherId }, audience: [userId] },
          isNew('mute', userId, otherId),
          now,
        ),
        insert('mute', userId, otherId, now),
        selectStates([userId]),
      ])
      transaction.enqueue()
      requireFound(found, otherId)
      await spread(states)
    },

    /** Takes a block or mute back. One D1 round trip, then one for Redis. Safe to repeat. Follows do not come back. */
    async remove(kind: Kind, userId: string, otherId: string, now = Date.now()): Promise<void> {
      refuseSelf(userId, otherId)
      const transaction = platform.outbox.transaction()
      const type = kind === 'block' ? 'user_unblocked' : 'user_unmuted'
      const [found, , , states] = await platform.db.batch([
        selectThere(otherId),
        transaction.record(
          { type, data: { userId, otherId }, audience: [userId] },
          existing(kind, userId, otherId),
          now,
        ),
        platform.db.delete(relations).where(pair(kind, userId, otherId)),
        selectStates(kind === 'block' ? [userId, otherId] : [userId]),
      ])
      transaction.enqueue()
      requireFound(found, otherId)
      await spread(states)
    },

    /**
     * Deletes at most `most` blocks and mutes by and of a deleted user. Returns how many. D1 in two round trips, then one for
     * Redis, where the lists of the others lose the user. Safe to repeat. What Redis misses, the next checks of their
     * sessions correct within a minute.
     */
    async removeOf(userId: string, most: number): Promise<number> {
      const found = await platform.db.all<{ row: number; other: string }>(sql`
        SELECT rowid AS row, other_id AS other FROM relations WHERE user_id = ${userId}
        UNION ALL SELECT rowid, user_id FROM relations WHERE other_id = ${userId}
        LIMIT ${most}`)
      if (found.length === 0) return 0
      const [, states] = await platform.db.batch([
        platform.db.delete(relations).where(sql`rowid IN ${listOf(found.map(({ row }) => row))}`),
        selectStates([...new Set(found.map(({ other }) => other))]),
      ])
      await spread(states)
      return found.length
    },

    /** The users whom `userId` blocks or mutes, latest first. D1 for the page, one round trip for the profiles. */
    async page(kind: Kind, userId: string, limit: number, cursor?: string): Promise<Page<User>> {
      const rows = await platform.db
        .select({ position: relations.id, otherId: relations.otherId })
        .from(relations)
        .where(
          and(
            eq(relations.userId, userId),
            eq(relations.kind, kind),
            cursor === undefined ? undefined : lt(relations.id, cursor),
          ),
        )
        .orderBy(desc(relations.id))
        .limit(limit + 1)
      const page = pageOf(
        rows,
        limit,
        (row) => row.position,
        (row) => row.otherId,
      )
      return { ...page, items: await profiles().getMany(page.items) }
    },

    /** A viewer whose lists `read` returns: undefined for a session that has ended, from whom nothing is hidden. */
    viewer: (userId: string, read: () => Promise<Relations | undefined> | Relations): Viewer => ({
      userId,
      async hidden(userIds, where = 'anywhere') {
        const others = userIds.filter((id) => id !== userId)
        if (others.length === 0) return NOBODY
        const { hidden = [], muted = [] } = (await read()) ?? {}
        if (hidden === null || (where === 'feed' && muted === null)) {
          const isHidden = where === 'feed' ? isBlockedOrMuted : isBlocked
          const rows = await platform.db
            .all<{ id: string }>(
              sql`SELECT value AS id FROM json_each(${JSON.stringify(others)}) WHERE ${isHidden(userId, sql`value`)}`,
            )
            .catch(unavailable('Blocks cannot be checked right now'))
          return new Set(rows.map((row) => row.id))
        }
        const listed = where === 'feed' ? [...hidden, ...(muted ?? [])] : hidden
        return listed.length === 0 ? NOBODY : new Set(listed)
      },
    }),

    guard,

    /**
     * Throws `not-found` if a block hides a content from `userId`, or it does not exist. For what the guard could not decide.
     * One D1 query.
     */
    async requireVisible(userId: string, contentId: string): Promise<void> {
      const isComment = contentId.startsWith('c_')
      const isHidden = (author: typeof posts.authorId | typeof comments.authorId) => isBlocked(userId, author)
      const [row] = await (
        isComment
          ? platform.db
              .select({ isHidden: sql<number>`${isHidden(comments.authorId)} OR ${isHidden(posts.authorId)}` })
              .from(comments)
              .innerJoin(posts, eq(posts.id, comments.postId))
              .where(and(eq(comments.id, contentId), isNull(comments.deletedAt)))
          : platform.db
              .select({ isHidden: sql<number>`${isHidden(posts.authorId)}` })
              .from(posts)
              .where(eq(posts.id, contentId))
      ).catch(unavailable('Blocks cannot be checked right now'))
      if (!row || row.isHidden) throw contentNotFound(contentId)
    },
  }
}

/** The same for what is hidden and for what does not exist. */
const contentNotFound = (contentId: string) =>
  new Problem('not-found', `There is no ${contentId.startsWith('c_') ? 'comment' : 'post'} ${contentId}`)
