import * as v from 'valibot'
import { idsQuery, limitOf, Time } from '../http/input.ts'

/** The presence of a user, as the viewer may see it. */
export const Presence = v.pipe(
  v.object({
    userId: v.string(),
    isOnline: v.boolean(),
    lastSeenAt: v.pipe(v.nullable(Time), v.description('Null: never, or hidden from the viewer')),
  }),
  v.metadata({ ref: 'Presence' }),
)
export type Status = v.InferOutput<typeof Presence>

export const Statuses = v.object({ items: v.array(Presence), nextCursor: v.null() })

export const DeviceQuery = v.object({
  deviceId: v.optional(v.pipe(v.string(), v.regex(/^[\w-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -'))),
})

const { ids } = idsQuery('u', 500).entries
export const StatusQuery = v.pipe(
  v.object({ ids: v.optional(ids), limit: v.optional(limitOf(100, 100)) }),
  v.forward(
    v.check(({ ids, limit }) => ids === undefined || limit === undefined, 'must be absent if ids are given'),
    ['limit'],
  ),
)

export const Visibility = v.object({ visibility: v.picklist(['everyone', 'followers', 'nobody']) })
