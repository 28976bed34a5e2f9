import { service } from '../service.ts'

/** Deletes at most `most` expired rows or keys, as of `now` (Unix ms). Returns how many. */
export type RunPurge = (most: number, now: number) => Promise<number>

/** The outcome of one purge. */
export type Purged = { removed: number; hasMore: boolean } | { error: unknown }

export type Maintenance = ReturnType<typeof createMaintenance>
export const maintenanceService = service<Maintenance>('maintenance')

/** Runs the purges of all features. Each is bounded, safe to repeat and safe to run twice at once. A failed purge fails alone. */
export function createMaintenance(purges: Record<string, RunPurge>) {
  return async (most: number, now = Date.now()): Promise<Record<string, Purged>> => {
    const outcomes = await Promise.all(
      Object.entries(purges).map(async ([name, purge]): Promise<[string, Purged]> => {
        try {
          const removed = await purge(most, now)
          return [name, { removed, hasMore: removed >= most }]
        } catch (error) {
          return [name, { error }]
        }
      }),
    )
    return Object.fromEntries(outcomes)
  }
}
