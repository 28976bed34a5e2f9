import { createHash, randomBytes } from 'node:crypto'
import { and, eq, gt, isNull, lt, ne, or, type SQL, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { isPresent } from '../db/present.ts'
import { removeSome } from '../db/remove.ts'
import { credentialTokens, revocations, sessions, users } from '../db/schema.ts'
import { invalidField, Problem } from '../errors.ts'
import type { Listener } from '../events/dispatch.ts'
import type { Outbox, Transaction } from '../events/outbox.ts'
import { newId } from '../ids.ts'
import type { MailPort } from '../mail/mail.ts'
import type { Allowance } from '../redis/rate-limit.ts'
import type { Claims } from '../redis/session.ts'
import type { EndedSessions } from '../sessions/sessions.ts'
import { service } from '../service.ts'
import type { createMessages } from './messages.ts'
import type { ResetMessage } from './schema.ts'

/** How long after a change its repetition ends what the first attempt may have missed. Then the cron has. */
const REPEATED_MS = 600_000

/** How long a mailed token is valid, by its purpose. */
const VALID_MS = { reset: 30 * 60_000, verify: 86_400_000 }

type Purpose = keyof typeof VALID_MS

export type Credentials = ReturnType<typeof createCredentials>
export const credentialsService = service<Credentials>('credentials')

/** An account, for those who know its password. */
export interface Account {
  username: string
  email: string
  passwordHash: string
}

export interface CredentialsDependencies {
  db: DrizzleD1Database
  outbox: Outbox
  mail: MailPort
  messages: ReturnType<typeof createMessages>
  /** The account of a user, if `password` is right. Throws `wrong-password`. */
  requirePassword: (userId: string, password: string) => Promise<Account>
  hashPassword: (password: string) => Promise<string>
  isPassword: (password: string, hash: string) => Promise<boolean>
  /** A statement that records the end of all sessions of the users where `when` holds. Its batch raises their epochs after it. */
  recordEnd: (when: SQL | undefined, now: number) => BatchItem<'sqlite'>
  /** Ends everywhere what D1 has recorded as ended: sessions, or all of a user. Never throws. */
  sendEnded: (userId: string, ended: EndedSessions) => Promise<void>
  isCommon: (password: string) => Promise<boolean>
  /** Counts a message to this address. Undefined: nobody counts, without Redis. */
  spendMail: (email: string) => Promise<Allowance | undefined>
}

/**
 * Passwords and email addresses: change, reset, confirm. D1 only; Redis is informed of ended sessions, as after a sign-out.
 *
 * A token has 256 random bits, is mailed, and works once. D1 has its hash: it is found by that, so no secret is compared.
 * D1 keeps a used token until it expires. So a request that is repeated, because its answer was lost, gets that answer.
 *
 * **An address belongs to the user who has confirmed it.** Until then it is `pendingEmail`, which any number of users may
 * name. So sign-up and a change of address answer the same whether an address is taken or not; the mail says which.
 *
 * A request for a reset does not reveal whether an address has an account: it enqueues the same message for every
 * address, and the consumer of the queue does the rest.
 */
export function createCredentials(dependencies: CredentialsDependencies) {
  const {
    db,
    outbox,
    mail,
    messages,
    requirePassword,
    hashPassword,
    isPassword,
    recordEnd,
    sendEnded,
    isCommon,
    spendMail,
  } = dependencies

  async function refuseCommon(field: string, password: string): Promise<void> {
    if (await isCommon(password)) throw invalidField('body', field, 'is too common: choose another one')
  }

  /** Mails a user a token, or says that the address has an account. Repeated with the same `mailId`, it does nothing. */
  async function mailToken(
    purpose: Purpose,
    user: { id: string; username: string; email: string },
    mailId: string,
    now: number,
    ownerName?: string,
  ): Promise<void> {
    const token = randomBytes(32).toString('base64url')
    const text = ownerName === undefined ? messages[purpose](user.username, token) : messages.taken(ownerName)
    const isNew = sql`NOT EXISTS (SELECT 1 FROM events WHERE id = ${mailId}) AND EXISTS (
      SELECT 1 FROM ${users} WHERE ${users.id} = ${user.id} AND ${isPresent(users.id)}
    )`
    const transaction = outbox.transaction()
    await db.batch([
      db
        .insert(credentialTokens)
        .select(
          sql`SELECT ${hashOf(token)}, ${user.id}, ${purpose}, ${user.email}, ${now + VALID_MS[purpose]} WHERE ${isNew}`,
        ),
      transaction.record(mail.request({ userId: user.id, to: user.email, ...text }, mailId), isNew, now),
    ])
    transaction.enqueue()
  }

  /** The address of a user that is not confirmed yet, and who has confirmed it, if anybody. Undefined: there is none. */
  async function findPending(userId: string) {
    const ownerName = sql<string | null>`(SELECT username FROM users AS owner WHERE owner.email = users.pending_email)`
    const [user] = await db
      .select({ id: users.id, username: users.username, email: users.pendingEmail, ownerName })
      .from(users)
      .where(and(eq(users.id, userId), isPresent(users.id)))
    return user?.email ? { ...user, email: user.email } : undefined
  }

  /** Mails the user a token for the address that is not confirmed yet; or the owner, if somebody else has confirmed it. */
  const mailVerification = (
    { ownerName, ...user }: NonNullable<Awaited<ReturnType<typeof findPending>>>,
    mailId: string,
    now: number,
  ) => mailToken('verify', user, mailId, now, ownerName ?? undefined)

  /** Throws the 429 of an address that must not receive another message now. */
  async function requireMail(email: string): Promise<void> {
    const allowance = await spendMail(email)
    if (allowance?.isAllowed !== false) return
    const retryAfter = Math.max(1, Math.ceil((allowance.resetsAt - Date.now()) / 1_000))
    throw new Problem('rate-limited', `This address has received many messages. Try again in ${retryAfter} s`, {
      retryAfter,
      'violated-policies': ['mail'],
    })
  }

  /** Records the message that informs the confirmed address of a user, if `when` holds. */
  function notify(
    transaction: Transaction,
    user: { id: string; email: string },
    text: ReturnType<typeof messages.taken>,
    when: SQL,
    now: number,
  ) {
    const request = mail.request({ userId: user.id, to: user.email, ...text }, newId('ev', now))
    return transaction.record(request, isConfirmed(user.email) ? when : sql`false`, now)
  }

  /** Whether a token with this hash is valid. */
  const validToken = (hash: string, purpose: Purpose | `${Purpose}-used`, now: number) =>
    and(
      eq(credentialTokens.hash, hash),
      eq(credentialTokens.purpose, purpose),
      gt(credentialTokens.expiresAt, now),
      isPresent(credentialTokens.userId),
    )

  /** Answers a repeated reset as its first attempt, or throws `token-expired`. */
  async function repeatReset(token: string, password: string, now: number): Promise<void> {
    const [owner] = await db
      .select({ id: users.id, passwordHash: users.passwordHash, epoch: users.sessionEpoch })
      .from(credentialTokens)
      .innerJoin(users, eq(users.id, credentialTokens.userId))
      .where(validToken(hashOf(token), 'reset-used', now))
    if (!owner || !(await isPassword(password, owner.passwordHash))) throw new Problem('token-expired')
    await sendEnded(owner.id, { epoch: owner.epoch })
  }

  /** Answers a repeated confirmation as its first attempt, or throws `token-expired`. */
  async function repeatVerification(token: string, now: number): Promise<void> {
    const [owner] = await db
      .select({ id: users.id })
      .from(credentialTokens)
      .innerJoin(users, and(eq(users.id, credentialTokens.userId), eq(users.email, credentialTokens.email)))
      .where(validToken(hashOf(token), 'verify-used', now))
    if (!owner) throw new Problem('token-expired')
  }

  const listener: Listener = {
    name: 'credentials',
    wants: ({ channel, type }) => channel === 'user_events' && type === 'user_created',
    /** Asks new users to confirm their address. Safe to repeat: one event sends one message. */
    async handle(happened) {
      for (const event of happened) {
        const user = await findPending(event.subject)
        if (!user || (await spendMail(user.email))?.isAllowed === false) continue
        await mailVerification(user, mailIdOf(event.id), Date.now())
      }
    },
  }

  return {
    listener,

    /** Throws a 400 that names the field `password` if it is a common one. */
    refuseCommon: (password: string) => refuseCommon('password', password),

    /**
     * Changes the password of a session's user and ends the user's other sessions. One D1 query and one batch, then one round
     * trip. Recorded, then completed: the cron ends in Redis what the request could not. Safe to repeat: with the new
     * password set already, it succeeds, and ends in Redis what the first attempt may have missed.
     */
    async changePassword(
      { userId, sessionId }: Claims,
      password: string,
      newPassword: string,
      now = Date.now(),
    ): Promise<void> {
      await refuseCommon('newPassword', newPassword)
      let account: Account
      try {
        account = await requirePassword(userId, password)
      } catch (error) {
        const isDone = await requirePassword(userId, newPassword).catch(() => undefined)
        if (isDone === undefined) throw error
        const missed = await db
          .select({ id: revocations.subjectId })
          .from(revocations)
          .where(
            and(
              gt(revocations.createdAt, now - REPEATED_MS),
              eq(revocations.userId, userId),
              isNull(revocations.epoch),
            ),
          )
        return sendEnded(userId, { sessionIds: missed.map(({ id }) => id) })
      }
      const after = await hashPassword(newPassword)
      const isSame = and(eq(users.id, userId), eq(users.passwordHash, account.passwordHash), isPresent(users.id))
      // Its salt makes the new hash unique: it is there only if this batch set it.
      const isChanged = sql`EXISTS (SELECT 1 FROM ${users} WHERE ${users.id} = ${userId} AND ${users.passwordHash} = ${after})`
      const others = and(eq(sessions.userId, userId), ne(sessions.id, sessionId), isChanged)
      const transaction = outbox.transaction()
      const [changed, , ended] = await db.batch([
        db.update(users).set({ passwordHash: after, updatedAt: now }).where(isSame).returning({ id: users.id }),
        db
          .insert(revocations)
          .select(sql`SELECT ${sessions.id}, NULL, ${now}, ${sessions.userId} FROM ${sessions} WHERE ${others}`)
          .onConflictDoNothing(),
        db.delete(sessions).where(others).returning({ id: sessions.id }),
        db
          .delete(credentialTokens)
          .where(and(eq(credentialTokens.userId, userId), eq(credentialTokens.purpose, 'reset'), isChanged)),
        notify(transaction, { id: userId, ...account }, messages.passwordChanged(account.username), isChanged, now),
      ])
      if (changed.length === 0) throw new Problem('wrong-password') // it changed meanwhile
      transaction.enqueue()
      await sendEnded(userId, { sessionIds: ended.map(({ id }) => id) })
    },

    /**
     * Mails a token to the account of an address: who has confirmed it, or else the newest that named it. For the consumer of the queue. Safe to
     * repeat: one request sends one message.
     */
    async sendReset({ id, email }: ResetMessage, now = Date.now()): Promise<void> {
      const [user] = await db
        .select({ id: users.id, username: users.username })
        .from(users)
        .where(and(or(eq(users.email, email), eq(users.pendingEmail, email)), isPresent(users.id)))
        .orderBy(sql`${users.email} = ${email} DESC`, sql`${users.id} DESC`)
        .limit(1)
      if (user) await mailToken('reset', { ...user, email }, mailIdOf(id), now)
    },

    /**
     * Sets a new password with a mailed token, and ends every session. The hash is computed whether the token is valid or
     * not. One D1 query and one batch, then one round trip. Recorded, then completed, like `changePassword`. Safe to repeat:
     * with the token used and this password set, it succeeds and ends in Redis what the first attempt may have missed.
     */
    async resetPassword(token: string, password: string, now = Date.now()): Promise<void> {
      await refuseCommon('password', password)
      const passwordHash = await hashPassword(password)
      const isValid = validToken(hashOf(token), 'reset', now)
      const [owner] = await db
        .select({ id: users.id, username: users.username, email: users.email })
        .from(credentialTokens)
        .innerJoin(users, eq(users.id, credentialTokens.userId))
        .where(isValid)
      if (!owner) return repeatReset(token, password, now)
      const isStillValid = sql`EXISTS (SELECT 1 FROM ${credentialTokens} WHERE ${isValid})`
      const isOwner = and(eq(users.id, owner.id), isStillValid)
      const transaction = outbox.transaction()
      const [, , , [changed]] = await db.batch([
        recordEnd(isOwner, now),
        notify(transaction, owner, messages.passwordChanged(owner.username), isStillValid, now),
        db.delete(sessions).where(and(eq(sessions.userId, owner.id), isStillValid)),
        db
          .update(users)
          .set({ passwordHash, sessionEpoch: sql`${users.sessionEpoch} + 1`, updatedAt: now })
          .where(isOwner)
          .returning({ epoch: users.sessionEpoch }),
        // Last: they make the token invalid, with all others of the user.
        db.update(credentialTokens).set({ purpose: 'reset-used' }).where(isValid),
        db
          .delete(credentialTokens)
          .where(and(eq(credentialTokens.userId, owner.id), eq(credentialTokens.purpose, 'reset'))),
      ])
      if (!changed) return repeatReset(token, password, now) // another request was first
      transaction.enqueue()
      await sendEnded(owner.id, changed)
    },

    /**
     * Mails a token for the address of a user that is not confirmed yet, or for another address, which requires the
     * password. D1 only: one query, and up to three for another address. Safe to repeat: each time sends a message.
     */
    async requestVerification(
      userId: string,
      { email, password }: { email?: string; password?: string },
      now = Date.now(),
    ): Promise<void> {
      if (email !== undefined) {
        const { passwordHash } = await requirePassword(userId, password ?? '')
        await requireMail(email) // a refused request changes nothing
        await db
          .update(users)
          .set({ pendingEmail: sql`nullif(${email}, ${users.email})` }) // the address that is confirmed already
          .where(and(eq(users.id, userId), eq(users.passwordHash, passwordHash), isPresent(users.id)))
      }
      const user = await findPending(userId)
      if (!user) return
      if (email === undefined) await requireMail(user.email)
      await mailVerification(user, newId('ev', now), now)
    },

    /**
     * Confirms the address that a token was mailed to. If it replaces another one, that receives a message. One D1 batch.
     * Throws `taken` if somebody else has confirmed the address. Safe to repeat: while the user has the address, a used token
     * succeeds and changes nothing.
     */
    async verify(token: string, now = Date.now()): Promise<void> {
      const isValid = validToken(hashOf(token), 'verify', now)
      const given = db
        .select({ id: credentialTokens.userId, email: credentialTokens.email })
        .from(credentialTokens)
        .where(isValid)
      const isTaken = sql`EXISTS (SELECT 1 FROM users AS owner WHERE owner.email = users.pending_email)`
      const isTheirs = sql`(${users.id}, ${users.pendingEmail}) = (${given}) AND NOT ${isTaken}`
      const transaction = outbox.transaction()
      const [[found], [former]] = await db.batch([
        given,
        db
          .select({ id: users.id, email: users.email, username: users.username, pending: users.pendingEmail })
          .from(users)
          .where(isTheirs),
      ])
      if (!found) return repeatVerification(token, now)
      if (!former?.pending) {
        const [user] = await db.select({ pending: users.pendingEmail }).from(users).where(eq(users.id, found.id))
        throw new Problem(user?.pending === found.email ? 'taken' : 'token-expired')
      }
      const text = messages.emailChanged(former.username, former.pending)
      const [, confirmed] = await db.batch([
        notify(transaction, former, text, sql`EXISTS (SELECT 1 FROM ${users} WHERE ${isTheirs})`, now),
        db
          .update(users)
          .set({ email: sql`${users.pendingEmail}`, pendingEmail: null, updatedAt: now })
          .where(isTheirs)
          .returning({ id: users.id }),
        db.update(credentialTokens).set({ purpose: 'verify-used' }).where(isValid),
      ])
      transaction.enqueue()
      if (confirmed.length === 0) await repeatVerification(token, now) // another request was first
    },

    /** Deletes at most `most` expired tokens. Returns how many. Safe to repeat. */
    purge: (most: number, now: number): Promise<number> =>
      removeSome(db, credentialTokens, lt(credentialTokens.expiresAt, now), most),

    /** Deletes at most `most` tokens of a deleted user. Returns how many. Safe to repeat. */
    removeOf: (userId: string, most: number): Promise<number> =>
      removeSome(db, credentialTokens, eq(credentialTokens.userId, userId), most),
  }
}

/** An email address as the subject of a limit. A hash: keys contain no addresses. */
export const addressOf = (email: string) => `email:${createHash('sha256').update(email).digest('base64url')}`

/** Whether an address in `users` is one: until a user has confirmed one, it is `-` and the id. */
const isConfirmed = (email: string) => !email.startsWith('-')

const hashOf = (token: string) => createHash('sha256').update(token).digest('base64url')

/** The id of the message that an event or request causes. */
const mailIdOf = (cause: string) => `ev_${createHash('sha256').update(`mail ${cause}`).digest('hex').slice(0, 26)}`
