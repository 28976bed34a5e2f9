import { and, eq, gt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { relations as rows } from '../db/schema.ts'

/** Rows of a page: some hundred KB. */
const PAGE_ROWS = 1_000

/** Whom a user blocks or mutes. Who blocks or mutes the user is nobody else's to tell. */
const ofKind =
  (kind: 'block' | 'mute') =>
  async ({ db }: { db: DrizzleD1Database }, userId: string, after: string | null) => {
    const found = await db
      .select({ id: rows.id, userId: rows.otherId, createdAt: rows.createdAt })
      .from(rows)
      .where(and(eq(rows.userId, userId), eq(rows.kind, kind), after === null ? undefined : gt(rows.id, after)))
      .orderBy(rows.id)
      .limit(PAGE_ROWS)
    return { rows: found, next: found.length === PAGE_ROWS ? (found.at(-1)?.id ?? null) : null }
  }

export const relationExports = { block: ofKind('block'), mute: ofKind('mute') }
