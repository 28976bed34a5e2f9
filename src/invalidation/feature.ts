import type { Feature } from '../feature.ts'
import { invalidation as routes } from './routes.ts'

/** Lets back ends that write the database invalidate the caches. */
export const invalidation: Feature = { name: 'invalidation', routes: [['/v1/cache', () => routes]] }
