import { consumer, type Feature, provide, provideForIsolate } from '../feature.ts'
import { mailPort } from '../mail/mail.ts'
import { createAttempts } from './attempts.ts'
import { createDeliveries, deliveriesService } from './deliveries.ts'
import { createHintTakers, hintTakersService, subscribersService } from './fan-out.ts'
import { DeliveryMessage, type Outgoing, wakeMessage } from './messages.ts'
import { deliveries as deliveryRoutes, webhooks as routes } from './routes.ts'
import { createSender, endpointsInFlight } from './sender.ts'
import { createVault, vaultService } from './vault.ts'
import { createWebhooks, webhooksService } from './webhooks.ts'

/** Delivers events to the endpoints of back ends. */
export const webhooks: Feature = {
  name: 'webhooks',
  provides: [
    provideForIsolate(endpointsInFlight, () => new Map()),
    provideForIsolate(subscribersService, () => ({ read: undefined })),
    provideForIsolate(vaultService, (config) => createVault(config.webhooks.keys)),
    provide(hintTakersService, ({ db, use }) => createHintTakers(db, use(subscribersService))),
    provide(webhooksService, ({ db, outbox, config, enqueue, use, defer }) =>
      createWebhooks({
        db,
        outbox,
        send: createSender(config.webhooks, use(vaultService)),
        vault: use(vaultService),
        wakeSoon: (webhookId) => defer(() => enqueue('DELIVERIES', [wakeMessage(webhookId)])),
        policy: config.webhooks,
        source: config.events.source,
      }),
    ),
    provide(deliveriesService, ({ db, outbox, config, enqueue, use, recorder, defer, onFailure }) => {
      const enqueueAll = (messages: Outgoing[]) => enqueue('DELIVERIES', messages)
      const attempts = createAttempts({
        db,
        outbox,
        send: createSender(config.webhooks, use(vaultService)),
        enqueue: enqueueAll,
        probe: (webhook) => use(webhooksService).probe(webhook),
        policy: config.webhooks,
        source: config.events.source,
        reveal: (event) => use(mailPort).reveal(event),
        onAttempt: recorder.delivered,
        inFlight: use(endpointsInFlight),
        defer,
        onFailure,
      })
      return createDeliveries({
        db,
        subscribers: use(subscribersService),
        attempts,
        enqueue: enqueueAll,
        source: config.events.source,
        onFailure,
      })
    }),
  ],
  routes: [
    ['/v1/webhooks', () => routes],
    ['/v1/deliveries', () => deliveryRoutes],
  ],
  dashboard: [
    ['/v1/webhooks', () => routes],
    ['/v1/deliveries', () => deliveryRoutes],
  ],
  consumers: () => [
    consumer({ message: DeliveryMessage, consume: ({ use }, messages) => use(deliveriesService).consume(messages) }),
  ],
  jobs: [
    {
      name: 'resend deliveries',
      isExclusive: false,
      run: ({ use }, { now }) => use(deliveriesService).resend(1_000, now),
    },
    { name: 'encrypt webhook secrets', isExclusive: false, run: ({ use }) => use(webhooksService).reseal(100) },
  ],
  listener: ({ use }) => use(deliveriesService).listener,
  purges: {
    deliveries: ({ use, config }, most, now) => use(deliveriesService).purge(most, now - config.webhooks.keptMs),
    webhookFigures: ({ use }, most, now) => use(webhooksService).purge(most, now),
  },
  figures: ({ use }) => ({ webhooks: () => use(webhooksService).figures() }),
}
