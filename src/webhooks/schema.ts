import * as v from 'valibot'
import { catalog, Channel, isKnown, TypeName } from '../events/catalog.ts'
import { Count, id, JsonObject, limitOf, pageQuery, record, Time, written } from '../http/input.ts'

const MAX_CONDITIONS = 10
const MAX_VALUES = 50

const Scalar = v.union(
  [v.pipe(v.string(), v.maxLength(200)), v.number(), v.boolean(), v.null()],
  'must be a string of at most 200 characters, a number, true, false or null',
)
const Bound = v.optional(v.number())

/** The value at a path must equal this, be one of these, or be within these bounds. */
const Condition = v.union(
  [
    Scalar,
    v.pipe(v.array(Scalar), v.minLength(1), v.maxLength(MAX_VALUES)),
    v.pipe(
      v.strictObject({
        gt: Bound,
        gte: Bound,
        lt: Bound,
        lte: Bound,
        exists: v.optional(v.boolean()),
        not: v.optional(Scalar),
      }),
      v.check((bounds) => Object.keys(bounds).length > 0),
    ),
  ],
  `must be a value, a list of 1 to ${MAX_VALUES} values, or an object of gt, gte, lt, lte (numbers), not (a value), exists (true or false)`,
)

/**
 * The events an endpoint accepts, by their fields: `{ "data.authorId": "u_1", "data.value": { "gte": 100 } }`. All
 * conditions must hold. A path names a field of the envelope or, up to five levels deep, of the data.
 */
export const Filter = v.pipe(
  record(
    v.pipe(
      v.string(),
      v.regex(
        /^(subject|type|channel|data(\.[\w-]{1,64}){1,5})$/,
        'must be subject, type, channel, or data. and up to five names',
      ),
    ),
    Condition,
  ),
  v.check(
    (conditions) => Object.keys(conditions).length <= MAX_CONDITIONS,
    `must have at most ${MAX_CONDITIONS} conditions`,
  ),
)
export type Filter = v.InferOutput<typeof Filter>

const MAX_HEADERS = 10
/** Headers that we, the connection or the platform set. */
const RESERVED_HEADERS =
  /^(webhook-.*|trace(parent|state)|content-.*|host|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect|date|via|forwarded|x-forwarded-.*|x-real-ip|cf-.*|cdn-loop|proxy-.*|cookie|accept-encoding)$/i

const Headers = v.pipe(
  record(
    v.pipe(
      v.string(),
      v.regex(/^[\w!#$%&'*+.^`|~-]{1,64}$/, 'must be the name of a header'),
      v.check((name) => !RESERVED_HEADERS.test(name), 'must not be a header that we or the connection set'),
    ),
    v.pipe(
      v.string(),
      v.regex(/^[\x21-\x7e]([\x20-\x7e]{0,498}[\x21-\x7e])?$/, 'must be 1 to 500 printable ASCII characters'),
    ),
  ),
  v.check(
    (headers) => new Set(Object.keys(headers).map((name) => name.toLowerCase())).size === Object.keys(headers).length,
    'must not repeat a header',
  ),
  v.check((headers) => Object.keys(headers).length <= MAX_HEADERS, `must have at most ${MAX_HEADERS} headers`),
  v.description('Sent with every delivery, for example `Authorization`. The API never shows their values again.'),
)

/** Whom an endpoint belongs to: a name of the back end for a customer of its own. */
export const Tenant = v.pipe(
  v.string(),
  v.regex(/^[\w.:-]{1,64}$/, 'must be 1 to 64 letters, digits, or any of _ . : -'),
)

const distinct = (items: string[]) => new Set(items).size === items.length

const fields = {
  url: v.pipe(v.string(), v.description('https, on a public host, port 443 or 8443')),
  channels: v.pipe(
    v.array(Channel),
    v.minLength(1, 'must have at least one channel'),
    v.maxLength(20, 'must have at most 20 channels'),
    v.check(distinct, 'must not repeat a channel'),
  ),
  types: v.pipe(
    v.nullable(
      v.pipe(
        v.array(TypeName),
        v.minLength(1, 'must have at least one type, or be null for all'),
        v.maxLength(50, 'must have at most 50 types'),
        v.check(distinct, 'must not repeat a type'),
      ),
    ),
    v.description('Null: every type of the channels'),
  ),
  filter: v.pipe(
    v.nullable(Filter),
    v.description(
      'Conditions by the path of a field. All must hold: `{ "data.authorId": "u_1", "type": ["a", "b"], ' +
        '"data.value": { "gte": 100 } }`. A path is `subject`, `type`, `channel`, or `data.` and up to five names; a ' +
        'condition is a value, a list of values, or an object of gt, gte, lt, lte, not, exists.',
    ),
  ),
  description: written({ max: 200, isOptional: true }),
  headers: Headers,
  tenant: v.pipe(
    v.nullable(Tenant),
    v.description('Whose people may see and manage the endpoint in a portal. Null: nobody.'),
  ),
}

/** Whether every type belongs to a channel of the subscription. Another type would never arrive. */
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
const UNFITTING = 'must be types of the channels'

export const NewWebhook = v.pipe(
  v.strictObject({
    url: fields.url,
    channels: fields.channels,
    types: v.optional(fields.types, null),
    filter: v.optional(fields.filter, null),
    description: v.optional(fields.description, ''),
    headers: v.optional(fields.headers, {}),
    tenant: v.optional(fields.tenant, null),
    secret: v.optional(
      v.pipe(
        v.string(),
        v.regex(
          /^whsec_([A-Za-z0-9+/]{4}){8,21}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/,
          'must be whsec_ and the base64 of 24 to 64 bytes',
        ),
        v.description('Choose it yourself to verify the challenge too. Otherwise the API creates one.'),
      ),
    ),
  }),
  v.forward(
    v.check((webhook) => hasFittingTypes(webhook), UNFITTING),
    ['types'],
  ),
)
export const WebhookChanges = v.pipe(
  v.strictObject({
    url: v.exactOptional(fields.url),
    channels: v.exactOptional(fields.channels),
    types: v.exactOptional(fields.types),
    filter: v.exactOptional(fields.filter),
    description: v.exactOptional(fields.description),
    headers: v.exactOptional(fields.headers),
    tenant: v.exactOptional(fields.tenant),
  }),
  v.check((changes) => Object.keys(changes).length > 0, 'must have at least one field'),
  v.forward(
    v.check((webhook) => hasFittingTypes(webhook), UNFITTING),
    ['types'],
  ),
)

/** One attempt of a delivery. */
const Attempt = v.pipe(
  v.object({
    at: v.pipe(Time, v.description('When it began.')),
    durationMs: v.pipe(Count, v.description('How long it took.')),
    status: v.pipe(v.nullable(Count), v.description('The HTTP status. Null: no answer')),
    error: v.pipe(v.nullable(v.string()), v.description('Why there was no answer.')),
    answer: v.pipe(v.nullable(v.string()), v.description('The first KB of the answer')),
    answerHeaders: v.pipe(
      v.nullable(record(v.string(), v.string())),
      v.description(
        '`content-type`, `location`, `retry-after`, `server` and `x-request-id` of the answer. Null: no answer, or not recorded.',
      ),
    ),
  }),
  v.metadata({ ref: 'Attempt', description: 'One attempt to reach an endpoint.' }),
)
export type ShownAttempt = v.InferOutput<typeof Attempt>
const fieldsOfWebhook = {
  id: v.pipe(v.string(), v.description('Sorts by time.')),
  url: v.pipe(v.string(), v.description('Where deliveries go.')),
  channels: v.pipe(v.array(v.string()), v.description('The channels it subscribes to.')),
  types: v.pipe(
    v.nullable(v.array(v.string())),
    v.description('The types it accepts. Null: every type of the channels.'),
  ),
  filter: v.pipe(v.nullable(JsonObject), v.description('What its events must match. Null: nothing.')),
  description: v.pipe(v.string(), v.description('A note of its owner.')),
  headerNames: v.pipe(v.array(v.string()), v.description('The names of its headers. Values are never shown.')),
  status: v.pipe(
    v.picklist(['unverified', 'enabled', 'paused', 'disabled']),
    v.description('Only an enabled endpoint receives events.'),
  ),
  disabledReason: v.pipe(
    v.nullable(v.picklist(['gone', 'failing'])),
    v.description('It answered 410, or failed for days.'),
  ),
  failingSince: v.pipe(v.nullable(Time), v.description('Null: its last attempt succeeded.')),
  previousSecretUntil: v.pipe(
    v.nullable(Time),
    v.description('Until then, deliveries are signed with the previous secret too.'),
  ),
  tenant: v.pipe(v.nullable(v.string()), v.description('Whose people may manage it. Null: nobody.')),
  createdAt: v.pipe(Time, v.description('When it was added.')),
  updatedAt: v.pipe(Time, v.description('When it last changed.')),
}
/** An endpoint, without its secret. */
export const Webhook = v.pipe(
  v.object(fieldsOfWebhook),
  v.metadata({ ref: 'Webhook', description: 'An endpoint, without its secret.' }),
)
export type ShownWebhook = v.InferOutput<typeof Webhook>
const EndpointHealth = v.pipe(
  v.object({
    circuit: v.pipe(
      v.picklist(['closed', 'open', 'half-open']),
      v.description('Open: it failed, and gets nothing until `openUntil`. Half-open: the next delivery tests it.'),
    ),
    openUntil: v.pipe(v.nullable(Time), v.description('Null: the circuit is not open.')),
    succeeded: v.pipe(Count, v.description('Attempts of the last 24 hours that succeeded.')),
    failed: v.pipe(Count, v.description('Attempts of the last 24 hours that failed.')),
    successRate: v.pipe(v.nullable(v.number()), v.description('From 0 to 1. Null: no attempts.')),
    pending: v.pipe(Count, v.description('Deliveries that wait, counted up to 1,000.')),
    lastSuccessAt: v.pipe(v.nullable(Time), v.description('Null: none in two days.')),
    lastFailureAt: v.pipe(v.nullable(Time), v.description('Null: none in two days.')),
  }),
  v.description('How well it answers.'),
)
export type EndpointHealth = v.InferOutput<typeof EndpointHealth>
/** An endpoint in a list. */
export const ListedWebhook = v.pipe(
  v.object({ ...fieldsOfWebhook, health: EndpointHealth }),
  v.metadata({ ref: 'ListedWebhook', description: 'An endpoint with its health.' }),
)
export type ShownListed = v.InferOutput<typeof ListedWebhook>
const secret = v.pipe(v.string(), v.description('The API shows it only this once'))
/** The delivery of one event to one endpoint. */
export const Delivery = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    webhookId: v.pipe(v.string(), v.description('The endpoint.')),
    eventId: v.pipe(v.string(), v.description('Also the `webhook-id`')),
    type: v.pipe(v.nullable(v.string()), v.description('Null: the event has expired')),
    status: v.pipe(v.picklist(['pending', 'delivered', 'dead']), v.description('Dead: its last retry failed.')),
    attempts: v.pipe(v.array(Attempt), v.description('The oldest first.')),
  }),
  v.metadata({ ref: 'Delivery', description: 'The delivery of one event to one endpoint.' }),
)
export type ShownDelivery = v.InferOutput<typeof Delivery>
const SentRequest = v.pipe(
  v.object({
    url: v.pipe(v.string(), v.description('The URL of the endpoint now.')),
    headers: v.pipe(
      record(v.string(), v.nullable(v.string())),
      v.description('Of the last attempt. Null: the value is secret.'),
    ),
    body: v.pipe(
      v.nullable(v.string()),
      v.description('Null: the event has expired, or nobody may see it, such as a message to a user.'),
    ),
  }),
  v.description('What the endpoint receives.'),
)
export type ShownRequest = v.InferOutput<typeof SentRequest>
export const DeliveryDetails = v.pipe(
  v.object({ ...Delivery.entries, request: SentRequest }),
  v.description('The delivery with its request.'),
)

export const CreatedWebhook = v.pipe(
  v.object({ ...fieldsOfWebhook, secret, challenge: Attempt }),
  v.description('The endpoint with its secret, and its answer to the challenge.'),
)
export const ChangedWebhook = v.pipe(
  v.object({ ...fieldsOfWebhook, challenge: v.optional(Attempt) }),
  v.description('The endpoint, and its answer to the challenge if its URL changed.'),
)
export const RotatedWebhook = v.pipe(
  v.object({ ...fieldsOfWebhook, secret }),
  v.description('The endpoint with its new secret.'),
)
export const TestResult = v.pipe(
  v.object({ ...Attempt.entries, isDelivered: v.boolean(), sample: JsonObject }),
  v.description('The sample, and the answer of the endpoint.'),
)

const SinceTime = v.pipe(
  Time,
  v.check((time) => !Number.isNaN(Date.parse(time)), 'must be a time in RFC 3339'),
)
export const ReplayRequest = v.strictObject({ since: SinceTime, includeDelivered: v.optional(v.boolean(), false) })

export const WebhooksQuery = v.object({
  ...pageQuery('wh').entries,
  tenant: v.optional(v.pipe(Tenant, v.description('Only endpoints of this tenant.'))),
})

export const DeliveriesQuery = v.object({
  limit: limitOf(20, 100),
  cursor: v.optional(v.pipe(id('dl'), v.description('The `nextCursor` of the page before.'))),
  status: v.optional(
    v.pipe(v.picklist(['pending', 'delivered', 'dead']), v.description('Only deliveries with this status.')),
  ),
})

export const WebhookId = v.object({ id: id('wh') })
export const DeliveryId = v.object({ id: id('dl') })
