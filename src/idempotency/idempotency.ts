import { and, eq, isNull, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { idempotencyKeys } from '../db/schema.ts'
import { Problem } from '../errors.ts'

/** What a request was answered, to be repeated word for word. */
export interface Answer {
  status: number
  headers: Record<string, string>
  body: string
}

/** The right to carry out the request of a key. */
export interface Claim {
  /**
   * Records the answer, as part of the batch that does the work: both are done, or neither. The batch fails where
   * another attempt has taken over meanwhile.
   */
  record(answer: Answer): BatchItem<'sqlite'>
  /** Gives the key back after a failure, so that the request can be tried again. One D1 query. */
  release(): Promise<unknown>
}

/** How long a first attempt may take: after that its Worker is dead, and another may try. */
const ATTEMPT_MS = 60_000
/** How long an answer is repeated. */
const KEEP_MS = 86_400_000

export type Idempotency = ReturnType<typeof createIdempotency>

/**
 * Requests that are carried out once, however often they are sent: draft-ietf-httpapi-idempotency-key-header-07.
 *
 * A key belongs to its user and stays for a day. D1 alone: neither a flush nor an outage of Redis lets a request be
 * carried out twice. A Worker that dies between `begin` and the batch leaves the key to another attempt a minute
 * later; one that dies after the batch has left its answer.
 */
export function createIdempotency(db: DrizzleD1Database) {
  const { userId, key, fingerprint, answer, createdAt } = idempotencyKeys

  return {
    /**
     * Claims `name` for a request, or answers what its first attempt was answered. One D1 round trip. Throws where
     * the first attempt is still under way, or was another request by `print`.
     */
    async begin(user: string, name: string, print: string, now = Date.now()): Promise<Claim | Answer> {
      const isThis = and(eq(userId, user), eq(key, name))
      const isOver = sql`${createdAt} < ${now - KEEP_MS}`
      const isAbandoned = and(isNull(answer), lt(createdAt, now - ATTEMPT_MS), eq(fingerprint, print))
      const [claimed, [held]] = await db.batch([
        db
          .insert(idempotencyKeys)
          .values({ userId: user, key: name, fingerprint: print, createdAt: now })
          .onConflictDoUpdate({
            target: [userId, key],
            set: { fingerprint: print, answer: null, createdAt: now },
            setWhere: sql`${isOver} OR (${isAbandoned})`,
          })
          .returning({ createdAt }),
        db.select({ fingerprint, answer }).from(idempotencyKeys).where(isThis),
      ])

      if (claimed.length === 0 && held) {
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
                // NULL is refused by the column, and fails the batch: the attempt is not ours any more.
                fingerprint: sql`CASE WHEN ${answer} IS NULL AND ${createdAt} = ${now} THEN ${print} END`,
              },
            }),
        release: () => db.delete(idempotencyKeys).where(and(isThis, isNull(answer), eq(createdAt, now))),
      }
    },

    /** Removes up to `most` keys older than a day, and answers how many. One D1 query, for the cron. */
    async purge(most: number, now = Date.now()): Promise<number> {
      const old = db
        .select({ rowid: sql`rowid` })
        .from(idempotencyKeys)
        .where(lt(createdAt, now - KEEP_MS))
        .limit(most)
      const purged = await db.run(sql`DELETE FROM ${idempotencyKeys} WHERE rowid IN ${old}`)
      return purged.meta.changes
    },
  }
}
