import { and, eq, inArray, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteColumn } from 'drizzle-orm/sqlite-core'
import { users } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import { service } from '../service.ts'
import type { Cache } from '../redis/cache.ts'
import type { WriteThrough } from '../redis/write-through.ts'
import type { OwnUser, ProfileChanges, User } from './schema.ts'

/** A profile as the cache holds it: nothing in it is private. */
export interface CachedUser extends Omit<User, 'createdAt'> {
  /** Unix ms. */
  createdAt: number
  /** Rises with every change, counts included. */
  revision: number
}

/** The columns of a profile. */
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

export type Users = ReturnType<typeof createUsers>
export const usersService = service<Users>('users')

/** Profiles, cache-aside. Without Redis every read is answered from memory or D1, and writes reach the cache later. */
export function createUsers(
  db: DrizzleD1Database,
  byId: Cache<CachedUser>,
  idsByUsername: Cache<string>,
  outbox: Outbox,
  writeThrough: WriteThrough,
) {
  async function load(ids: string[]): Promise<(CachedUser | null)[]> {
    const rows = await db.select(profile).from(users).where(inArray(users.id, ids))
    const found = new Map(rows.map((row) => [row.id, row]))
    return ids.map((id) => found.get(id) ?? null)
  }

  async function get(id: string): Promise<User> {
    const [user] = await byId.getMany([id], load)
    if (!user) throw new Problem('not-found', `There is no user ${id}`)
    return toUser(user)
  }

  const refreshCache = (rows: CachedUser[]) => rows.map((row) => byId.put(row.id, row))

  return {
    /** One profile. One round trip from Redis, none from memory. */
    get,

    /** One profile with what only its owner sees, which no cache holds: D1, beside the round trip. */
    async getOwn(id: string): Promise<OwnUser> {
      const [user, [row]] = await Promise.all([
        get(id),
        db.select({ email: users.email }).from(users).where(eq(users.id, id)),
      ])
      return { ...user, email: row?.email ?? '' }
    },

    /** A username is taken now: it is no longer known as nobody's. One round trip. */
    async invalidateUsername(username: string): Promise<void> {
      const forget = () => [idsByUsername.invalidate([username.toLowerCase()])]
      await writeThrough(forget, forget)
    },

    /** Those of `ids` that exist, in that order. One `MGET`. At most 100: what D1 can bind. */
    async getMany(ids: string[]): Promise<User[]> {
      const found = await byId.getMany(ids, load)
      return found.filter((user) => user !== null).map(toUser)
    },

    /** A profile by its username, in any case. One round trip more than by id, for the id. */
    async getByUsername(username: string): Promise<User> {
      const name = username.toLowerCase()
      const id = await idsByUsername.get(name, async () => {
        const [row] = await db.select({ id: users.id }).from(users).where(eq(users.username, name))
        return row?.id ?? null
      })
      if (id === null) throw new Problem('not-found', `There is no user named ${name}`)
      return get(id)
    },

    /** Changes a profile, if it is at one of `versions`. D1, then one round trip for the cache. */
    async update(id: string, changes: ProfileChanges, versions?: number[], now = Date.now()): Promise<OwnUser> {
      const isMeant = and(eq(users.id, id), versions && inArray(users.version, versions))
      const current = (column: SQLiteColumn) => sql`(SELECT ${column} FROM ${users} WHERE ${users.id} = ${id})`
      const transaction = outbox.transaction()
      const [, [row], [found]] = await db.batch([
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
          sql`EXISTS (SELECT 1 FROM ${users} WHERE ${isMeant})`,
          now,
        ),
        db
          .update(users)
          .set({
            ...changes,
            updatedAt: now,
            version: sql`${users.version} + 1`,
            revision: sql`${users.revision} + 1`,
          })
          .where(isMeant)
          .returning({ ...profile, email: users.email }),
        db.select({ version: users.version }).from(users).where(eq(users.id, id)),
      ])
      transaction.enqueue()
      if (!found) throw new Problem('not-found', `There is no user ${id}`)
      if (!row) throw new Problem('version-changed', `The profile is at version ${found.version}`)
      const { email, ...user } = row
      await writeThrough(
        () => refreshCache([user]),
        () => [byId.invalidate([id])],
      )
      return { ...toUser(user), email }
    },

    /** Forgets profiles that somebody else wrote in D1, and whose their names are. D1, then one round trip. */
    async invalidate(ids: string[]): Promise<void> {
      if (ids.length === 0) return
      const rows = await db.select({ username: users.username }).from(users).where(inArray(users.id, ids))
      await Promise.all([byId.invalidate(ids), idsByUsername.invalidate(rows.map(({ username }) => username))])
    },

    /** For the end of a batch that changes the counts of `ids`: their profiles, for `tell`. */
    select: (...ids: string[]) => db.select(profile).from(users).where(inArray(users.id, ids)),

    /** Write-through of what `select` read. One round trip. */
    refreshCache,

    /** The second try of `tell`. One round trip. */
    invalidateCache: (ids: string[]) => byId.invalidate(ids),
  }
}
