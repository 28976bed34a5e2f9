import type { Redis } from '@upstash/redis/cloudflare'

export type Counters = ReturnType<typeof createCounters>

/**
 * Counts that are exact at any moment, each an integer under its own key; D1 holds the last known of each.
 *
 * A count that Redis lacks (evicted, flushed, never asked for) is loaded, never taken for 0. Reading any number of
 * counts is one command and one round trip. When Redis fails, the loaded counts are answered: a little behind.
 */
export function createCounters(redis: Redis, ttlMs: number, defer: (work: () => Promise<unknown>) => void) {
  return {
    /**
     * The counts under `keys`, in their order. `load` answers those that Redis lacks, from the source of truth; they
     * are set after the answer unless a write came first.
     */
    async read(keys: string[], load: (missing: string[]) => Promise<Map<string, number>>): Promise<number[]> {
      if (keys.length === 0) return []
      let held: (number | null)[] | undefined
      try {
        held = await redis.mget<(number | null)[]>(...keys)
      } catch {
        // Redis is gone: D1 knows the counts well enough to show.
      }
      const missing = keys.filter((_, i) => typeof held?.[i] !== 'number')
      const loaded = missing.length > 0 ? await load(missing) : new Map<string, number>()
      if (held && missing.length > 0) {
        const fill = redis.pipeline()
        for (const key of missing) {
          const count = loaded.get(key) // unknown to the source of truth: nothing to count
          if (count !== undefined) fill.set(key, count, { nx: true, px: ttlMs })
        }
        if (fill.length() > 0) defer(() => fill.exec().catch(() => {})) // the next reader loads them again
      }
      return keys.map((key, i) => {
        const count = held?.[i]
        return typeof count === 'number' ? count : (loaded.get(key) ?? 0)
      })
    },
  }
}
