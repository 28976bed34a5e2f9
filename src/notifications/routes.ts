import { Hono } from 'hono'
import * as v from 'valibot'
import { admit, readAsUser, requireUserId } from '../http/admit.ts'
import { revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, pageOf, pageQuery, Time } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'

const tag = 'Notifications'

const Unread = v.pipe(Count, v.description('Counted among the newest (INBOX_SIZE, 100): so many may be more'))

const Notification = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Rises with time. That of likes changes with the latest of them')),
    type: v.picklist(['post', 'like', 'comment', 'follow']),
    actorIds: v.pipe(
      v.array(v.string()),
      v.description('Who did it: of likes the latest three at most, the last first'),
    ),
    actorsCount: Count,
    postId: v.optional(v.string()),
    commentId: v.optional(v.string()),
    createdAt: Time,
    isRead: v.boolean(),
  }),
  v.metadata({ ref: 'Notification' }),
)

export const notifications = new Hono<AppEnv>()
  .get(
    '/',
    doc({
      tag,
      summary: 'Read what I am told of, newest first, and how much of it is unread',
      description:
        'Posts of those I follow, from then on; likes of what I wrote, one notification for all likes of it; comments on ' +
        'my posts; new followers. What is taken back is gone. Without Redis it is answered from D1.',
      answer: v.object({ ...pageOf(Notification).entries, unreadCount: Unread }),
      problems: ['invalid-request', 'not-signed-in'],
    }),
    admit('reads', 'ignored'),
    valid('query', pageQuery('n')),
    async (c) => {
      const { limit, cursor } = c.req.valid('query')
      const page = await readAsUser(c, (userId) => c.var.services.notifications.page(userId, limit, cursor))
      revalidate(c)
      return c.json(page)
    },
  )
  .post(
    '/read',
    doc({
      tag,
      summary: 'Mark as read what I am told of: all, or up to a notification',
      description:
        'A mark never goes back, and what comes later is unread, wherever in the list it is. Without Redis it is marked ' +
        'all the same; what Redis held may be shown as unread for some minutes.',
      answer: v.object({ unreadCount: Unread }),
      problems: ['invalid-request', 'malformed-json', 'not-signed-in', 'unsupported-media-type'],
    }),
    admit('notifications', 'required'),
    requireJson,
    valid('json', v.strictObject({ until: v.optional(id('n')) })),
    async (c) => {
      const { until } = c.req.valid('json')
      return c.json({ unreadCount: await c.var.services.notifications.markRead(requireUserId(c), until) })
    },
  )
