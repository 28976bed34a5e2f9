import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import type { Platform } from '../platform.ts'
import type { Cache } from '../redis/cache.ts'
import { createFollows, followsService } from './follows.ts'
import { users as routes } from './routes.ts'
import { type CachedUser, createUsers, type UsersDependencies, usersService } from './users.ts'

/** What profiles need, each built at its first use. Getters of a class: those of an object literal cost 20 µs per invocation. */
class UsersParts implements UsersDependencies {
  readonly #platform: Platform
  readonly byId: Cache<CachedUser>
  #idsByUsername: Cache<string> | undefined

  constructor(platform: Platform) {
    this.#platform = platform
    const policy = platform.config.caches.users
    this.byId = platform.cache({ ...policy, name: 'user', key: keys.user, versionOf: (user) => user.revision })
  }

  get idsByUsername() {
    const policy = this.#platform.config.caches.users
    const kind = { ...policy, name: 'username', key: keys.username, versionOf: () => 0 }
    return (this.#idsByUsername ??= this.#platform.cache<string>(kind))
  }
  get db() {
    return this.#platform.db
  }
  get outbox() {
    return this.#platform.outbox
  }
  get writeThrough() {
    return this.#platform.writeThrough
  }
}

/** Profiles, and who follows whom. */
export const users: Feature = {
  name: 'users',
  provides: [
    provide(usersService, (platform) => createUsers(new UsersParts(platform))),
    provide(followsService, ({ db, use, outbox, writeThrough }) =>
      createFollows(db, use(usersService), outbox, writeThrough),
    ),
  ],
  routes: [['/v1/users', routes]],
}
