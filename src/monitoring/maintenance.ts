/** Removes what is over: at most `most`, as of `now` (Unix ms); answers how many. */
export type Purge = (most: number, now: number) => Promise<number>

/** What a purge removed, or that it failed. */
export type Purged = { removed: number; hasMore: boolean } | { error: unknown }

export type Maintenance = ReturnType<typeof createMaintenance>

/**
 * Throws away what has had its time, by the purges that modules hand in. Each is bounded and may be run at any moment, also twice
 * at once; one that fails fails alone. For the cron, and for whoever wants it now.
 */
export function createMaintenance(purges: Record<string, Purge>) {
  return async (most: number, now = Date.now()): Promise<Record<string, Purged>> => {
    const done = await Promise.all(
      Object.entries(purges).map(async ([name, purge]): Promise<[string, Purged]> => {
        try {
          const removed = await purge(most, now)
          return [name, { removed, hasMore: removed >= most }]
        } catch (error) {
          return [name, { error }]
        }
      }),
    )
    return Object.fromEntries(done)
  }
}
