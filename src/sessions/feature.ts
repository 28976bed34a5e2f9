import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { keys } from '../keys.ts'
import { createSessionStore } from '../redis/session.ts'
import { usersService } from '../users/users.ts'
import { sessions as routes } from './routes.ts'
import { accountsService, createAccounts, createSessionSource, sessionStore } from './sessions.ts'
import { createSessionTokens, sessionTokens } from './token.ts'

/** Accounts: sign-up, sign-in, sign-out, devices. */
export const sessions: Feature = {
  name: 'sessions',
  provides: [
    provideForIsolate(sessionTokens, (config) => createSessionTokens(config.sessions.key)),
    provide(sessionStore, ({ db, redis, config, defer }) =>
      createSessionStore(redis.reads, createSessionSource(db), config.sessions, keys, defer),
    ),
    provide(accountsService, ({ db, use, config, outbox }) =>
      createAccounts(db, use(sessionStore), use(sessionTokens), config.sessions.absoluteMs, outbox, (username) =>
        use(usersService).invalidateUsername(username),
      ),
    ),
  ],
  routes: [['/v1/sessions', routes]],
  purges: { sessions: ({ use }, most, now) => use(accountsService).purge(most, now) },
}
