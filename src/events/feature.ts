import { consumer, type Feature, provide } from '../feature.ts'
import { counterUpdatesService, createCounterUpdates } from './counters.ts'
import { createDispatch, dispatchService } from './dispatch.ts'
import { events as publishRoutes, listeners as listenerRoutes } from './routes.ts'
import { EventMessage } from './schema.ts'

/** Publishes events and dispatches them to the listeners of all features. */
export const events: Feature = {
  name: 'events',
  provides: [
    provide(counterUpdatesService, ({ db, outbox }) => createCounterUpdates(db, outbox)),
    provide(dispatchService, (platform) =>
      createDispatch({
        db: platform.db,
        listeners: platform.features.flatMap(({ listener }) => listener?.(platform) ?? []),
        counterUpdates: platform.use(counterUpdatesService),
        enqueue: (messages) => platform.enqueue('EVENTS', messages),
        onFailure: platform.onFailure,
      }),
    ),
  ],
  routes: [
    ['/v1/events', publishRoutes],
    ['/v1/listeners', listenerRoutes],
  ],
  consumers: [
    consumer({ message: EventMessage, consume: ({ use }, messages) => use(dispatchService).consume(messages) }),
  ],
  jobs: [
    {
      name: 'resend events',
      isExclusive: false,
      run: ({ outbox }, { now }) => outbox.resend(1_000, now),
    },
    {
      name: 'rebuild outdated data',
      isExclusive: true,
      run: ({ use }) => use(dispatchService).rebuildOutdated(),
    },
    {
      name: 'publish counts',
      isExclusive: false,
      async run({ use }) {
        await use(dispatchService).publishCounts()
        return use(counterUpdatesService).waiting()
      },
    },
  ],
  purges: { events: ({ outbox, config }, most, now) => outbox.purge(most, now - config.events.keptMs) },
  figures: ({ outbox }) => ({ outbox: () => outbox.backlog(Date.now()) }),
}
