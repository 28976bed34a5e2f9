import { toJsonSchema } from '@valibot/to-json-schema'
import { catalog, type EventType, isHint } from '../events/catalog.ts'

/** When each event is published. The type makes sure that none is missing. */
export const CAUSES: Record<EventType, string> = {
  post_created: 'A user writes a post',
  post_updated: 'The author edits the text',
  post_deleted: 'The author deletes the post. Its comments go too, without events of their own',
  user_created: 'A user signs up',
  user_updated: 'A user changes the profile',
  user_deleted:
    'A user deletes the account. Posts, comments, likes and follows of the user go too, without events of their own',
  user_followed: 'A user follows another',
  user_unfollowed: 'A user unfollows another',
  user_status_change:
    'A user comes online, or goes offline. On streams, followers see it, and everyone if the user allows that',
  comment_created: 'A user comments on a post',
  comment_updated: 'The author edits the text of a comment',
  comment_deleted: 'The author of the comment or of the post deletes it',
  counter_update: 'A count changed. Changes of about a second share one, with the latest value',
  user_blocked: 'A user blocks another. On streams, only that user sees it',
  user_unblocked: 'A user unblocks another. On streams, only that user sees it',
  user_muted: 'A user mutes another. On streams, only that user sees it',
  user_unmuted: 'A user unmutes another. On streams, only that user sees it',
  report_created: 'A member reports something. For services only',
  reports_resolved: 'Moderators resolve the reports about something. For services only',
  content_taken_down:
    'Moderators take a post or comment down, which also publishes `post_deleted` or `comment_deleted`. For services only',
  content_restored:
    'Moderators restore it, which also publishes `post_created` or `comment_created`. For services only',
  user_suspended: 'Moderators suspend an account. For services only',
  user_reinstated: 'Moderators reinstate it. For services only',
  mail_requested:
    'A user must receive this message, and no Email binding sends it. For services only, and on no stream',
  webhook_disabled: 'An endpoint failed for days or answered 410. On streams, only services see it',
  webhook_enabled: 'A disabled endpoint answered a probe. On streams, only services see it',
}

type Schema = Record<string, unknown>

const text = (description: string) => ({ type: 'string', description })

/** The schema of the CloudEvent of one type. A hint has no sequence. */
function envelope(type: Schema, channel: Schema, data: Schema, isHinted = false): Schema {
  const properties = {
    specversion: { const: '1.0' },
    id: text('Names the event. The same event may arrive twice under the same id.'),
    source: text('A URI reference: the deployment that the event comes from.'),
    type,
    subject: text('What the event is about: an id from the data, or what its publisher named.'),
    time: {
      ...text(
        isHinted
          ? 'When the state was read, or began. Of two hints about the same, the later is newer.'
          : 'When the event was published.',
      ),
      format: 'date-time',
    },
    datacontenttype: { const: 'application/json' },
    channel,
    ...(isHinted
      ? {}
      : {
          sequence: {
            ...text('Rises by one for each fact about the same subject on the same channel. Sorts as a string.'),
            pattern: '^\\d{16}$',
          },
        }),
    traceparent: text('The trace of the request that caused the event (W3C Trace Context).'),
    data,
  }
  const required = Object.keys(properties).filter((name) => name !== 'traceparent')
  return { type: 'object', properties, required }
}

/** The headers of every delivery (https://www.standardwebhooks.com). */
const parameters = Object.entries({
  'webhook-id': 'The id of the event. It stays the same when the delivery is repeated.',
  'webhook-timestamp': 'When this attempt was sent, in Unix seconds.',
  'webhook-signature':
    'Signatures of `id.timestamp.body`, separated by spaces: `v1,` and the base64 of an HMAC-SHA256.',
}).map(([name, description]) => ({ in: 'header', name, required: true, description, schema: { type: 'string' } }))

/** One request that an endpoint receives. */
const delivery = (name: string, summary: string, description: string, body: object, responses: object) => ({
  post: {
    operationId: name,
    summary,
    description,
    tags: ['Webhooks'],
    security: [],
    parameters,
    requestBody: { required: true, content: body },
    responses,
  },
})

const withExample = (schema: Schema, example: unknown) => (example === undefined ? { schema } : { schema, example })
const json = (schema: Schema, example?: unknown) => ({ 'application/json': withExample(schema, example) })
const cloudEvent = (schema: Schema, example: unknown) => ({
  'application/cloudevents+json': withExample(schema, example),
})

const RECEIVED = {
  '2XX': { description: 'The endpoint has received the event. Only the first KB of a body is kept.' },
  '410': { description: 'The endpoint is gone: the API disables the webhook.' },
  '4XX': { description: 'The API repeats the delivery later.' },
  '5XX': { description: 'The API repeats the delivery later, after `Retry-After` if the answer has it.' },
}

const CHALLENGE: Schema = {
  type: 'object',
  properties: { type: { const: 'endpoint.challenge' }, challenge: text('A random text.') },
  required: ['type', 'challenge'],
}
const CHALLENGE_ANSWER: Schema = {
  type: 'object',
  properties: { challenge: text('The same text.') },
  required: ['challenge'],
}

const summaryOf = (type: string) => type.charAt(0).toUpperCase() + type.slice(1).replaceAll('_', ' ')

/**
 * What endpoints receive: the challenge, and each type of event with its data (OpenAPI 3.1 `webhooks`). `received` are real bodies
 * by type, as examples.
 */
export const describeWebhooks = (received: Record<string, unknown>): Record<string, object> => ({
  'endpoint.challenge': delivery(
    'endpointChallenge',
    'Challenge',
    'The API sends it when a webhook is added, enabled or gets a new URL. An endpoint that does not answer it gets nothing else.',
    json(CHALLENGE, received['endpoint.challenge']),
    {
      '200': { description: 'The endpoint wants the events.', content: json(CHALLENGE_ANSWER) },
      '4XX': { description: 'The webhook stays unverified.' },
    },
  ),
  ...Object.fromEntries(
    Object.entries(catalog).map(([type, { channel, data }]) => {
      const { $schema: _, ...schema } = toJsonSchema(data, { errorMode: 'ignore' })
      const body = cloudEvent(envelope({ const: type }, { const: channel }, schema, isHint({ type })), received[type])
      return [type, delivery(type, summaryOf(type), `${CAUSES[type as EventType]}.`, body, RECEIVED)]
    }),
  ),
  custom: delivery(
    'custom',
    'Event of a back end',
    'An event on a channel named `custom_…`, with the type and the data that its publisher chose.',
    cloudEvent(
      envelope(
        text('Chosen by the publisher.'),
        { type: 'string', pattern: '^custom_[a-z0-9_]{1,50}$' },
        { type: 'object' },
      ),
      received['custom'],
    ),
    RECEIVED,
  ),
})
