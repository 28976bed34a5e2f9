import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { events } from '../db/schema.ts'
import { newId } from '../ids.ts'
import { service } from '../service.ts'
import { catalog, type EventData, type HintType, type StoredEvent, subjectOf } from './catalog.ts'
import { type EventMessage, type Hint, PATIENCE_MS } from './schema.ts'

/** A hint to send. `at`: when its state was read, or began (Unix ms). */
export type NewHint = {
  [T in HintType]: { type: T; data: EventData<T>; audience?: Hint['audience']; at: number }
}[HintType]

/** A count as D1 had it at `at` (Unix ms). */
export interface CountRead {
  contentId: string
  counter: 'likes' | 'comments' | 'views'
  count: number
  at: number
}

/** How many hints one queue message carries: about 40 KB. */
const HINTS_PER_MESSAGE = 100

export type Hints = ReturnType<typeof createHints>
export const hintsService = service<Hints>('hints')

export interface HintsDependencies {
  db: DrizzleD1Database
  /** Which of `hints` a webhook endpoint takes. */
  takenByEndpoints: (hints: StoredEvent[]) => Promise<StoredEvent[]>
  send: (messages: EventMessage[]) => Promise<unknown>
  traceparent: string | undefined
}

/**
 * Hints: the latest count of a content, or the latest status of a user, in the body of a queue message. No Redis. D1: one
 * query for all hints of a batch.
 *
 * Hints that an endpoint takes are stored first, as events without a sequence: from then on they are delivered at least
 * once. The others are lost if the queue loses their message. Whoever sends hints repeats the work if that fails. A hint
 * may arrive twice, late, or after a newer one: the later `at` is newer.
 */
export function createHints({ db, takenByEndpoints, send, traceparent }: HintsDependencies) {
  async function sendAll(given: NewHint[]): Promise<void> {
    if (given.length === 0) return
    const hints = given.map((hint): Hint => ({
      id: newId('ev', hint.at),
      audience: 'everyone',
      ...hint,
      ...(traceparent === undefined ? {} : { traceparent }),
    }))
    const taken = await takenByEndpoints(hints.map(toEvent))
    if (taken.length > 0) {
      await storeHints(db, taken, Date.now())
      await send(taken.map(({ id }) => ({ kind: 'event', id }))).catch(() => {}) // the cron resends them
    }
    const stored = new Set(taken.map(({ id }) => id))
    const passing = hints.filter(({ id }) => !stored.has(id))
    for (let sent = 0; sent < passing.length; sent += HINTS_PER_MESSAGE) {
      await send([{ kind: 'hints', hints: passing.slice(sent, sent + HINTS_PER_MESSAGE) }])
    }
  }

  return {
    /** Stores or enqueues hints. Throws when D1 or the queue fails; repeating sends them again, which changes nothing. */
    send: sendAll,

    /** The same of counts. */
    sendCounts: (counts: CountRead[]): Promise<void> =>
      sendAll(
        counts.map(({ contentId, counter, count, at }) => ({
          type: 'counter_update',
          data: {
            contentId,
            contentType: contentId.startsWith('c_') ? 'comment' : 'post',
            counterType: counter,
            value: count,
          },
          at,
        })),
      ),
  }
}

/** A hint of the queue, as listeners receive it. */
export const toEvent = ({ at, traceparent, ...hint }: Hint): StoredEvent => ({
  ...hint,
  channel: catalog[hint.type].channel,
  subject: subjectOf(hint.type, hint.data),
  sequence: 0,
  publicSequence: 0,
  createdAt: at,
  traceparent: traceparent ?? null,
})

/** The latest hint about each count, and about each user for each audience, in the order of their times. */
export function latestHints(hints: StoredEvent[]): StoredEvent[] {
  const latest = new Map<string, StoredEvent>()
  for (const hint of hints) {
    const about = [hint.type, hint.subject, hint.data['counterType'], JSON.stringify(hint.audience)].join(' ')
    if ((latest.get(about)?.createdAt ?? -Infinity) <= hint.createdAt) latest.set(about, hint)
  }
  return [...latest.values()].sort((a, b) => a.createdAt - b.createdAt)
}

/** Stores hints, to be dispatched as events. One D1 round trip. Safe to repeat: those that exist stay. */
async function storeHints(db: DrizzleD1Database, hints: StoredEvent[], now: number): Promise<void> {
  await db.run(sql`
    INSERT INTO ${events} (id, channel, type, subject, data, audience, created_at, due_at, traceparent)
    SELECT value ->> 'id', value ->> 'channel', value ->> 'type', value ->> 'subject', value -> 'data',
      value -> 'audience', value ->> 'createdAt', ${now + PATIENCE_MS}, value ->> 'traceparent'
    FROM json_each(${JSON.stringify(hints)}) WHERE true
    ON CONFLICT DO NOTHING`)
}
