import { eq, inArray, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { monotonicFactory } from 'ulid'
import { deliveries, webhooks, webhookVersion } from '../db/schema.ts'
import { isPublicChannel, type StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'
import { meets } from './filter.ts'
import { deliveryMessage, type Outgoing, PATIENCE_MS } from './messages.ts'
import type { Filter } from './schema.ts'
import type { WebhookRow } from './sender.ts'

/** How many deliveries one statement stores. */
const STORE_AT_ONCE = 1_000
/** An isolate reads the endpoints again after this long, whatever their version says. */
const MAX_AGE_MS = 60_000

/** What decides whether an endpoint takes an event. */
export type Subscriber = Pick<WebhookRow, 'id' | 'channels' | 'types' | 'filter' | 'tenant'>

/** The endpoints that events are stored for, as an isolate has read them. */
export interface Subscribers {
  read: { version: string; at: number; endpoints: Subscriber[] } | undefined
}
export const subscribersService = service<Subscribers>('webhook subscribers')

/**
 * The endpoints that are enabled or paused. `subscribers` belongs to the isolate. One D1 query, of the row that has their
 * version; another of all endpoints after a change. So an endpoint that was changed before gets what it subscribes to now.
 */
async function readSubscribers(db: DrizzleD1Database, subscribers: Subscribers, now: number): Promise<Subscriber[]> {
  const versions = db.select({ version: webhookVersion.version }).from(webhookVersion).where(eq(webhookVersion.id, 1))
  const [row] = await versions
  const { read } = subscribers
  const ageMs = read ? now - read.at : Infinity
  if (read && read.version === (row?.version ?? '') && ageMs >= 0 && ageMs < MAX_AGE_MS) return read.endpoints
  const [[latest], endpoints] = await db.batch([
    versions,
    db
      .select({
        id: webhooks.id,
        channels: webhooks.channels,
        types: webhooks.types,
        filter: webhooks.filter,
        tenant: webhooks.tenant,
      })
      .from(webhooks)
      .where(inArray(webhooks.status, ['enabled', 'paused'])),
  ])
  subscribers.read = { version: latest?.version ?? '', at: now, endpoints }
  return endpoints
}

export const hintTakersService = service<ReturnType<typeof createHintTakers>>('hint takers')

/** Selects the hints that an endpoint takes: only those are stored. `readSubscribers` for a batch of them. */
export const createHintTakers =
  (db: DrizzleD1Database, subscribers: Subscribers) =>
  async (hints: StoredEvent[]): Promise<StoredEvent[]> => {
    const endpoints = await readSubscribers(db, subscribers, Date.now())
    return hints.filter((hint) => endpoints.some((endpoint) => takes(endpoint, hint)))
  }

export type FanOut = ReturnType<typeof createFanOut>

/**
 * Stores a delivery for each event and endpoint that takes it. Recorded first: what is not enqueued then, the cron
 * enqueues. Two D1 round trips for a batch of events, and another after a change of an endpoint: see `readSubscribers`.
 * `store` checks the status again. No Redis.
 */
export function createFanOut(
  db: DrizzleD1Database,
  subscribers: Subscribers,
  enqueue: (messages: Outgoing[]) => Promise<unknown>,
) {
  /**
   * Stores deliveries and enqueues them. Safe to repeat: those that exist stay as they are. A replay restarts those that
   * are dead, or `all` that have ended.
   */
  async function store(pairs: [eventId: string, webhookId: string][], now: number, replay?: 'dead' | 'all') {
    const nextId = monotonicFactory()
    const restart = sql`DO UPDATE SET status = 'pending', attempts = 0, turn = turn + 1, due_at = excluded.due_at
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
        ON CONFLICT (event_id, webhook_id) ${replay ? restart : sql`DO NOTHING`}
        RETURNING id, turn, due_at`)
      await enqueue(oldestFirst(stored.filter((row) => row.due_at !== null)).map((row) => deliveryMessage(row)))
    }
  }

  const listener: Listener = {
    name: 'webhooks',
    wants: () => true,
    async handle(happened) {
      const now = Date.now()
      const endpoints = await readSubscribers(db, subscribers, now)
      const pairs = happened.flatMap((event) =>
        endpoints.filter((webhook) => takes(webhook, event)).map(({ id }): [string, string] => [event.id, id]),
      )
      await store(pairs, now)
    },
  }

  return { store, listener }
}

/**
 * When the cron enqueues a new delivery that the queue has lost. Null: it is parked until its endpoint, `webhooks`,
 * wakes.
 */
export const dueAt = (now: number) => sql`CASE
  WHEN webhooks.status = 'enabled'
    AND (webhooks.open_until IS NULL OR webhooks.open_until <= ${now} OR webhooks.wake_at IS NULL)
  THEN ${now + PATIENCE_MS} END`

/** Whether an endpoint subscribes to an event. */
export function takes(webhook: Subscriber, event: StoredEvent): boolean {
  const { channels, types, filter } = webhook
  if (!eventFor(webhook, event)) return false
  if (!channels.includes(event.channel) || types?.includes(event.type) === false) return false
  return filter === null || meets(event, filter as Filter) // validated before it was stored
}

/**
 * An event as an endpoint may receive it. Undefined: not at all. The people of a tenant see what strangers see: they choose
 * the URL and read deliveries, so their endpoint gets only that, whatever it subscribed to before. Other endpoints see all but
 * `others`: what strangers see of a presence that is hidden from them.
 */
export function eventFor({ tenant }: Pick<WebhookRow, 'tenant'>, event: StoredEvent): StoredEvent | undefined {
  const { audience, channel } = event
  if (tenant === null) return audience === 'others' ? undefined : event
  if ((audience !== 'everyone' && audience !== 'others') || !isPublicChannel(channel)) return undefined
  return event.publicSequence ? { ...event, sequence: event.publicSequence } : event
}

export const oldestFirst = <T extends { id: string }>(rows: T[]) => rows.toSorted((a, b) => (a.id < b.id ? -1 : 1))
