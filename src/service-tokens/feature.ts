import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { createBoundedMap } from '../redis/bounded-map.ts'
import { serviceTokens as routes } from './routes.ts'
import { createServiceTokens, serviceTokenMemory, serviceTokensService } from './service-tokens.ts'

/** How many tokens an isolate remembers. */
const REMEMBERED = 1_000

/** Tokens of back ends, with names and scopes. `http/service-token.ts` checks them. */
export const serviceTokens: Feature = {
  name: 'service-tokens',
  provides: [
    provideForIsolate(serviceTokenMemory, () => createBoundedMap(REMEMBERED, () => 1)),
    provide(serviceTokensService, ({ db, use, config, defer }) =>
      createServiceTokens(db, use(serviceTokenMemory), config.serviceTokenTrustMs, defer),
    ),
  ],
  routes: [['/v1/service-tokens', () => routes]],
}
