import { listOf } from '../db/list.ts'
import { and, desc, eq, inArray, isNotNull, isNull, lt, lte, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { monotonicFactory, ulid } from 'ulid'
import { deliveries, deliveryAttempts, events, webhooks } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/consume.ts'
import { type Page, pageOf } from '../page.ts'
import type { Attempts } from './attempts.ts'
import { type Filter, meets } from './filter.ts'
import { type DeliveryMessage, messageOf, PATIENCE_MS, type Posted, wakeMessage } from './messages.ts'
import type { WebhookRow } from './sender.ts'
import { notEnabled, shownAttempt } from './webhooks.ts'

/** As `PATIENCE_MS`, once the cron has sent it: a queue that is behind is not helped by more messages. */
const CRON_PATIENCE_MS = 600_000
/** How many deliveries are stored in one statement, unparked or replayed in one step. */
const STORE_AT_ONCE = 1_000
const STEP = 100

/**
 * Deliveries. D1 is the truth, queue messages are wake-ups: each names the turn of a delivery, which the first that comes
 * takes (compare-and-set), and `dueAt` is when the cron sends what did not come. So a message may be lost, late or
 * doubled; an event arrives at least once, under the same `webhook-id`.
 *
 * An endpoint that rests (its circuit is open), is paused or disabled costs nothing: its deliveries are parked, without
 * a message, until it wakes: `wakeAt`.
 *
 * D1 round trips: two for a batch of events. No Redis.
 */
export function createDeliveries(dependencies: {
  db: DrizzleD1Database
  attempts: Attempts
  post: (messages: Posted[]) => Promise<unknown>
  /** Is told of a failure that is made up for later: whose it is, and what was thrown. */
  onFailure: (of: string, error: unknown) => void
}) {
  const { db, attempts, post, onFailure } = dependencies

  /** Stores deliveries and tells the queue of them. Those already there stay, unless they are to be replayed. */
  async function store(pairs: [eventId: string, webhookId: string][], now: number, replay?: 'dead' | 'all') {
    const nextId = monotonicFactory()
    const again = sql`DO UPDATE SET status = 'pending', attempts = 0, turn = turn + 1, due_at = excluded.due_at
      WHERE ${replay === 'all' ? sql`status <> 'pending'` : sql`status = 'dead'`}`
    for (let done = 0; done < pairs.length; done += STORE_AT_ONCE) {
      const rows = pairs
        .slice(done, done + STORE_AT_ONCE)
        .map(([eventId, webhookId]) => [`dl_${nextId(now).toLowerCase()}`, eventId, webhookId])
      const stored = await db.all<{ id: string; turn: number; due_at: number | null }>(sql`
        INSERT INTO ${deliveries} (id, event_id, webhook_id, due_at)
        SELECT value ->> 0, value ->> 1, webhooks.id, ${dueAt(now)}
        FROM json_each(${JSON.stringify(rows)}) CROSS JOIN ${webhooks} ON webhooks.id = value ->> 2
        WHERE webhooks.status IN ('enabled', 'paused')
        ON CONFLICT (event_id, webhook_id) ${replay ? again : sql`DO NOTHING`}
        RETURNING id, turn, due_at`)
      await post(inOrder(stored.filter((row) => row.due_at !== null)).map((row) => messageOf(row)))
    }
  }

  /** Sends off at most `most` parked deliveries of an endpoint, the oldest first; answers how many. */
  async function unpark(webhookId: string, most: number, now: number): Promise<number> {
    const parked = db
      .select({ id: deliveries.id })
      .from(deliveries)
      .where(and(eq(deliveries.webhookId, webhookId), sql`status = 'pending'`, isNull(deliveries.dueAt)))
      .orderBy(deliveries.id)
      .limit(most)
    const [freed] = await db.batch([
      db
        .update(deliveries)
        .set({ dueAt: now + PATIENCE_MS })
        .where(sql`${deliveries.id} IN ${parked}`)
        .returning({ id: deliveries.id, turn: deliveries.turn }),
      db
        .update(webhooks)
        .set({
          wakeAt: sql`CASE WHEN EXISTS (
            SELECT 1 FROM deliveries WHERE webhook_id = ${webhookId} AND status = 'pending' AND due_at IS NULL
          ) THEN ${now + PATIENCE_MS} END`,
        })
        .where(and(eq(webhooks.id, webhookId), eq(webhooks.status, 'enabled'))),
    ])
    await post(inOrder(freed).map((delivery) => messageOf(delivery)))
    return freed.length
  }

  /** Sees to an endpoint that has parked deliveries, or may be back. */
  async function wake(webhookId: string, now: number): Promise<void> {
    const [webhook] = await db.select().from(webhooks).where(eq(webhooks.id, webhookId))
    if (webhook?.status === 'disabled' && webhook.disabledReason === 'failing') {
      await attempts.probe(webhook, now)
    } else if (webhook?.status === 'enabled') {
      const { openUntil } = webhook
      if (openUntil !== null && openUntil > now) return // another message comes then, or else the cron
      const most = openUntil === null ? STEP : 1
      const isMore = (await unpark(webhookId, most, now)) === STEP
      if (isMore) await post([wakeMessage(webhookId)])
    } else {
      await db
        .update(webhooks)
        .set({ wakeAt: null })
        .where(and(eq(webhooks.id, webhookId), sql`status <> 'enabled'`))
    }
  }

  /** One step of a replay: what the endpoint takes of the next events. */
  async function replayStep(message: DeliveryMessage & { kind: 'replay' }, now: number): Promise<void> {
    const { webhookId, after, until, isAll } = message
    const [[webhook], found] = await db.batch([
      db.select().from(webhooks).where(eq(webhooks.id, webhookId)),
      db
        .select({ event: events, place: sql<number>`rowid` })
        .from(events)
        .where(and(sql`(created_at, rowid) > (${after[0]}, ${after[1]})`, lte(events.createdAt, until)))
        .orderBy(events.createdAt, sql`rowid`)
        .limit(STEP),
    ])
    const last = found.at(-1)
    if (!webhook || !last) return
    const wanted = found
      .filter(({ event }) => takes(webhook, event))
      .map(({ event }): [string, string] => [event.id, webhookId])
    await store(wanted, now, isAll ? 'all' : 'dead')
    if (found.length === STEP) await post([{ body: { ...message, after: [last.event.createdAt, last.place] } }])
  }

  const listener: Listener = {
    name: 'webhooks',
    wants: () => true,
    /** Stores a delivery for each endpoint that takes the event. Those it has stored before it leaves alone. */
    async handle(happened) {
      const endpoints = await db
        .select()
        .from(webhooks)
        .where(inArray(webhooks.status, ['enabled', 'paused']))
      const pairs = happened.flatMap((event) =>
        endpoints.filter((webhook) => takes(webhook, event)).map(({ id }): [string, string] => [event.id, id]),
      )
      await store(pairs, Date.now())
    },
  }

  return {
    listener,

    /** Takes messages of the queue; answers which failed. */
    async consume(messages: DeliveryMessage[], now = Date.now()): Promise<Set<DeliveryMessage>> {
      const failed = new Set<DeliveryMessage>()
      const run = async (of: DeliveryMessage[], work: () => Promise<void>) => {
        await work().catch((error: unknown) => {
          onFailure('deliveries', error)
          for (const message of of) failed.add(message)
        })
      }
      const tickets = messages.filter((message) => message.kind === 'delivery')
      const works = messages.flatMap((message) => {
        if (message.kind === 'delivery') return []
        return run([message], () => (message.kind === 'wake' ? wake(message.webhookId, now) : replayStep(message, now)))
      })
      if (tickets.length > 0) works.push(run(tickets, () => attempts.deliver(tickets, now)))
      await Promise.all(works)
      return failed
    },

    /** Tells the queue again of at most `most` deliveries that are overdue, and of endpoints to be woken. For the cron. */
    async resend(most: number, now = Date.now()): Promise<void> {
      const overdue = db
        .select({ id: deliveries.id })
        .from(deliveries)
        .where(and(isNotNull(deliveries.dueAt), lte(deliveries.dueAt, now)))
        .orderBy(deliveries.dueAt)
        .limit(most)
      const asleep = db
        .select({ id: webhooks.id })
        .from(webhooks)
        .where(and(isNotNull(webhooks.wakeAt), lte(webhooks.wakeAt, now)))
        .limit(STEP)
      const [late, waking] = await db.batch([
        db
          .update(deliveries)
          .set({ dueAt: now + CRON_PATIENCE_MS })
          .where(sql`${deliveries.id} IN ${overdue}`)
          .returning({ id: deliveries.id, turn: deliveries.turn }),
        db
          .update(webhooks)
          .set({ wakeAt: now + PATIENCE_MS })
          .where(sql`${webhooks.id} IN ${asleep}`)
          .returning({ id: webhooks.id }),
      ])
      await post([...inOrder(late).map((row) => messageOf(row)), ...waking.map(({ id }) => wakeMessage(id))])
    },

    /** What was, is or will be sent to an endpoint, the newest first, with every attempt. Two D1 round trips. */
    async list(
      webhookId: string,
      status: 'pending' | 'delivered' | 'dead' | undefined,
      limit: number,
      cursor = 'dl_~',
    ) {
      const [known, rows] = await db.batch([
        db.select({ id: webhooks.id }).from(webhooks).where(eq(webhooks.id, webhookId)),
        db
          .select({ delivery: deliveries, type: events.type })
          .from(deliveries)
          .leftJoin(events, eq(events.id, deliveries.eventId))
          .where(
            and(
              eq(deliveries.webhookId, webhookId),
              status === undefined ? undefined : eq(deliveries.status, status),
              lt(deliveries.id, cursor),
            ),
          )
          .orderBy(desc(deliveries.id))
          .limit(limit + 1),
      ])
      if (known.length === 0) throw new Problem('not-found', `There is no webhook ${webhookId}`)
      const ids = rows.map(({ delivery }) => delivery.id)
      const made = await db
        .select()
        .from(deliveryAttempts)
        .where(inArray(deliveryAttempts.deliveryId, listOf(ids)))
        .orderBy(deliveryAttempts.deliveryId, deliveryAttempts.at)
      const byId = Map.groupBy(made, (attempt) => attempt.deliveryId)
      const page: Page<ReturnType<typeof shownDelivery>> = pageOf(
        rows,
        limit,
        ({ delivery }) => delivery.id,
        ({ delivery, type }) => shownDelivery(delivery, type, byId.get(delivery.id) ?? []),
      )
      return page
    },

    /**
     * Sends a delivery again, from the first attempt on, under the same `webhook-id`. Refused as `webhook-not-enabled`,
     * or `event-gone` when there is nothing left to send. Two D1 round trips.
     */
    async replay(id: string, now = Date.now()): Promise<void> {
      const [found] = await db
        .select({ webhook: webhooks, eventId: events.id })
        .from(deliveries)
        .innerJoin(webhooks, eq(webhooks.id, deliveries.webhookId))
        .leftJoin(events, eq(events.id, deliveries.eventId))
        .where(eq(deliveries.id, id))
      if (!found) throw new Problem('not-found', `There is no delivery ${id}`)
      requireStoring(found.webhook)
      if (found.eventId === null) throw new Problem('event-gone', `The event of ${id} is not kept any more`)
      const due = sql`(SELECT ${dueAt(now)} FROM webhooks WHERE webhooks.id = webhook_id)`
      const again = await db
        .update(deliveries)
        .set({ status: 'pending', attempts: 0, turn: sql`turn + 1`, dueAt: due })
        .where(eq(deliveries.id, id))
        .returning()
      await post(again.filter((row) => row.dueAt !== null).map((row) => messageOf(row)))
    },

    /**
     * Sends what happened since (Unix ms) and the endpoint takes: what was given up or never stored, and with `isAll` what
     * arrived too. The queue does it step by step.
     */
    async replaySince(webhookId: string, since: number, isAll: boolean, now = Date.now()): Promise<void> {
      const [webhook] = await db.select().from(webhooks).where(eq(webhooks.id, webhookId))
      if (!webhook) throw new Problem('not-found', `There is no webhook ${webhookId}`)
      requireStoring(webhook)
      await post([
        { body: { kind: 'replay', webhookId, after: [since - 1, Number.MAX_SAFE_INTEGER], until: now, isAll } },
      ])
    },

    /** Deletes at most `most` deliveries from before `before` (Unix ms), with their attempts. For the cron. */
    async purge(most: number, before: number): Promise<number> {
      const old = db
        .select({ id: deliveries.id })
        .from(deliveries)
        .where(and(lt(deliveries.id, `dl_${ulid(Math.max(before, 0)).toLowerCase()}`), isNull(deliveries.dueAt)))
        .orderBy(deliveries.id)
        .limit(most)
      const gone = await db
        .delete(deliveries)
        .where(sql`${deliveries.id} IN ${old}`)
        .returning({ id: deliveries.id })
      return gone.length
    },
  }
}

/** When the cron looks after a new delivery: not at all if it is to wait until its endpoint, `webhooks`, wakes. */
const dueAt = (now: number) => sql`CASE
  WHEN webhooks.status = 'enabled'
    AND (webhooks.open_until IS NULL OR webhooks.open_until <= ${now} OR webhooks.wake_at IS NULL)
  THEN ${now + PATIENCE_MS} END`

/** Whether an endpoint takes such an event. */
function takes({ channels, types, filter }: WebhookRow, event: StoredEvent): boolean {
  if (event.audience === 'others') return false // what strangers see is not what is so
  if (!channels.includes(event.channel) || types?.includes(event.type) === false) return false
  return filter === null || meets(event, filter as Filter) // it was one when it was stored
}

const inOrder = <T extends { id: string }>(rows: T[]) => rows.sort((a, b) => (a.id < b.id ? -1 : 1))

/** Refuses what is not stored for an endpoint that is neither enabled nor paused. */
function requireStoring(webhook: WebhookRow): void {
  if (webhook.status !== 'enabled' && webhook.status !== 'paused') notEnabled(webhook)
}

const shownDelivery = (
  { id, eventId, webhookId, status }: typeof deliveries.$inferSelect,
  type: string | null,
  attempts: (typeof deliveryAttempts.$inferSelect)[],
) => ({ id, webhookId, eventId, type, status, attempts: attempts.map(shownAttempt) })
