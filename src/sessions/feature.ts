import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { keys } from '../keys.ts'
import { postsService } from '../posts/posts.ts'
import { presenceService } from '../presence/presence.ts'
import { createBoundedMap } from '../redis/bounded-map.ts'
import { createSessionStore } from '../redis/session.ts'
import type { Relations } from '../relations/schema.ts'
import { usersService } from '../users/users.ts'
import { sessionExports } from './export.ts'
import { sessions as routes } from './routes.ts'
import { accountsService, createAccounts, createSessionSource, sessionMemory, sessionStore } from './sessions.ts'
import { createSessionTokens, sessionTokens } from './token.ts'

/** How much an isolate remembers of blocks and mutes, and what it counts for an id. */
const [RELATIONS_BYTES, ID_BYTES] = [2_000_000, 40]

/** How long a sign-up may be repeated that D1 did not answer. */
const SIGN_UP_MS = 10 * 60_000

/** Accounts: sign-up, sign-in, sign-out, devices. */
export const sessions: Feature = {
  name: 'sessions',
  provides: [
    provideForIsolate(sessionTokens, (config) => createSessionTokens(config.sessions.key)),
    provideForIsolate(sessionMemory, () => ({
      redisFailedAt: Date.now(),
      states: createBoundedMap<{ state: Relations; readAt: number }>(
        RELATIONS_BYTES,
        ({ state: { hidden, muted } }) => ID_BYTES * (10 + (hidden?.length ?? 0) + (muted?.length ?? 0)),
      ),
    })),
    provide(sessionStore, ({ db, redis, config, defer, use }) =>
      createSessionStore(
        redis.reads,
        createSessionSource(db),
        { ...config.sessions, memoryMs: config.caches.users.memoryMs },
        { ...keys, state: keys.relations },
        defer,
        use(sessionMemory),
      ),
    ),
    provide(accountsService, ({ db, redis, use, config, outbox, defer }) =>
      createAccounts({
        db,
        store: use(sessionStore),
        tokens: use(sessionTokens),
        policy: config.sessions,
        outbox,
        defer,
        unanswered: {
          add: (username, userId) => redis.writes.set(keys.signUp(username), userId, { px: SIGN_UP_MS }),
          find: (username) => redis.reads.get<string>(keys.signUp(username)),
        },
        onDeleted: (userId, username) =>
          Promise.all([
            use(usersService).invalidateAccount(userId, username),
            use(postsService).invalidateNewest(userId),
          ]),
        onSignUp: (username) => use(usersService).invalidateUsername(username),
        leaveEnded: (ended) => use(presenceService).leaveEnded(ended), // a session is a device
      }),
    ),
  ],
  routes: [['/v1/sessions', () => routes]],
  jobs: [
    {
      name: 'send revocations',
      isExclusive: false,
      run: ({ use }) => use(accountsService).sendRevocations(),
    },
  ],
  exports: () => sessionExports,
  removals: {
    user: async ({ use }, id, most, from) => ({ next: await use(accountsService).removeOf(id, most, from) }),
  },
  purges: {
    sessions: ({ use }, most, now) => use(accountsService).purge(most, now),
    signInSources: ({ use }, most, now) => use(accountsService).purgeSources(most, now),
  },
}
