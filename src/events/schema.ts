import * as v from 'valibot'
import { JsonObject } from '../http/input.ts'
import { Audience, catalog, CHANNELS, CUSTOM_CHANNEL, HINTS, isKnown, subjectOf, TypeName } from './catalog.ts'

/** The queue has this long to deliver a stored event. After that the cron enqueues it again. */
export const PATIENCE_MS = 60_000

/** A hint on its way. */
const Hint = v.object({
  id: v.string(),
  type: v.picklist(HINTS),
  data: JsonObject,
  audience: v.picklist(['everyone', 'followers', 'others']),
  /** When its state was read, or began (Unix ms). */
  at: v.number(),
  traceparent: v.exactOptional(v.string()),
})
export type Hint = v.InferOutput<typeof Hint>

/** A message of the queue `events`. */
export const EventMessage = v.variant('kind', [
  /** Dispatch this stored event to the listeners. `isResent`: the cron enqueued it. */
  v.object({ kind: v.literal('event'), id: v.string(), isResent: v.exactOptional(v.boolean()) }),
  /** Publish these hints. */
  v.object({ kind: v.literal('hints'), hints: v.array(Hint) }),
  /** The next step of a listener that rebuilds its data. */
  v.object({ kind: v.literal('rebuild'), listener: v.string(), cursor: v.nullable(v.string()) }),
  /** The next step of a listener that splits its work. */
  v.object({ kind: v.literal('proceed'), listener: v.string(), cursor: v.string() }),
])
export type EventMessage = v.InferOutput<typeof EventMessage>

/** The longest data of an event, as JSON in UTF-8. */
const MAX_DATA_BYTES = 32_768
/** SQLite parses JSON up to a depth of 1 000. The event around `data` counts too. */
const MAX_DATA_DEPTH = 100
const MAX_SUBJECT_CHARACTERS = 100

const isCustom = (channel: string) => CUSTOM_CHANNEL.test(channel)

/** Whether `value` has more than `most` levels. */
function isDeeper(value: unknown, most: number): boolean {
  let level = [value]
  for (let depth = 0; depth <= most && level.length > 0; depth += 1) {
    level = level.flatMap((each) => (typeof each === 'object' && each !== null ? Object.values(each) : []))
  }
  return level.length > 0
}

const Data = v.pipe(
  JsonObject,
  v.check((data) => !isDeeper(data, MAX_DATA_DEPTH), `must have at most ${MAX_DATA_DEPTH} levels`),
  v.check(
    (data) => isDeeper(data, MAX_DATA_DEPTH) || new TextEncoder().encode(JSON.stringify(data)).length <= MAX_DATA_BYTES,
    `must have at most ${MAX_DATA_BYTES} bytes as JSON`,
  ),
)

const Id = v.pipe(
  v.string(),
  // No dot: webhook signatures separate the id from the rest with a dot.
  v.regex(/^[\w:-]{1,100}$/, 'must be 1 to 100 letters, digits, or _ : -'),
  v.description('Chosen by you. Repeating a request with the same id changes nothing.'),
)
const Subject = v.pipe(
  v.string(),
  v.minLength(1, 'must not be empty'),
  v.maxLength(MAX_SUBJECT_CHARACTERS),
  v.check((subject) => subject.isWellFormed(), 'must be well-formed Unicode'),
  v.description('What the event is about. The default is the type, or on our channels the id in the data.'),
)
const fields = {
  channel: v.pipe(
    v.string(),
    v.check(
      (channel) => CHANNELS.some((known) => known === channel) || isCustom(channel),
      `must be ${CHANNELS.join(', ')}, or custom_ and lower-case letters, digits or _`,
    ),
    v.description('One of our channels, or `custom_` and a name of your own.'),
  ),
  type: v.pipe(TypeName, v.description('What happened.')),
  data: v.pipe(Data, v.description('On our channels: the data of the type. Elsewhere: any object.')),
}

/** An event in our own shape. */
const Plain = v.strictObject({
  specversion: v.exactOptional(v.never()),
  ...fields,
  id: v.optional(Id),
  subject: v.optional(Subject),
  audience: v.optional(Audience),
})

/**
 * A CloudEvent in the structured mode of HTTP, as SDKs send it (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
 * `channel` and `audience` are extension attributes. Attributes that are not named here, and the `source`, are ignored.
 */
const Structured = v.looseObject({
  specversion: v.literal('1.0'),
  ...fields,
  id: Id,
  source: v.pipe(v.string(), v.minLength(1, 'must not be empty'), v.description('Ignored: the source is this API.')),
  subject: v.nullish(Subject), // in this format, null is absent
  audience: v.nullish(Audience),
  datacontenttype: v.nullish(
    v.pipe(v.string(), v.regex(/^application\/([\w.-]+\+)?json\s*(;|$)/, 'must be application/json')),
  ),
})

/** An event that a back end publishes. The schema adds the default subject and audience. */
export const Publication = v.pipe(
  v.variant('specversion', [Plain, Structured], ({ path }) => (path ? 'must be 1.0' : 'must be an object')),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const { channel, type, data, id } = dataset.value
    const [subject, audience] = [dataset.value.subject ?? undefined, dataset.value.audience ?? undefined]
    const refuse = (message: string, key: string, ...keys: string[]) => {
      const item = (key: string) => ({
        type: 'object' as const,
        origin: 'value' as const,
        input: dataset.value,
        key,
        value: key,
      })
      addIssue({ message, path: [item(key), ...keys.map(item)] })
      return NEVER
    }
    if (isCustom(channel)) {
      if (isKnown(type)) return refuse(`must not be a type of ${catalog[type].channel}`, 'type')
      const about = subject ?? type
      if (audience === 'followers' && !about.startsWith('u_')) {
        return refuse('must be the user whose followers see the event', 'subject')
      }
      return { id, channel, type, data, subject: about, audience: audience ?? ('services' as const) }
    }
    if (!isKnown(type) || catalog[type].channel !== channel) {
      const types = Object.entries(catalog).flatMap(([name, known]) => (known.channel === channel ? [name] : []))
      return refuse(`must be ${types.join(', ')}`, 'type')
    }
    const parsed = v.safeParse(catalog[type].data, data)
    if (!parsed.success) {
      for (const issue of parsed.issues)
        refuse(issue.message, 'data', ...(issue.path ?? []).map((part) => String(part.key)))
      return NEVER
    }
    const about = subjectOf(type, data)
    if (subject !== undefined && subject !== about) return refuse(`must be ${about}, or absent`, 'subject')
    if (audience === 'followers' && !about.startsWith('u_')) {
      return refuse('must not be followers: the event is not about a user', 'audience')
    }
    return { id, channel, type, data, subject: about, audience: audience ?? ('everyone' as const) }
  }),
)
type Output = v.InferOutput<typeof Publication>
export type Publication = Omit<Output, 'id'> & Partial<Pick<Output, 'id'>>
