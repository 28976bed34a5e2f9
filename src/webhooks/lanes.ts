import { SLOW_MS } from './circuit.ts'

/** The requests of a batch to one endpoint. */
export interface Task {
  /** Whether the endpoint is known to be slow or failing. */
  isSuspect: () => boolean
  /** Sends one request at most. Answers whether there are more. Never throws. */
  step: () => Promise<boolean>
  /** Hands back what is left: every connection is blocked. */
  release: () => void
}

/** What `pick` needs to know of a task. */
export interface Slot {
  isSuspect: boolean
  /** How long its requests have taken so far. */
  usedMs: number
  /** When its present request started. Null: it waits for a lane. */
  startedAt: number | null
}

interface TaskSlot extends Slot {
  task: Task
}

/** An invocation may hold six connections; D1 and the queue need one of them. */
export const LANES = 3
export const SUSPECT_LANES = 2
const CONNECTIONS = LANES + SUSPECT_LANES

/** A request that takes long makes its endpoint a suspect while it is still in flight: its lane is free again. */
const isSlow = (slot: Slot, now: number) =>
  slot.isSuspect || (slot.startedAt !== null && now - slot.startedAt >= SLOW_MS)

/**
 * The slot to start next: of those that may start, the one that has used the least time. `LANES` requests to healthy
 * endpoints and `SUSPECT_LANES` to suspects run at a time. Requests that turned out slow hold neither kind of lane, but
 * their connections count.
 */
export function pick<S extends Slot>(slots: readonly S[], now: number): S | undefined {
  const inFlight = slots.filter(({ startedAt }) => startedAt !== null)
  if (inFlight.length >= CONNECTIONS) return undefined
  const suspects = inFlight.filter((slot) => isSlow(slot, now)).length
  const hasLane = { healthy: inFlight.length - suspects < LANES, suspect: suspects < SUSPECT_LANES }
  return slots
    .filter((slot) => slot.startedAt === null && (slot.isSuspect ? hasLane.suspect : hasLane.healthy))
    .reduce<S | undefined>((best, slot) => (best === undefined || slot.usedMs < best.usedMs ? slot : best), undefined)
}

/** Whether slow requests block every connection, so that no healthy endpoint can be served. */
export const isBlocked = (slots: readonly Slot[], now: number): boolean =>
  slots.filter((slot) => slot.startedAt !== null && isSlow(slot, now)).length >= CONNECTIONS

/**
 * Runs all tasks, one request of each at a time, and shares the connections by time used: a slow endpoint gets its next
 * turn after all others had as much time. Healthy tasks that find every connection blocked are released.
 */
export function runInLanes(tasks: Task[]): Promise<void> {
  const slots = new Set<TaskSlot>(
    tasks.map((task) => ({ task, isSuspect: task.isSuspect(), usedMs: 0, startedAt: null })),
  )
  const { promise, resolve } = Promise.withResolvers<void>()

  async function run(slot: TaskSlot): Promise<void> {
    const startedAt = Date.now()
    slot.startedAt = startedAt
    const timer = setTimeout(fill, SLOW_MS + 10) // when `isSlow` holds for certain
    const hasMore = await slot.task.step()
    clearTimeout(timer)
    slot.startedAt = null
    slot.usedMs += Date.now() - startedAt
    slot.isSuspect = slot.task.isSuspect()
    if (!hasMore) slots.delete(slot)
    fill()
  }

  function fill(): void {
    const now = Date.now()
    for (let slot = pick([...slots], now); slot; slot = pick([...slots], now)) void run(slot)
    if (isBlocked([...slots], now)) {
      for (const slot of slots) {
        if (slot.startedAt !== null || slot.isSuspect) continue
        slot.task.release()
        slots.delete(slot)
      }
    }
    if (slots.size === 0) resolve()
  }

  fill()
  return promise
}
