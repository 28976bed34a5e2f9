import { eq, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { posts } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import { service } from '../service.ts'
import { keys } from '../keys.ts'
import type { Counters } from '../redis/counter.ts'

export type Views = ReturnType<typeof createViews>
export const viewsService = service<Views>('views')

/**
 * Unique viewers of posts, approximate: a HyperLogLog per post in Redis, written to D1 in batches by the cron.
 * What Redis loses before that is lost, at most a minute of views; without Redis a view is refused as unavailable.
 */
export function createViews(db: DrizzleD1Database, counters: Counters) {
  return {
    /** Notes that `viewer` (a user, or an address) saw a post; answers how many have. One round trip. */
    async add(postId: string, viewer: string): Promise<number> {
      const place = {
        viewers: keys.viewers(postId),
        count: keys.count('views', postId),
        base: keys.viewsBase(postId),
        dirty: keys.viewsDirty,
      }
      const load = async () => {
        const [row] = await db.select({ views: posts.viewsCount }).from(posts).where(eq(posts.id, postId))
        return row?.views ?? null
      }
      const views = await counters
        .see(place, postId, viewer, load)
        .catch(unavailable('Views cannot be counted right now'))
      if (views === null) throw new Problem('not-found', `There is no post ${postId}`)
      return views
    },

    /** Writes the views of up to `most` posts to D1; answers how many posts. For the cron, until it answers 0. */
    async flush(most: number): Promise<number> {
      const counts = await counters.takeDirty(keys.viewsDirty, most, (id) => keys.count('views', id))
      if (counts.size === 0) return 0
      try {
        await db.run(sql`
          UPDATE ${posts} SET views_count = max(views_count, views.value)
          FROM json_each(${JSON.stringify(Object.fromEntries(counts))}) AS views
          WHERE ${posts.id} = views.key`)
      } catch (error) {
        await counters.markDirty(keys.viewsDirty, [...counts.keys()])
        throw error
      }
      return counts.size
    },
  }
}
