import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { notificationsService } from '../notifications/notifications.ts'
import { authorsGuard } from '../redis/authors.ts'
import { sessionStore } from '../sessions/sessions.ts'
import { usersService } from '../users/users.ts'
import { relationExports } from './export.ts'
import { createRelations, relationsService } from './relations.ts'
import { relations as routes } from './routes.ts'

/** Blocks and mutes. */
export const relations: Feature = {
  name: 'relations',
  provides: [
    provide(relationsService, (platform) => {
      const { use } = platform
      return createRelations(platform, {
        profiles: () => use(usersService),
        guard: authorsGuard(keys),
        change: (userId, state) => use(sessionStore).change(userId, state),
        dropInboxes: (userIds) => use(notificationsService).dropInboxes(userIds),
      })
    }),
  ],
  routes: [['/v1/users', () => routes]],
  exports: () => relationExports,
  removals: { user: ({ use }, id, most) => use(relationsService).removeOf(id, most) },
}
