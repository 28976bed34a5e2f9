import { hintsService } from '../events/hints.ts'
import { consumer, type Feature, provide } from '../feature.ts'
import { notificationsService } from '../notifications/notifications.ts'
import { likeExports } from './export.ts'
import { createLikes, likesService } from './likes.ts'
import { purgeRemoved, removeLikesOfComment, removeLikesOfPost } from './purge.ts'
import { commentLikes, postLikes } from './routes.ts'
import { LikeMessage, UnansweredLike } from './schema.ts'

/** How many likes one run of the cron completes. */
const COMPLETED_PER_RUN = 10_000

/**
 * Likes of posts and comments. Redis counts a like at once; the queue carries it to D1. There, triggers update the count
 * and the score of the content (`migrations/0019_scores.sql`). After that the author's notification is refreshed, and the
 * count is sent as a hint.
 */
export const likes: Feature = {
  name: 'likes',
  provides: [
    provide(likesService, ({ db, counters, enqueue, meter, traceparent, use }) =>
      createLikes({
        db,
        readCounters: counters.reads,
        writeCounters: counters.writes,
        enqueue: (message, options) =>
          enqueue('LIKES', [
            { body: { ...message, ...(traceparent === undefined ? {} : { traceparent }) }, ...options },
          ]),
        isUnanswered: () => meter.failures > 0,
        onApplied: (kind, contentIds) => use(notificationsService).refreshLikes(kind, contentIds),
        sendCounts: (counts) => use(hintsService).sendCounts(counts),
      }),
    ),
  ],
  routes: [
    ['/v1/posts', () => postLikes],
    ['/v1/comments', () => commentLikes],
  ],
  consumers: () => [
    consumer({ message: LikeMessage, consume: ({ use }, messages) => use(likesService).apply(messages) }),
    consumer({
      message: UnansweredLike,
      async consume({ use }, messages) {
        await use(likesService).recover(messages)
        return new Set()
      },
    }),
  ],
  jobs: [
    {
      name: 'complete likes',
      isExclusive: true,
      run: ({ use }, { signal }) => use(likesService).complete(COMPLETED_PER_RUN, signal),
    },
  ],
  purges: {
    removedPostLikes: ({ db }, most, now) => purgeRemoved(db, 'post', most, now),
    removedCommentLikes: ({ db }, most, now) => purgeRemoved(db, 'comment', most, now),
  },
  exports: () => likeExports,
  removals: {
    post: ({ db }, id, most) => removeLikesOfPost(db, id, most),
    comment: ({ db }, id, most) => removeLikesOfComment(db, id, most),
    user: ({ use }, id, most) => use(likesService).removeOf(id, most),
  },
}
