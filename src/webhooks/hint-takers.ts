import { and, inArray } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { IS_HINTED, webhooks } from '../db/schema.ts'
import type { StoredEvent } from '../events/catalog.ts'
import { service } from '../service.ts'
import { takes } from './fan-out.ts'

export const hintTakersService = service<ReturnType<typeof createHintTakers>>('hint takers')

/**
 * Tells which hints an endpoint takes: only those are stored. One D1 query for a batch of likes, about one a second
 * however many likes there are. Its index has only the endpoints on channels with hints: usually it reads no row. So a new
 * subscription counts at once, without a cache to invalidate.
 */
export const createHintTakers =
  (db: DrizzleD1Database) =>
  async (hints: StoredEvent[]): Promise<StoredEvent[]> => {
    const endpoints = await db
      .select()
      .from(webhooks)
      .where(and(IS_HINTED, inArray(webhooks.status, ['enabled', 'paused'])))
    return hints.filter((hint) => endpoints.some((endpoint) => takes(endpoint, hint)))
  }
