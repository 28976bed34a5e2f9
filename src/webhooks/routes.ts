import { Hono } from 'hono'
import * as v from 'valibot'
import { catalog, Channel, isKnown, TypeName } from '../events/catalog.ts'
import { requireService } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, JsonObject, limitOf, pageOf, pageQuery, record, Time, written } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { Filter } from './schema.ts'

const tag = 'Webhooks'

const MAX_HEADERS = 10
/** Ours, those of the connection, and those the platform sets itself. */
const RESERVED_HEADERS =
  /^(webhook-.*|trace(parent|state)|content-.*|host|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect|date|via|forwarded|x-forwarded-.*|x-real-ip|cf-.*|cdn-loop|proxy-.*|cookie|accept-encoding)$/i

const Headers = v.pipe(
  record(
    v.pipe(
      v.string(),
      v.regex(/^[\w!#$%&'*+.^`|~-]{1,64}$/, 'must be the name of a header'),
      v.check((name) => !RESERVED_HEADERS.test(name), 'must not be a header that is ours, or of the connection'),
    ),
    v.pipe(
      v.string(),
      v.regex(/^[\x21-\x7e]([\x20-\x7e]{0,498}[\x21-\x7e])?$/, 'must be 1 to 500 printable ASCII characters'),
    ),
    'must be an object of texts',
  ),
  v.check(
    (headers) => new Set(Object.keys(headers).map((name) => name.toLowerCase())).size === Object.keys(headers).length,
    'must name no header twice',
  ),
  v.check((headers) => Object.keys(headers).length <= MAX_HEADERS, `must be at most ${MAX_HEADERS} headers`),
  v.description('Sent with every delivery; `Authorization` may be among them. Their values are not shown again.'),
)

const distinct = (items: string[]) => new Set(items).size === items.length

const fields = {
  url: v.pipe(v.string('must be a URL'), v.description('https, on a public host, port 443 or 8443')),
  channels: v.pipe(
    v.array(Channel, 'must be a list of channels'),
    v.minLength(1, 'must name a channel'),
    v.maxLength(20, 'must be at most 20 channels'),
    v.check(distinct, 'must name no channel twice'),
  ),
  types: v.pipe(
    v.nullable(
      v.pipe(
        v.array(TypeName, 'must be a list of types, or null'),
        v.minLength(1, 'must name a type, or be null for all'),
        v.maxLength(50, 'must be at most 50 types'),
        v.check(distinct, 'must name no type twice'),
      ),
    ),
    v.description('Null: every type of those channels'),
  ),
  filter: v.pipe(
    v.nullable(Filter),
    v.description(
      'Conditions that must all hold, by the path of a field: `{ "data.authorId": "u_1", "type": ["a", "b"], ' +
        '"data.value": { "gte": 100 } }`. A path is `subject`, `type`, `channel`, or `data.` and up to five names; a ' +
        'condition is a value, a list of values, or an object of gt, gte, lt, lte, not, exists.',
    ),
  ),
  description: written({ max: 200, isOptional: true }),
  headers: Headers,
}

/** A type that no channel of the subscription has would never come: most likely a slip. */
const hasFittingTypes = ({
  channels,
  types,
}: {
  channels?: string[] | undefined
  types?: string[] | null | undefined
}) =>
  !channels ||
  !types ||
  channels.some((channel) => channel.startsWith('custom_')) ||
  types.every((type) => isKnown(type) && channels.includes(catalog[type].channel))
const UNFITTING = 'must be types of those channels'

const NewWebhook = v.pipe(
  v.strictObject({
    url: fields.url,
    channels: fields.channels,
    types: v.optional(fields.types, null),
    filter: v.optional(fields.filter, null),
    description: v.optional(fields.description, ''),
    headers: v.optional(fields.headers, {}),
    secret: v.optional(
      v.pipe(
        v.string(),
        v.regex(
          /^whsec_([A-Za-z0-9+/]{4}){8,21}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/,
          'must be whsec_ and the base64 of 24 to 64 bytes',
        ),
        v.description('Of your choice, to be able to verify the challenge too; otherwise one is made.'),
      ),
    ),
  }),
  v.forward(
    v.check((webhook) => hasFittingTypes(webhook), UNFITTING),
    ['types'],
  ),
)
const Changes = v.pipe(
  v.strictObject({
    url: v.exactOptional(fields.url),
    channels: v.exactOptional(fields.channels),
    types: v.exactOptional(fields.types),
    filter: v.exactOptional(fields.filter),
    description: v.exactOptional(fields.description),
    headers: v.exactOptional(fields.headers),
  }),
  v.check((changes) => Object.keys(changes).length > 0, 'must change something'),
  v.forward(
    v.check((webhook) => hasFittingTypes(webhook), UNFITTING),
    ['types'],
  ),
)

const Attempt = v.pipe(
  v.object({
    at: Time,
    durationMs: Count,
    status: v.pipe(v.nullable(Count), v.description('HTTP status; null: there was no answer')),
    error: v.nullable(v.string()),
    answer: v.pipe(v.nullable(v.string()), v.description('The first KB of the answer')),
  }),
  v.metadata({ ref: 'Attempt' }),
)
const shape = {
  id: v.string(),
  url: v.string(),
  channels: v.array(v.string()),
  types: v.nullable(v.array(v.string())),
  filter: v.nullable(JsonObject),
  description: v.string(),
  headerNames: v.array(v.string()),
  status: v.picklist(['unverified', 'enabled', 'paused', 'disabled']),
  disabledReason: v.nullable(v.picklist(['gone', 'failing'])),
  failingSince: v.nullable(Time),
  previousSecretUntil: v.nullable(Time),
  createdAt: Time,
  updatedAt: Time,
}
const Webhook = v.pipe(v.object(shape), v.metadata({ ref: 'Webhook' }))
const secret = v.pipe(v.string(), v.description('Shown this once'))
const Delivery = v.pipe(
  v.object({
    id: v.string(),
    webhookId: v.string(),
    eventId: v.pipe(v.string(), v.description('Also the `webhook-id`')),
    type: v.pipe(v.nullable(v.string()), v.description('Null: the event is not kept any more')),
    status: v.picklist(['pending', 'delivered', 'dead']),
    attempts: v.array(Attempt),
  }),
  v.metadata({ ref: 'Delivery' }),
)

const WebhookId = v.object({ id: id('wh') })
const NO_REDIS = 'Redis is not needed.'
const PROBLEMS = ['invalid-request', 'service-token-required', 'not-found'] as const
const BODY_PROBLEMS = ['malformed-json', 'unsupported-media-type'] as const

/** The host of a request, which no endpoint may be on. */
const hostOf = (url: string) => new URL(url).host

export const webhooks = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      tag,
      summary: 'Add a webhook',
      description:
        'It is sent a challenge at once, `POST { "type": "endpoint.challenge", "challenge": "…" }`, and enabled if it ' +
        'answers 200 with `{ "challenge": "…" }`; until then it gets nothing else. Deliveries carry a CloudEvent and the ' +
        'headers of Standard Webhooks (standardwebhooks.com), signed with the secret; where a request made the event, also ' +
        '`traceparent` (W3C Trace Context): its trace, and a parent id of each attempt. There are at most 1 000 webhooks, or ' +
        `as many as is configured. ${NO_REDIS}`,
      answer: v.object({ ...shape, secret, challenge: Attempt }),
      status: 201,
      problems: ['invalid-request', 'service-token-required', 'too-many-webhooks', ...BODY_PROBLEMS],
    }),
    requireService,
    requireJson,
    valid('json', NewWebhook),
    async (c) => {
      const created = await c.var.services.webhooks.create(c.req.valid('json'), hostOf(c.req.url))
      c.header('Location', `/v1/webhooks/${created.id}`)
      c.header('Cache-Control', 'no-store')
      return c.json(created, 201)
    },
  )
  .get(
    '/',
    doc({
      tag,
      summary: 'List webhooks',
      description: `The newest first. ${NO_REDIS}`,
      answer: pageOf(Webhook),
      problems: ['invalid-request', 'service-token-required'],
    }),
    requireService,
    valid('query', pageQuery('wh')),
    async (c) => {
      const { limit, cursor } = c.req.valid('query')
      return c.json(await c.var.services.webhooks.list(limit, cursor))
    },
  )
  .get(
    '/:id',
    doc({ tag, summary: 'Read a webhook', description: NO_REDIS, answer: Webhook, problems: [...PROBLEMS] }),
    requireService,
    valid('param', WebhookId),
    async (c) => c.json(await c.var.services.webhooks.read(c.req.valid('param').id)),
  )
  .patch(
    '/:id',
    doc({
      tag,
      summary: 'Change a webhook',
      description: `Only what is given. Another URL has to prove itself again: it is sent the challenge at once. ${NO_REDIS}`,
      answer: v.object({ ...shape, challenge: v.optional(Attempt) }),
      problems: [...PROBLEMS, ...BODY_PROBLEMS],
    }),
    requireService,
    valid('param', WebhookId),
    requireJson,
    valid('json', Changes),
    async (c) => {
      const { id } = c.req.valid('param')
      return c.json(await c.var.services.webhooks.change(id, c.req.valid('json'), hostOf(c.req.url)))
    },
  )
  .delete(
    '/:id',
    doc({
      tag,
      summary: 'Delete a webhook',
      description: `Its deliveries end with it. ${NO_REDIS}`,
      status: 204,
      problems: [...PROBLEMS],
    }),
    requireService,
    valid('param', WebhookId),
    async (c) => {
      await c.var.services.webhooks.remove(c.req.valid('param').id)
      return c.body(null, 204)
    },
  )
  .post(
    '/:id/rotate',
    doc({
      tag,
      summary: 'Rotate the secret of a webhook',
      description: `For 24 hours deliveries are signed with both, the new and the one before. ${NO_REDIS}`,
      answer: v.object({ ...shape, secret }),
      problems: [...PROBLEMS],
    }),
    requireService,
    valid('param', WebhookId),
    async (c) => {
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.services.webhooks.rotate(c.req.valid('param').id))
    },
  )
  .post(
    '/:id/pause',
    doc({
      tag,
      summary: 'Pause a webhook',
      description: `What happens from now on is stored for it, as long as events are kept, and sent when it is enabled again. ${NO_REDIS}`,
      answer: Webhook,
      problems: [...PROBLEMS, 'webhook-not-enabled'],
    }),
    requireService,
    valid('param', WebhookId),
    async (c) => c.json(await c.var.services.webhooks.pause(c.req.valid('param').id)),
  )
  .post(
    '/:id/enable',
    doc({
      tag,
      summary: 'Enable a webhook',
      description:
        'Asks for the challenge (again), and enables it if that is answered, whether it was unverified, paused or ' +
        `disabled. What waits for it is sent. ${NO_REDIS}`,
      answer: Webhook,
      problems: [...PROBLEMS, 'challenge-failed'],
    }),
    requireService,
    valid('param', WebhookId),
    async (c) => c.json(await c.var.services.webhooks.enable(c.req.valid('param').id)),
  )
  .post(
    '/:id/test',
    doc({
      tag,
      summary: 'Send a sample to a webhook',
      description: `Signed like any delivery, of type \`webhook_test\`, once. ${NO_REDIS}`,
      answer: v.object({
        ...Attempt.entries,
        isDelivered: v.boolean(),
        sample: JsonObject,
      }),
      problems: [...PROBLEMS, 'webhook-not-enabled'],
    }),
    requireService,
    valid('param', WebhookId),
    async (c) => c.json(await c.var.services.webhooks.test(c.req.valid('param').id)),
  )
  .get(
    '/:id/deliveries',
    doc({
      tag,
      summary: 'List the deliveries of a webhook',
      description: `The newest first, with every attempt. Dead are those that were given up. ${NO_REDIS}`,
      answer: pageOf(Delivery),
      problems: [...PROBLEMS],
    }),
    requireService,
    valid('param', WebhookId),
    valid(
      'query',
      v.object({
        limit: limitOf(20, 100),
        cursor: v.optional(id('dl')),
        status: v.optional(v.picklist(['pending', 'delivered', 'dead'], 'must be pending, delivered or dead')),
      }),
    ),
    async (c) => {
      const { limit, cursor, status } = c.req.valid('query')
      return c.json(await c.var.services.deliveries.list(c.req.valid('param').id, status, limit, cursor))
    },
  )
  .post(
    '/:id/replay',
    doc({
      tag,
      summary: 'Replay what a webhook missed',
      description:
        'Of the events since then that it takes, those that were given up or never stored for it, under the same ' +
        '`webhook-id`; with `includeDelivered` also those that arrived. Goes back as far as events are kept. Accepted, ' +
        `and done step by step by the queue; again changes nothing. ${NO_REDIS}`,
      answer: v.object({ webhookId: v.string(), since: Time }),
      status: 202,
      problems: [...PROBLEMS, ...BODY_PROBLEMS, 'webhook-not-enabled'],
    }),
    requireService,
    valid('param', WebhookId),
    requireJson,
    valid(
      'json',
      v.strictObject({
        since: v.pipe(
          v.string('must be a time in RFC 3339'),
          v.isoTimestamp('must be a time in RFC 3339'),
          v.check((time) => !Number.isNaN(Date.parse(time)), 'must be a time in RFC 3339'),
        ),
        includeDelivered: v.optional(v.boolean('must be true or false'), false),
      }),
    ),
    async (c) => {
      const { id: webhookId } = c.req.valid('param')
      const { since, includeDelivered } = c.req.valid('json')
      await c.var.services.deliveries.replaySince(webhookId, Date.parse(since), includeDelivered)
      return c.json({ webhookId, since }, 202)
    },
  )

export const deliveries = new Hono<AppEnv>().post(
  '/:id/replay',
  doc({
    tag,
    summary: 'Replay a delivery',
    description: `Sent again from the first attempt on, under the same \`webhook-id\`, whatever became of it. ${NO_REDIS}`,
    answer: v.object({ id: v.string() }),
    status: 202,
    problems: [...PROBLEMS, 'webhook-not-enabled', 'event-gone'],
  }),
  requireService,
  valid('param', v.object({ id: id('dl') })),
  async (c) => {
    const { id } = c.req.valid('param')
    await c.var.services.deliveries.replay(id)
    return c.json({ id }, 202)
  },
)
