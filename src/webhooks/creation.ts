import { eq, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { repeatOnce } from '../db/repeat.ts'
import { webhooks } from '../db/schema.ts'
import { invalidField, Problem } from '../errors.ts'
import { isPublicChannel } from '../events/catalog.ts'
import { newId } from '../ids.ts'
import type { Challenges } from './challenge.ts'
import { type GuardPolicy, requireAllowed } from './guard.ts'
import { PATIENCE_MS } from './messages.ts'
import { updateWebhook } from './repeat.ts'
import { newSecret, sealHeaders } from './rotation.ts'
import type { Filter } from './schema.ts'
import type { WebhookRow } from './sender.ts'
import type { Vault } from './vault.ts'
import { shown, shownAttempt, unknownWebhook } from './view.ts'

/** What a back end subscribes an endpoint to. */
export interface Subscription {
  url: string
  channels: string[]
  /** Null: every type of those channels. */
  types: string[] | null
  filter: Filter | null
  description: string
  headers: Record<string, string>
  /** Null: none. */
  tenant: string | null
}

/** How many endpoints a tenant may add: its people must not use up those of others. */
const MAX_PER_TENANT = 20

/** Refuses a subscription of a tenant to channels that are not public: see `eventFor`. */
export function requirePublic({ tenant, channels }: Pick<Subscription, 'tenant' | 'channels'>): void {
  const refused = tenant === null ? undefined : channels.find((channel) => !isPublicChannel(channel))
  if (refused !== undefined)
    throw invalidField('body', 'channels', `must not have ${refused}: the webhook has a tenant`)
}

/** Adds endpoints. D1 and HTTP only. */
export function createCreation(
  db: DrizzleD1Database,
  challenges: Pick<Challenges, 'enable'>,
  vault: Vault,
  policy: GuardPolicy & { maxEndpoints: number },
) {
  /**
   * Adds an endpoint and sends it the challenge; it is enabled if it answers. The secret is returned this once; a back
   * end may bring its own, to verify the challenge too. Refused as `too-many-webhooks` by the statement that would add
   * it, so that concurrent requests cannot exceed `maxEndpoints`. A request that fails is undone,
   * at once or by the cron, so that to repeat it adds one endpoint; to repeat one that succeeded adds another.
   */
  async function create(subscription: Subscription & { secret?: string | undefined }, host: string) {
    requireAllowed(subscription.url, policy, host)
    requirePublic(subscription)
    const secret = subscription.secret ?? newSecret()
    const row = await insert(db, vault, { ...subscription, secret }, policy.maxEndpoints)
    try {
      const { attempt, row: enabled } = await challenges.enable(row, 'created')
      const created = enabled ?? (await finish(db, row))
      return { ...shown(created), secret, challenge: shownAttempt(attempt) }
    } catch (error) {
      await db
        .delete(webhooks)
        .where(eq(webhooks.id, row.id))
        .catch(() => {}) // the cron removes it: see `insert`
      throw error
    }
  }

  return { create }
}

/**
 * Stores an unverified endpoint, unless there are `most`. Safe to repeat under its id. `wakeAt` is set until the creation
 * is finished: when it is due, the cron removes the endpoint.
 */
async function insert(
  db: DrizzleD1Database,
  vault: Vault,
  { url, channels, types, filter, description, headers, secret, tenant }: Subscription & { secret: string },
  most: number,
): Promise<WebhookRow> {
  const now = Date.now()
  const id = newId('wh', now)
  const json = (value: object | null) => value && JSON.stringify(value)
  const isAllowed = sql`NOT EXISTS (SELECT 1 FROM ${webhooks} WHERE id > 'wh_' LIMIT 1 OFFSET ${most - 1})
      AND NOT EXISTS (SELECT 1 FROM ${webhooks} WHERE tenant = ${tenant} LIMIT 1 OFFSET ${MAX_PER_TENANT - 1})
    OR EXISTS (SELECT 1 FROM ${webhooks} WHERE id = ${id})`
  const sealed = { secret: vault.seal(secret, id), headers: json(sealHeaders(vault, headers, id)) }
  const [row] = await repeatOnce(() =>
    db
      .insert(webhooks)
      .select(
        // In the order of the table.
        sql`
          SELECT ${id}, ${url}, ${json(channels)}, ${json(types)}, ${json(filter)}, ${description}, ${sealed.headers},
            ${sealed.secret}, NULL, NULL, 'unverified', NULL, NULL, 0, NULL, NULL, ${now + PATIENCE_MS}, ${now}, ${now},
            ${tenant}
          WHERE ${isAllowed}`,
      )
      .onConflictDoUpdate({ target: webhooks.id, set: { url } })
      .returning(),
  )
  if (row) return row
  const limits = `${most} webhooks (WEBHOOK_MAX_ENDPOINTS)${tenant === null ? '' : `, and ${MAX_PER_TENANT} of a tenant`}`
  throw new Problem('too-many-webhooks', `There are at most ${limits}: delete one first`)
}

/** Ends the creation of an endpoint that did not answer the challenge: it stays unverified. Safe to repeat. */
async function finish(db: DrizzleD1Database, { id }: WebhookRow): Promise<WebhookRow> {
  const wakeAt = sql`CASE ${webhooks.status} WHEN 'unverified' THEN NULL ELSE ${webhooks.wakeAt} END`
  return (await updateWebhook(db, eq(webhooks.id, id), { wakeAt })) ?? unknownWebhook(id)
}
