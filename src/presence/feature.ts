import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { createOnline } from '../redis/presence.ts'
import { createPresence, onlineUsers, presenceService } from './presence.ts'
import { presence as routes } from './routes.ts'

/** Who is online, and for whom. */
export const presence: Feature = {
  name: 'presence',
  provides: [
    provide(onlineUsers, ({ redis, config }) => createOnline(redis.reads, keys, config.presence)),
    provide(presenceService, ({ db, use, outbox, defer }) =>
      createPresence({ db, online: use(onlineUsers), outbox, defer }),
    ),
  ],
  routes: [['/v1/presence', routes]],
  jobs: [
    {
      name: 'sweep presence',
      isExclusive: true,
      run: ({ use }, { now, signal }) => use(presenceService).sweep(now, signal),
    },
  ],
  figures: ({ use }) => ({ online: () => use(onlineUsers).count(Date.now()) }),
}
