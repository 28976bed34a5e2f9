import { and, desc, eq, gt, lt, or, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { sessions, users } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import { service } from '../service.ts'
import { newId } from '../ids.ts'
import type { Claims, SessionSource, SessionStore } from '../redis/session.ts'
import type { NewAccount } from '../users/schema.ts'
import { hashPassword, isPassword } from './password.ts'
import type { Credentials, Device } from './schema.ts'
import type { SessionTokens } from './token.ts'

/** D1 as the source of truth for sessions. */
export const createSessionSource = (db: DrizzleD1Database): SessionSource => ({
  async load({ sessionId, userId }) {
    const [row] = await db
      .select({ session: sessions, currentEpoch: users.sessionEpoch })
      .from(sessions)
      .innerJoin(users, eq(users.id, sessions.userId))
      .where(and(eq(sessions.id, sessionId), eq(sessions.userId, userId)))
    if (!row) return null
    const { secretHash: hash, epoch, lastSeenAt: seenAt, expiresAt } = row.session
    return { hash, epoch, seenAt, expiresAt, currentEpoch: row.currentEpoch }
  },
  async touch(sessionId, seenAt) {
    const seen = await db
      .update(sessions)
      .set({ lastSeenAt: sql`max(${sessions.lastSeenAt}, ${seenAt})` })
      .where(eq(sessions.id, sessionId))
      .returning({ id: sessions.id })
    return seen.length > 0
  },
})

export const sessionStore = service<SessionStore>('session store')

export type Accounts = ReturnType<typeof createAccounts>
export const accountsService = service<Accounts>('accounts')

/**
 * Accounts: signing up, in and out. D1 has every session; Redis answers the checks.
 * Without Redis one can sign up and in; ending sessions is refused, because Redis could not be told.
 */
export function createAccounts(
  db: DrizzleD1Database,
  store: SessionStore,
  tokens: SessionTokens,
  absoluteMs: number,
  outbox: Outbox,
  onSignUp: (username: string) => Promise<void>,
) {
  const cannotEnd = unavailable('Sessions cannot be ended right now: try again')

  return {
    /** Creates an account, and answers its id. Throws `taken`, naming the field. */
    async signUp({ username, email, password, displayName }: NewAccount, now = Date.now()): Promise<string> {
      const name = username.toLowerCase()
      const address = email.toLowerCase()
      const id = newId('u', now)
      const passwordHash = await hashPassword(password)
      const transaction = outbox.transaction()
      const [added] = await db.batch([
        db
          .insert(users)
          .values({ id, username: name, email: address, passwordHash, displayName, createdAt: now, updatedAt: now })
          .onConflictDoNothing()
          .returning({ id: users.id }),
        transaction.record(
          { type: 'user_created', data: { userId: id, username: name, displayName, bio: '', version: 1 } },
          sql`EXISTS (SELECT 1 FROM ${users} WHERE ${users.id} = ${id})`,
          now,
        ),
      ])
      transaction.enqueue()
      if (added.length > 0) {
        await onSignUp(name)
        return id
      }
      const [same] = await db.select({ id: users.id }).from(users).where(eq(users.username, name))
      const field = same ? 'username' : 'email'
      const errors = [{ in: 'body', field, message: 'is taken' }]
      throw new Problem('taken', `This ${field} is taken`, { errors })
    },

    /**
     * Begins a session for who knows the password of `login`, a username or an email address. An unknown login and a
     * wrong password are told apart neither by the answer nor by its time. `replaced` is ended (session rotation).
     */
    async signIn(
      { login, password }: Credentials,
      device: { userAgent: string; replaced?: Claims | undefined },
      now = Date.now(),
    ): Promise<{ token: string; userId: string; expiresAt: number }> {
      const name = login.toLowerCase()
      const [user] = await db
        .select({ id: users.id, passwordHash: users.passwordHash, epoch: users.sessionEpoch })
        .from(users)
        .where(or(eq(users.username, name), eq(users.email, name)))
      const isRight = await isPassword(password, user?.passwordHash)
      if (!user || !isRight) throw new Problem('wrong-credentials')

      const { token, claims } = tokens.issue(user.id, newId('s', now))
      const session = { hash: claims.hash, epoch: user.epoch, seenAt: now, expiresAt: now + absoluteMs }
      await db.insert(sessions).values({
        id: claims.sessionId,
        userId: user.id,
        secretHash: claims.hash,
        epoch: user.epoch,
        userAgent: device.userAgent.slice(0, 200),
        createdAt: now,
        lastSeenAt: now,
        expiresAt: session.expiresAt,
      })
      await store.begin(claims, session, now).catch(() => {}) // the first check loads it
      if (device.replaced) await this.signOut(device.replaced).catch(() => {}) // it would have ended by itself
      return { token, userId: user.id, expiresAt: session.expiresAt }
    },

    /** Ends the session of `claims`. */
    async signOut({ sessionId, userId }: Claims): Promise<void> {
      await db.delete(sessions).where(and(eq(sessions.id, sessionId), eq(sessions.userId, userId)))
      await store.end(sessionId).catch(cannotEnd)
    },

    /** Ends every session of a user. */
    async signOutEverywhere(userId: string): Promise<void> {
      const [raised] = await db.batch([
        db
          .update(users)
          .set({ sessionEpoch: sql`${users.sessionEpoch} + 1` })
          .where(eq(users.id, userId))
          .returning({ epoch: users.sessionEpoch }),
        db.delete(sessions).where(eq(sessions.userId, userId)),
      ])
      if (raised[0]) await store.endAll(userId, raised[0].epoch).catch(cannotEnd)
    },

    /** The devices where a user is signed in, latest sign-in first. At most 100. */
    async devices({ userId, sessionId }: Claims, now = Date.now()): Promise<Device[]> {
      const rows = await db
        .select()
        .from(sessions)
        .where(and(eq(sessions.userId, userId), gt(sessions.expiresAt, now)))
        .orderBy(desc(sessions.id))
        .limit(100)
      return rows.map((row) => ({
        id: row.id,
        userAgent: row.userAgent,
        createdAt: new Date(row.createdAt).toISOString(),
        lastSeenAt: new Date(row.lastSeenAt).toISOString(),
        expiresAt: new Date(row.expiresAt).toISOString(),
        isCurrent: row.id === sessionId,
      }))
    },

    /** Deletes sessions past their absolute end, at most `most`; answers how many. For the cron. */
    async purge(most: number, now = Date.now()): Promise<number> {
      const due = db.select({ id: sessions.id }).from(sessions).where(lt(sessions.expiresAt, now)).limit(most)
      const gone = await db
        .delete(sessions)
        .where(sql`${sessions.id} IN ${due}`)
        .returning({ id: sessions.id })
      return gone.length
    },
  }
}
