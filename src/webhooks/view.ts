import { eq, type SQL } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { webhooks } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { ShownAttempt, ShownWebhook } from './schema.ts'
import type { Attempt, WebhookRow } from './sender.ts'

/** Hides the endpoints of others from a tenant. Undefined: a back end, which sees all. */
export const isOf = (tenant: string | undefined): SQL | undefined =>
  tenant === undefined ? undefined : eq(webhooks.tenant, tenant)

/** Reads an endpoint, or refuses as `not-found`. One D1 round trip. */
export async function findWebhook(db: DrizzleD1Database, id: string): Promise<WebhookRow> {
  const [row] = await db.select().from(webhooks).where(eq(webhooks.id, id))
  return row ?? unknownWebhook(id)
}

export function unknownWebhook(id: string): never {
  throw new Problem('not-found', `There is no webhook ${id}`)
}

export function unknownDelivery(id: string): never {
  throw new Problem('not-found', `There is no delivery ${id}`)
}

export function notEnabled({ id, status }: WebhookRow): never {
  throw new Problem('webhook-not-enabled', `${id} is ${status}`)
}

/** Refuses endpoints that no deliveries are stored for: only enabled and paused ones have any. */
export function requireStoring(webhook: WebhookRow): void {
  if (webhook.status !== 'enabled' && webhook.status !== 'paused') notEnabled(webhook)
}

/** The data of an event about an endpoint. Of the URL only the origin: the rest may contain a secret. */
export const aboutWebhook = ({ id, url }: WebhookRow, reason: string) => ({
  data: { webhookId: id, url: new URL(url).origin, reason },
  audience: 'services' as const,
})

export const timeOf = (ms: number) => new Date(ms).toISOString()

/** An endpoint as services see it: without secrets and header values. */
export const shown = (row: WebhookRow): ShownWebhook => ({
  id: row.id,
  url: row.url,
  channels: row.channels,
  types: row.types,
  filter: row.filter,
  description: row.description,
  headerNames: Object.keys(row.headers),
  status: row.status,
  disabledReason: row.disabledReason,
  failingSince: row.failingSince === null ? null : timeOf(row.failingSince),
  previousSecretUntil: row.previousSecretUntil === null ? null : timeOf(row.previousSecretUntil),
  tenant: row.tenant,
  createdAt: timeOf(row.createdAt),
  updatedAt: timeOf(row.updatedAt),
})

/** An attempt as services see it. */
export const shownAttempt = ({
  at,
  durationMs,
  status,
  error,
  answer,
  answerHeaders,
}: Omit<Attempt, 'retryAfterMs'>): ShownAttempt => ({
  at: timeOf(at),
  durationMs,
  status,
  error,
  answer,
  answerHeaders,
})
