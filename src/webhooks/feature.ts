import { consumer, type Feature, provide, provideForIsolate } from '../feature.ts'
import { createAttempts } from './attempts.ts'
import { createDeliveries, deliveriesService } from './deliveries.ts'
import { DeliveryMessage, type Posted, wakeMessage } from './messages.ts'
import { deliveries as deliveryRoutes, webhooks as routes } from './routes.ts'
import { createSender, endpointsInFlight } from './sender.ts'
import { createWebhooks, webhooksService } from './webhooks.ts'

/** Delivers events to the endpoints of back ends. */
export const webhooks: Feature = {
  name: 'webhooks',
  provides: [
    provideForIsolate(endpointsInFlight, () => new Map()),
    provide(webhooksService, ({ db, outbox, config, enqueue, defer }) =>
      createWebhooks({
        db,
        outbox,
        send: createSender(config.webhooks),
        wakeSoon: (webhookId) => defer(() => enqueue('DELIVERIES', [wakeMessage(webhookId)])),
        policy: config.webhooks,
        source: config.events.source,
      }),
    ),
    provide(deliveriesService, ({ db, outbox, config, enqueue, use, recorder, defer, onFailure }) => {
      const post = (messages: Posted[]) => enqueue('DELIVERIES', messages)
      const attempts = createAttempts({
        db,
        outbox,
        send: createSender(config.webhooks),
        post,
        probe: (webhook) => use(webhooksService).probe(webhook),
        policy: config.webhooks,
        source: config.events.source,
        onAttempt: recorder.delivered,
        awaited: use(endpointsInFlight),
        defer,
        onFailure,
      })
      return createDeliveries({ db, attempts, post, onFailure })
    }),
  ],
  routes: [
    ['/v1/webhooks', routes],
    ['/v1/deliveries', deliveryRoutes],
  ],
  consumers: [
    consumer({ message: DeliveryMessage, consume: ({ use }, messages) => use(deliveriesService).consume(messages) }),
  ],
  jobs: [
    {
      name: 'resend deliveries',
      isExclusive: false,
      run: ({ use }, { now }) => use(deliveriesService).resend(1_000, now),
    },
  ],
  listener: ({ use }) => use(deliveriesService).listener,
  purges: {
    deliveries: ({ use, config }, most, now) => use(deliveriesService).purge(most, now - config.webhooks.keptMs),
    webhookFigures: ({ use }, most, now) => use(webhooksService).purge(most, now),
  },
  figures: ({ use }) => ({ webhooks: () => use(webhooksService).figures() }),
}
