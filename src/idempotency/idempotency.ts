import { and, eq, isNull, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { removeSome } from '../db/remove.ts'
import { hasMessage, repeatOnce } from '../db/repeat.ts'
import { idempotencyKeys } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { service } from '../service.ts'

/** The answer of the first request with a key, repeated word for word. */
export interface StoredAnswer {
  status: number
  headers: Record<string, string>
  body: string
}

/** The right to carry out the request of a key. */
export interface KeyClaim {
  /**
   * A statement for the batch that does the work. It records the answer: the batch does both, or neither. The batch fails
   * if another attempt has taken over (`isTakenOver`). Safe to repeat.
   */
  record(answer: StoredAnswer): BatchItem<'sqlite'>
  /** Releases the key after a failure, so that the client can try again. One D1 query. */
  release(): Promise<unknown>
}

/** How long an attempt may take. After that its Worker is dead, and another attempt may start. */
const ATTEMPT_MS = 60_000
/** How long the API repeats an answer. */
const KEEP_MS = 86_400_000

export type Idempotency = ReturnType<typeof createIdempotency>

export const idempotencyService = service<Idempotency>('idempotency')

/**
 * Carries out a request once, even if the client repeats it (draft-ietf-httpapi-idempotency-key-header-07).
 *
 * A key belongs to its user and expires after a day. All state is in D1, so a flush or an outage of Redis cannot cause a
 * second execution. If a Worker dies between `begin` and the batch, another attempt may start a minute later. If it dies
 * after the batch, the answer is stored.
 */
export function createIdempotency(db: DrizzleD1Database) {
  const { userId, key, fingerprint, answer, createdAt } = idempotencyKeys

  return {
    /**
     * Claims the key `name` for a request, or returns the stored answer of its first attempt. One D1 round trip; another one
     * where its reply is lost. Throws if the first attempt is still running, or if it was another request (another
     * fingerprint `print`). Safe to repeat: `record` fails the batch of an attempt that lost its claim.
     */
    async begin(user: string, name: string, print: string, now = Date.now()): Promise<KeyClaim | StoredAnswer> {
      const isThis = and(eq(userId, user), eq(key, name))
      const isOver = sql`${createdAt} < ${now - KEEP_MS}`
      const isAbandoned = and(isNull(answer), lt(createdAt, now - ATTEMPT_MS), eq(fingerprint, print))
      let runs = 0
      const [claimed, [held]] = await repeatOnce(() => {
        runs += 1
        return db.batch([
          db
            .insert(idempotencyKeys)
            .values({ userId: user, key: name, fingerprint: print, createdAt: now })
            .onConflictDoUpdate({
              target: [userId, key],
              set: { fingerprint: print, answer: null, createdAt: now },
              setWhere: sql`${isOver} OR (${isAbandoned})`,
            })
            .returning({ createdAt }),
          db.select({ fingerprint, answer, createdAt }).from(idempotencyKeys).where(isThis),
        ])
      })
      // The first run may have been executed. If it was another request in this ms, only one of the two can record.
      const isOurs = runs > 1 && held?.answer === null && held.fingerprint === print && held.createdAt === now
      if (claimed.length === 0 && held && !isOurs) {
        if (held.fingerprint !== print) throw new Problem('idempotency-key-reused')
        if (held.answer === null) throw new Problem('idempotency-key-in-use', undefined, { retryAfter: 1 })
        return held.answer
      }
      return {
        record: (answered) =>
          db
            .insert(idempotencyKeys)
            .values({ userId: user, key: name, fingerprint: print, answer: answered, createdAt: now })
            .onConflictDoUpdate({
              target: [userId, key],
              set: {
                answer: answered,
                // The column refuses NULL, which fails the batch: another attempt has taken over.
                fingerprint: sql`CASE WHEN coalesce(${answer} = excluded.answer, true) AND ${createdAt} = ${now}
                  THEN ${print} END`,
              },
            }),
        release: () => db.delete(idempotencyKeys).where(and(isThis, isNull(answer), eq(createdAt, now))),
      }
    },

    /** Deletes at most `most` keys of a deleted user. Returns how many. Safe to repeat. */
    removeOf: (user: string, most: number): Promise<number> => removeSome(db, idempotencyKeys, eq(userId, user), most),

    /** Deletes at most `most` keys older than a day. Returns how many. One D1 query. Safe to repeat. */
    purge: (most: number, now = Date.now()): Promise<number> =>
      removeSome(db, idempotencyKeys, lt(createdAt, now - KEEP_MS), most),
  }
}

/** Whether a batch failed because another attempt has taken over its key. */
export const isTakenOver = (error: unknown): boolean =>
  hasMessage(error, 'NOT NULL constraint failed: idempotency_keys.fingerprint')
