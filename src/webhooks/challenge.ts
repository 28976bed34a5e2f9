import { type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteUpdateSetSource } from 'drizzle-orm/sqlite-core'
import { randomBytes } from 'node:crypto'
import * as v from 'valibot'
import { repeatOnce } from '../db/repeat.ts'
import { webhooks } from '../db/schema.ts'
import type { Outbox } from '../events/outbox.ts'
import { newId } from '../ids.ts'
import { HEALTHY } from './circuit.ts'
import { updateWebhook } from './repeat.ts'
import type { Attempt, Sender, WebhookRow } from './sender.ts'
import { aboutWebhook, findWebhook } from './view.ts'

export type Challenges = ReturnType<typeof createChallenges>

interface Dependencies {
  db: DrizzleD1Database
  outbox: Pick<Outbox, 'transaction'>
  send: Sender
  /** Enqueues the parked deliveries of an endpoint, after the answer. */
  wakeSoon: (webhookId: string) => void
}

/** Challenges: an endpoint proves that it wants to receive events by echoing a random text. D1 and HTTP only. */
export function createChallenges(dependencies: Dependencies) {
  const { db, send } = dependencies

  /** Enables an endpoint that answers a challenge, unless it was moved, paused or deleted meanwhile. Safe to repeat. */
  async function enable(row: WebhookRow, reason: string) {
    const { isAnswered, attempt } = await challenge(send, row)
    if (!isAnswered) return { attempt, row: undefined }
    const now = Date.now()
    const isSame = sql`${webhooks.id} = ${row.id} AND ${webhooks.url} = ${row.url} AND ${webhooks.status} = ${row.status}`
    const enabled = await verify(dependencies, row, { status: 'enabled', wakeAt: now }, isSame, reason, now)
    return { attempt, row: enabled ?? (await findWebhook(db, row.id)) }
  }

  /**
   * Moves an endpoint to another URL: sends the challenge there first, then writes all `changes` and what follows from the
   * answer in one transaction. So a lost reply leaves nothing half done, and to repeat it is safe.
   */
  async function move(before: WebhookRow, changes: Partial<WebhookRow>) {
    const { isAnswered, attempt } = await challenge(send, { ...before, ...changes })
    const now = Date.now()
    const isIt = sql`${webhooks.id} = ${before.id}`
    if (!isAnswered) {
      const unverified = {
        ...HEALTHY,
        status: 'unverified',
        disabledReason: null,
        wakeAt: null,
        updatedAt: now,
      } as const
      return { attempt, row: await updateWebhook(db, isIt, { ...changes, ...unverified }) }
    }
    // It stays paused, also if that happened during the challenge.
    const status = sql`CASE ${webhooks.status} WHEN 'paused' THEN 'paused' ELSE 'enabled' END`
    const wakeAt = sql`CASE ${webhooks.status} WHEN 'paused' THEN NULL ELSE ${now} END`
    return { attempt, row: await verify(dependencies, before, { ...changes, status, wakeAt }, isIt, 'moved', now) }
  }

  return { enable, move }
}

/** Sends a challenge. Writes nothing. */
async function challenge(send: Sender, row: WebhookRow): Promise<{ isAnswered: boolean; attempt: Attempt }> {
  const text = randomBytes(24).toString('base64url')
  const attempt = await send(row, {
    id: newId('ch'),
    contentType: 'application/json',
    body: JSON.stringify({ type: 'endpoint.challenge', challenge: text }),
    isAnswerNeeded: true,
  })
  if (attempt.status !== 200) return { isAnswered: false, attempt }
  if (readChallenge(attempt.answer) === text) return { isAnswered: true, attempt }
  return { isAnswered: false, attempt: { ...attempt, error: 'it answered, but not with the challenge' } }
}

/**
 * Writes the state of an endpoint that answered, in one transaction with the event `webhook_enabled` if it was disabled.
 * Safe to repeat, and repeated once: after it was executed, it finds nothing to change. Undefined: `where` does not hold.
 */
async function verify(
  { db, outbox, wakeSoon }: Dependencies,
  row: WebhookRow,
  changes: SQLiteUpdateSetSource<typeof webhooks>,
  where: SQL,
  reason: string,
  now: number,
): Promise<WebhookRow | undefined> {
  const [verified] = await repeatOnce(async () => {
    const update = db
      .update(webhooks)
      .set({ ...changes, ...HEALTHY, disabledReason: null, updatedAt: now })
      .where(where)
      .returning()
    if (row.status !== 'disabled') return update
    const isDisabled = sql`EXISTS (SELECT 1 FROM ${webhooks} WHERE ${where} AND ${webhooks.status} = 'disabled')`
    const transaction = outbox.transaction()
    const event = transaction.record({ type: 'webhook_enabled', ...aboutWebhook(row, reason) }, isDisabled, now)
    const [, updated] = await db.batch([event, update])
    transaction.enqueue()
    return updated
  })
  if (verified?.status === 'enabled') wakeSoon(row.id)
  return verified
}

function readChallenge(answer: string | null): string | undefined {
  try {
    return v.parse(v.object({ challenge: v.string() }), JSON.parse(answer ?? '')).challenge
  } catch {
    return undefined
  }
}
