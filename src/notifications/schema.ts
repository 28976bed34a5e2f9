import * as v from 'valibot'
import { Count, id, pageSchema, Time } from '../http/input.ts'

/** One entry of an inbox: a `post` by a followed user, likes of my content, a `comment` on my post, a
 * `reply` to my comment, a `mention` of my name, or a `follow`. */
export const Notification = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time. A new like gives the notification of its content a new id.')),
    type: v.pipe(
      v.picklist(['post', 'like', 'comment', 'reply', 'mention', 'follow']),
      v.description('What happened.'),
    ),
    actorIds: v.pipe(
      v.array(v.string()),
      v.description('The users who caused it. For likes: the latest three at most, the latest first.'),
    ),
    actorsCount: v.pipe(
      Count,
      v.description('The number of users who caused it. Of likes it includes users whom I do not see.'),
    ),
    postId: v.pipe(v.optional(v.string()), v.description('The post it is about.')),
    commentId: v.pipe(v.optional(v.string()), v.description('The comment it is about.')),
    createdAt: v.pipe(Time, v.description('When it last happened')),
    isRead: v.pipe(v.boolean(), v.description('Whether I have marked it as read.')),
  }),
  v.metadata({ ref: 'Notification', description: 'An entry of my inbox.' }),
)
export type Notification = v.InferOutput<typeof Notification>

const UnreadCount = v.pipe(Count, v.description('Counted among the newest notifications (INBOX_SIZE, by default 100)'))

export const NotificationPage = v.pipe(
  v.object({ ...pageSchema(Notification).entries, unreadCount: UnreadCount }),
  v.description('A page of my inbox.'),
)

export const ReadRequest = v.strictObject({
  until: v.optional(v.pipe(id('n'), v.description('The latest notification to mark. Without it: all.'))),
})
export const ReadAnswer = v.pipe(v.object({ unreadCount: UnreadCount }), v.description('What is still unread.'))
