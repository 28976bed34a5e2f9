import { and, eq, inArray, lte, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { countUpTo } from '../db/count.ts'
import { listOf } from '../db/list.ts'
import { removals, users } from '../db/schema.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'

/** Rows that one statement deletes at most, in some 20 ms; and statements of one step. */
const ROWS = 1_000
const STATEMENTS = 10

/** The queue has this long for a step. After that the cron enqueues the next one. */
const PATIENCE_MS = 300_000

/** What can be deleted with everything that belongs to it, by the kind of its id. */
export type RemovedKind = 'post' | 'comment' | 'user'

/** A step that a feature contributes: see `Removal`. */
export interface RemovalStep {
  feature: string
  remove: (id: string, most: number, from: string | undefined) => Promise<number | { next: string | null }>
}

/** The place of a walk that has ended. */
const ENDED = 'ended'

const TYPES = new Set(['post_deleted', 'comment_deleted', 'user_deleted'])

export type Removals = ReturnType<typeof createRemovals>
export const removalsService = service<Removals>('removals')

/**
 * Deletes what belongs to deleted contents and users, a bounded step at a time, however much it is: a post with ten million
 * likes would take D1 longer than its limit of 30 s.
 *
 * The row of a content is deleted at once. Readers find a like or comment only through its post, so all of them are gone
 * at once. In the same transaction a trigger records the content in `removals` (migrations/0014_removals.sql). A user is
 * recorded by the transaction that deletes the account. The row stays until nothing refers to it, because deleting it
 * would delete all of that in one statement; readers leave out users who are recorded (`isPresent`).
 *
 * The event of the deletion begins, and each step enqueues the next: up to 10,000 rows. A deleted comment with likes is
 * recorded likewise, so what belongs to it goes in steps of its own. A step asks every feature again, so a crash loses
 * nothing but its time. The removal of a user ends with a step that finds nothing: what was written meanwhile goes too.
 * The cron continues what the queue lost.
 */
export function createRemovals(
  db: DrizzleD1Database,
  steps: Record<RemovedKind, RemovalStep[]>,
  enqueue: (ids: string[]) => Promise<unknown>,
) {
  /** Runs the steps of a kind until nothing or `STATEMENTS` are left. Returns whether something is left. */
  async function run(kind: RemovedKind, id: string, progress: Record<string, string>): Promise<boolean> {
    let left = STATEMENTS
    let isClean = true
    for (const { feature, remove } of steps[kind]) {
      while (progress[feature] !== ENDED) {
        if (left === 0) return true
        left -= 1
        const removed = await remove(id, ROWS, progress[feature])
        if (typeof removed === 'number') {
          if (removed > 0) isClean = false
          if (removed < ROWS) break
        } else {
          progress[feature] = removed.next ?? ENDED
        }
      }
    }
    return kind === 'user' && !isClean
  }

  /** Does one step. Returns whether more is left. Safe to repeat, and to run twice at once. */
  async function step(id: string, now: number): Promise<boolean> {
    const [claimed] = await db
      .update(removals)
      .set({ dueAt: now + PATIENCE_MS })
      .where(eq(removals.contentId, id))
      .returning({ progress: removals.progress })
    if (!claimed) return false // done before
    const kind = kindOf(id)
    const progress = { ...claimed.progress }
    const before = JSON.stringify(progress)
    const hasMore = await run(kind, id, progress)
    if (hasMore) {
      if (JSON.stringify(progress) !== before) {
        await db.update(removals).set({ progress }).where(eq(removals.contentId, id))
      }
      return true
    }
    const forget = db.delete(removals).where(eq(removals.contentId, id))
    if (kind === 'user') {
      // Only a user whose removal is recorded: another run may have ended it.
      const isRecorded = sql`EXISTS (SELECT 1 FROM ${removals} WHERE ${removals.contentId} = ${users.id})`
      await db.batch([db.delete(users).where(and(eq(users.id, id), isRecorded)), forget])
    } else {
      await forget
    }
    return false
  }

  const listener: Listener = {
    name: 'removals',
    wants: ({ type }) => TYPES.has(type),
    /** The subject of `comment_deleted` is the post. */
    async handle(happened) {
      const ids = happened.map(({ data }) => String(data['commentId'] ?? data['postId'] ?? data['userId']))
      const found = await db
        .select({ id: removals.contentId })
        .from(removals)
        .where(inArray(removals.contentId, listOf(ids)))
      return found.map((row) => row.id)
    },
    proceed: async (id) => ((await step(id, Date.now())) ? [id] : []),
  }

  return {
    listener,

    /**
     * Enqueues up to `most` removals that the queue lost, the oldest first. Returns how many contents are not removed.
     * Safe to repeat: a repeated step finds nothing to remove.
     */
    async resume(most: number, now: number): Promise<number> {
      const due = await db
        .select({ id: removals.contentId })
        .from(removals)
        .where(lte(removals.dueAt, now))
        .orderBy(removals.dueAt)
        .limit(most)
      const ids = due.map((row) => row.id)
      if (ids.length > 0) {
        await enqueue(ids)
        await db
          .update(removals)
          .set({ dueAt: now + PATIENCE_MS })
          .where(inArray(removals.contentId, listOf(ids)))
      }
      return countUpTo(db, removals)
    },

    /**
     * Begins the removals of those of `ids` that have one, without an event. What is not enqueued, the cron continues.
     * Safe to repeat.
     */
    begin: (ids: string[]): Promise<unknown> => enqueue(ids),
  }
}

const KINDS: Record<string, RemovedKind> = { c: 'comment', u: 'user' }
const kindOf = (id: string): RemovedKind => KINDS[id.split('_', 1)[0] ?? ''] ?? 'post'
