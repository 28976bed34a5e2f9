import { type Context, Hono } from 'hono'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import { admit, requireUserId } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { idsQuery, limitOf, Time } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'

const tag = 'Presence'

const Statuses = v.object({
  items: v.array(
    v.pipe(
      v.object({ userId: v.string(), isOnline: v.boolean(), lastSeenAt: v.nullable(Time) }),
      v.metadata({ ref: 'Presence' }),
    ),
  ),
  nextCursor: v.null(),
})

const Device = v.object({
  deviceId: v.optional(v.pipe(v.string(), v.regex(/^[\w-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -'))),
})

const { ids } = idsQuery('u', 500).entries
const Query = v.pipe(
  v.object({ ids: v.optional(ids), limit: v.optional(limitOf(100, 100)) }),
  v.forward(
    v.check(({ ids, limit }) => ids === undefined || limit === undefined, 'goes without ids, or ids without it'),
    ['limit'],
  ),
)

const Visibility = v.object({
  visibility: v.picklist(['everyone', 'followers', 'nobody'], 'must be everyone, followers or nobody'),
})

/** The device of a request: as it says, else its session. */
function deviceOf(c: Context<AppEnv>, deviceId: string | undefined): string {
  const device = deviceId ?? c.var.claims?.sessionId
  if (device === undefined) throw new Problem('not-signed-in')
  return device
}

export const presence = new Hono<AppEnv>()
  .post(
    '/heartbeat',
    doc({
      tag,
      summary: 'I am online',
      description:
        'Send it every two minutes or so: after five without, I am offline. A session is a device; tabs that come and ' +
        'go by themselves give a `deviceId`. Without Redis: 503, and nothing is lost but being seen online.',
      status: 204,
      problems: ['invalid-request', 'not-signed-in', 'unavailable'],
    }),
    admit('presence', 'required'),
    valid('query', Device),
    async (c) => {
      await c.var.services.presence.heartbeat(requireUserId(c), deviceOf(c, c.req.valid('query').deviceId))
      return c.body(null, 204)
    },
  )
  .delete(
    '/',
    doc({
      tag,
      summary: 'I am leaving',
      description:
        'I go offline with the last of my devices. Without Redis: 503, and I am offline when silent for long.',
      status: 204,
      problems: ['invalid-request', 'not-signed-in', 'unavailable'],
    }),
    admit('presence', 'required'),
    valid('query', Device),
    async (c) => {
      await c.var.services.presence.leave(requireUserId(c), deviceOf(c, c.req.valid('query').deviceId))
      return c.body(null, 204)
    },
  )
  .get(
    '/',
    doc({
      tag,
      summary: 'Who is online, or which of these',
      description:
        'With `limit` (or nothing): who is online, latest first. With `ids`: each of up to 500 users, in that order, ' +
        'without the unknown. Who does not let me see it looks offline, never seen. Without Redis everyone is offline, ' +
        'last seen when they were before.',
      answer: Statuses,
      problems: ['invalid-request'],
    }),
    admit('reads', 'optional'),
    valid('query', Query),
    async (c) => {
      const { ids, limit = 100 } = c.req.valid('query')
      const { presence } = c.var.services
      const { userId } = c.var
      const items = ids ? await presence.ofUsers(userId, ids) : await presence.latest(userId, limit)
      c.header('Cache-Control', 'no-store')
      return c.json({ items, nextCursor: null })
    },
  )
  .patch(
    '/',
    doc({
      tag,
      summary: 'Change who sees whether I am online',
      description:
        'In force for every reader at once, with or without Redis. Whoever chooses `nobody` goes offline, and when they ' +
        'were last seen is forgotten.',
      answer: Visibility,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'not-signed-in'],
    }),
    admit('presence', 'required'),
    requireJson,
    valid('json', Visibility),
    async (c) => {
      const { visibility } = c.req.valid('json')
      await c.var.services.presence.setVisibility(requireUserId(c), visibility)
      return c.json({ visibility })
    },
  )
