import { and, eq, inArray, sql } from 'drizzle-orm'
import type { SQLiteColumn } from 'drizzle-orm/sqlite-core'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { users } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { service } from '../service.ts'
import type { Platform } from '../platform.ts'
import type { Cache } from '../redis/cache.ts'
import type { Viewer } from '../relations/schema.ts'
import type { OwnUser, ProfileChanges, User } from './schema.ts'

/** A profile in the cache. It contains nothing private. */
export interface CachedUser extends Omit<User, 'createdAt'> {
  /** Unix ms. */
  createdAt: number
  /** Rises with every change, counts included. */
  revision: number
}

/** The columns of a `CachedUser`. */
export const profile = {
  id: users.id,
  username: users.username,
  displayName: users.displayName,
  bio: users.bio,
  followersCount: users.followersCount,
  followingsCount: users.followingsCount,
  postsCount: users.postsCount,
  createdAt: users.createdAt,
  version: users.version,
  revision: users.revision,
}

export function toUser(user: CachedUser): User {
  const { id, username, displayName, bio, followersCount, followingsCount, postsCount, version } = user
  const createdAt = new Date(user.createdAt).toISOString()
  return { id, username, displayName, bio, followersCount, followingsCount, postsCount, createdAt, version }
}

/** The columns with the addresses of an account. */
const addresses = { email: users.email, pendingEmail: users.pendingEmail }

/** Until a user has confirmed an address, `email` is the one that is not confirmed. */
const toAddresses = ({ email, pendingEmail }: { email: string; pendingEmail: string | null } = NO_ADDRESSES) => ({
  email: email.startsWith('-') ? (pendingEmail ?? '') : email,
  pendingEmail,
})
const NO_ADDRESSES = { email: '', pendingEmail: null }

export type Users = ReturnType<typeof createUsers>
export const usersService = service<Users>('users')

/** Profiles, cache-aside. Without Redis, reads use memory or D1, and writes reach the cache later. */
export function createUsers(
  platform: Pick<Platform, 'db' | 'outbox' | 'purge' | 'writeThrough'>,
  byId: Cache<CachedUser>,
  idsByUsername: Cache<string>,
) {
  async function load(ids: string[]): Promise<(CachedUser | null)[]> {
    const rows = await platform.db
      .select(profile)
      .from(users)
      .where(and(inArray(users.id, listOf(ids)), isPresent(users.id)))
    const rowsById = new Map(rows.map((row) => [row.id, row]))
    return ids.map((id) => rowsById.get(id) ?? null)
  }

  async function get(id: string, viewer?: Viewer): Promise<User> {
    const [[user], hidden] = await Promise.all([byId.getMany([id], load), viewer?.hidden([id])])
    if (!user || hidden?.has(id)) throw new Problem('not-found', `There is no user ${id}`)
    return toUser(user)
  }

  return {
    /** Returns one profile as `viewer` sees it. One round trip from Redis, none from memory. */
    get,

    /** Returns one profile with its private fields. These are not cached: D1, in parallel with the round trip. */
    async getOwn(id: string): Promise<OwnUser> {
      const [user, [row]] = await Promise.all([
        get(id),
        platform.db.select(addresses).from(users).where(eq(users.id, id)),
      ])
      return { ...user, ...toAddresses(row) }
    },

    /** Invalidates the cached id of a username, for example after sign-up. One round trip. Safe to repeat. */
    async invalidateUsername(username: string): Promise<void> {
      const invalidate = () => [idsByUsername.invalidate([username.toLowerCase()])]
      await platform.writeThrough(invalidate, invalidate)
    },

    /** Returns the users of `ids` that exist and that `viewer` sees, in that order. One `MGET`. */
    async getMany(ids: string[], viewer?: Viewer): Promise<User[]> {
      const [rows, hidden] = await Promise.all([byId.getMany(ids, load), viewer?.hidden(ids)])
      return rows.filter((user) => user !== null).flatMap((user) => (hidden?.has(user.id) ? [] : [toUser(user)]))
    },

    /** Returns a profile by its username, in any case. Looking up the id takes one more round trip. */
    async getByUsername(username: string, viewer?: Viewer): Promise<User> {
      const name = username.toLowerCase()
      const id = await idsByUsername.get(name, async () => {
        const [row] = await platform.db.select({ id: users.id }).from(users).where(eq(users.username, name))
        return row?.id ?? null
      })
      const hidden = id === null ? undefined : await viewer?.hidden([id])
      if (id === null || hidden?.has(id)) throw new Problem('not-found', `There is no user named ${name}`)
      return get(id)
    },

    /**
     * Changes a profile if it has one of `versions`. D1, then one round trip for the cache. Safe to repeat: without `versions`
     * the change is applied again, with a higher version; with them, one that is there already succeeds (RFC 9110 §13.1.1).
     */
    async update(id: string, changes: ProfileChanges, versions?: number[], now = Date.now()): Promise<OwnUser> {
      const isMine = and(eq(users.id, id), isPresent(users.id))
      const isExpected = and(isMine, versions && inArray(users.version, listOf(versions)))
      const current = (column: SQLiteColumn) => sql`(SELECT ${column} FROM ${users} WHERE ${users.id} = ${id})`
      const transaction = platform.outbox.transaction()
      const [, [changed], [latest]] = await platform.db.batch([
        transaction.record(
          {
            type: 'user_updated',
            data: {
              userId: id,
              username: current(users.username),
              displayName: changes.displayName ?? current(users.displayName),
              bio: changes.bio ?? current(users.bio),
              version: sql`${current(users.version)} + 1`,
            },
          },
          sql`EXISTS (SELECT 1 FROM ${users} WHERE ${isExpected})`,
          now,
        ),
        platform.db
          .update(users)
          .set({
            ...changes,
            updatedAt: now,
            version: sql`${users.version} + 1`,
            revision: sql`${users.revision} + 1`,
          })
          .where(isExpected)
          .returning({ ...profile, ...addresses }),
        platform.db
          .select({ ...profile, ...addresses })
          .from(users)
          .where(isMine),
      ])
      transaction.enqueue()
      if (!latest) throw new Problem('not-found', `There is no user ${id}`)
      const { displayName = latest.displayName, bio = latest.bio } = changes
      const isRepeated =
        latest.displayName === displayName && latest.bio === bio && versions?.includes(latest.version - 1)
      const row = changed ?? (isRepeated ? latest : undefined)
      if (!row) throw new Problem('version-changed', `The profile is at version ${latest.version}`)
      const { email, pendingEmail, ...user } = row
      await platform.writeThrough(
        () => [byId.put(id, user)],
        () => [byId.invalidate([id], [user.revision])],
      )
      platform.purge([id])
      return { ...toUser(user), ...toAddresses({ email, pendingEmail }) }
    },

    /**
     * Invalidates profiles that another program changed in D1, and their usernames. D1, then one round trip. Safe to
     * repeat.
     */
    async invalidate(ids: string[]): Promise<void> {
      if (ids.length === 0) return
      const rows = await platform.db
        .select({ username: users.username })
        .from(users)
        .where(inArray(users.id, listOf(ids)))
      await Promise.all([byId.invalidate(ids), idsByUsername.invalidate(rows.map(({ username }) => username))])
      platform.purge(ids)
    },

    /** Invalidates the profile of a deleted account, and its former username. One round trip. Safe to repeat. */
    async invalidateAccount(id: string, username: string): Promise<void> {
      await Promise.all([byId.invalidate([id]), idsByUsername.invalidate([username])])
      platform.purge([id])
    },

    /** Invalidates profiles whose counts the removal of another user changes. One round trip. Safe to repeat. */
    async invalidateCounts(ids: string[]): Promise<void> {
      await byId.invalidate(ids)
      platform.purge(ids)
    },

    /** Selects profiles for `refreshCache`, at the end of a batch that changes their counts. */
    select: (...ids: string[]) =>
      platform.db
        .select(profile)
        .from(users)
        .where(and(inArray(users.id, listOf(ids)), isPresent(users.id))),

    /** Writes profiles from `select` through to the cache. One round trip. Safe to repeat. */
    refreshCache: (rows: CachedUser[]) => rows.map((row) => byId.put(row.id, row)),

    /** Invalidates profiles, where `refreshCache` failed. One round trip. Safe to repeat. */
    invalidateCache: (rows: CachedUser[]) =>
      byId.invalidate(
        rows.map((row) => row.id),
        rows.map((row) => row.revision),
      ),
  }
}
