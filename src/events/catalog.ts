import * as v from 'valibot'
import { Count, id, Time } from '../http/input.ts'

const text = v.string()

/** One event type: its channel, the field of its data that is its subject, and the schema of its data. */
const kind = <C extends string, E extends v.ObjectEntries>(channel: C, subject: keyof E & string, data: E) => ({
  channel,
  subject,
  data: v.strictObject(data),
})

// Our own events have every field. A back end may leave out those that D1 has: listeners read D1, by the ids.
const maybeText = v.exactOptional(text)
const maybeVersion = v.exactOptional(Count)

const post = { postId: id('p'), authorId: id('u') }
const profile = {
  userId: id('u'),
  username: maybeText,
  displayName: maybeText,
  bio: maybeText,
  version: maybeVersion,
}
const follow = { followerId: id('u'), followedId: id('u') }
const comment = {
  commentId: id('c'),
  postId: id('p'),
  authorId: id('u'),
  /** The comment that it replies to. */
  parentId: v.exactOptional(id('c')),
}
const content = v.union([id('p'), id('c')])
const relation = { userId: id('u'), otherId: id('u') }
/** What a report is about. */
const subject = v.union([id('p'), id('c'), id('u')])
const webhook = { webhookId: id('wh'), url: text, reason: text }

/** Every event type with a schema. Apart from presence and relations, the data is public to signed-in users. */
export const catalog = {
  post_created: kind('post_events', 'postId', { ...post, text: maybeText, version: maybeVersion }),
  post_updated: kind('post_events', 'postId', { ...post, text: maybeText, version: maybeVersion }),
  post_deleted: kind('post_events', 'postId', post),
  user_created: kind('user_events', 'userId', profile),
  user_updated: kind('user_events', 'userId', profile),
  /** The account is gone, and with it all posts, comments, likes and follows: they have no events of their own. */
  user_deleted: kind('user_events', 'userId', { userId: id('u') }),
  user_followed: kind('user_events', 'followedId', follow),
  user_unfollowed: kind('user_events', 'followedId', follow),
  user_status_change: kind('user_events', 'userId', {
    userId: id('u'),
    status: v.picklist(['online', 'offline']),
    /** The time of arrival, or when the user was last seen. */
    at: Time,
  }),
  comment_created: kind('comment_events', 'postId', { ...comment, text: maybeText }),
  comment_updated: kind('comment_events', 'postId', { ...comment, text: maybeText, version: maybeVersion }),
  comment_deleted: kind('comment_events', 'postId', comment),
  counter_update: kind('counter_events', 'contentId', {
    contentId: content,
    contentType: v.picklist(['post', 'comment']),
    counterType: v.picklist(['likes', 'comments', 'views']),
    value: Count,
  }),
  user_blocked: kind('relation_events', 'userId', relation),
  user_unblocked: kind('relation_events', 'userId', relation),
  user_muted: kind('relation_events', 'userId', relation),
  user_unmuted: kind('relation_events', 'userId', relation),
  report_created: kind('moderation_events', 'subjectId', { reportId: id('rp'), subjectId: subject, reason: text }),
  reports_resolved: kind('moderation_events', 'subjectId', { subjectId: subject, outcome: text, tokenId: text }),
  content_taken_down: kind('moderation_events', 'contentId', { contentId: content, authorId: id('u'), tokenId: text }),
  content_restored: kind('moderation_events', 'contentId', { contentId: content, authorId: id('u'), tokenId: text }),
  user_suspended: kind('moderation_events', 'userId', { userId: id('u'), tokenId: text }),
  user_reinstated: kind('moderation_events', 'userId', { userId: id('u'), tokenId: text }),
  /** Send this message to a user. For the mailer of a back end, where no Email binding is configured. */
  mail_requested: kind('mail_events', 'userId', {
    userId: id('u'),
    to: text,
    template: v.picklist(['reset', 'verify', 'taken', 'password-changed', 'email-changed']),
    subject: text,
    text,
    /** With a token that expires. */
    link: v.nullable(text),
  }),
  /** An endpoint failed for days, or answered 410. */
  webhook_disabled: kind('webhook_events', 'webhookId', webhook),
  /** A disabled endpoint answered a probe. */
  webhook_enabled: kind('webhook_events', 'webhookId', webhook),
} as const

export type EventType = keyof typeof catalog

/**
 * The types that carry the latest state of something and are worthless when late: the next one corrects a lost one. All
 * other types are facts.
 */
export const HINTS = ['counter_update', 'user_status_change'] as const satisfies EventType[]
export type HintType = (typeof HINTS)[number]
export const isHint = ({ type }: { type: string }): boolean => HINTS.some((hint) => hint === type)
export type EventData<T extends EventType> = v.InferOutput<(typeof catalog)[T]['data']>

/** The channels with schemas that back ends may publish on. A channel of `CUSTOM_CHANNEL` accepts any type and data. */
export const CHANNELS = ['post_events', 'user_events', 'comment_events', 'counter_events'] as const
/** The channel with blocks and mutes, for who makes them. Only we publish on it. */
const RELATIONS_CHANNEL = 'relation_events'
/** The channel with messages to users, for services. Only we publish on it, and streams do not have it. */
export const MAIL_CHANNEL = 'mail_events'
/** The channels with events for services. Only we publish on them. */
const SERVICE_CHANNELS = ['webhook_events', 'moderation_events', MAIL_CHANNEL] as const
const OWN_CHANNELS = [RELATIONS_CHANNEL, ...SERVICE_CHANNELS] as const
export const CUSTOM_CHANNEL = /^custom_[a-z0-9_]{1,50}$/

/** Whether anybody may subscribe to a channel. What may be seen of its events, their audience says. */
export const isPublicChannel = (name: string): boolean =>
  CHANNELS.some((known) => known === name) || CUSTOM_CHANNEL.test(name)

/** The name of a channel: ours, or of a back end. */
export const Channel = v.pipe(
  v.string(),
  v.check(
    (name) => OWN_CHANNELS.some((known) => known === name) || isPublicChannel(name),
    `must be ${[...CHANNELS, ...OWN_CHANNELS].join(', ')}, or custom_ and letters, digits or _`,
  ),
)

/**
 * Names with a meaning on a stream: browsers dispatch `open`, `error`, `message` and `close` themselves, and `reset`
 * makes a client load everything again.
 */
const RESERVED_TYPES = new Set(['open', 'error', 'message', 'close', 'reset'])

/** The name of a type of event. `endpoint.…` belongs to the challenges of webhooks. */
export const TypeName = v.pipe(
  v.string(),
  v.regex(/^[a-z][a-z0-9_.]{0,63}$/, 'must be lower-case letters, digits, _ or .'),
  v.check((name) => !RESERVED_TYPES.has(name) && !name.startsWith('endpoint.'), 'must not be a reserved name'),
)

/**
 * Who may see an event on a stream: everyone, the followers of the user it is about (and that user), certain users, or
 * no user at all. Webhooks of services see all, those of a tenant what strangers see.
 */
export const Audience = v.union(
  [
    v.picklist(['everyone', 'followers', 'services']),
    v.pipe(v.array(id('u')), v.minLength(1, 'must name somebody'), v.maxLength(100, 'must be at most 100 users')),
  ],
  'must be everyone, followers, services, or a list of user ids',
)
export type Audience = v.InferOutput<typeof Audience>

/** Also `others`: everyone but the followers of the user it is about and that user. Only we publish to it. */
export type StoredAudience = Audience | 'others'

/** What an event of a known type is about: one of the fields of its data. */
export function subjectOf(type: EventType, data: Record<string, unknown>): string {
  const subject = data[catalog[type].subject]
  return typeof subject === 'string' ? subject : ''
}

export const isKnown = (type: string): type is EventType => Object.hasOwn(catalog, type)

/** An event as D1 holds it, or a hint on its way. */
export interface StoredEvent {
  /** `ev_` + ULID, or as its publisher chose. */
  id: string
  channel: string
  type: string
  /** What it is about: the id of a post, a user, …, or what its publisher named. */
  subject: string
  /**
   * Rises by one with each event about the same subject on the same channel, counting all but those for `others`: a gap
   * is an event not received. 0: a hint, which has none.
   */
  sequence: number
  /** The same, counting only the events that strangers may see; 0: they may not see this one. */
  publicSequence?: number
  data: Record<string, unknown>
  audience: StoredAudience
  /** Unix ms. */
  createdAt: number
  /** Of the request it comes from, if any. */
  traceparent: string | null
  /** The cron has enqueued it: the request that recorded it may have died before it did anything else. */
  isResent?: boolean
}

/** An event as the world receives it: CloudEvents 1.0 in JSON, with extension attributes. */
export interface CloudEvent {
  specversion: '1.0'
  id: string
  /** A URI reference: which deployment it comes from. With `id` it is unique. */
  source: string
  type: string
  subject: string
  /** RFC 3339. Of a hint: when its state was read, or began. */
  time: string
  datacontenttype: 'application/json'
  channel: string
  /** Its sequence, as `formatSequence` writes it. Absent: a hint. Of two hints about the same, the later is newer. */
  sequence?: string
  /** W3C Trace Context (the CloudEvents extension for distributed tracing), where a request made it. */
  traceparent?: string
  data: Record<string, unknown>
}

/**
 * A sequence as CloudEvents have it (https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md): a string
 * that sorts like the number. 16 digits hold every safe integer.
 */
export const formatSequence = (sequence: number): string => String(sequence).padStart(16, '0')

/** https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md */
export function toCloudEvent(event: StoredEvent, source: string): CloudEvent {
  const { id, type, subject, channel, sequence, data, traceparent } = event
  return {
    specversion: '1.0',
    id,
    source,
    type,
    subject,
    time: new Date(event.createdAt).toISOString(),
    datacontenttype: 'application/json',
    channel,
    ...(isHint(event) ? {} : { sequence: formatSequence(sequence) }),
    ...(traceparent === null ? {} : { traceparent }),
    data,
  }
}
