import type { LimitName } from '../config.ts'
import { service } from '../service.ts'
import type { KnownAllowances, RateLimit, Uncounted } from '../redis/rate-limit.ts'

/** The limits of all callers, by policy. */
export const limitsService = service<RateLimit<LimitName>>('limits')

/** What an isolate knows about limits between requests. */
export interface LimitState {
  /** The allowances of recent callers. */
  known: KnownAllowances
  /** Requests that are answered but not counted yet. */
  uncounted: Uncounted<LimitName>
}
export const limitState = service<LimitState>('limit state')
