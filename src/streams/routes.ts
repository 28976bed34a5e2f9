import { Hono } from 'hono'
import * as v from 'valibot'
import { invalidField } from '../errors.ts'
import { admit } from '../http/admit.ts'
import type { AppEnv, RequestContext } from '../http/context.ts'
import { addressSubject } from '../http/limit.ts'
import { doc, valid } from '../http/openapi.ts'
import { isAdmitted } from '../http/service-token.ts'
import { Position, StreamQuery } from './schema.ts'
import { streamsService } from './streams.ts'

/** What a service token needs for a stream. */
const SCOPE = 'events:read'

const HEADERS = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-store, no-transform', // a proxy that compresses may delay events
  'X-Accel-Buffering': 'no', // nginx
}

/** The last event that the client received: browsers send the header, other clients may use the query. */
function lastReceived(c: RequestContext, fromQuery: string | undefined): string | undefined {
  const parsed = v.safeParse(Position, c.req.header('Last-Event-ID') ?? '')
  if (!parsed.success) throw invalidField('header', 'Last-Event-ID', parsed.issues[0].message)
  return parsed.output || fromQuery || undefined
}

export const streams = new Hono<AppEnv>().get(
  '/stream',
  doc({
    id: 'streamEvents',
    tag: 'Events',
    summary: 'Stream events as Server-Sent Events',
    description:
      'For `EventSource`: `event` is the type, `data` is the CloudEvent, `id` is the position. Without a session, the ' +
      'stream has the public events. With a session (cookie or token), also those of users I follow and those for me, and ' +
      'none of users whom a block hides from me, nor new posts of users whom I mute: their sequences may have gaps. ' +
      'With a service token, all events. A comment arrives every 15 s. The stream ends after 15 minutes, with the ' +
      'session or the service token, or when the client is too slow. Then browsers reconnect with `Last-Event-ID` (or `?lastEventId=`) and ' +
      'miss no fact. If the position is too old, the stream sends an event `reset`: load your data again, then continue. ' +
      'An event may arrive twice under the same CloudEvent `id`. Without Redis: 503, and open streams end. Events of an ' +
      'outage arrive a minute or two after it, after newer events; `sequence` gives the order. `counter_update` and ' +
      '`user_status_change` are hints: they have no `sequence`, carry the latest state, and are not kept. Of two about the ' +
      'same, the later `time` is newer. Read counts and presence after opening a stream. A caller may have 50 open ' +
      'streams (429), and a deployment 10 000 (503).',
    answer: v.pipe(v.string(), v.description('The stream.')),
    mediaTypes: ['text/event-stream'],
    headers: ['Last-Event-ID'],
    problems: ['invalid-request', 'not-signed-in', 'unavailable'],
  }),
  // The session is checked in the round trip that opens the stream.
  admit('reads', { session: 'optional', check: 'alongside' }, { service: SCOPE }),
  valid('query', StreamQuery),
  async (c) => {
    const { channels, lastEventId } = c.req.valid('query')
    const seen = lastReceived(c, lastEventId)
    if (c.req.method === 'HEAD') return c.body(null, 200, HEADERS)
    const { use, caller, service, defer } = c.var
    const { body, ended } = await use(streamsService).open({
      channels: new Set(channels),
      viewer: service ? { isService: true } : { isService: false, userId: caller.claims?.userId },
      caller: service ? `service:${service.id}` : (caller.claims?.userId ?? addressSubject(c)),
      check: service ? async () => (await isAdmitted(c, SCOPE)) || undefined : caller.claims && caller.check,
      seen,
      signal: c.req.raw.signal,
    })
    defer(() => ended) // the request pays for the open stream
    return c.body(body, 200, HEADERS)
  },
)
