import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { notificationExports } from './export.ts'
import { createMentions, mentionsService } from './mentions.ts'
import { createNotifications, type Inbox, notificationsService } from './notifications.ts'
import { notifications as routes } from './routes.ts'

/** The inbox of each user. */
export const notifications: Feature = {
  name: 'notifications',
  provides: [
    provide(mentionsService, ({ db }) => createMentions(db)),
    provide(notificationsService, (platform) => {
      const { cache, config, db, use, writeThrough } = platform
      return createNotifications({
        db,
        replica: () => platform.replica,
        mentions: use(mentionsService),
        // Not in isolate memory: a user must see their own change at once, on every isolate.
        inboxes: cache<Inbox>(
          { ...config.caches.inboxes, name: 'inbox', key: keys.inbox, versionOf: () => 0 },
          { isPrivate: true },
        ),
        writeThrough,
        ...config.notifications,
      })
    }),
  ],
  routes: [['/v1/notifications', () => routes]],
  listener: ({ use }) => use(notificationsService).listener,
  exports: () => notificationExports,
  removals: {
    post: ({ use }, postId, most) => use(mentionsService).removeOfPost(postId, most),
    comment: ({ use }, id, most) => use(mentionsService).removeOfComment(id, most),
    user: async ({ use }, id, most) =>
      (await use(mentionsService).removeOf(id, most)) + (await use(notificationsService).removeOf(id, most)),
  },
  purges: { notifications: ({ use }, most, now) => use(notificationsService).purge(most, now) },
}
