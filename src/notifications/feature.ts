import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { notificationExports } from './export.ts'
import { createNotifications, type Inbox, notificationsService } from './notifications.ts'
import { notifications as routes } from './routes.ts'

/** The inbox of each user. */
export const notifications: Feature = {
  name: 'notifications',
  provides: [
    provide(notificationsService, (platform) => {
      const { cache, config, db, writeThrough } = platform
      return createNotifications({
        db,
        replica: () => platform.replica,
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
  routes: [['/v1/notifications', routes]],
  listener: ({ use }) => use(notificationsService).listener,
  exports: notificationExports,
  removals: { user: ({ use }, id, most) => use(notificationsService).removeOf(id, most) },
  purges: { notifications: ({ use }, most, now) => use(notificationsService).purge(most, now) },
}
