import { and, eq, inArray, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { deliveries, events, webhooks } from '../db/schema.ts'
import type { StoredEvent } from '../events/catalog.ts'
import type { WebhookRow } from './sender.ts'

/** A delivery that one batch holds for `LEASE_MS`. */
export interface Claimed {
  id: string
  eventId: string
  webhookId: string
  attempts: number
  turn: number
}

/** How long a claimed delivery is reserved for its batch. The cron enqueues it again after that. */
const LEASE_MS = 120_000

export type DeliveryClaims = ReturnType<typeof createDeliveryClaims>

/** What a batch of the queue claims and loads. D1 only, one round trip each. A lost claim ends with its lease. */
export function createDeliveryClaims(db: DrizzleD1Database) {
  /** Claims the deliveries that are still at the turn of their message (compare-and-set). */
  function claim(tickets: { id: string; turn: number }[], now: number): Promise<Claimed[]> {
    const given = JSON.stringify(tickets.map(({ id, turn }) => [id, turn]))
    return db.all<Claimed>(sql`
        UPDATE ${deliveries} SET turn = turn + 1, due_at = ${now + LEASE_MS}
        FROM json_each(${given}) AS ticket
        WHERE ${deliveries.id} = ticket.value ->> 0 AND turn = ticket.value ->> 1
          AND status = 'pending' AND due_at IS NOT NULL
        RETURNING ${deliveries.id} AS id, event_id AS eventId, webhook_id AS webhookId, attempts, turn`)
  }

  /** Claims the one delivery that tests an endpoint with a half-open circuit (compare-and-set). Safe to repeat. */
  async function claimTest({ id, openUntil }: WebhookRow, now: number): Promise<boolean> {
    const until = now + LEASE_MS
    const claimed = await db
      .update(webhooks)
      .set({ openUntil: until, wakeAt: until })
      .where(and(eq(webhooks.id, id), sql`open_until IS ${openUntil}`))
      .returning({ id: webhooks.id })
    return claimed.length > 0
  }

  /** The rows of endpoints as they are now. */
  const reload = async (ids: string[]): Promise<WebhookRow[]> => byIds(db, ids)

  /** Ends deliveries whose endpoint was deleted. Safe to repeat. */
  async function discardOrphans(orphans: Claimed[]): Promise<void> {
    if (orphans.length === 0) return
    await db
      .update(deliveries)
      .set({ status: 'dead', dueAt: null })
      .where(inArray(deliveries.id, listOf(orphans.map(({ id }) => id))))
  }

  return { claim, claimTest, load: (claimed: Claimed[]) => load(db, claimed), reload, discardOrphans }
}

/** The endpoints and events of claimed deliveries, and the deliveries in the order of their events. */
async function load(db: DrizzleD1Database, claimed: Claimed[]) {
  const idsOf = (field: 'eventId' | 'webhookId') => [...new Set(claimed.map((delivery) => delivery[field]))]
  const [endpoints, found] = await db.batch([
    byIds(db, idsOf('webhookId')),
    db
      .select({ event: events, place: sql<number>`rowid` })
      .from(events)
      .where(inArray(events.id, listOf(idsOf('eventId')))),
  ])
  const places = new Map(found.map(({ event, place }) => [event.id, place]))
  const ordered = claimed.toSorted((a, b) => (places.get(a.eventId) ?? 0) - (places.get(b.eventId) ?? 0))
  return { endpoints, events: new Map<string, StoredEvent>(found.map(({ event }) => [event.id, event])), ordered }
}

const byIds = (db: DrizzleD1Database, ids: string[]) =>
  db
    .select()
    .from(webhooks)
    .where(inArray(webhooks.id, listOf(ids)))
