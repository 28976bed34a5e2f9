import { type Feature, provide } from '../feature.ts'
import { createAccountExport, exportService } from './export.ts'
import { accountExport as routes } from './routes.ts'

/** Everything that features store about a user, for that user. */
export const accountExport: Feature = {
  name: 'export',
  provides: [
    provide(exportService, (platform) => {
      const all = platform.features.flatMap(({ exports }) => Object.entries(exports?.() ?? {}))
      return createAccountExport(
        new Map(all.map(([kind, read]) => [kind, (userId, after) => read(platform, userId, after)])),
      )
    }),
  ],
  routes: [['/v1/users', () => routes]],
}
