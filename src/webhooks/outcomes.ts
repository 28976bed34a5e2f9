import { and, eq, ne, type SQL, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { deliveries, deliveryAttempts, webhookHours, webhooks } from '../db/schema.ts'
import type { Outbox, Transaction } from '../events/outbox.ts'
import type { Health } from './circuit.ts'
import { hourOf } from './figures.ts'
import { deliveryMessage, MAX_DELAY_MS, type Outgoing, PATIENCE_MS, wakeMessage } from './messages.ts'
import { type Attempt, isSuccess, type WebhookRow } from './sender.ts'
import { aboutWebhook } from './view.ts'

/** What becomes of a delivery. */
export interface DeliveryOutcome {
  id: string
  turn: number
  status: 'pending' | 'delivered' | 'dead'
  /** When to attempt it (Unix ms). Null: when its endpoint wakes, or never. */
  nextAt: number | null
  attempt?: Attempt
}

/** What a batch found out about one endpoint. */
export interface RunResult {
  /** The endpoint the attempts went to. */
  webhook: WebhookRow
  outcomes: DeliveryOutcome[]
  /** Its health after the attempts, if there were any. */
  health?: Health
  hasSucceeded: boolean
  /** Failures since the last success. */
  failed: number
  disable: 'gone' | 'failing' | undefined
}

export type RecordResult = ReturnType<typeof createResultRecorder>

/**
 * Records what batches found out, then enqueues what follows; together with the results that arrive while another is being
 * written. Recorded first: the cron enqueues what was not. A write that fails is not repeated, as counts would be added
 * twice: the leases end, and the deliveries are attempted again, under the same `webhook-id`. One D1 round trip.
 */
export function createResultRecorder(dependencies: {
  db: DrizzleD1Database
  outbox: Pick<Outbox, 'transaction'>
  enqueue: (messages: Outgoing[]) => Promise<unknown>
  policy: { failingMs: number; probeMs: number }
  /** Receives failures that are repaired later: their origin, and the error. */
  onFailure: (origin: string, error: unknown) => void
}) {
  const { db, outbox, enqueue, policy, onFailure } = dependencies
  let waiting: RunResult[] = []
  let writing: Promise<void> | undefined

  async function writeAll(): Promise<void> {
    while (waiting.length > 0) {
      const now = Date.now()
      const results = waiting
      waiting = []
      try {
        const transaction = outbox.transaction()
        const recording = { db, transaction, policy, now }
        const [first, ...rest] = results.flatMap((result) => statementsOf(result, recording))
        if (first) await db.batch([first, ...rest])
        transaction.enqueue()
        await enqueue(results.flatMap((result) => messagesOf(result, now)))
      } catch (error) {
        onFailure('deliveries', error)
      }
    }
    writing = undefined
  }

  return (result: RunResult): Promise<void> => {
    waiting.push(result)
    return (writing ??= writeAll())
  }
}

interface Recording {
  db: DrizzleD1Database
  transaction: Transaction
  policy: { failingMs: number; probeMs: number }
  now: number
}

function statementsOf(result: RunResult, recording: Recording): BatchItem<'sqlite'>[] {
  const { webhook, outcomes, disable } = result
  const { db, now } = recording
  const statements = [...outcomeStatements(webhook.id, outcomes, recording), ...healthStatements(result, recording)]
  if (outcomes.some(({ status, nextAt }) => status === 'pending' && nextAt === null)) {
    // An endpoint that is enabled meanwhile finds its parked deliveries at this time.
    const wakeAt = sql`coalesce(wake_at, ${now + PATIENCE_MS})`
    const canWake = and(eq(webhooks.id, webhook.id), ne(webhooks.status, 'unverified'))
    statements.push(db.update(webhooks).set({ wakeAt }).where(canWake))
  }
  if (disable) statements.push(...disableStatements(webhook, disable, recording))
  return statements
}

/** Sets the state of deliveries, and adds their attempts and the counts of the hour. */
function outcomeStatements(
  webhookId: string,
  outcomes: DeliveryOutcome[],
  { db, now }: Recording,
): BatchItem<'sqlite'>[] {
  const rows = outcomes.map(({ id, turn, status, nextAt, attempt }) => {
    // The cron enqueues what is due too late for a queue, and what the queue has lost.
    const dueAt = nextAt === null ? null : nextAt - now > MAX_DELAY_MS ? nextAt : nextAt + PATIENCE_MS
    return [id, turn, status, dueAt === null ? null : Math.round(dueAt), attempt ? 1 : 0]
  })
  const attempts = outcomes.flatMap(({ id, attempt }) => (attempt ? [{ id, ...attempt }] : []))
  const update = db
    .update(deliveries)
    .set({
      status: sql`outcome.value ->> 2`,
      dueAt: sql`outcome.value ->> 3`,
      attempts: sql`${deliveries.attempts} + (outcome.value ->> 4)`,
    })
    .from(sql`json_each(${JSON.stringify(rows)}) AS outcome`)
    .where(
      // A batch that has claimed the delivery since decides, unless the delivery arrived.
      sql`${deliveries.id} = outcome.value ->> 0
        AND (${deliveries.turn} = outcome.value ->> 1 OR outcome.value ->> 2 = 'delivered')`,
    )
  return attempts.length === 0 ? [update] : [update, ...attemptStatements(webhookId, attempts, db, now)]
}

function attemptStatements(
  webhookId: string,
  attempts: (Attempt & { id: string })[],
  db: DrizzleD1Database,
  now: number,
): BatchItem<'sqlite'>[] {
  const rows = attempts.map(({ id, at, durationMs, status, error, answer, answerHeaders }) => [
    id,
    at,
    durationMs,
    status,
    error,
    answer,
    answerHeaders,
  ])
  const succeeded = attempts.filter(isSuccess)
  const failed = attempts.filter((attempt) => !isSuccess(attempt))
  const latest = (some: Attempt[]) => Math.max(0, ...some.map(({ at }) => at))
  return [
    db
      .insert(deliveryAttempts)
      .select(
        sql`
          SELECT deliveries.id, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
            value ->> 6
          FROM json_each(${JSON.stringify(rows)}) CROSS JOIN ${deliveries} ON deliveries.id = value ->> 0
          WHERE true`,
      )
      .onConflictDoNothing(),
    db
      .insert(webhookHours)
      .values({
        hour: hourOf(now),
        webhookId,
        succeeded: succeeded.length,
        failed: failed.length,
        lastSuccessAt: latest(succeeded),
        lastFailureAt: latest(failed),
      })
      .onConflictDoUpdate({
        target: [webhookHours.hour, webhookHours.webhookId],
        set: {
          succeeded: sql`succeeded + excluded.succeeded`,
          failed: sql`failed + excluded.failed`,
          lastSuccessAt: sql`max(last_success_at, excluded.last_success_at)`,
          lastFailureAt: sql`max(last_failure_at, excluded.last_failure_at)`,
        },
      }),
  ]
}

/** Updates the health of an endpoint if it changed, and if it is still at the address the attempts went to. */
function healthStatements(
  { webhook, health, hasSucceeded, failed }: RunResult,
  { db, now }: Recording,
): BatchItem<'sqlite'>[] {
  if (!health) return []
  const { failures, failingSince, openUntil, slowSince } = health
  const isSame =
    failures === webhook.failures &&
    failingSince === webhook.failingSince &&
    slowSince === webhook.slowSince &&
    openUntil === webhook.openUntil
  if (isSame) return []
  const circuit =
    openUntil !== null
      ? { openUntil, wakeAt: openUntil }
      : hasSucceeded && webhook.openUntil !== null
        ? { openUntil: null, wakeAt: now }
        : {}
  return [
    db
      .update(webhooks)
      .set({
        // Other batches may have counted failures meanwhile.
        failures: hasSucceeded ? failures : sql`max(failures + ${failed}, ${failures})`,
        failingSince,
        slowSince,
        ...circuit,
      })
      .where(isAt(webhook)),
  ]
}

/** Disables an endpoint that is enabled, and records the event in the same transaction. */
function disableStatements(
  webhook: WebhookRow,
  disabledReason: 'gone' | 'failing',
  { db, transaction, policy, now }: Recording,
): BatchItem<'sqlite'>[] {
  const days = Math.round(policy.failingMs / 86_400_000)
  const reason = disabledReason === 'gone' ? 'it answered 410' : `it has been failing for ${days} days`
  const isEnabled = sql`${isAt(webhook)} AND status = 'enabled'`
  const wakeAt = disabledReason === 'gone' ? null : now + policy.probeMs
  return [
    transaction.record(
      { type: 'webhook_disabled', ...aboutWebhook(webhook, reason) },
      sql`EXISTS (SELECT 1 FROM ${webhooks} WHERE ${isEnabled})`,
      now,
    ),
    db.update(webhooks).set({ status: 'disabled', disabledReason, wakeAt, updatedAt: now }).where(isEnabled),
  ]
}

const isAt = ({ id, url }: WebhookRow): SQL => sql`${webhooks.id} = ${id} AND ${webhooks.url} = ${url}`

/** The messages that bring deliveries back, and wake the endpoint when its circuit is half-open or has closed. */
function messagesOf({ webhook, outcomes, health, hasSucceeded, disable }: RunResult, now: number): Outgoing[] {
  const messages = outcomes.flatMap(({ id, turn, nextAt }) =>
    nextAt === null || nextAt - now > MAX_DELAY_MS ? [] : [deliveryMessage({ id, turn }, nextAt - now)],
  )
  if (!health || disable) return messages
  if (health.openUntil !== null) return [...messages, wakeMessage(webhook.id, health.openUntil - now)]
  return hasSucceeded && webhook.openUntil !== null ? [...messages, wakeMessage(webhook.id)] : messages
}
