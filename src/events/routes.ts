import { Hono } from 'hono'
import * as v from 'valibot'
import { requireService } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { Audience, catalog, CHANNELS, CUSTOM_CHANNEL, isKnown, subjectOf, TypeName } from './catalog.ts'

/** As JSON, in UTF-8. */
const MAX_DATA_BYTES = 32_768
/** SQLite reads JSON that is nested a thousand deep, and what is around `data` counts too. */
const MAX_DATA_DEPTH = 100
const MAX_SUBJECT_CHARACTERS = 100

const isCustom = (channel: string) => CUSTOM_CHANNEL.test(channel)

/** Whether there are more than `most` levels below `value`. */
function isDeeper(value: unknown, most: number): boolean {
  let level = [value]
  for (let depth = 0; depth <= most && level.length > 0; depth += 1) {
    level = level.flatMap((each) => (typeof each === 'object' && each !== null ? Object.values(each) : []))
  }
  return level.length > 0
}

const Data = v.pipe(
  v.record(v.string(), v.unknown(), 'must be an object'),
  v.check((data) => !isDeeper(data, MAX_DATA_DEPTH), `must be nested at most ${MAX_DATA_DEPTH} deep`),
  v.check(
    (data) => isDeeper(data, MAX_DATA_DEPTH) || new TextEncoder().encode(JSON.stringify(data)).length <= MAX_DATA_BYTES,
    `must be at most ${MAX_DATA_BYTES} bytes as JSON`,
  ),
)

const Publication = v.pipe(
  v.strictObject({
    channel: v.pipe(
      v.string(),
      v.check(
        (channel) => CHANNELS.some((known) => known === channel) || isCustom(channel),
        `must be ${CHANNELS.join(', ')}, or custom_ and lower-case letters, digits or _`,
      ),
    ),
    type: TypeName,
    data: Data,
    // No dot: it is what separates the id from the rest of what webhooks sign.
    id: v.optional(v.pipe(v.string(), v.regex(/^[\w:-]{1,100}$/, 'must be 1 to 100 letters, digits, or _ : -'))),
    subject: v.optional(
      v.pipe(
        v.string(),
        v.minLength(1, 'must not be empty'),
        v.maxLength(MAX_SUBJECT_CHARACTERS),
        v.check((subject) => subject.isWellFormed(), 'must be well-formed Unicode'),
      ),
    ),
    audience: v.optional(Audience),
  }),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const { channel, type, data, id, subject, audience } = dataset.value
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
        return refuse('must be whose followers may see it', 'subject')
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
      return refuse('must not be followers: this is about no user', 'audience')
    }
    return { id, channel, type, data, subject: about, audience: audience ?? ('everyone' as const) }
  }),
)

const tag = 'Events'

export const events = new Hono<AppEnv>().post(
  '/',
  doc({
    tag,
    summary: 'Publish an event',
    description:
      'It is stored, then fanned out to webhooks, listeners and streams, each at least once. Types of our channels are ' +
      'held to their schemas; on a channel that begins with `custom_` anything goes, seen by webhooks alone unless ' +
      '`audience` says otherwise. The same `id` again changes nothing. Redis is not needed.',
    answer: v.object({ id: v.string() }),
    status: 202,
    problems: [
      'invalid-request',
      'malformed-json',
      'service-token-required',
      'unsupported-media-type',
      'event-id-reused',
    ],
  }),
  requireService,
  requireJson,
  valid('json', Publication),
  async (c) => c.json({ id: await c.var.services.outbox.publish(c.req.valid('json')) }, 202),
)

export const listeners = new Hono<AppEnv>().post(
  '/:name/rebuild',
  doc({
    tag,
    summary: 'Build what a listener keeps again, from D1',
    description: 'Accepted, and done step by step by the queue. Without Redis it is accepted all the same.',
    answer: v.object({ listener: v.string() }),
    status: 202,
    problems: ['invalid-request', 'service-token-required', 'not-found'],
  }),
  requireService,
  valid('param', v.object({ name: v.pipe(v.string(), v.regex(/^[a-z]{1,30}$/, 'must be the name of a listener')) })),
  async (c) => {
    const { name } = c.req.valid('param')
    await c.var.services.dispatch.beginRebuild(name)
    return c.json({ listener: name }, 202)
  },
)
