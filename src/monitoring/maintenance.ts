import { service } from '../service.ts'

/** Deletes at most `most` expired rows or keys, as of `now` (Unix ms). Returns how many. */
export type RunPurge = (most: number, now: number) => Promise<number>

/** How much the purges may do together. */
export interface PurgeBudget {
  /** Rows or keys that one step of a purge deletes at most. */
  stepRows: number
  /** Steps of all purges together. Workers allow 1,000 D1 queries per invocation. */
  steps: number
  /** How long steps may begin. */
  ms: number
}

/** The outcome of one purge. `hasMore`: the budget was used up first. */
export type Purged = { removed: number; hasMore: boolean } | { error: unknown }

export type Maintenance = ReturnType<typeof createMaintenance>
export const maintenanceService = service<Maintenance>('maintenance')

/**
 * Runs the purges of all features in steps, until nothing is expired or the budget is used up. In each round every purge
 * that has more does one step, so a large table holds up no other. Safe to repeat and to run twice at once. A failed
 * purge fails alone.
 */
export function createMaintenance(purges: Record<string, RunPurge>) {
  return async ({ stepRows, steps, ms }: PurgeBudget, now = Date.now()): Promise<Record<string, Purged>> => {
    const outcomes: Record<string, Purged> = Object.fromEntries(
      Object.keys(purges).map((name) => [name, { removed: 0, hasMore: true }]),
    )
    const until = Date.now() + ms
    let left = steps
    async function step(name: string, purge: RunPurge, before: number): Promise<void> {
      try {
        const removed = await purge(stepRows, now)
        outcomes[name] = { removed: before + removed, hasMore: removed >= stepRows }
      } catch (error) {
        outcomes[name] = { error }
      }
    }
    for (;;) {
      const round = Object.entries(purges).flatMap(([name, purge]) => {
        const outcome = outcomes[name]
        return outcome && 'removed' in outcome && outcome.hasMore ? [{ name, purge, before: outcome.removed }] : []
      })
      if (round.length === 0 || round.length > left || Date.now() > until) return outcomes
      left -= round.length
      // One after the other: a request waits for one step at most.
      for (const { name, purge, before } of round) await step(name, purge, before)
    }
  }
}
