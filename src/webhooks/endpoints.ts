import { and, desc, eq, inArray, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { webhooks } from '../db/schema.ts'
import { type Page, pageOf } from '../page.ts'
import type { Challenges } from './challenge.ts'
import { requirePublic, type Subscription } from './creation.ts'
import { readHealth } from './figures.ts'
import { type GuardPolicy, requireAllowed } from './guard.ts'
import { updateWebhook } from './repeat.ts'
import { sealHeaders } from './rotation.ts'
import type { ShownListed } from './schema.ts'
import type { Vault } from './vault.ts'
import { findWebhook, isOf, notEnabled, shown, shownAttempt, unknownWebhook } from './view.ts'

/** Reads and changes endpoints. D1, and HTTP for the challenge. */
export function createEndpoints(
  db: DrizzleD1Database,
  challenges: Pick<Challenges, 'move'>,
  vault: Vault,
  policy: GuardPolicy,
) {
  return {
    read: async (id: string) => shown(await findWebhook(db, id)),

    /** Refuses an endpoint of another tenant, or of none, as `not-found`. One D1 query. */
    async requireTenant(id: string, tenant: string): Promise<void> {
      if ((await findWebhook(db, id)).tenant !== tenant) unknownWebhook(id)
    },

    /** A page of endpoints, of a tenant or of all, the newest first, each with its health. Two D1 round trips. */
    async list(limit: number, cursor = 'wh_~', tenant?: string, now = Date.now()): Promise<Page<ShownListed>> {
      const rows = await db
        .select()
        .from(webhooks)
        .where(and(isOf(tenant), lt(webhooks.id, cursor)))
        .orderBy(desc(webhooks.id))
        .limit(limit + 1)
      const healthOf = await readHealth(db, rows.slice(0, limit), now)
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        (row) => ({ ...shown(row), health: healthOf(row) }),
      )
    },

    /** Changes an endpoint. Another URL, or that of an unverified endpoint, is sent the challenge. Safe to repeat. */
    async change(id: string, { url, ...changes }: Partial<Subscription>, host: string) {
      const before = await findWebhook(db, id)
      if (url !== undefined) requireAllowed(url, policy, host)
      requirePublic({ ...before, ...changes })
      const headers = changes.headers === undefined ? {} : { headers: sealHeaders(vault, changes.headers, id) }
      const sealed = { ...changes, ...headers }
      if (url !== undefined && (url !== before.url || before.status === 'unverified')) {
        const { attempt, row } = await challenges.move(before, { ...sealed, url })
        return { ...shown(row ?? unknownWebhook(id)), challenge: shownAttempt(attempt) }
      }
      const row = await updateWebhook(db, eq(webhooks.id, id), { ...sealed, updatedAt: Date.now() })
      return shown(row ?? unknownWebhook(id))
    },

    /** Deletes an endpoint. Its deliveries end. Safe to repeat: then it answers `not-found`. */
    async remove(id: string): Promise<void> {
      const remove = () => db.delete(webhooks).where(eq(webhooks.id, id)).returning({ id: webhooks.id })
      const removed = await remove().catch(async () => {
        await remove() // the first may have been executed: what counts is that there is none now
        return [{ id }]
      })
      if (removed.length === 0) unknownWebhook(id)
    },

    /** Pauses an endpoint: events are stored for it, not sent. Refused as `webhook-not-enabled`. Safe to repeat. */
    async pause(id: string) {
      const canPause = and(eq(webhooks.id, id), inArray(webhooks.status, ['enabled', 'paused']))
      const row = await updateWebhook(db, canPause, { status: 'paused', updatedAt: Date.now() })
      return shown(row ?? notEnabled(await findWebhook(db, id)))
    },
  }
}
