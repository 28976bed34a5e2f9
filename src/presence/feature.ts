import type { Config } from '../config.ts'
import { hintsService } from '../events/hints.ts'
import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { createOnline } from '../redis/presence.ts'
import { createPresence, onlineUsers, presenceService } from './presence.ts'
import { presence as routes } from './routes.ts'

/** Users who can be online at once. */
const capacityOf = ({ presence: { shards, shardUsers } }: Config) => shards * shardUsers

/** Who is online, and for whom. */
export const presence: Feature = {
  name: 'presence',
  provides: [
    provide(onlineUsers, ({ redis, config }) => createOnline(redis.reads, keys, config.presence)),
    provide(presenceService, ({ db, use, config, defer, onFailure }) =>
      createPresence({
        db,
        online: use(onlineUsers),
        capacity: capacityOf(config),
        sendHints: use(hintsService).send,
        defer,
        onFailure,
      }),
    ),
  ],
  routes: [['/v1/presence', () => routes]],
  jobs: [
    {
      name: 'sweep presence',
      isExclusive: true,
      run: async ({ use }, { now, signal }) =>
        (await use(presenceService).sweep(now, signal)) === 0 ? 0 : use(onlineUsers).unannounced(),
    },
  ],
  removals: {
    async user({ use }, id) {
      await use(onlineUsers).forget(id)
      return { next: null }
    },
  },
  figures: ({ use, config }) => ({
    presence: async () => ({ online: await use(onlineUsers).count(Date.now()), capacity: capacityOf(config) }),
  }),
}
