import { exported } from '../db/exported.ts'
import { notificationReads, notifications as rows } from '../db/schema.ts'

/** The notifications of a user. */
export const notificationExports = {
  notification: exported(rows, rows.userId, rows.id, {
    type: rows.kind,
    contentId: rows.contentId,
    postId: rows.postId,
    actorIds: rows.actorIds,
    actorsCount: rows.actorsCount,
    createdAt: rows.createdAt,
  }),
  notificationsRead: exported(notificationReads, notificationReads.userId, notificationReads.userId, {
    readUntil: notificationReads.readUntil,
    readAt: notificationReads.readAt,
  }),
}
