import { listOf } from '../db/list.ts'
import { and, inArray, isNotNull, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { events, listenerVersions } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { service } from '../service.ts'
import { isHint, type StoredEvent } from './catalog.ts'
import { latestHints, toEvent } from './hints.ts'
import type { EventMessage, Hint } from './schema.ts'

/** Where a listener continues its work: text of its own. `delaySeconds`: not sooner. */
export type Cursor = string | { cursor: string; delaySeconds: number }

/** Receives stored events, each at least once. Handling an event twice must have the effect of once. */
export interface Listener {
  /** As in `POST /v1/listeners/:name/rebuild`, and in logs. */
  name: string
  /** Whether it handles such an event. */
  wants: (event: StoredEvent) => boolean
  /**
   * Handles at most 100 events, in their order. If it throws, it receives them again, one by one. It may return cursors
   * for work that is too much for one step: the dispatcher enqueues them before the events count as handled.
   */
  handle: (events: StoredEvent[]) => Promise<Cursor[] | void>
  /** Handles hints that are not stored, in the order of their times. If it throws, it receives them again. */
  hint?: (hints: StoredEvent[]) => Promise<void>
  /**
   * Does one bounded step from a cursor. Returns where to continue, all at once, or nothing at the end. A step may run
   * twice.
   */
  proceed?: (cursor: string) => Promise<Cursor[]>
  /** Does one step of rebuilding its data from D1. `null` begins. Returns the next cursor, or null at the end. */
  rebuild?: (cursor: string | null) => Promise<string | null>
  /**
   * The form of the data. Raise it with code that needs the data made again, where SQL in a migration cannot: the cron then
   * begins a rebuild.
   */
  version?: number
}

type Step = Extract<EventMessage, { listener: string }>

/** How many steps of a batch run at once: D1 has other work too. */
const STEPS_AT_ONCE = 4

export interface DispatchDependencies {
  db: DrizzleD1Database
  listeners: Listener[]
  /** Up to a hundred messages are enqueued together, or none of them. */
  enqueue: (messages: { body: EventMessage; delaySeconds?: number }[]) => Promise<unknown>
  /** Receives the name of a listener that failed, and its error. */
  onFailure: (listener: string, error: unknown) => void
}

export type Dispatch = ReturnType<typeof createDispatch>
export const dispatchService = service<Dispatch>('dispatch')

/**
 * Dispatches stored events to the listeners, at least once each. An event is dispatched when every listener that wants it
 * has handled it. A failing listener affects no other listener, and only the events it failed on are retried.
 * D1: one query to load the events of a batch, one to mark them. Each listener documents its own cost.
 *
 * Of the hints of a batch, stored or not, the listeners receive only the latest about each subject. A stored one that a later
 * one replaces counts as dispatched.
 */
export function createDispatch({ db, listeners, enqueue, onFailure }: DispatchDependencies) {
  async function proceedLater(listener: string, cursors: Cursor[]): Promise<void> {
    if (cursors.length === 0) return
    await enqueue(
      cursors.map((each) => {
        const { cursor, ...delay } = typeof each === 'string' ? { cursor: each } : each
        return { body: { kind: 'proceed', listener, cursor }, ...delay }
      }),
    )
  }

  /** Returns the ids of the events that the listener failed to handle. */
  async function notify(listener: Listener, events: StoredEvent[]): Promise<string[]> {
    const wanted = events.filter((event) => listener.wants(event))
    if (wanted.length === 0) return []
    try {
      await proceedLater(listener.name, (await listener.handle(wanted)) ?? [])
      return []
    } catch (error) {
      if (wanted.length === 1) {
        onFailure(listener.name, error)
        return wanted.map((event) => event.id)
      }
    }
    const failed = []
    for (const event of wanted) failed.push(...(await notify(listener, [event])))
    return failed
  }

  /**
   * Dispatches the events `ids`, of which the cron has enqueued `resent`. Returns which failed. It ignores events that are
   * dispatched already, and ids whose batch failed. Safe to repeat.
   */
  async function dispatch(ids: string[], resent: Set<string>): Promise<{ failed: Set<string> }> {
    if (ids.length === 0) return { failed: new Set() }
    const rows = await db
      .select({ event: events, place: sql<number>`rowid` })
      .from(events)
      .where(and(inArray(events.id, listOf(ids)), isNotNull(events.dueAt)))
    const inOrder = rows
      .sort((a, b) => a.place - b.place)
      .map(({ event }): StoredEvent => Object.assign(event, { isResent: resent.has(event.id) }))
    const latest = new Set(latestHints(inOrder.filter(isHint)))
    const current = inOrder.filter((event) => !isHint(event) || latest.has(event))
    const failed = new Set((await Promise.all(listeners.map((listener) => notify(listener, current)))).flat())
    const done = inOrder.map((event) => event.id).filter((id) => !failed.has(id))
    if (done.length > 0)
      await db
        .update(events)
        .set({ dueAt: null })
        .where(inArray(events.id, listOf(done)))
    return { failed }
  }

  /** Does one step, and enqueues what follows. If the Worker dies in between, the queue repeats the step. */
  async function step(message: Step): Promise<void> {
    const listener = listeners.find(({ name }) => name === message.listener)
    if (message.kind === 'proceed')
      return proceedLater(message.listener, (await listener?.proceed?.(message.cursor)) ?? [])
    const cursor = await listener?.rebuild?.(message.cursor)
    if (typeof cursor === 'string') await enqueue([{ body: { ...message, cursor } }])
  }

  /** Publishes the latest of `hints`. Safe to repeat. */
  async function publishHints(hints: Hint[]): Promise<void> {
    const latest = latestHints(hints.map(toEvent))
    if (latest.length === 0) return
    await Promise.all(listeners.map(async ({ hint }) => hint?.(latest)))
  }

  return {
    /** Handles messages of the queue. Returns those that failed. */
    async consume(messages: EventMessage[]): Promise<Set<EventMessage>> {
      const ofEvents = messages.filter((message) => message.kind === 'event')
      const resent = new Set(ofEvents.flatMap(({ id, isResent }) => (isResent ? [id] : [])))
      const { failed: failedIds } = await dispatch([...new Set(ofEvents.map(({ id }) => id))], resent)
      const failed = new Set(messages.filter((message) => message.kind === 'event' && failedIds.has(message.id)))
      const withHints = messages.filter((message) => message.kind === 'hints')
      await publishHints(withHints.flatMap(({ hints }) => hints)).catch((error: unknown) => {
        onFailure('hints', error)
        for (const message of withHints) failed.add(message)
      })
      const steps = messages.filter((message) => message.kind === 'rebuild' || message.kind === 'proceed')
      const takeSteps = async () => {
        for (let message = steps.shift(); message; message = steps.shift()) {
          const { listener } = message
          await step(message).catch((error: unknown) => {
            onFailure(listener, error)
            failed.add(message)
          })
        }
      }
      await Promise.all(Array.from({ length: STEPS_AT_ONCE }, takeSteps))
      return failed
    },

    /**
     * Begins to rebuild the data of listeners that older code made, or a database without it. Returns how many. One D1 query
     * when there are none. Safe to repeat: a failure after the message was sent begins a second rebuild. For the cron.
     */
    async rebuildOutdated(): Promise<number> {
      const names = listOf(listeners.map(({ name }) => name))
      const rows = await db.select().from(listenerVersions).where(inArray(listenerVersions.listener, names))
      const made = new Map(rows.map((row) => [row.listener, row.version]))
      const outdated = listeners.flatMap(({ name, version = 0 }) =>
        version > (made.get(name) ?? 0) ? [{ name, version }] : [],
      )
      for (const { name, version } of outdated) {
        await enqueue([{ body: { kind: 'rebuild', listener: name, cursor: null } }])
        await db
          .insert(listenerVersions)
          .values({ listener: name, version })
          .onConflictDoUpdate({ target: listenerVersions.listener, set: { version } })
      }
      return outdated.length
    },

    /**
     * Begins to rebuild the data of a listener from D1. The queue does it step by step. Safe to repeat, after a lost
     * reply too: rebuilding again changes nothing.
     */
    async beginRebuild(name: string): Promise<void> {
      const names = listeners.flatMap((listener) => (listener.rebuild ? [listener.name] : []))
      if (!names.includes(name)) {
        throw new Problem('not-found', `No listener ${name} keeps data. Those that do: ${names.join(', ') || 'none'}`)
      }
      await enqueue([{ body: { kind: 'rebuild', listener: name, cursor: null } }])
    },
  }
}
