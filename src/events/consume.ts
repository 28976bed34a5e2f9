import { listOf } from '../db/list.ts'
import { and, inArray, isNotNull, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { events } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { StoredEvent } from './catalog.ts'
import type { CounterUpdates } from './counters.ts'
import type { EventMessage } from './outbox.ts'

/** Somebody who is told of events, at least once of each: what it does twice is as if done once. */
export interface Listener {
  /** As in `POST /v1/listeners/:name/rebuild`, and in logs. */
  name: string
  /** Whether it is told of such an event. */
  wants: (event: StoredEvent) => boolean
  /**
   * Takes note of events, in the order they happened; at most 100. If it throws, it is given them again, one by one.
   * What is too much for one step it answers as cursors: each is in the queue before the events count as handled.
   */
  handle: (events: StoredEvent[]) => Promise<string[] | void>
  /** One bounded step of that: the answer is where the next one begins, null that there is none. It may run twice. */
  proceed?: (cursor: string) => Promise<string | null>
  /** One step of building what it keeps again from D1: `null` begins, the answer is where the next step does. */
  rebuild?: (cursor: string | null) => Promise<string | null>
}

type Step = Extract<EventMessage, { listener: string }>

/** Counts that changed less than this long ago are told a little later, with what changes until then. */
const COUNTERS_DELAY_SECONDS = 2

export interface DispatchDependencies {
  db: DrizzleD1Database
  listeners: Listener[]
  counterUpdates: CounterUpdates
  send: (message: EventMessage, options?: { delaySeconds: number }) => Promise<unknown>
  /** Is told what a listener threw. */
  onFailure: (listener: string, error: unknown) => void
}

export type Dispatch = ReturnType<typeof createDispatch>

/**
 * Hands stored events to the listeners: each hears of each at least once. An event counts as dispatched when all who
 * want it have handled it; a listener that fails does so alone, and for the events it failed on alone.
 * D1: one query for the events of a batch, one to mark them. What else it takes is up to the listeners.
 */
export function createDispatch({ db, listeners, counterUpdates, send, onFailure }: DispatchDependencies) {
  /** Answers the ids of the events that `listener` could not handle. */
  async function tell(listener: Listener, happened: StoredEvent[]): Promise<string[]> {
    const wanted = happened.filter((event) => listener.wants(event))
    if (wanted.length === 0) return []
    try {
      const cursors = (await listener.handle(wanted)) ?? []
      for (const cursor of cursors) await send({ kind: 'proceed', listener: listener.name, cursor })
      return []
    } catch (error) {
      if (wanted.length === 1) onFailure(listener.name, error)
      if (wanted.length === 1) return wanted.map((event) => event.id)
    }
    const failed = []
    for (const event of wanted) failed.push(...(await tell(listener, [event])))
    return failed
  }

  /**
   * Tells of the events `ids`; answers how many of them there were, and which must be told again. Those that are gone or
   * dispatched need not, nor those of a batch that failed, which never were.
   */
  async function dispatch(ids: string[]): Promise<{ found: number; failed: Set<string> }> {
    if (ids.length === 0) return { found: 0, failed: new Set() }
    const found = await db
      .select({ event: events, place: sql<number>`rowid` })
      .from(events)
      .where(and(inArray(events.id, listOf(ids)), isNotNull(events.dueAt)))
    const happened = found.sort((a, b) => a.place - b.place).map((row) => row.event)
    const failed = new Set((await Promise.all(listeners.map((listener) => tell(listener, happened)))).flat())
    const done = happened.map((event) => event.id).filter((id) => !failed.has(id))
    if (done.length > 0)
      await db
        .update(events)
        .set({ dueAt: null })
        .where(inArray(events.id, listOf(done)))
    return { found: found.length, failed }
  }

  /** Takes a step, and leaves the next to the queue: what dies in between is taken again. */
  async function step(message: Step): Promise<void> {
    const listener = listeners.find(({ name }) => name === message.listener)
    const next = message.kind === 'rebuild' ? listener?.rebuild?.(message.cursor) : listener?.proceed?.(message.cursor)
    const cursor = await next
    if (typeof cursor === 'string') await send({ ...message, cursor })
  }

  /** Tells of the counts that changed, and comes back later for those that just did. */
  async function tellCounts(): Promise<void> {
    const isMore = await counterUpdates.flush()
    if (isMore) await tellCountsLater()
  }

  const tellCountsLater = () => send({ kind: 'counters' }, { delaySeconds: COUNTERS_DELAY_SECONDS })

  return {
    /** Takes messages of the queue; answers which failed. */
    async consume(messages: EventMessage[]): Promise<Set<EventMessage>> {
      const ids = messages.flatMap((message) => (message.kind === 'event' ? [message.id] : []))
      const told = await dispatch([...new Set(ids)])
      const failed = new Set(messages.filter((message) => message.kind === 'event' && told.failed.has(message.id)))
      for (const message of messages) {
        if (message.kind !== 'rebuild' && message.kind !== 'proceed') continue
        await step(message).catch((error: unknown) => {
          onFailure(message.listener, error)
          failed.add(message)
        })
      }
      if (told.found > 0 || messages.some((message) => message.kind === 'counters')) {
        await tellCounts().catch((error: unknown) => onFailure('counters', error)) // the cron does
      }
      return failed
    },

    tellCounts,
    tellCountsLater,

    /** Begins to build what a listener keeps again from D1; the queue does it step by step. */
    async beginRebuild(name: string): Promise<void> {
      const names = listeners.flatMap((listener) => (listener.rebuild ? [listener.name] : []))
      if (!names.includes(name)) {
        throw new Problem(
          'not-found',
          `There is no listener ${name} that keeps anything: ${names.join(', ') || 'none does'}`,
        )
      }
      await send({ kind: 'rebuild', listener: name, cursor: null })
    },
  }
}
