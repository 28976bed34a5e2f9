import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { pageQuery } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { notificationsService } from './notifications.ts'
import { NotificationPage, ReadAnswer, ReadRequest } from './schema.ts'

const tag = 'Notifications'

export const notifications = new Hono<AppEnv>()
  .get(
    '/',
    doc({
      id: 'listNotifications',
      tag,
      summary: 'List my notifications, newest first, with the unread count',
      description:
        'Posts of users I follow, since I follow them; likes of my content, one notification for all likes of it; ' +
        'comments on my posts; replies to my comments; posts and comments that name me (`@name`); new followers. Nothing by users whom I mute, or whom a block hides. If the cause is undone, ' +
        'its notification disappears. Without Redis the ' +
        'answer comes from D1.',
      answer: NotificationPage,
      headers: ['X-D1-Bookmark'],
      sends: ['ETag', 'X-D1-Bookmark'],
      problems: ['invalid-request', 'not-signed-in'],
    }),
    admit('reads', { session: 'required', check: 'alongside' }),
    valid('query', pageQuery('n')),
    async (c) => {
      const { limit, cursor } = c.req.valid('query')
      const notifications = c.var.use(notificationsService)
      const page = await c.var.caller.read((viewer) => notifications.page(viewer, limit, cursor))
      return answerCacheable(c, page, () => [])
    },
  )
  .post(
    '/read',
    doc({
      id: 'markNotificationsRead',
      tag,
      summary: 'Mark my notifications as read: all, or those up to a notification',
      description:
        'Send `{}` for all. Repeating the request changes nothing. Later notifications are unread. Works without Redis. ' +
        'Then notifications may appear unread for some minutes.',
      answer: ReadAnswer,
      problems: ['invalid-request', 'malformed-json', 'not-signed-in', 'unsupported-media-type'],
    }),
    admit('notifications', { session: 'required' }),
    requireJson,
    valid('json', ReadRequest),
    async (c) => {
      const { until } = c.req.valid('json')
      return c.json({ unreadCount: await c.var.use(notificationsService).markRead(c.var.userId, until) })
    },
  )
