import { type Context, Hono } from 'hono'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import { Channel } from '../events/catalog.ts'
import { addressOf, admit, isService, readClaims } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, valid } from '../http/openapi.ts'

const MAX_CHANNELS = 20

/** Empty: nothing was seen yet. */
const Position = v.pipe(
  v.string(),
  v.regex(/^(\d{1,15}-\d{1,10})?$/, 'must be the id of an event of this stream, or empty'),
)

const Query = v.object({
  channels: v.pipe(
    v.string('must be channels separated by commas'),
    v.transform((text) => [...new Set(text.split(','))]),
    v.maxLength(MAX_CHANNELS, `must be at most ${MAX_CHANNELS} channels`),
    v.array(Channel),
    v.metadata({
      type: 'string',
      pattern: `^[a-z0-9_]{1,60}(,[a-z0-9_]{1,60}){0,${MAX_CHANNELS - 1}}$`,
      items: undefined,
      maxLength: undefined,
    }),
  ),
  lastEventId: v.optional(Position),
})

const HEADERS = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-store, no-transform', // what is compressed on the way may be held back
  'X-Accel-Buffering': 'no', // nginx
}

/** What a browser that reconnects has seen last, by header; whoever cannot send one says it in the query. */
function lastSeen(c: Context<AppEnv>, asked: string | undefined): string | undefined {
  const parsed = v.safeParse(Position, c.req.header('Last-Event-ID') ?? '')
  if (parsed.success) return parsed.output || asked || undefined
  const { message } = parsed.issues[0]
  throw new Problem('invalid-request', `Last-Event-ID: ${message}`, {
    errors: [{ in: 'header', field: 'Last-Event-ID', message }],
  })
}

export const streams = new Hono<AppEnv>().get(
  '/stream',
  doc({
    tag: 'Events',
    summary: 'Follow events as they happen',
    description:
      'Server-Sent Events, for `EventSource`: `event` is the type, `data` the CloudEvent, `id` where to resume. Without ' +
      'a session: what everyone may see; with one (cookie or token) also what is for my followings, and for me; with ' +
      'the service token: everything. A comment comes every 15 s. The stream ends now and then (after 15 minutes, with ' +
      'the session, when the client does not keep up): the browser comes back, with `Last-Event-ID` (or ' +
      '`?lastEventId=`), and misses nothing. If that is too long ago, an event `reset` says so: load afresh, and go on. ' +
      'An event may come again under the same CloudEvent `id`. Without Redis: 503, and open streams end; what happens ' +
      'until it is back comes within a minute or two of that, after what happened since: `sequence` tells its place.',
    textType: 'text/event-stream',
    headers: ['Last-Event-ID'],
    problems: ['invalid-request', 'not-signed-in', 'unavailable'],
  }),
  admit('reads', 'ignored'), // the session is checked in the round trip that opens the stream
  valid('query', Query),
  async (c) => {
    const { channels, lastEventId } = c.req.valid('query')
    const seen = lastSeen(c, lastEventId)
    if (c.req.method === 'HEAD') return c.body(null, 200, HEADERS)
    const { services, defer } = c.var
    const claims = readClaims(c)
    const { body, ended } = await services.streams.open({
      channels: new Set(channels),
      viewer: isService(c) ? { isService: true } : { isService: false, userId: claims?.userId },
      caller: isService(c) ? 'service' : (claims?.userId ?? addressOf(c)),
      isLive: async () => claims !== undefined && services.sessions.check(claims),
      seen,
      signal: c.req.raw.signal,
    })
    defer(() => ended) // what it costs while it is open is on the bill of this request
    return c.body(body, 200, HEADERS)
  },
)
