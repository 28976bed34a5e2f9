import { exported } from '../db/exported.ts'
import { mentions, notificationReads, notifications as rows } from '../db/schema.ts'

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
  mention: exported(mentions, mentions.userId, mentions.id, {
    contentId: mentions.contentId,
    postId: mentions.postId,
    createdAt: mentions.createdAt,
  }),
  notificationsRead: exported(notificationReads, notificationReads.userId, notificationReads.userId, {
    readUntil: notificationReads.readUntil,
    readAt: notificationReads.readAt,
  }),
}
