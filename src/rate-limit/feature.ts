import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { keys } from '../keys.ts'
import { createBoundedMap } from '../redis/bounded-map.ts'
import { createKnownAllowances, createRateLimit, createUncounted } from '../redis/rate-limit.ts'
import { limitsService, limitState } from './rate-limit.ts'
import { rateLimit as routes } from './routes.ts'

/** How many callers an isolate remembers. */
const KNOWN_CALLERS = 10_000

/** Limits per caller and policy. `http/admit.ts` applies them. */
export const rateLimit: Feature = {
  name: 'rate-limit',
  provides: [
    provideForIsolate(limitState, () => ({
      known: createKnownAllowances(KNOWN_CALLERS),
      uncounted: createUncounted(),
      live: createBoundedMap(KNOWN_CALLERS, () => 1),
    })),
    provide(limitsService, (platform) => {
      const { known, uncounted } = platform.use(limitState)
      return createRateLimit(() => platform.redis.once, known, uncounted, platform.config.limits, keys.rateLimit)
    }),
  ],
  routes: [['/v1/rate-limit', () => routes]],
  removals: {
    async user({ use }, id) {
      await use(limitsService).forget(id)
      return { next: null }
    },
  },
}
