import { listOf } from '../db/list.ts'
import { and, count, eq, inArray, isNotNull, isNull, lt, lte, min, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { isDeepStrictEqual } from 'node:util'
import { ulid } from 'ulid'
import * as v from 'valibot'
import { events } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { type Audience, catalog, type EventData, type EventType, subjectOf } from './catalog.ts'

/**
 * Something that happened. A field of its data and its audience may be SQL, computed in the transaction that records it;
 * `given` is what that SQL reads beside, as `value -> 'given'`.
 */
export type NewEvent = {
  [T in EventType]: {
    type: T
    data: { [F in keyof EventData<T>]: EventData<T>[F] | SQL }
    audience?: Audience | SQL
    given?: Record<string, unknown>
  }
}[EventType]

/** What a back end publishes. */
export interface Publication {
  channel: string
  type: string
  data: Record<string, unknown>
  subject: string
  audience: Audience
  id?: string | undefined
}

/** A message of the queue `events`. */
export const EventBody = v.variant('kind', [
  /** This event is stored: tell those who listen. */
  v.object({ kind: v.literal('event'), id: v.string() }),
  /** Counts changed: tell the latest of each. */
  v.object({ kind: v.literal('counters') }),
  /** The next step of building what a listener keeps again. */
  v.object({ kind: v.literal('rebuild'), listener: v.string(), cursor: v.nullable(v.string()) }),
  /** The next step of what a listener had too much of to do at once. */
  v.object({ kind: v.literal('proceed'), listener: v.string(), cursor: v.string() }),
])
export type EventMessage = v.InferOutput<typeof EventBody>

/** How long the queue has to hand an event over before the cron sends it again. */
const PATIENCE_MS = 60_000
/** The longest wait between two attempts of the cron. */
const MAX_WAIT_MS = 3_600_000

export type Outbox = ReturnType<typeof createOutbox>

/**
 * The transactional outbox (https://microservices.io/patterns/data/transactional-outbox.html): an event is a row of the
 * D1 batch that makes the change it tells of, so there is never one without the other. The queue carries ids only; what
 * it loses, `resend` sends again, until `consume` has marked the row as dispatched. No Redis.
 */
export function createOutbox(
  db: DrizzleD1Database,
  send: (messages: EventMessage[]) => Promise<unknown>,
  defer: (work: () => Promise<unknown>) => void,
  traceparent?: string,
) {
  const recorded: string[] = []

  /** Inserts events in their order (their sequences rise with it), where `when` holds; those already there stay. */
  function insert(
    rows: (Publication & { id: string })[],
    computed: [field: string, value: SQL][],
    when: SQL,
    now: number,
    audience = sql`value -> 'audience'`,
  ) {
    const set = computed.map(([field, value]) => sql`, ${`$.${field}`}, ${value}`)
    // In the order of the table. A trigger numbers it.
    return db
      .insert(events)
      .select(
        sql`
          SELECT value ->> 'id', value ->> 'channel', value ->> 'type', value ->> 'subject', 0,
            json_set(value -> 'data' ${sql.join(set)}), ${audience}, ${now}, ${now + PATIENCE_MS}, 0,
            ${traceparent ?? null}, NULL, 0
          FROM json_each(${JSON.stringify(rows)})
          WHERE ${when}`,
      )
      .onConflictDoNothing()
  }

  function statementOf(happened: NewEvent | NewEvent[], when: SQL, now: number) {
    const all = [happened].flat()
    const computed = Object.entries(all[0]?.data ?? {}).filter((field): field is [string, SQL] => isSql(field[1]))
    const rows = all.map((event) => rowOf(event, now))
    const audience = all[0]?.audience
    const statement = insert(rows, computed, when, now, isSql(audience) ? audience : undefined)
    return { statement, ids: rows.map((row) => row.id) }
  }

  const tell = (ids: string[]) => send(ids.map((id) => ({ kind: 'event', id })))

  return {
    /**
     * A statement for the batch that makes a change: it records `happened` (events of one kind) if `when` holds at that
     * point. So an event of a change that may find nothing to change goes before it, under the same condition. In `when`
     * and in computed data `value` is the event as JSON. The queue is told once the invocation has done its work.
     */
    record(happened: NewEvent | NewEvent[], when: SQL = sql`true`, now = Date.now()) {
      const { statement, ids } = statementOf(happened, when, now)
      if (recorded.length === 0) defer(() => tell(recorded.splice(0)))
      recorded.push(...ids)
      return statement
    },

    /**
     * The same for a batch that may run after the answer, when `record` would enqueue too early: pass the rows it returns
     * to `enqueue` once the batch is committed. If that never happens, `resend` does it.
     */
    prepare: (happened: NewEvent | NewEvent[], when: SQL, now = Date.now()) =>
      statementOf(happened, when, now).statement.returning({ id: events.id }),

    enqueue(stored: { id: string }[]): void {
      if (stored.length > 0) defer(() => tell(stored.map(({ id }) => id)))
    },

    /**
     * Stores what a back end publishes, and tells the queue; answers its id. The same again changes nothing; another
     * event under the same id is refused as `event-id-reused`. One D1 round trip.
     */
    async publish({ id = newId(Date.now()), ...event }: Publication, now = Date.now()): Promise<string> {
      const [, [stored]] = await db.batch([
        insert([{ id, ...event }], [], sql`true`, now),
        db
          .select({
            channel: events.channel,
            type: events.type,
            data: events.data,
            subject: events.subject,
            audience: events.audience,
          })
          .from(events)
          .where(eq(events.id, id)),
      ])
      // As JSON brings it back: -0 is 0 there, and what is no number is null.
      if (!isDeepStrictEqual(stored, JSON.parse(JSON.stringify(event))))
        throw new Problem('event-id-reused', `${id} is another event`)
      defer(() => tell([id]))
      return id
    },

    /**
     * Tells the queue again of at most `most` events that are overdue, the longest waiting first, each time after twice
     * the wait; answers how many. For the cron.
     */
    async resend(most: number, now = Date.now()): Promise<number> {
      const overdue = await db
        .select({ id: events.id })
        .from(events)
        .where(and(isNotNull(events.dueAt), lte(events.dueAt, now)))
        .orderBy(events.dueAt)
        .limit(most)
      if (overdue.length === 0) return 0
      const ids = overdue.map((row) => row.id)
      await tell(ids)
      await db
        .update(events)
        .set({
          attempts: sql`${events.attempts} + 1`,
          dueAt: sql`${now} + min(${PATIENCE_MS} << min(${events.attempts} + 1, 6), ${MAX_WAIT_MS})`,
        })
        .where(and(inArray(events.id, listOf(ids)), isNotNull(events.dueAt)))
      return ids.length
    },

    /** How many events are yet to be dispatched, and how old the oldest is. */
    async backlog(now: number): Promise<{ pending: number; oldestAgeSeconds: number }> {
      const [row] = await db
        .select({ pending: count(), oldestAt: min(events.createdAt) })
        .from(events)
        .where(isNotNull(events.dueAt))
      return { pending: row?.pending ?? 0, oldestAgeSeconds: Math.max(0, now - (row?.oldestAt ?? now)) / 1_000 }
    },

    /** Deletes at most `most` dispatched events from before `before` (Unix ms); answers how many. For the cron. */
    async purge(most: number, before: number): Promise<number> {
      const old = db
        .select({ id: events.id })
        .from(events)
        .where(and(lt(events.createdAt, before), isNull(events.dueAt)))
        .limit(most)
      const gone = await db
        .delete(events)
        .where(sql`${events.id} IN ${old}`)
        .returning({ id: events.id })
      return gone.length
    },
  }
}

/** An event with its id and its place; what is computed of its data is left to the statement. */
function rowOf({ type, data, audience = 'everyone', given }: NewEvent, now: number) {
  const plain = Object.fromEntries(Object.entries(data).filter(([, value]) => !isSql(value)))
  return {
    id: newId(now),
    channel: catalog[type].channel,
    type,
    subject: subjectOf(type, plain),
    data: plain,
    audience: isSql(audience) ? ('services' as const) : audience,
    ...(given === undefined ? {} : { given }),
  }
}

const newId = (now: number) => `ev_${ulid(now).toLowerCase()}`

const isSql = (value: unknown): value is SQL => typeof value === 'object' && value !== null && 'getSQL' in value
