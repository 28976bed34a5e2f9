import { and, eq, inArray, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { NOW } from '../db/clock.ts'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { posts } from '../db/schema.ts'
import { scoreWith } from '../db/score.ts'
import { Problem, unavailable } from '../errors.ts'
import type { CountRead } from '../events/hints.ts'
import type { FencedRun, Fences } from '../locks/fences.ts'
import type { Counters, KnownViews } from '../redis/counter.ts'
import type { Evaluate } from '../redis/script.ts'
import { service } from '../service.ts'

/** How many counts one D1 statement writes. */
const WRITTEN_AT_ONCE = 1_000
/** How many such statements one run of the cron sends; the next run continues. */
const MAX_WRITES = 50
/** How many pages of keys one run reads to restore the list of unwritten views after an eviction. */
const RESTORED_PAGES = 50

export type Views = ReturnType<typeof createViews>
export const viewsService = service<Views>('views')

/**
 * Unique viewers of posts, approximate: a HyperLogLog per post in Redis, written to D1 by the cron.
 *
 * Where Redis loses everything it has about a post, its views since the last run of the cron are lost (about a minute),
 * and each earlier viewer counts once more when that user views the post again: after `n` losses a count is between the
 * one D1 had and `n + 1` times the unique viewers. It never falls below the count in D1. Where Redis evicts only the list of
 * unwritten views, the cron restores it from the counts.
 * Without Redis a view is refused as unavailable.
 */
export function createViews(
  db: DrizzleD1Database,
  counters: Counters,
  fences: Fences,
  sendCounts: (counts: CountRead[]) => Promise<unknown>,
) {
  async function readViews(ids: string[]): Promise<KnownViews> {
    const rows = await db
      .select({ id: posts.id, views: posts.viewsCount })
      .from(posts)
      .where(inArray(posts.id, listOf(ids)))
    return new Map(rows.map(({ id, views }) => [id, views]))
  }

  return {
    /** Records that `viewer` (a user, or an address) saw a post; returns its views. One round trip. Safe to repeat. */
    async add(postId: string, viewer: string, evaluate?: Evaluate): Promise<number> {
      const load = async () => {
        const [row] = await db
          .select({ views: posts.viewsCount, authors: posts.authorId })
          .from(posts)
          .where(and(eq(posts.id, postId), isPresent(posts.authorId)))
        return row ?? null
      }
      const views = await counters
        .view(postId, viewer, load, evaluate)
        .catch(unavailable('Views cannot be counted right now'))
      if (views === null) throw new Problem('not-found', `There is no post ${postId}`)
      return views
    },

    /**
     * Writes to D1 what it does not have yet; returns how many counts are left. For the cron. Safe to repeat: a count
     * is read, written, sent as a hint, and only then removed from Redis, if it did not rise meanwhile. Stops between
     * writes when `signal` aborts or a later run has the lock.
     */
    async flush({ signal, lock }: FencedRun): Promise<number> {
      const isComplete = await counters.restoreUnwrittenViews(readViews, RESTORED_PAGES)
      for (let i = 0; i < MAX_WRITES; i += 1) {
        signal.throwIfAborted()
        const views = await counters.unwrittenViews(WRITTEN_AT_ONCE)
        if (views.size === 0) break
        const seen = sql`max(${posts.viewsCount}, views.value)`
        const write = db
          .update(posts)
          .set({ viewsCount: seen, score: scoreWith(seen) })
          .from(sql`json_each(${JSON.stringify(Object.fromEntries(views))}) AS views`)
          .where(sql`${posts.id} = views.key`)
          .returning({ contentId: posts.id, count: posts.viewsCount, at: NOW })
        const [written] = await fences.batch(lock, [write])
        await sendCounts(written.map(({ contentId, count, at }) => ({ counter: 'views', contentId, count, at })))
        const confirmed = await counters.confirmViews(views)
        if (confirmed === 0 || views.size < WRITTEN_AT_ONCE) break
      }
      return (await counters.unwritten('views')) + (isComplete ? 0 : 1)
    },
  }
}
