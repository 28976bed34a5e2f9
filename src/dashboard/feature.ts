import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { createBoundedMap } from '../redis/bounded-map.ts'
import { serviceTokensService } from '../service-tokens/service-tokens.ts'
import { checkedSessions, createDashboard, dashboardService } from './dashboard.ts'
import { guard, portalLinks, session } from './routes.ts'

/** How many sessions an isolate remembers. */
const REMEMBERED = 1_000

/** The dashboard's sessions, and its way to service routes: `Feature.dashboard`. */
export const dashboard: Feature = {
  name: 'dashboard',
  provides: [
    provideForIsolate(checkedSessions, () => createBoundedMap(REMEMBERED, () => 1)),
    provide(dashboardService, ({ db, use, config }) =>
      createDashboard({
        db,
        key: config.serviceToken,
        serviceTokens: use(serviceTokensService),
        checked: use(checkedSessions),
        trustMs: config.serviceTokenTrustMs,
      }),
    ),
  ],
  routes: [
    ['/dashboard/session', () => session],
    ['/dashboard/v1', () => guard],
    ['/v1/webhooks/portal-links', () => portalLinks],
  ],
  dashboard: [['/v1/webhooks/portal-links', () => portalLinks]],
  purges: { dashboardSignOuts: ({ use }, most, now) => use(dashboardService).purge(most, now) },
}
