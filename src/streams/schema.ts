import * as v from 'valibot'
import { Channel } from '../events/catalog.ts'

const MAX_CHANNELS = 20

/** A position in the stream. Empty: the client has received no event. */
export const Position = v.pipe(
  v.string(),
  v.regex(/^(\d{1,15}-\d{1,10})?$/, 'must be the id of an event of this stream, or empty'),
  v.description('The `id` of the last event you received, for clients that cannot send `Last-Event-ID`.'),
)

export const StreamQuery = v.object({
  channels: v.pipe(
    v.string(),
    v.transform((text) => [...new Set(text.split(','))]),
    v.maxLength(MAX_CHANNELS, `must have at most ${MAX_CHANNELS} channels`),
    v.array(Channel),
    v.metadata({
      type: 'string',
      pattern: `^[a-z0-9_]{1,60}(,[a-z0-9_]{1,60}){0,${MAX_CHANNELS - 1}}$`,
      items: undefined,
      maxLength: undefined,
    }),
    v.description(`At most ${MAX_CHANNELS} channels, separated by commas.`),
  ),
  lastEventId: v.optional(Position),
})
