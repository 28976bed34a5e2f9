import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { createFollows, followsService } from './follows.ts'
import { users as routes } from './routes.ts'
import { type CachedUser, createUsers, usersService } from './users.ts'

/** Profiles, and who follows whom. */
export const users: Feature = {
  name: 'users',
  provides: [
    provide(usersService, ({ db, cache, outbox, writeThrough, config }) =>
      createUsers(
        db,
        cache<CachedUser>({
          ...config.caches.users,
          name: 'user',
          key: keys.user,
          versionOf: (user) => user.revision,
        }),
        cache<string>({ ...config.caches.users, name: 'username', key: keys.username, versionOf: () => 0 }),
        outbox,
        writeThrough,
      ),
    ),
    provide(followsService, ({ db, use, outbox, writeThrough }) =>
      createFollows(db, use(usersService), outbox, writeThrough),
    ),
  ],
  routes: [['/v1/users', routes]],
}
