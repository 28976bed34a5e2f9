import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { createLocks } from '../redis/lock.ts'
import { createFences } from './fences.ts'
import { fencesService, locksService } from './locks.ts'
import { locks as routes } from './routes.ts'

/** Locks with fencing tokens, for services and for exclusive jobs. */
export const locks: Feature = {
  name: 'locks',
  provides: [
    provide(locksService, ({ redis }) => createLocks({ redis: redis.writes, keys })),
    provide(fencesService, ({ db }) => createFences(db)),
  ],
  routes: [['/v1/locks', routes]],
}
