import { Hono, type MiddlewareHandler } from 'hono'
import * as v from 'valibot'
import { nextLink } from '../http/caching.ts'
import { invalidField } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { pageSchema, Time } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { MAIL_CHANNEL } from '../events/catalog.ts'
import { mayDo, requireScope, requireService, type ServiceEnv } from '../http/service-token.ts'
import type { ServiceCaller } from '../service-tokens/service-tokens.ts'
import { deliveriesService } from './deliveries.ts'
import {
  ChangedWebhook,
  CreatedWebhook,
  DeliveriesQuery,
  Delivery,
  DeliveryDetails,
  DeliveryId,
  ListedWebhook,
  NewWebhook,
  ReplayRequest,
  RotatedWebhook,
  TestResult,
  Webhook,
  WebhookChanges,
  WebhookId,
  WebhooksQuery,
} from './schema.ts'
import { webhooksService } from './webhooks.ts'

const tag = 'Webhooks'

const NO_REDIS = 'Works without Redis.'
const PROBLEMS = ['invalid-request', 'service-token-required', 'not-found'] as const
const BODY_PROBLEMS = ['malformed-json', 'unsupported-media-type'] as const

/** Admits back ends that manage webhooks, and the people of a tenant. */
const manage = requireService('webhooks:manage', { isForTenants: true })

/** Hides the endpoints of others from the people of a tenant. */
const ownWebhook: MiddlewareHandler<ServiceEnv> = async (c, next) => {
  const { tenant } = c.var.service
  if (tenant !== undefined) await c.var.use(webhooksService).requireTenant(c.req.param('id') ?? '', tenant)
  await next()
}

/** Refuses to the people of a tenant to name another one. */
function requireOwnTenant({ tenant: own }: ServiceCaller, named: string | null | undefined): void {
  if (own === undefined || named === undefined || named === own) return
  throw invalidField('body', 'tenant', 'must not be set in a portal')
}

/** The host of the request. No endpoint may have it. */
const hostOf = (url: string) => new URL(url).host

export const webhooks = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'createWebhook',
      tag,
      summary: 'Add a webhook',
      description:
        'The API sends a challenge at once: `POST { "type": "endpoint.challenge", "challenge": "…" }`. The endpoint must ' +
        'answer 200 with `{ "challenge": "…" }`; before that it receives nothing else. A delivery is a CloudEvent with the ' +
        'headers of Standard Webhooks (standardwebhooks.com), signed with the secret. If a request caused the event, the ' +
        'delivery also has `traceparent` (W3C Trace Context). The maximum is 1 000 webhooks, or `WEBHOOK_MAX_ENDPOINTS`. ' +
        NO_REDIS,
      answer: CreatedWebhook,
      status: 201,
      sends: ['Location'],
      problems: ['invalid-request', 'service-token-required', 'too-many-webhooks', ...BODY_PROBLEMS],
    }),
    manage,
    requireJson,
    valid('json', NewWebhook),
    async (c) => {
      const { service } = c.var
      const webhook = c.req.valid('json')
      requireOwnTenant(service, webhook.tenant ?? undefined)
      if (service.tenant === undefined && webhook.channels.includes(MAIL_CHANNEL)) requireScope(service, 'mail')
      const tenant = service.tenant ?? webhook.tenant
      const created = await c.var.use(webhooksService).create({ ...webhook, tenant }, hostOf(c.req.url))
      c.header('Location', `/v1/webhooks/${created.id}`)
      c.header('Cache-Control', 'no-store')
      return c.json(created, 201)
    },
  )
  .get(
    '/',
    doc({
      id: 'listWebhooks',
      tag,
      summary: 'List webhooks',
      description: `Newest first, each with its health. ${NO_REDIS}`,
      answer: pageSchema(ListedWebhook),
      problems: ['invalid-request', 'service-token-required'],
    }),
    manage,
    valid('query', WebhooksQuery),
    async (c) => {
      const { limit, cursor, tenant } = c.req.valid('query')
      const page = await c.var.use(webhooksService).list(limit, cursor, c.var.service.tenant ?? tenant)
      c.header('Link', nextLink(c, page))
      return c.json(page)
    },
  )
  .get(
    '/:id',
    doc({
      id: 'getWebhook',
      tag,
      summary: 'Read a webhook',
      description: NO_REDIS,
      answer: Webhook,
      problems: [...PROBLEMS],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    async (c) => c.json(await c.var.use(webhooksService).read(c.req.valid('param').id)),
  )
  .patch(
    '/:id',
    doc({
      id: 'updateWebhook',
      tag,
      summary: 'Change a webhook',
      description: `Changes the given fields. A new URL must answer a challenge first; the API sends it at once. ${NO_REDIS}`,
      answer: ChangedWebhook,
      problems: [...PROBLEMS, ...BODY_PROBLEMS],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    requireJson,
    valid('json', WebhookChanges),
    async (c) => {
      const { id } = c.req.valid('param')
      const changes = c.req.valid('json')
      const { service } = c.var
      requireOwnTenant(service, changes.tenant)
      const webhooks = c.var.use(webhooksService)
      if (service.tenant === undefined && !mayDo(service, 'mail')) {
        const { channels } = await webhooks.read(id)
        if ([...channels, ...(changes.channels ?? [])].includes(MAIL_CHANNEL)) requireScope(service, 'mail')
      }
      return c.json(await webhooks.change(id, changes, hostOf(c.req.url)))
    },
  )
  .delete(
    '/:id',
    doc({
      id: 'deleteWebhook',
      tag,
      summary: 'Delete a webhook',
      description: `Its pending deliveries are discarded. ${NO_REDIS}`,
      status: 204,
      problems: [...PROBLEMS],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    async (c) => {
      await c.var.use(webhooksService).remove(c.req.valid('param').id)
      return c.body(null, 204)
    },
  )
  .post(
    '/:id/rotate',
    doc({
      id: 'rotateWebhookSecret',
      tag,
      summary: 'Rotate the secret of a webhook',
      description: `For 24 hours, deliveries are signed with the new and the previous secret. ${NO_REDIS}`,
      answer: RotatedWebhook,
      problems: [...PROBLEMS],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    async (c) => {
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.use(webhooksService).rotate(c.req.valid('param').id))
    },
  )
  .post(
    '/:id/pause',
    doc({
      id: 'pauseWebhook',
      tag,
      summary: 'Pause a webhook',
      description: `The API stores later events and delivers them when you enable the webhook again. ${NO_REDIS}`,
      answer: Webhook,
      problems: [...PROBLEMS, 'webhook-not-enabled'],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    async (c) => c.json(await c.var.use(webhooksService).pause(c.req.valid('param').id)),
  )
  .post(
    '/:id/enable',
    doc({
      id: 'enableWebhook',
      tag,
      summary: 'Enable a webhook',
      description:
        'Sends the challenge again, and enables the webhook if the endpoint answers it. Then pending deliveries are sent. ' +
        NO_REDIS,
      answer: Webhook,
      problems: [...PROBLEMS, 'challenge-failed'],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    async (c) => c.json(await c.var.use(webhooksService).enable(c.req.valid('param').id)),
  )
  .post(
    '/:id/test',
    doc({
      id: 'testWebhook',
      tag,
      summary: 'Send a sample to a webhook',
      description: `One signed event of type \`webhook_test\`, without retries. ${NO_REDIS}`,
      answer: TestResult,
      problems: [...PROBLEMS, 'webhook-not-enabled'],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    async (c) => c.json(await c.var.use(webhooksService).test(c.req.valid('param').id)),
  )
  .get(
    '/:id/deliveries',
    doc({
      id: 'listDeliveries',
      tag,
      summary: 'List the deliveries of a webhook',
      description: `Newest first, with every attempt. A delivery is dead after its last retry. ${NO_REDIS}`,
      answer: pageSchema(Delivery),
      problems: [...PROBLEMS],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    valid('query', DeliveriesQuery),
    async (c) => {
      const { limit, cursor, status } = c.req.valid('query')
      const page = await c.var.use(deliveriesService).list(c.req.valid('param').id, status, limit, cursor)
      c.header('Link', nextLink(c, page))
      return c.json(page)
    },
  )
  .post(
    '/:id/replay',
    doc({
      id: 'replayMissedEvents',
      tag,
      summary: 'Replay the events that a webhook missed',
      description:
        'Delivers matching events since that time that are dead or were never stored for the webhook, under the same ' +
        '`webhook-id`. With `includeDelivered`, delivered events too. Events expire after EVENT_DAYS. The queue does the ' +
        `work after the answer. Safe to repeat. ${NO_REDIS}`,
      answer: v.pipe(
        v.object({ webhookId: v.string(), since: Time }),
        v.description('The deliveries begin after the answer.'),
      ),
      status: 202,
      problems: [...PROBLEMS, ...BODY_PROBLEMS, 'webhook-not-enabled'],
    }),
    manage,
    valid('param', WebhookId),
    ownWebhook,
    requireJson,
    valid('json', ReplayRequest),
    async (c) => {
      const { id: webhookId } = c.req.valid('param')
      const { since, includeDelivered } = c.req.valid('json')
      await c.var.use(deliveriesService).replaySince(webhookId, Date.parse(since), includeDelivered)
      return c.json({ webhookId, since }, 202)
    },
  )

export const deliveries = new Hono<AppEnv>()
  .get(
    '/:id',
    doc({
      id: 'getDelivery',
      tag,
      summary: 'Read a delivery',
      description: `With every attempt and the request. Values of secret headers are null. ${NO_REDIS}`,
      answer: DeliveryDetails,
      problems: [...PROBLEMS],
    }),
    manage,
    valid('param', DeliveryId),
    async (c) => c.json(await c.var.use(deliveriesService).read(c.req.valid('param').id, c.var.service.tenant)),
  )
  .post(
    '/:id/replay',
    doc({
      id: 'replayDelivery',
      tag,
      summary: 'Replay a delivery',
      description: `Delivers the event again under the same \`webhook-id\`, with a new retry schedule. ${NO_REDIS}`,
      answer: v.pipe(v.object({ id: v.string() }), v.description('The delivery begins after the answer.')),
      status: 202,
      problems: [...PROBLEMS, 'webhook-not-enabled', 'event-gone'],
    }),
    manage,
    valid('param', DeliveryId),
    async (c) => {
      const { id } = c.req.valid('param')
      await c.var.use(deliveriesService).replay(id, c.var.service.tenant)
      return c.json({ id }, 202)
    },
  )
