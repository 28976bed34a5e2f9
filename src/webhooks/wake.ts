import { and, eq, isNotNull, isNull, lte, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { countUpTo } from '../db/count.ts'
import { deliveries, webhooks } from '../db/schema.ts'
import { oldestFirst } from './fan-out.ts'
import { stateOf } from './circuit.ts'
import { deliveryMessage, type Outgoing, PATIENCE_MS, wakeMessage } from './messages.ts'
import type { WebhookRow } from './sender.ts'

/** As `PATIENCE_MS`, for messages from the cron: more messages do not help a queue that lags behind. */
const CRON_PATIENCE_MS = 600_000
/** How many deliveries one step takes out of the park. */
const STEP = 100

/**
 * Brings deliveries back: parked ones when their endpoint wakes (`wakeAt`), and those the queue has lost (`dueAt`). Each
 * is recorded first and safe to repeat: a message names the turn of a delivery, which one batch claims. D1 only.
 */
export function createWaking(
  db: DrizzleD1Database,
  enqueue: (messages: Outgoing[]) => Promise<unknown>,
  probe: (webhook: WebhookRow, now: number) => Promise<unknown>,
) {
  /** Enqueues the `most` oldest parked deliveries of an endpoint. Answers how many there were. Safe to repeat. */
  async function unpark(webhookId: string, most: number, now: number): Promise<number> {
    const [freed] = await db.batch(unparkStatements(db, webhookId, most, now))
    await enqueue(oldestFirst(freed).map((delivery) => deliveryMessage(delivery)))
    return freed.length
  }

  /**
   * Sends the parked deliveries of an endpoint, tests one that was disabled for failing, or removes an unfinished one.
   * Safe to repeat: what the queue refused is due, so the cron sends it.
   */
  async function wake(webhookId: string, now: number): Promise<void> {
    const [webhook] = await db.select().from(webhooks).where(eq(webhooks.id, webhookId))
    if (webhook?.status === 'disabled' && webhook.disabledReason === 'failing') {
      await probe(webhook, now)
    } else if (webhook?.status === 'enabled') {
      const state = stateOf(webhook, now)
      if (state === 'open') return // another message arrives when it is half-open, or the cron sends one
      const isMore = (await unpark(webhookId, state === 'closed' ? STEP : 1, now)) === STEP
      if (isMore) await enqueue([wakeMessage(webhookId)])
    } else {
      await db.batch(forgetStatements(db, webhookId))
    }
  }

  /**
   * Enqueues at most `most` deliveries that are overdue, and the endpoints that are due to wake. Returns how many
   * deliveries are still overdue. For the cron. Safe to repeat: an attempt claims its delivery.
   */
  async function resend(most: number, now = Date.now()): Promise<number> {
    const [late, waking] = await db.batch(resendStatements(db, most, now))
    await enqueue([...oldestFirst(late).map((row) => deliveryMessage(row)), ...waking.map(({ id }) => wakeMessage(id))])
    return countUpTo(db, deliveries, sql`due_at IS NOT NULL AND due_at <= ${now}`)
  }

  return { wake, resend }
}

/** Makes parked deliveries due, and sets when to wake the endpoint for those that are left. */
function unparkStatements(db: DrizzleD1Database, webhookId: string, most: number, now: number) {
  const parked = db
    .select({ id: deliveries.id })
    .from(deliveries)
    .where(and(eq(deliveries.webhookId, webhookId), sql`status = 'pending'`, isNull(deliveries.dueAt)))
    .orderBy(deliveries.id)
    .limit(most)
  return [
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
  ] as const
}

/** Nothing has changed an endpoint since it was stored, and its creation has not cleared the mark. */
const isUnfinished = sql`${webhooks.wakeAt} IS NOT NULL AND ${webhooks.updatedAt} = ${webhooks.createdAt}`

/** Removes an endpoint whose creation was not finished, and clears `wakeAt` of one that receives nothing. */
const forgetStatements = (db: DrizzleD1Database, webhookId: string) =>
  [
    db.delete(webhooks).where(and(eq(webhooks.id, webhookId), eq(webhooks.status, 'unverified'), isUnfinished)),
    db
      .update(webhooks)
      .set({ wakeAt: null })
      .where(and(eq(webhooks.id, webhookId), sql`status <> 'enabled'`)),
  ] as const

function resendStatements(db: DrizzleD1Database, most: number, now: number) {
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
  return [
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
  ] as const
}
