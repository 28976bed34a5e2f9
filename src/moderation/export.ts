import { exported } from '../db/exported.ts'
import { moderationLog, reports, suspensions, takedowns } from '../db/schema.ts'

/**
 * What moderation stores about a user: their reports, what of theirs was taken down, a suspension, and what moderators did
 * about the account. Not the reports of others about the user: their words and times reveal who wrote them.
 */
export const moderationExports = {
  report: exported(reports, reports.reporterId, 'rowid', {
    id: reports.id,
    subjectId: reports.subjectId,
    reason: reports.reason,
    text: reports.text,
    status: reports.status,
    createdAt: reports.createdAt,
  }),
  takedown: exported(takedowns, takedowns.authorId, 'rowid', {
    contentId: takedowns.contentId,
    content: takedowns.content,
    note: takedowns.note,
    takenDownAt: takedowns.createdAt,
  }),
  suspension: exported(suspensions, suspensions.userId, 'rowid', {
    note: suspensions.note,
    suspendedAt: suspensions.createdAt,
  }),
  moderation: exported(moderationLog, moderationLog.subjectId, 'rowid', {
    action: moderationLog.action,
    decidedAt: moderationLog.createdAt,
  }),
}
