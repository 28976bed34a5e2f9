import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { notificationsService } from '../notifications/notifications.ts'
import { userExports } from './export.ts'
import { createFollows, followsService } from './follows.ts'
import { users as routes } from './routes.ts'
import { type CachedUser, createUsers, usersService } from './users.ts'

/** Profiles, and who follows whom. */
export const users: Feature = {
  name: 'users',
  provides: [
    provide(usersService, (platform) => {
      const { cache } = platform
      const { users: policy } = platform.config.caches
      return createUsers(
        platform,
        cache<CachedUser>({ ...policy, name: 'user', key: keys.user, versionOf: (user) => user.revision }),
        cache<string>({ ...policy, name: 'username', key: keys.username, versionOf: () => 0 }),
      )
    }),
    provide(followsService, (platform) =>
      createFollows(platform, platform.use(usersService), (userIds) =>
        platform.use(notificationsService).invalidate(userIds),
      ),
    ),
  ],
  routes: [['/v1/users', () => routes]],
  exports: () => userExports,
  removals: { user: ({ use }, id, most) => use(followsService).removeOf(id, most) },
}
