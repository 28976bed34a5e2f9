import { and, desc, eq, inArray, isNull, lt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteColumn } from 'drizzle-orm/sqlite-core'
import { listOf } from '../db/list.ts'
import { deliveries, deliveryAttempts, events, webhooks } from '../db/schema.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import { service } from '../service.ts'
import type { Attempts } from './attempts.ts'
import { MAIL_CHANNEL, toCloudEvent } from '../events/catalog.ts'
import { shownHeaders } from './sender.ts'
import { isOf, shownAttempt, unknownDelivery, unknownWebhook } from './view.ts'
import { createFanOut, eventFor, type Subscribers } from './fan-out.ts'
import type { DeliveryMessage, Outgoing } from './messages.ts'
import { createReplays } from './replay.ts'
import type { ShownDelivery, ShownRequest } from './schema.ts'
import { createWaking } from './wake.ts'

export type Deliveries = ReturnType<typeof createDeliveries>
export const deliveriesService = service<Deliveries>('deliveries')

/**
 * Deliveries. D1 is the truth, queue messages are wake-ups: each names the turn of a delivery, which one batch claims
 * (compare-and-set), and `dueAt` is when the cron enqueues it again. So a message may be lost, late or doubled; an event
 * arrives at least once, always under the same `webhook-id`.
 *
 * An endpoint that is paused, disabled or has an open circuit costs nothing: its deliveries are parked, without a
 * message, until it wakes (`wakeAt`). No Redis.
 */
export function createDeliveries(dependencies: {
  db: DrizzleD1Database
  /** The endpoints as this isolate has read them. */
  subscribers: Subscribers
  attempts: Attempts
  enqueue: (messages: Outgoing[]) => Promise<unknown>
  /** The CloudEvents `source`. */
  source: string
  /** Receives failures that are repaired later: their origin, and the error. */
  onFailure: (origin: string, error: unknown) => void
}) {
  const { db, subscribers, attempts, enqueue, source, onFailure } = dependencies
  const { store, listener } = createFanOut(db, subscribers, enqueue)
  const { wake, resend } = createWaking(db, enqueue, attempts.probe)
  const { replay, replaySince, step } = createReplays(db, enqueue, store)

  return {
    listener,
    resend,
    replay,
    replaySince,
    list: (webhookId: string, status: Status | undefined, limit: number, cursor?: string) =>
      list(db, webhookId, status, limit, cursor),
    read: (id: string, tenant: string | undefined) => read(db, source, id, tenant),
    purge: (most: number, before: number) => purge(db, most, before),

    /** Handles messages of the queue. Answers which failed. */
    async consume(messages: DeliveryMessage[], now = Date.now()): Promise<Set<DeliveryMessage>> {
      const failed = new Set<DeliveryMessage>()
      const run = (of: DeliveryMessage[], work: () => Promise<void>) =>
        work().catch((error: unknown) => {
          onFailure('deliveries', error)
          for (const message of of) failed.add(message)
        })
      const tickets = messages.filter((message) => message.kind === 'delivery')
      const works = messages.flatMap((message) => {
        if (message.kind === 'delivery') return []
        return run([message], () => (message.kind === 'wake' ? wake(message.webhookId, now) : step(message, now)))
      })
      if (tickets.length > 0) works.push(run(tickets, () => attempts.deliver(tickets, now)))
      await Promise.all(works)
      return failed
    },
  }
}

type Status = 'pending' | 'delivered' | 'dead'

/** The deliveries of an endpoint, the newest first, with every attempt. Two D1 round trips. */
async function list(
  db: DrizzleD1Database,
  webhookId: string,
  status: Status | undefined,
  limit: number,
  cursor = 'dl_~',
): Promise<Page<ShownDelivery>> {
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
  if (known.length === 0) unknownWebhook(webhookId)
  const attempts = await db
    .select()
    .from(deliveryAttempts)
    .where(inArray(deliveryAttempts.deliveryId, listOf(rows.map(({ delivery }) => delivery.id))))
    .orderBy(deliveryAttempts.deliveryId, deliveryAttempts.at)
  const byId = Map.groupBy(attempts, (attempt) => attempt.deliveryId)
  return pageOf(
    rows,
    limit,
    ({ delivery }) => delivery.id,
    ({ delivery, type }) => shownDelivery(delivery, type, byId.get(delivery.id) ?? []),
  )
}

/**
 * A delivery with its attempts and its request, made from the event as it is stored. The body is null where the event is not
 * kept, may not be received, or is a message to a user. `not-found` where `tenant` does not have the endpoint. One D1 round
 * trip.
 */
async function read(
  db: DrizzleD1Database,
  source: string,
  id: string,
  tenant: string | undefined,
): Promise<ShownDelivery & { request: ShownRequest }> {
  const idOf = (column: SQLiteColumn) => sql`(SELECT ${column} FROM ${deliveries} WHERE ${deliveries.id} = ${id})`
  const [[delivery], [webhook], [stored], attempts] = await db.batch([
    db.select().from(deliveries).where(eq(deliveries.id, id)),
    db
      .select()
      .from(webhooks)
      .where(and(eq(webhooks.id, idOf(deliveries.webhookId)), isOf(tenant))),
    db
      .select()
      .from(events)
      .where(eq(events.id, idOf(deliveries.eventId))),
    db.select().from(deliveryAttempts).where(eq(deliveryAttempts.deliveryId, id)).orderBy(deliveryAttempts.at),
  ])
  if (!delivery || !webhook) unknownDelivery(id)
  const event = stored && stored.channel !== MAIL_CHANNEL ? eventFor(webhook, stored) : undefined
  const sent = { id: delivery.eventId, traceparent: event?.traceparent ?? null }
  return {
    ...shownDelivery(delivery, stored?.type ?? null, attempts),
    request: {
      url: webhook.url,
      headers: shownHeaders(webhook, sent, attempts.at(-1)?.at),
      body: event ? JSON.stringify(toCloudEvent(event, source)) : null,
    },
  }
}

const shownDelivery = (
  { id, eventId, webhookId, status }: typeof deliveries.$inferSelect,
  type: string | null,
  attempts: (typeof deliveryAttempts.$inferSelect)[],
): ShownDelivery => ({ id, webhookId, eventId, type, status, attempts: attempts.map(shownAttempt) })

/** Deletes at most `most` deliveries from before `before` (Unix ms), with their attempts. For the cron. */
async function purge(db: DrizzleD1Database, most: number, before: number): Promise<number> {
  const old = db
    .select({ id: deliveries.id })
    .from(deliveries)
    .where(and(lt(deliveries.id, newId('dl', Math.max(before, 0))), isNull(deliveries.dueAt)))
    .orderBy(deliveries.id)
    .limit(most)
  const purged = await db
    .delete(deliveries)
    .where(sql`${deliveries.id} IN ${old}`)
    .returning({ id: deliveries.id })
  return purged.length
}
