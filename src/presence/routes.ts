import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { answerUnstored } from '../http/answer.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import type { Claims } from '../redis/session.ts'
import { presenceService } from './presence.ts'
import { DeviceQuery, Statuses, StatusQuery, Visibility } from './schema.ts'

const tag = 'Presence'

/** A session is a device, and so is each of its tabs. The end of the session ends them all. */
const deviceOf = ({ sessionId }: Claims, { deviceId }: { deviceId?: string | undefined }) =>
  deviceId === undefined ? sessionId : `${sessionId}:${deviceId}`

export const presence = new Hono<AppEnv>()
  .post(
    '/heartbeat',
    doc({
      id: 'sendHeartbeat',
      tag,
      summary: 'Report that I am online',
      description:
        'Send it about every two minutes. After five minutes without a heartbeat, I am offline. A session is a device. ' +
        'Clients with several tabs send a `deviceId` per tab. Without Redis: 503; send the next heartbeat as usual.',
      status: 204,
      problems: ['invalid-request', 'not-signed-in', 'unavailable'],
    }),
    admit('presence', { session: 'required', check: 'within' }),
    valid('query', DeviceQuery),
    async (c) => {
      const [writer, use] = [c.get('writer'), c.get('use')]
      const deviceId = deviceOf(writer.claims, c.req.valid('query'))
      await writer.write((userId, evaluate) => use(presenceService).heartbeat(userId, deviceId, undefined, evaluate))
      return answerUnstored(c)
    },
  )
  .delete(
    '/',
    doc({
      id: 'goOffline',
      tag,
      summary: 'Report that I leave',
      description: 'I go offline with my last device. Without Redis: 503; I go offline after five minutes of silence.',
      status: 204,
      problems: ['invalid-request', 'not-signed-in', 'unavailable'],
    }),
    admit('presence', { session: 'required', check: 'within' }),
    valid('query', DeviceQuery),
    async (c) => {
      const [writer, use] = [c.get('writer'), c.get('use')]
      const deviceId = deviceOf(writer.claims, c.req.valid('query'))
      await writer.write((userId, evaluate) => use(presenceService).leave(userId, deviceId, undefined, evaluate))
      return answerUnstored(c)
    },
  )
  .get(
    '/',
    doc({
      id: 'listPresence',
      tag,
      summary: 'List the users who are online, or read the presence of given users',
      description:
        'Without `ids`: the users who are online, latest first. With `ids`: up to 500 users, in the order of the ids, ' +
        'without unknown ones. Users who hide their presence from me, or whom a block hides, appear offline, never seen. Without Redis all users ' +
        'appear offline, with an earlier `lastSeenAt`.',
      answer: Statuses,
      problems: ['invalid-request'],
    }),
    admit('reads', { session: 'optional' }),
    valid('query', StatusQuery),
    async (c) => {
      const { ids, limit = 100 } = c.req.valid('query')
      const { use, userId } = c.var
      const presence = use(presenceService)
      const items = ids ? await presence.ofUsers(userId, ids) : await presence.latest(userId, limit)
      c.header('Cache-Control', 'no-store')
      return c.json({ items, nextCursor: null })
    },
  )
  .patch(
    '/',
    doc({
      id: 'updatePresence',
      tag,
      summary: 'Change who sees my presence',
      description:
        'Takes effect at once for all readers, with or without Redis. `nobody` takes me offline and deletes the time I was ' +
        'last seen.',
      answer: Visibility,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'not-signed-in'],
    }),
    admit('presence', { session: 'required' }),
    requireJson,
    valid('json', Visibility),
    async (c) => {
      const { visibility } = c.req.valid('json')
      await c.var.use(presenceService).setVisibility(c.var.userId, visibility)
      return c.json({ visibility })
    },
  )
