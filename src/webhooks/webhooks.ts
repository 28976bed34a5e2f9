import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { ulid } from 'ulid'
import { Problem } from '../errors.ts'
import { type CloudEvent, formatSequence } from '../events/catalog.ts'
import type { Outbox } from '../events/outbox.ts'
import { service } from '../service.ts'
import { createChallenges } from './challenge.ts'
import { createCreation } from './creation.ts'
import { createEndpoints } from './endpoints.ts'
import { purgeFigures, readFigures } from './figures.ts'
import { createRotation } from './rotation.ts'
import type { GuardPolicy } from './guard.ts'
import { isSuccess, type Sender, type WebhookRow } from './sender.ts'
import type { Vault } from './vault.ts'
import { findWebhook, notEnabled, shown, shownAttempt } from './view.ts'

export type Webhooks = ReturnType<typeof createWebhooks>
export const webhooksService = service<Webhooks>('webhooks')

/**
 * Endpoints. `unverified`: it has not answered a challenge yet and receives nothing else. `enabled`: it receives events.
 * `paused` by its owner: events are stored, and sent when it is enabled again. `disabled`, because it answered 410 or
 * failed for days: events are not stored, but can be replayed. No Redis.
 */
export function createWebhooks(dependencies: {
  db: DrizzleD1Database
  outbox: Pick<Outbox, 'transaction'>
  send: Sender
  vault: Vault
  /** Enqueues the parked deliveries of an endpoint, after the answer. */
  wakeSoon: (webhookId: string) => void
  policy: GuardPolicy & { maxEndpoints: number }
  /** The CloudEvents `source` of samples. */
  source: string
}) {
  const { db, send, vault, policy, source } = dependencies
  const challenges = createChallenges(dependencies)

  return {
    ...createCreation(db, challenges, vault, policy),
    ...createEndpoints(db, challenges, vault, policy),
    ...createRotation(db, vault),

    /** Sends a challenge and enables the endpoint if it answers. Refused as `challenge-failed`. Safe to repeat. */
    async enable(id: string) {
      const { row, attempt } = await challenges.enable(await findWebhook(db, id), 'enabled by request')
      if (row) return shown(row)
      throw new Problem('challenge-failed', attempt.error ?? `It answered ${attempt.status}`, {
        challenge: shownAttempt(attempt),
      })
    },

    /** Enables an endpoint that was disabled for failing, if it answers again. Safe to repeat. */
    probe: (row: WebhookRow): Promise<unknown> => challenges.enable(row, 'it answers again'),

    /** Sends a sample once, and returns the attempt. Writes nothing. */
    async test(id: string) {
      const row = await findWebhook(db, id)
      if (row.status === 'unverified') notEnabled(row)
      const sample = sampleOf(id, source)
      const attempt = await send(row, {
        id: sample.id,
        contentType: 'application/cloudevents+json',
        body: JSON.stringify(sample),
      })
      return { ...shownAttempt(attempt), isDelivered: isSuccess(attempt), sample }
    },

    figures: (now = Date.now()) => readFigures(db, now),
    purge: (most: number, now: number) => purgeFigures(db, most, now),
  }
}

const sampleOf = (webhookId: string, source: string): CloudEvent => ({
  specversion: '1.0',
  id: `ev_test_${ulid().toLowerCase()}`,
  source,
  type: 'webhook_test',
  subject: webhookId,
  time: new Date().toISOString(),
  datacontenttype: 'application/json',
  channel: 'webhook_events',
  sequence: formatSequence(0),
  data: { webhookId },
})
