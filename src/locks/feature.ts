import type { Feature } from '../feature.ts'
import { locks as routes } from './routes.ts'

/** Locks with fencing tokens, for services. The cron uses the same locks for exclusive jobs. */
export const locks: Feature = { name: 'locks', routes: [['/v1/locks', () => routes]] }
