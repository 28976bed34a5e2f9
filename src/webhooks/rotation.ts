import { and, eq, gt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { randomBytes } from 'node:crypto'
import { repeatOnce } from '../db/repeat.ts'
import { webhooks } from '../db/schema.ts'
import { signingSecrets, type WebhookRow } from './sender.ts'
import type { Vault } from './vault.ts'
import { findWebhook, shown } from './view.ts'

/** How long previous secrets sign after a rotation. */
const OVERLAP_MS = 86_400_000
/**
 * How many of them sign. The answers of as many rotations in a row may be lost: receivers still verify with the secret
 * they have. A replaced secret signs for at most this many days, with a rotation on each.
 */
const MAX_PREVIOUS = 3

/** The secrets of endpoints: their rotation, and that of the key that encrypts them. D1 only. */
export function createRotation(db: DrizzleD1Database, vault: Vault) {
  /**
   * Replaces the secret, and returns the new one this once. The previous ones sign for another day. A lost reply is
   * resolved by reading the row again. To repeat a request is safe, but makes another secret: see `MAX_PREVIOUS`. Two D1
   * round trips.
   */
  async function rotate(id: string, now = Date.now()): Promise<ReturnType<typeof shown> & { secret: string }> {
    const before = await findWebhook(db, id)
    const reseal = (value: string) => vault.seal(vault.open(value, id), id)
    const previousSecret = signingSecrets(before, now).slice(0, MAX_PREVIOUS).map(reseal).join(' ')
    const secret = newSecret()
    const sealed = vault.seal(secret, id)
    const [row] = await repeatOnce(() =>
      db
        .update(webhooks)
        .set({ secret: sealed, previousSecret, previousSecretUntil: now + OVERLAP_MS, updatedAt: now })
        // Where the first run was executed, the second finds its own secret.
        .where(sql`${webhooks.id} = ${id} AND ${webhooks.secret} IN (${before.secret}, ${sealed})`)
        .returning(),
    )
    return row ? { ...shown(row), secret } : rotate(id, now) // a concurrent rotation was first
  }

  /**
   * Encrypts at most `most` endpoints with the first key: those in plain text, or encrypted with an older key. Answers how
   * many are left. Safe to repeat; one that changes meanwhile is left to the next run. For the cron.
   */
  async function reseal(most: number): Promise<number> {
    const isOld = sql`(${webhooks.secret} NOT LIKE ${`${vault.prefix}%`} OR EXISTS (
      SELECT 1 FROM json_each(${webhooks.headers}) WHERE value NOT LIKE ${`${vault.prefix}%`}))`
    const rows = await db
      .select()
      .from(webhooks)
      .where(and(gt(webhooks.id, 'wh_'), isOld))
      .limit(most + 1)
    const more = rows.splice(most)
    const updates = rows.flatMap((row) => resealStatement(db, vault, row) ?? [])
    const [first, ...rest] = updates
    if (first) await db.batch([first, ...rest])
    return more.length + rows.length - updates.length // without its key a row stays as it is
  }

  return { rotate, reseal }
}

/** Encrypts the secrets of one endpoint again, unless the row has changed. Undefined: the key is not configured. */
function resealStatement(db: DrizzleD1Database, vault: Vault, row: WebhookRow) {
  const { id, secret, previousSecret, headers } = row
  try {
    const reseal = (value: string) => vault.seal(vault.open(value, id), id)
    const opened = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, vault.open(value, id)]))
    return db
      .update(webhooks)
      .set({
        secret: reseal(secret),
        previousSecret: previousSecret?.split(' ').map(reseal).join(' ') ?? null,
        headers: sealHeaders(vault, opened, id),
      })
      .where(and(eq(webhooks.id, id), eq(webhooks.secret, secret), eq(webhooks.headers, headers)))
  } catch {
    return undefined
  }
}

export const newSecret = () => `whsec_${randomBytes(32).toString('base64')}`

/** Headers with encrypted values. */
export const sealHeaders = (vault: Vault, headers: Record<string, string>, id: string): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, vault.seal(value, id)]))
