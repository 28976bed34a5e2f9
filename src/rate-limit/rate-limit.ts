import type { LimitName } from '../config.ts'
import { service } from '../service.ts'
import type { BoundedMap } from '../redis/bounded-map.ts'
import type { KnownAllowances, RateLimit, Uncounted } from '../redis/rate-limit.ts'

/** The limits of all callers, by policy. */
export const limitsService = service<RateLimit<LimitName>>('limits')

/** What an isolate remembers about callers between requests. */
export interface LimitState {
  /** The allowances of recent callers. */
  known: KnownAllowances
  /** Requests that are answered but not counted yet. */
  uncounted: Uncounted<LimitName>
  /** Sessions that were live, by id, and until when this counts (Unix ms). */
  live: BoundedMap<number>
}
export const limitState = service<LimitState>('limit state')
