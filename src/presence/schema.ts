import * as v from 'valibot'
import { idsQuery, limitOf, Time } from '../http/input.ts'

/** The presence of a user, as the viewer may see it. */
export const Presence = v.pipe(
  v.object({
    userId: v.pipe(v.string(), v.description('The user.')),
    isOnline: v.pipe(v.boolean(), v.description('Whether the user is online, as far as the caller may know.')),
    lastSeenAt: v.pipe(v.nullable(Time), v.description('Null: never, or hidden from the viewer')),
  }),
  v.metadata({ ref: 'Presence', description: 'The presence of a user, as the caller may see it.' }),
)
export type Status = v.InferOutput<typeof Presence>

export const Statuses = v.pipe(
  v.object({ items: v.array(Presence), nextCursor: v.null() }),
  v.description('The presence of users.'),
)

export const DeviceQuery = v.object({
  deviceId: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^[\w-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -'),
      v.description('One of my devices. The default is the session.'),
    ),
  ),
})

const { ids } = idsQuery('u', 500).entries
export const StatusQuery = v.pipe(
  v.object({ ids: v.optional(ids), limit: v.optional(limitOf(100, 100)) }),
  v.forward(
    v.check(({ ids, limit }) => ids === undefined || limit === undefined, 'must be absent if ids are given'),
    ['limit'],
  ),
)

export const Visibility = v.pipe(
  v.object({ visibility: v.picklist(['everyone', 'followers', 'nobody']) }),
  v.description('Who sees my presence.'),
)
