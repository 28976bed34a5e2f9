import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { and, eq, sql } from 'drizzle-orm'
import { webhooks } from '../db/schema.ts'
import type { StoredEvent } from '../events/catalog.ts'
import type { Outbox } from '../events/outbox.ts'
import { within } from '../redis/within.ts'
import { type DeliveryClaims, createDeliveryClaims } from './claims.ts'
import { runInLanes } from './lanes.ts'
import type { Outgoing } from './messages.ts'
import { createResultRecorder } from './outcomes.ts'
import { type Batch, createRun, type DeliveryPolicy } from './run.ts'
import type { Sender, WebhookRow } from './sender.ts'

/** A batch ends after this long. The invocation still waits for slow endpoints. */
const BATCH_MS = 100
/**
 * How old the row of an endpoint may be when a request starts: after it was deleted, paused or moved, only requests that
 * started within this time complete. Longer saves D1 queries, of which a batch makes one at most per request.
 */
const FRESH_MS = 50

export type Attempts = ReturnType<typeof createAttempts>

interface Dependencies {
  db: DrizzleD1Database
  outbox: Pick<Outbox, 'transaction'>
  send: Sender
  enqueue: (messages: Outgoing[]) => Promise<unknown>
  /** Enables a disabled endpoint if it answers again. */
  probe: (webhook: WebhookRow) => Promise<unknown>
  policy: DeliveryPolicy
  /** The CloudEvents `source`. */
  source: string
  /** The event as endpoints receive it: parts of it may be encrypted in D1. */
  reveal: (event: StoredEvent) => StoredEvent
  onAttempt: (isSuccess: boolean) => void
  /** When this isolate started the request in flight to each endpoint (Unix ms). */
  inFlight: Map<string, number>
  defer: (work: () => Promise<unknown>) => void
  /** Receives failures that are repaired later: their origin, and the error. */
  onFailure: (origin: string, error: unknown) => void
}

/**
 * Attempts deliveries. A slow, failing or changed endpoint affects no other. D1 round trips: two for a batch of the queue,
 * one for each `FRESH_MS` in which requests start, and one or more to record the outcomes. No Redis.
 */
export function createAttempts(dependencies: Dependencies) {
  const { db, policy, defer } = dependencies
  const claims = createDeliveryClaims(db)
  const record = createResultRecorder(dependencies)

  /** Waits for `work` for `BATCH_MS` at most. The invocation waits for the rest. */
  async function waitFor(work: Promise<unknown>): Promise<void> {
    defer(() => work)
    await within(work, BATCH_MS)
  }

  /**
   * Attempts the deliveries named by messages of the queue. What is claimed and lost returns when its lease ends. Safe
   * to repeat: who has claimed a delivery attempts it.
   */
  async function deliver(tickets: { id: string; turn: number }[], startedAt: number): Promise<void> {
    const claimed = await claims.claim(tickets, startedAt)
    if (claimed.length === 0) return
    const { endpoints, events, ordered } = await claims.load(claimed)
    for (const [id, event] of events) {
      try {
        events.set(id, dependencies.reveal(event))
      } catch (error) {
        dependencies.onFailure('deliveries', error)
        events.delete(id) // nobody can read it any more
      }
    }
    const recording: Promise<void>[] = []
    const track = (work: Promise<void>) => void recording.push(work)
    const { claimTest, reload, discardOrphans } = claims
    const batch: Batch = {
      ...dependencies,
      startedAt,
      events,
      latest: keepFresh(endpoints, reload),
      claimTest,
      record,
      track,
    }
    const byEndpoint = Map.groupBy(ordered, (delivery) => delivery.webhookId)
    const tasks = endpoints.map((webhook) => createRun(webhook, byEndpoint.get(webhook.id) ?? [], batch))
    const known = new Set(endpoints.map(({ id }) => id))
    const orphans = claimed.filter(({ webhookId }) => !known.has(webhookId))
    const work = async () => {
      await Promise.all([runInLanes(tasks), discardOrphans(orphans)])
      await Promise.all(recording)
    }
    await waitFor(work())
  }

  /**
   * Tests whether an endpoint that was disabled for failing answers again: once in `probeMs`, by one invocation. Safe
   * to repeat.
   */
  async function probe(webhook: WebhookRow, now: number): Promise<void> {
    const claimed = await db
      .update(webhooks)
      .set({ wakeAt: now + policy.probeMs })
      .where(and(eq(webhooks.id, webhook.id), sql`wake_at IS ${webhook.wakeAt}`))
      .returning({ id: webhooks.id })
    if (claimed.length > 0) await waitFor(dependencies.probe(webhook))
  }

  return { deliver, probe }
}

/** Reads the rows of a batch again, all at once, when they are older than `FRESH_MS`. */
function keepFresh(endpoints: WebhookRow[], reload: DeliveryClaims['reload']): Batch['latest'] {
  const ids = endpoints.map(({ id }) => id)
  let read = { at: Date.now(), rows: Promise.resolve(endpoints) }
  return async (webhookId) => {
    const now = Date.now()
    if (now - read.at > FRESH_MS) read = { at: now, rows: reload(ids) }
    return (await read.rows).find(({ id }) => id === webhookId)
  }
}
