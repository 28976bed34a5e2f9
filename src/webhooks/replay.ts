import { and, eq, lte, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { deliveries, events, webhooks } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { isOf, requireStoring, unknownDelivery, unknownWebhook } from './view.ts'
import { dueAt, eventFor, type FanOut, takes } from './fan-out.ts'
import { type DeliveryMessage, deliveryMessage, type Outgoing } from './messages.ts'

type ReplayMessage = DeliveryMessage & { kind: 'replay' }

/** How many events one step of a replay reads. */
const STEP = 100
/** A step that fails is enqueued again after this long, for a day: longer than the queue itself would try. */
const RETRY_SECONDS = 60
const GIVE_UP_MS = 86_400_000

/** Replays: one delivery, or all events since a time. D1 and the queue only. */
export function createReplays(
  db: DrizzleD1Database,
  enqueue: (messages: Outgoing[]) => Promise<unknown>,
  store: FanOut['store'],
) {
  /**
   * Attempts a delivery again, from the start of its schedule, under the same `webhook-id`. Recorded first: the cron
   * enqueues it if its message is lost. Refused as `webhook-not-enabled`, as `event-gone` when the event was purged, and as
   * `not-found` where `tenant` does not have the endpoint. Two D1 round trips.
   */
  async function replay(id: string, tenant?: string, now = Date.now()): Promise<void> {
    await requireReplayable(db, id, tenant)
    const due = sql`(SELECT ${dueAt(now)} FROM webhooks WHERE webhooks.id = webhook_id)`
    const restarted = await db
      .update(deliveries)
      .set({ status: 'pending', attempts: 0, turn: sql`turn + 1`, dueAt: due })
      .where(eq(deliveries.id, id))
      .returning()
    await enqueue(restarted.filter((row) => row.dueAt !== null).map((row) => deliveryMessage(row)))
  }

  /**
   * Replays the events since a time (Unix ms) that the endpoint takes: dead and never stored ones, and with `isAll`
   * delivered ones too. The queue does it in steps. A refused request has enqueued nothing; to repeat one is safe.
   */
  async function replaySince(webhookId: string, since: number, isAll: boolean, now = Date.now()): Promise<void> {
    const [webhook] = await db.select().from(webhooks).where(eq(webhooks.id, webhookId))
    requireStoring(webhook ?? unknownWebhook(webhookId))
    const after: [number, number] = [since - 1, Number.MAX_SAFE_INTEGER]
    await enqueue([{ body: { kind: 'replay', webhookId, after, until: now, isAll } }])
  }

  /** Takes one step, and enqueues the next; or the same again where D1 fails, so that an outage ends no replay. */
  async function step(message: ReplayMessage, now: number): Promise<void> {
    try {
      const next = await takeStep(db, store, message, now)
      if (next) await enqueue([{ body: { ...message, after: next } }])
    } catch (error) {
      if (now - message.until > GIVE_UP_MS) throw error
      await enqueue([{ body: message, delaySeconds: RETRY_SECONDS }])
    }
  }

  return { replay, replaySince, step }
}

async function requireReplayable(db: DrizzleD1Database, id: string, tenant: string | undefined): Promise<void> {
  const [found] = await db
    .select({ webhook: webhooks, event: events })
    .from(deliveries)
    .innerJoin(webhooks, eq(webhooks.id, deliveries.webhookId))
    .leftJoin(events, eq(events.id, deliveries.eventId))
    .where(and(eq(deliveries.id, id), isOf(tenant)))
  if (!found) unknownDelivery(id)
  requireStoring(found.webhook)
  if (!found.event || !eventFor(found.webhook, found.event))
    throw new Problem('event-gone', `The event of ${id} is not kept any more, or not public`)
}

/** Stores what the endpoint takes of the next events. Answers where the next step begins. Safe to repeat. */
async function takeStep(db: DrizzleD1Database, store: FanOut['store'], message: ReplayMessage, now: number) {
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
  if (!webhook || !last) return undefined
  const taken = found
    .filter(({ event }) => takes(webhook, event))
    .map(({ event }): [string, string] => [event.id, webhookId])
  await store(taken, now, isAll ? 'all' : 'dead')
  return found.length === STEP ? ([last.event.createdAt, last.place] satisfies [number, number]) : undefined
}
