import { sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { fences } from '../db/schema.ts'
import { Problem } from '../errors.ts'

/** Work under a lock. */
export interface FencedRun {
  /** Aborts when the lock is lost. */
  signal: AbortSignal
  /** The lock and its fence, for writes that must not undo those of a later holder. */
  lock: { name: string; fence: number }
}

export type Fences = ReturnType<typeof createFences>

/** Makes D1 writes conditional on a fencing token: an earlier holder of a lock writes nothing. */
export function createFences(db: DrizzleD1Database) {
  return {
    /**
     * Runs `statements` as one D1 batch. If a higher fence has written under the name, it writes nothing and throws
     * `lock-lost`. The same fence may write again: so it is safe to repeat if the statements are. One D1 request; D1
     * keeps one row per name.
     *
     * The first statement raises the fence. To lower it would violate NOT NULL, and roll back the whole batch, because D1
     * batches are transactions.
     */
    async batch<T extends BatchItem<'sqlite'>[]>({ name, fence }: FencedRun['lock'], statements: [...T]) {
      const raise = db
        .insert(fences)
        .values({ name, fence })
        .onConflictDoUpdate({
          target: fences.name,
          set: { fence: sql`CASE WHEN excluded.fence >= ${fences.fence} THEN excluded.fence END` },
        })
      try {
        const [, ...answers] = await db.batch([raise, ...statements])
        return answers
      } catch (cause) {
        if (!isFenced(cause)) throw cause
        throw new Problem('lock-lost', `A later holder of ${name} has written`, {}, { cause })
      }
    },
  }
}

/** Drizzle wraps the errors of D1. */
function isFenced(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause.message.includes('NOT NULL constraint failed: fences.fence')) return true
  }
  return false
}
