import { createHash } from 'node:crypto'
import { and, asc, desc, eq, gt, lt, lte, not, or, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { countUpTo } from '../db/count.ts'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { relationsJson } from '../db/relations.ts'
import { removeSome } from '../db/remove.ts'
import { repeatOnce } from '../db/repeat.ts'
import { removals, revocations, sessions, signInSources, suspensions, users } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import type { EndedDevices } from '../presence/presence.ts'
import type { Relations } from '../relations/schema.ts'
import { service } from '../service.ts'
import { newId } from '../ids.ts'
import type { Claims, SessionMemory, SessionSource, SessionStore } from '../redis/session.ts'
import type { NewAccount } from '../users/schema.ts'
import { hashPassword, isPassword } from './password.ts'
import type { Device } from './schema.ts'
import type { SessionTokens } from './token.ts'

/** How many revocations one run of the cron sends to Redis. */
const REVOCATIONS_PER_RUN = 1_000

/** The most ends that an isolate remembers of those that Redis missed. While there are more, D1 answers every check. */
const MOST_MISSED = 1_000

/** The queue has this long to begin the removal of a user. After that the cron does. */
const REMOVAL_MS = 60_000

/** How long a network stays known after the last sign-in from it. */
const SOURCE_MS = 90 * 86_400_000

/** D1 as the source of truth for sessions, and for the relations that travel with them. */
export const createSessionSource = (db: DrizzleD1Database): SessionSource<Relations> => ({
  async load({ sessionId, userId }) {
    const [row] = await db
      .select({ session: sessions, currentEpoch: users.sessionEpoch, relations: relationsJson(users.id) })
      .from(sessions)
      .innerJoin(users, eq(users.id, sessions.userId))
      .where(and(eq(sessions.id, sessionId), eq(sessions.userId, userId)))
    if (!row) return null
    const { secretHash: hash, epoch, lastSeenAt: seenAt, expiresAt } = row.session
    const state = JSON.parse(row.relations) as Relations // `relationsJson` wrote it
    return { hash, epoch, seenAt, expiresAt, currentEpoch: row.currentEpoch, state }
  },
  async touch(sessionId, seenAt) {
    const seen = await db
      .update(sessions)
      .set({ lastSeenAt: sql`max(${sessions.lastSeenAt}, ${seenAt})` })
      .where(eq(sessions.id, sessionId))
      .returning({ id: sessions.id })
    return seen.length > 0
  },
  async missed() {
    const ends = await db
      .select({ id: revocations.subjectId })
      .from(revocations)
      .where(gt(revocations.createdAt, 0)) // by the index
      .limit(MOST_MISSED + 1)
    return ends.length > MOST_MISSED ? undefined : new Set(ends.map(({ id }) => id))
  },
})

export const sessionStore = service<SessionStore<Relations>>('session store')
export const sessionMemory = service<SessionMemory<Relations>>('session memory')

/** The account that a login names, for one attempt to sign in. */
export interface Login {
  /** Undefined: no account has this login. */
  user: { id: string; passwordHash: string } | undefined
  /** Whether the user has signed in from this network before. */
  isKnownSource: boolean
}

export type Accounts = ReturnType<typeof createAccounts>
export const accountsService = service<Accounts>('accounts')

type Revocation = typeof revocations.$inferSelect

/** Sessions of a user that D1 has recorded as ended: some, or all that began before `epoch`. */
export type EndedSessions = { sessionIds: string[] } | { epoch: number }

/** What accounts use. */
interface Parts {
  db: DrizzleD1Database
  store: SessionStore<Relations>
  tokens: SessionTokens
  /** In ms. */
  policy: { idleMs: number; touchMs: number; absoluteMs: number; recheckMs: number }
  outbox: Outbox
  defer: (work: () => Promise<unknown>) => void
  /** Sign-ups that D1 did not answer, by username: the id that the account has, if it was created. */
  unanswered: {
    add: (username: string, userId: string) => Promise<unknown>
    find: (username: string) => Promise<string | null>
  }
  /** Called after a sign-up, with the new username. */
  onSignUp: (username: string) => Promise<void>
  /** Takes the devices of ended sessions offline. */
  leaveEnded: (ended: EndedDevices[]) => Promise<void>
  /** Called after an account is deleted, and by the steps of its removal, with the former username. */
  onDeleted: (userId: string, username: string) => Promise<unknown>
}

/**
 * Accounts: sign-up, sign-in, sign-out, devices. D1 holds every session. Redis answers the checks.
 *
 * Without Redis a sign-out still succeeds: D1 records a revocation in the batch that deletes the session, isolates read the
 * revocations from D1 every `recheckMs`, and the cron sends them to Redis. The sign-out answers after that time.
 */
export function createAccounts(parts: Parts) {
  const { db, store, tokens, policy, outbox, defer, unanswered, onSignUp, leaveEnded, onDeleted } = parts

  /**
   * Sends revocations to Redis, all in one round trip. Returns what is left: it takes the devices offline, then deletes the
   * revocations from D1. Safe to repeat.
   */
  async function sendToRedis(ended: readonly Revocation[]): Promise<() => Promise<unknown>> {
    await Promise.all(
      ended.map(({ subjectId, epoch }) => (epoch === null ? store.end(subjectId) : store.endAll(subjectId, epoch))),
    )
    const devices = ended.flatMap(({ subjectId, userId, epoch, createdAt }): EndedDevices[] => {
      if (userId === null) return []
      // Until then an isolate may have accepted a beat.
      return epoch === null ? [{ userId, deviceId: subjectId }] : [{ userId, until: createdAt + policy.recheckMs }]
    })
    const subjects = listOf(ended.map(({ subjectId }) => subjectId))
    const marks = listOf(ended.map(({ subjectId, epoch }) => `${subjectId}:${epoch ?? ''}`))
    // A later revocation of the same user has another epoch: it stays.
    const isSent = sql`${revocations.subjectId} || ':' || coalesce(${revocations.epoch}, '') IN ${marks}`
    return async () => {
      await leaveEnded(devices)
      await db.delete(revocations).where(and(sql`${revocations.subjectId} IN ${subjects}`, isSent))
    }
  }

  /** The account of `userId`, if `password` is right. Throws `wrong-password`. One D1 query. */
  async function requirePassword(
    userId: string,
    password: string,
  ): Promise<{ username: string; email: string; passwordHash: string }> {
    const [user] = await db
      .select({ username: users.username, email: users.email, passwordHash: users.passwordHash })
      .from(users)
      .where(and(eq(users.id, userId), isPresent(users.id)))
    const isRight = await isPassword(password, user?.passwordHash)
    if (!user || !isRight) throw new Problem('wrong-password')
    return user
  }

  /** Whether the account of `userId` is there, and not being deleted. */
  async function isThere(userId: string): Promise<boolean> {
    const rows = await db
      .select({ id: users.id })
      .from(users)
      .where(and(eq(users.id, userId), isPresent(users.id)))
    return rows.length > 0
  }

  /**
   * The same for a request, which answers only when the sessions have ended everywhere. Waits for Redis, or if that fails,
   * until every isolate has learned of the end from D1 (`outlast`). Never throws: the cron sends what Redis missed.
   */
  async function revoke(ended: Revocation[]): Promise<void> {
    if (ended.length > 0) await sendToRedis(ended).then(defer, store.outlast)
  }

  /**
   * A statement that records the end of all sessions of the users where `when` holds, for a batch that raises their epochs
   * after it. Then `sendEnded`, or else the cron, brings it to Redis. `owner`: whose devices go offline.
   */
  const recordEnd = (when: SQL | undefined, now: number, owner = sql`${users.id}`) =>
    db
      .insert(revocations)
      .select(sql`SELECT ${users.id}, ${users.sessionEpoch} + 1, ${now}, ${owner} FROM ${users} WHERE ${when}`)
      .onConflictDoUpdate({ target: revocations.subjectId, set: { epoch: sql`excluded.epoch`, createdAt: now } })

  return {
    hashPassword,
    isPassword,
    requirePassword,
    recordEnd,

    /**
     * Brings to Redis what D1 has recorded as ended: sessions of a user, or with `epoch` all of them, and takes
     * their devices offline after the answer. One round trip.
     * Returns when they have ended everywhere, like `signOut`. Never throws: the cron sends what Redis missed, and the rest
     * of very many sessions. Safe to repeat.
     */
    async sendEnded(userId: string, ended: EndedSessions, now = Date.now()): Promise<void> {
      if ('epoch' in ended) return revoke([{ subjectId: userId, userId, epoch: ended.epoch, createdAt: now }])
      const sent = ended.sessionIds.slice(0, REVOCATIONS_PER_RUN)
      await revoke(sent.map((subjectId) => ({ subjectId, userId, epoch: null, createdAt: now })))
      if (sent.length < ended.sessionIds.length) await store.outlast()
    },

    /**
     * Creates an account and returns its id. Throws `taken` if somebody has the username. The email address is pending until
     * its owner confirms it, so nothing shows whether an account has it already. One D1 batch. A lost reply of D1 is
     * resolved by repeating the batch. If D1 does not answer that either, Redis remembers it, and the same request returns
     * the account that its first attempt created.
     */
    async signUp({ username, email, password, displayName }: NewAccount, now = Date.now()): Promise<string> {
      const name = username.toLowerCase()
      const id = newId('u', now)
      const passwordHash = await hashPassword(password)
      const transaction = outbox.transaction()
      const recording = transaction.record(
        { type: 'user_created', data: { userId: id, username: name, displayName, bio: '', version: 1 } },
        sql`EXISTS (SELECT 1 FROM ${users} WHERE ${users.id} = ${id})`,
        now,
      )
      const create = () =>
        db.batch([
          db
            .insert(users)
            .values({
              id,
              username: name,
              email: `-${id}`, // unique, and no address
              pendingEmail: email.toLowerCase(),
              passwordHash,
              displayName,
              createdAt: now,
              updatedAt: now,
            })
            .onConflictDoNothing()
            .returning({ id: users.id }),
          recording,
          db
            .select({
              id: users.id,
              pendingEmail: users.pendingEmail,
              displayName: users.displayName,
              passwordHash: users.passwordHash,
            })
            .from(users)
            .where(eq(users.username, name)),
        ])
      const [added, , [holder]] = await repeatOnce(create).catch(async (error: unknown) => {
        await unanswered.add(name, id).catch(() => {}) // without Redis the repetition finds the username taken
        throw error
      })
      transaction.enqueue()
      if (added.length > 0 || holder?.id === id) {
        await onSignUp(name)
        return id
      }
      const isSame = holder?.pendingEmail === email.toLowerCase() && holder.displayName === displayName
      if (isSame && (await unanswered.find(name).catch(() => null)) === holder.id) {
        if (await isPassword(password, holder.passwordHash)) return holder.id
      }
      const errors = [{ in: 'body', field: 'username', message: 'is taken' }]
      throw new Problem('taken', 'This username is taken', { errors })
    },

    /** Finds the account of `login`, a username or a confirmed email address, for a client in `network`. One D1 query. */
    async identify(login: string, network: string): Promise<Login> {
      const name = login.toLowerCase()
      const isSource = and(eq(signInSources.userId, users.id), eq(signInSources.source, sourceOf(network)))
      const [row] = await db
        .select({ id: users.id, passwordHash: users.passwordHash, seenAt: signInSources.seenAt })
        .from(users)
        .leftJoin(signInSources, isSource)
        .where(or(eq(users.username, name), eq(users.email, name)))
      return { user: row && { id: row.id, passwordHash: row.passwordHash }, isKnownSource: Boolean(row?.seenAt) }
    },

    /**
     * Begins a session if `password` is right. The answer and its time do not reveal whether the login exists. Ends the
     * session `replaced` (session rotation). A lost reply of D1 is resolved by repeating the batch. A request may be
     * repeated: it begins another session, and one whose token was lost ends when idle.
     */
    async signIn(
      { user }: Login,
      password: string,
      device: { userAgent: string; network: string; replaced?: Claims | undefined },
      now = Date.now(),
    ): Promise<{ token: string; userId: string; expiresAt: number }> {
      const isRight = await isPassword(password, user?.passwordHash)
      if (!user || !isRight) throw new Problem('wrong-credentials')

      const { token, claims } = tokens.issue(user.id, newId('s', now))
      const expiresAt = now + policy.absoluteMs
      const userAgent = device.userAgent.slice(0, 200)
      // The epoch is read by the statement that inserts: a sign-out everywhere comes before it or after it.
      const isSuspended = sql`EXISTS (SELECT 1 FROM ${suspensions} WHERE ${suspensions.userId} = ${user.id})`
      const isSame = and(eq(users.id, user.id), eq(users.passwordHash, user.passwordHash), not(isSuspended))
      const [, , [session]] = await repeatOnce(() =>
        db.batch([
          db
            .insert(sessions)
            .select(
              sql`SELECT ${claims.sessionId}, ${users.id}, ${claims.hash}, ${users.sessionEpoch}, ${userAgent}, ${now}, ${now}, ${expiresAt} FROM ${users} WHERE ${isSame}`,
            )
            .onConflictDoNothing(), // a second run finds it
          db
            .insert(signInSources)
            .select(sql`SELECT ${users.id}, ${sourceOf(device.network)}, ${now} FROM ${users} WHERE ${isSame}`)
            .onConflictDoUpdate({ target: [signInSources.userId, signInSources.source], set: { seenAt: now } }),
          db.select({ epoch: sessions.epoch }).from(sessions).where(eq(sessions.id, claims.sessionId)),
        ]),
      )
      if (!session) {
        const [suspended] = await db.select().from(suspensions).where(eq(suspensions.userId, user.id))
        throw new Problem(suspended ? 'suspended' : 'wrong-credentials') // or the password or the account changed meanwhile
      }
      await store
        .begin(claims, { hash: claims.hash, epoch: session.epoch, seenAt: now, expiresAt }, now)
        .catch(() => {})
      if (device.replaced) await this.signOut(device.replaced, now).catch(() => {}) // it ends by itself when idle
      return { token, userId: user.id, expiresAt }
    },

    /**
     * Ends the session of `claims`, everywhere: when this returns, no isolate accepts it. One D1 batch and one round trip. If
     * Redis fails, it waits until every isolate has asked D1 (`SESSION_RECHECK_SECONDS`).
     *
     * Recorded first, then completed by the cron if Redis fails. A lost reply of D1 is resolved by repeating the batch. Safe
     * to repeat.
     */
    async signOut({ sessionId, userId }: Claims, now = Date.now()): Promise<void> {
      await repeatOnce(() =>
        db.batch([
          db.delete(sessions).where(and(eq(sessions.id, sessionId), eq(sessions.userId, userId))),
          db.insert(revocations).values({ subjectId: sessionId, userId, createdAt: now }).onConflictDoNothing(),
        ]),
      )
      await this.sendEnded(userId, { sessionIds: [sessionId] }, now)
    },

    /** Ends every session of a user. Recorded first, then completed, and safe to repeat, like `signOut`. */
    async signOutEverywhere(userId: string, now = Date.now()): Promise<void> {
      const [, [raised]] = await repeatOnce(() =>
        db.batch([
          recordEnd(eq(users.id, userId), now),
          db
            .update(users)
            .set({ sessionEpoch: sql`${users.sessionEpoch} + 1` })
            .where(eq(users.id, userId))
            .returning({ epoch: users.sessionEpoch }),
          db.delete(sessions).where(eq(sessions.userId, userId)),
        ]),
      )
      if (raised) await this.sendEnded(userId, raised, now)
    },

    /**
     * Deletes the account of `userId` if `password` is right. One D1 query and one batch, then the caches. The batch frees
     * the username and the email address, ends every session, and records `user_deleted` and the removal: from then on no
     * reader finds in D1 the user or what the user wrote (`isPresent`). The steps of the removal do the rest
     * (`removals/removals.ts`).
     *
     * Recorded first, then completed: the queue or the cron begins the steps, and they invalidate again what Redis missed.
     * Safe to repeat: while a session that has ended still passes, a repetition succeeds and changes nothing.
     */
    async remove(userId: string, password: string, now = Date.now()): Promise<void> {
      const user = await requirePassword(userId, password).catch(async (error: unknown) => {
        if (await isThere(userId)) throw error
      })
      if (!user) return
      const isSame = and(eq(users.id, userId), eq(users.passwordHash, user.passwordHash))
      const progress = JSON.stringify({ sessions: user.username })
      const nobody = `-${userId}` // neither a username nor an email address
      const transaction = outbox.transaction()
      const [, , , [removed]] = await db.batch([
        transaction.record(
          { type: 'user_deleted', data: { userId } },
          sql`EXISTS (SELECT 1 FROM ${users} WHERE ${isSame})`,
          now,
        ),
        db
          .insert(removals)
          .select(sql`SELECT ${users.id}, ${now + REMOVAL_MS}, ${progress} FROM ${users} WHERE ${isSame}`)
          .onConflictDoNothing(),
        recordEnd(isSame, now, sql`NULL`), // nobody remains who has devices
        db
          .update(users)
          .set({
            username: nobody,
            email: nobody,
            pendingEmail: null,
            passwordHash: '',
            displayName: '',
            bio: '',
            lastSeenAt: null,
            presenceVisibility: 'nobody',
            presenceShownTo: 'nobody',
            presenceSyncAt: null,
            sessionEpoch: sql`${users.sessionEpoch} + 1`,
            version: sql`${users.version} + 1`,
            revision: sql`${users.revision} + 1`,
          })
          .where(isSame)
          .returning({ epoch: users.sessionEpoch }),
      ])
      if (!removed && (await isThere(userId))) throw new Problem('wrong-password') // it changed meanwhile
      if (!removed) return // another request was first
      transaction.enqueue()
      await Promise.allSettled([
        revoke([{ subjectId: userId, epoch: removed.epoch, userId: null, createdAt: now }]),
        onDeleted(userId, user.username),
      ])
    },

    /**
     * A step of the removal of a user: `from` is the former username, then `ROWS_LEFT`. Invalidates what the request may
     * have missed, then ends and deletes at most `most` sessions and sources of sign-ins, and last what Redis knows of the
     * user's sessions. Returns where to continue, null at the end. Safe to repeat.
     */
    async removeOf(userId: string, most: number, from: string | undefined): Promise<string | null> {
      if (from !== ROWS_LEFT) {
        if (from !== undefined) await onDeleted(userId, from)
        return ROWS_LEFT
      }
      const begun = await db.select({ id: sessions.id }).from(sessions).where(eq(sessions.userId, userId)).limit(most)
      await Promise.all(begun.map(({ id }) => store.end(id)))
      const ids = listOf(begun.map(({ id }) => id))
      await db.delete(sessions).where(sql`${sessions.id} IN ${ids}`)
      const sources = await removeSome(db, signInSources, eq(signInSources.userId, userId), most)
      if (begun.length === most || sources === most) return ROWS_LEFT
      // D1 has no session of the user any more, so nothing has to be compared with the epoch.
      await db.delete(revocations).where(eq(revocations.subjectId, userId))
      await store.forget(userId)
      return null
    },

    /**
     * Sends to Redis the revocations that it missed, oldest first, and takes the devices offline. Returns how many are left.
     * For the cron. Safe to repeat and to run twice at once.
     */
    async sendRevocations(now = Date.now()): Promise<number> {
      const waiting = await db
        .select()
        .from(revocations)
        .where(lte(revocations.createdAt, now))
        .orderBy(asc(revocations.createdAt))
        .limit(REVOCATIONS_PER_RUN)
      if (waiting.length === 0) return 0
      const complete = await sendToRedis(waiting)
      await complete()
      return countUpTo(db, revocations)
    },

    /** The devices where a user is signed in, latest sign-in first. At most 100. */
    async devices({ userId, sessionId }: Claims, now = Date.now()): Promise<Device[]> {
      const rows = await db
        .select({ session: sessions })
        .from(sessions)
        .innerJoin(users, and(eq(users.id, sessions.userId), eq(users.sessionEpoch, sessions.epoch)))
        .where(
          and(
            eq(sessions.userId, userId),
            gt(sessions.expiresAt, now),
            // D1 records visits at intervals.
            or(gt(sessions.lastSeenAt, now - policy.idleMs - policy.touchMs), eq(sessions.id, sessionId)),
          ),
        )
        .orderBy(desc(sessions.id))
        .limit(100)
      return rows.map(({ session }) => ({
        id: session.id,
        userAgent: session.userAgent,
        createdAt: new Date(session.createdAt).toISOString(),
        lastSeenAt: new Date(session.lastSeenAt).toISOString(),
        expiresAt: new Date(session.expiresAt).toISOString(),
        isCurrent: session.id === sessionId,
      }))
    },

    /** Deletes at most `most` sessions that have reached their absolute end. Returns how many. Safe to repeat. */
    async purge(most: number, now = Date.now()): Promise<number> {
      const due = db.select({ id: sessions.id }).from(sessions).where(lt(sessions.expiresAt, now)).limit(most)
      const gone = await db
        .delete(sessions)
        .where(sql`${sessions.id} IN ${due}`)
        .returning({ id: sessions.id })
      return gone.length
    },

    /** Deletes at most `most` networks without a sign-in for 90 days. Returns how many. Safe to repeat. */
    purgeSources: (most: number, now = Date.now()): Promise<number> =>
      removeSome(db, signInSources, lt(signInSources.seenAt, now - SOURCE_MS), most),
  }
}

/** Where the removal of a user continues after the caches. */
const ROWS_LEFT = '*' // no username

const sourceOf = (network: string) => createHash('sha256').update(network).digest('base64url')
