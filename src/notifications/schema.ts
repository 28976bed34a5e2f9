import * as v from 'valibot'
import { Count, id, pageSchema, Time } from '../http/input.ts'

/** One entry of an inbox: a `post` by a followed user, likes of my content, a `comment` on my post, a
 * `reply` to my comment, a `mention` of my name, or a `follow`. */
export const Notification = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time. A new like gives the notification of its content a new id.')),
    type: v.picklist(['post', 'like', 'comment', 'reply', 'mention', 'follow']),
    actorIds: v.pipe(
      v.array(v.string()),
      v.description('The users who caused it. For likes: the latest three at most, the latest first.'),
    ),
    actorsCount: v.pipe(
      Count,
      v.description('The number of users who caused it. Of likes it includes users whom I do not see.'),
    ),
    postId: v.optional(v.string()),
    commentId: v.optional(v.string()),
    createdAt: v.pipe(Time, v.description('When it last happened')),
    isRead: v.boolean(),
  }),
  v.metadata({ ref: 'Notification' }),
)
export type Notification = v.InferOutput<typeof Notification>

const UnreadCount = v.pipe(Count, v.description('Counted among the newest notifications (INBOX_SIZE, by default 100)'))

export const NotificationPage = v.object({ ...pageSchema(Notification).entries, unreadCount: UnreadCount })

export const ReadRequest = v.strictObject({ until: v.optional(id('n')) })
export const ReadAnswer = v.object({ unreadCount: UnreadCount })
