import { consumer, type Feature, provide } from '../feature.ts'
import { createDispatch, dispatchService } from './dispatch.ts'
import { createHints, hintsService } from './hints.ts'
import { events as publishRoutes, listeners as listenerRoutes } from './routes.ts'
import { EventMessage } from './schema.ts'
import { hintTakersService } from '../webhooks/fan-out.ts'

/** Publishes events and dispatches them to the listeners of all features. */
export const events: Feature = {
  name: 'events',
  provides: [
    provide(hintsService, ({ db, enqueue, traceparent, use }) =>
      createHints({
        db,
        takenByEndpoints: (hints) => use(hintTakersService)(hints),
        send: (messages) =>
          enqueue(
            'EVENTS',
            messages.map((body) => ({ body })),
          ),
        traceparent,
      }),
    ),
    provide(dispatchService, (platform) =>
      createDispatch({
        db: platform.db,
        listeners: platform.features.flatMap(({ listener }) => listener?.(platform) ?? []),
        enqueue: (messages) => platform.enqueue('EVENTS', messages),
        onFailure: platform.onFailure,
      }),
    ),
  ],
  routes: [
    ['/v1/events', () => publishRoutes],
    ['/v1/listeners', () => listenerRoutes],
  ],
  consumers: () => [
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
  ],
  removals: { user: async ({ outbox }, id, _most, from) => ({ next: await outbox.forget(id, from) }) },
  purges: { events: ({ outbox, config }, most, now) => outbox.purge(most, now - config.events.keptMs) },
  figures: ({ outbox }) => ({ outbox: () => outbox.backlog(Date.now()) }),
}
