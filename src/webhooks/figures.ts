import { desc, gt, gte, lt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { webhookHours, webhooks } from '../db/schema.ts'

/** How many endpoints the dashboard shows, and how many deliveries of each are counted at most. */
const MAX_ENDPOINTS = 100
const MAX_COUNTED = 1_000
const HOUR_MS = 3_600_000

/** The hour of a time (Unix ms), as `webhook_hours` counts it. */
export const hourOf = (timeMs: number) => Math.floor(timeMs / HOUR_MS)

/** Counts of attempts and deliveries of the newest endpoints, for the dashboard. One D1 round trip. */
export async function readFigures(db: DrizzleD1Database, now: number) {
  const countOf = (status: string) =>
    sql<number>`(
      SELECT count(*) FROM (
        SELECT 1 FROM deliveries WHERE webhook_id = webhooks.id AND status = ${status} LIMIT ${MAX_COUNTED}
      )
    )`.as(status)
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
      .where(gte(webhookHours.hour, hourOf(now) - 23)),
  ])
  const byId = Map.groupBy(hours, (hour) => hour.webhookId)
  return rows.map(({ id, url, status, pending, dead }) => {
    const sum = (of: 'succeeded' | 'failed') => (byId.get(id) ?? []).reduce((total, hour) => total + hour[of], 0)
    const [succeeded, failed] = [sum('succeeded'), sum('failed')]
    const successRate = succeeded + failed === 0 ? null : succeeded / (succeeded + failed)
    const [host, isEnabled] = [new URL(url).host, status === 'enabled']
    return { id, host, isEnabled, succeeded, failed, successRate, pending, dead }
  })
}

/** Deletes at most `most` hourly counts that are older than two days. Answers how many. For the cron. */
export async function purgeFigures(db: DrizzleD1Database, most: number, now: number): Promise<number> {
  const old = db
    .select({ rowid: sql`rowid` })
    .from(webhookHours)
    .where(lt(webhookHours.hour, hourOf(now) - 48))
    .limit(most)
  const purged = await db
    .delete(webhookHours)
    .where(sql`rowid IN ${old}`)
    .returning({ hour: webhookHours.hour })
  return purged.length
}
