import { and, desc, gt, inArray, lt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { webhookHours, webhooks } from '../db/schema.ts'
import { stateOf } from './circuit.ts'
import type { EndpointHealth } from './schema.ts'
import type { WebhookRow } from './sender.ts'
import { timeOf } from './view.ts'

/** How many endpoints the dashboard shows, and how many deliveries of each are counted at most. */
const MAX_ENDPOINTS = 100
const MAX_COUNTED = 1_000
const HOUR_MS = 3_600_000
const DAY_HOURS = 24
/** How long the counts of an hour are kept. */
const KEPT_HOURS = 48

/** The hour of a time (Unix ms), as `webhook_hours` counts it. */
export const hourOf = (timeMs: number) => Math.floor(timeMs / HOUR_MS)

/** How many deliveries with a status an endpoint has. */
const countOf = (status: string) =>
  sql<number>`(
    SELECT count(*) FROM (
      SELECT 1 FROM deliveries WHERE webhook_id = webhooks.id AND status = ${status} LIMIT ${MAX_COUNTED}
    )
  )`.as(status)

/** Counts of attempts and deliveries of the newest endpoints, for the dashboard. One D1 round trip. */
export async function readFigures(db: DrizzleD1Database, now: number) {
  const { id, url, status } = webhooks
  const [rows, hours] = await db.batch([
    db
      .select({ id, url, status, pending: countOf('pending'), dead: countOf('dead') })
      .from(webhooks)
      .where(gt(webhooks.id, 'wh_'))
      .orderBy(desc(webhooks.id))
      .limit(MAX_ENDPOINTS),
    db
      .select()
      .from(webhookHours)
      .where(gt(webhookHours.hour, hourOf(now) - DAY_HOURS)),
  ])
  const byId = Map.groupBy(hours, (hour) => hour.webhookId)
  return rows.map(({ id, url, status, pending, dead }) => {
    const [host, isEnabled] = [new URL(url).host, status === 'enabled']
    return Object.assign(sharesOf(byId.get(id) ?? []), { id, host, isEnabled, pending, dead })
  })
}

/**
 * The health of these endpoints, for a list of them. One D1 round trip: per endpoint at most 48 rows of `webhook_hours` and
 * `MAX_COUNTED` entries of an index.
 */
export async function readHealth(db: DrizzleD1Database, endpoints: WebhookRow[], now: number) {
  const ids = listOf(endpoints.map(({ id }) => id))
  const hour = hourOf(now)
  const kept = listOf(Array.from({ length: KEPT_HOURS }, (_, i) => hour - i))
  const [hours, counts] = await db.batch([
    db
      .select()
      .from(webhookHours)
      .where(and(inArray(webhookHours.hour, kept), inArray(webhookHours.webhookId, ids))),
    db
      .select({ id: webhooks.id, pending: countOf('pending') })
      .from(webhooks)
      .where(inArray(webhooks.id, ids)),
  ])
  const byId = Map.groupBy(hours, (hour) => hour.webhookId)
  const pending = new Map(counts.map((row) => [row.id, row.pending]))
  const lastOf = (times: number[]) => (Math.max(0, ...times) === 0 ? null : timeOf(Math.max(...times)))

  return (webhook: WebhookRow): EndpointHealth => {
    const own = byId.get(webhook.id) ?? []
    const circuit = stateOf(webhook, now)
    return {
      circuit,
      openUntil: circuit === 'open' && webhook.openUntil !== null ? timeOf(webhook.openUntil) : null,
      ...sharesOf(own.filter((row) => row.hour > hour - DAY_HOURS)),
      pending: pending.get(webhook.id) ?? 0,
      lastSuccessAt: lastOf(own.map((row) => row.lastSuccessAt)),
      lastFailureAt: lastOf(own.map((row) => row.lastFailureAt)),
    }
  }
}

/** How many attempts of some hours succeeded and failed. */
function sharesOf(hours: (typeof webhookHours.$inferSelect)[]) {
  const sum = (of: 'succeeded' | 'failed') => hours.reduce((total, hour) => total + hour[of], 0)
  const [succeeded, failed] = [sum('succeeded'), sum('failed')]
  return { succeeded, failed, successRate: succeeded + failed === 0 ? null : succeeded / (succeeded + failed) }
}

/**
 * Deletes at most `most` hourly counts that are older than two days. Answers how many. For the cron. Safe to repeat.
 */
export async function purgeFigures(db: DrizzleD1Database, most: number, now: number): Promise<number> {
  const old = db
    .select({ rowid: sql`rowid` })
    .from(webhookHours)
    .where(lt(webhookHours.hour, hourOf(now) - KEPT_HOURS))
    .limit(most)
  const purged = await db
    .delete(webhookHours)
    .where(sql`rowid IN ${old}`)
    .returning({ hour: webhookHours.hour })
  return purged.length
}
