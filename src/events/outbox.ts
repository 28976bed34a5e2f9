import { countUpTo } from '../db/count.ts'
import { listOf } from '../db/list.ts'
import { and, count, eq, inArray, isNotNull, isNull, lt, lte, min, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { isDeepStrictEqual } from 'node:util'
import { eventSequences, events } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { newId } from '../ids.ts'
import { type Audience, catalog, type EventData, type EventType, type HintType, subjectOf } from './catalog.ts'
import { type EventMessage, PATIENCE_MS, type Publication } from './schema.ts'

/** A fact. A field of its data may be SQL that the transaction computes. */
export type NewEvent = {
  [T in Exclude<EventType, HintType>]: {
    /** Absent: a new one. An event whose id exists is not recorded again. */
    id?: string
    type: T
    /** Complete, though publishers may leave fields out. A comment that replies to none has no `parentId`. */
    data: { [F in Exclude<keyof EventData<T>, 'parentId'>]-?: EventData<T>[F] | SQL } & { parentId?: string }
    audience?: Audience
  }
}[Exclude<EventType, HintType>]

/** The channels whose events name persons, for SQL. */
const ABOUT_PERSONS = `'user_events', 'post_events', 'comment_events', 'relation_events', 'moderation_events', 'mail_events'`

/** The longest wait between two attempts of the cron. */
const MAX_WAIT_MS = 3_600_000

/** How many events one statement looks through for those about a deleted user. */
const SCANNED = 10_000

/** How many waiting events a figure counts at most. */
const MAX_COUNTED = 1_000

/** The events of one D1 batch: `record` them in it, then `enqueue` them. */
export type Transaction = ReturnType<Outbox['transaction']>

export type Outbox = ReturnType<typeof createOutbox>

/**
 * The transactional outbox of facts (https://microservices.io/patterns/data/transactional-outbox.html): the D1 batch that makes a
 * change also inserts its event, so neither exists without the other. Queue messages carry ids only. `resend` enqueues
 * the events that the queue lost, until `dispatch` marks their rows as dispatched. No Redis.
 */
export function createOutbox(
  db: DrizzleD1Database,
  send: (messages: EventMessage[]) => Promise<unknown>,
  defer: (work: () => Promise<unknown>) => void,
  traceparent?: string,
) {
  /** Inserts events in their order, where `when` holds. Their sequences rise in this order. Existing events stay. */
  function insert(
    rows: (Publication & { id: string })[],
    computed: [field: string, value: SQL][],
    when: SQL,
    now: number,
  ) {
    const set = computed.map(([field, value]) => sql`, ${`$.${field}`}, ${value}`)
    // The columns in the order of the table. A trigger sets the sequence.
    return db
      .insert(events)
      .select(
        sql`
          SELECT value ->> 'id', value ->> 'channel', value ->> 'type', value ->> 'subject', 0,
            json_set(value -> 'data' ${sql.join(set)}), value -> 'audience', ${now}, ${now + PATIENCE_MS}, 0,
            ${traceparent ?? null}, NULL, 0
          FROM json_each(${JSON.stringify(rows)})
          WHERE ${when}`,
      )
      .onConflictDoNothing()
  }

  const enqueue = (ids: string[]) => send(ids.map((id) => ({ kind: 'event', id })))
  const enqueueAgain = (ids: string[]) => send(ids.map((id) => ({ kind: 'event', id, isResent: true })))

  return {
    /**
     * Begins the events of one D1 batch. `record` returns a statement for the batch: it inserts events of one type if
     * `when` holds at that point. So if the change may find nothing to change, record its event before it, under the same
     * condition. In `when` and in computed data, `value` is the event as JSON.
     *
     * Call `enqueue` after the batch: it sends the events to the queue after the answer. Events whose batch failed do
     * not exist, and `dispatch` ignores their messages.
     *
     * Both are safe to repeat: a batch that runs twice records its events once. Recorded first, then completed: where
     * the request dies or the queue refuses, the cron enqueues.
     */
    transaction() {
      const recorded: string[] = []
      return {
        record(events: NewEvent | NewEvent[], when: SQL = sql`true`, now = Date.now()) {
          const all = [events].flat()
          const computed = Object.entries(all[0]?.data ?? {}).filter((field): field is [string, SQL] => isSql(field[1]))
          const rows = all.map((event) => toRow(event, now))
          recorded.push(...rows.map((row) => row.id))
          return insert(rows, computed, when, now)
        },
        enqueue(): void {
          if (recorded.length > 0) defer(() => enqueue(recorded))
        },
      }
    },

    /**
     * Stores an event of a back end, and enqueues it after the answer. Returns its id. Safe to repeat: the same event
     * changes nothing. Throws `event-id-reused` if another event has the id. One D1 round trip.
     */
    async publish({ id = newId('ev'), ...event }: Publication, now = Date.now()): Promise<string> {
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
      // Compare with what JSON preserves: -0 becomes 0, and NaN becomes null.
      if (!isDeepStrictEqual(stored, JSON.parse(JSON.stringify(event))))
        throw new Problem('event-id-reused', `${id} is another event`)
      defer(() => enqueue([id]))
      return id
    },

    /**
     * Enqueues at most `most` overdue events again, the oldest first. The wait doubles with each attempt. Returns how many
     * are still overdue, counted up to 10,000. For the cron. Safe to repeat: an event is dispatched once.
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
      await enqueueAgain(ids)
      await db
        .update(events)
        .set({
          attempts: sql`${events.attempts} + 1`,
          dueAt: sql`${now} + min(${PATIENCE_MS} << min(${events.attempts} + 1, 6), ${MAX_WAIT_MS})`,
        })
        .where(and(inArray(events.id, listOf(ids)), isNotNull(events.dueAt)))
      return countUpTo(db, events, sql`due_at IS NOT NULL AND due_at <= ${now}`)
    },

    /**
     * The number of events that are not dispatched, up to `MAX_COUNTED`, and the age of the oldest of those. D1 reads
     * only these rows.
     */
    async backlog(now: number): Promise<{ pending: number; oldestAgeSeconds: number }> {
      const first = db
        .select({ createdAt: events.createdAt })
        .from(events)
        .where(isNotNull(events.dueAt))
        .orderBy(events.dueAt)
        .limit(MAX_COUNTED)
        .as('first')
      const [row] = await db.select({ pending: count(), oldestAt: min(first.createdAt) }).from(first)
      return { pending: row?.pending ?? 0, oldestAgeSeconds: Math.max(0, now - (row?.oldestAt ?? now)) / 1_000 }
    },

    /**
     * Deletes the events about a deleted user among the next `SCANNED` events after the place `from`, and the sequences of
     * posts that are gone. Only `user_deleted` stays, for those who must learn of it. Returns the next place, null at the
     * end. Walks all events: an index of those who are named in them would cost every event a row. Safe to repeat.
     */
    async forget(userId: string, from: string | undefined): Promise<string | null> {
      // Two subqueries: SQLite reads the ends of an index only for one `min` or `max` at a time.
      const [range] = await db.all<{ first: number | null; last: number | null }>(
        sql`SELECT (SELECT min(rowid) FROM events) AS first, (SELECT max(rowid) FROM events) AS last`,
      )
      const first = Math.max(Number(from ?? 0), range?.first ?? 0)
      const next = first + SCANNED
      const about = sql`rowid >= ${first} AND rowid < ${next} AND channel IN (${sql.raw(ABOUT_PERSONS)})
        AND type <> 'user_deleted' AND (subject = ${userId} OR instr(data, ${userId}) > 0)`
      await db.batch([
        db.delete(eventSequences).where(
          sql`(channel, subject) IN (SELECT channel, subject FROM events WHERE ${about}) 
            AND (subject = ${userId} AND channel IN ('relation_events', 'moderation_events') OR substr(subject, 1, 2) = 'p_'
              AND NOT EXISTS (SELECT 1 FROM posts WHERE posts.id = event_sequences.subject))`,
        ),
        db.delete(events).where(about),
      ])
      return next > (range?.last ?? 0) ? null : String(next)
    },

    /**
     * Deletes at most `most` dispatched events that are older than `before` (Unix ms), the oldest first, and the sequences
     * of subjects that have had no event since: the next event about such a subject begins at 1. Returns how many
     * events. Safe to repeat.
     */
    async purge(most: number, before: number): Promise<number> {
      const old = db
        .select({ rowid: sql`rowid` })
        .from(events)
        .where(and(lt(events.createdAt, before), isNull(events.dueAt)))
        .orderBy(events.createdAt)
        .limit(most)
      const [, gone] = await db.batch([
        db
          .delete(eventSequences)
          .where(
            sql`(channel, subject) IN (SELECT channel, subject FROM events WHERE rowid IN ${old}) AND changed_at < ${before}`,
          ),
        db
          .delete(events)
          .where(sql`rowid IN ${old}`)
          .returning({ id: events.id }),
      ])
      return gone.length
    },
  }
}

/** The row of an event. The statement adds its computed data. */
function toRow({ id, type, data, audience = 'everyone' }: NewEvent, now: number) {
  const plain = Object.fromEntries(Object.entries(data).filter(([, value]) => !isSql(value)))
  return {
    id: id ?? newId('ev', now),
    channel: catalog[type].channel,
    type,
    subject: subjectOf(type, plain),
    data: plain,
    audience,
  }
}

const isSql = (value: unknown): value is SQL => typeof value === 'object' && value !== null && 'getSQL' in value
