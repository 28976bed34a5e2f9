import { hintsService } from '../events/hints.ts'
import { type Feature, provide } from '../feature.ts'
import { mentionsService } from '../notifications/mentions.ts'
import { notificationsService } from '../notifications/notifications.ts'
import { removalsService } from '../removals/removals.ts'
import { commentExports } from './export.ts'
import { commentsService, createComments } from './comments.ts'
import { comments as routes, commentsOnPost } from './routes.ts'

/** Comments on posts. */
export const comments: Feature = {
  name: 'comments',
  provides: [
    provide(commentsService, (platform) =>
      createComments(platform, platform.counters.reads, platform.use(mentionsService), (counts) =>
        platform.defer(() => platform.use(hintsService).sendCounts(counts)),
      ),
    ),
  ],
  routes: [
    ['/v1/posts', () => commentsOnPost],
    ['/v1/comments', () => routes],
  ],
  exports: () => commentExports,
  removals: {
    post: ({ use }, postId, most) => use(commentsService).removeOfPost(postId, most),
    async user({ use }, id, most) {
      const { removed, owners } = await use(commentsService).removeOf(id, most, (userIds) =>
        use(notificationsService).invalidate(userIds),
      )
      await use(removalsService).begin(owners)
      return removed
    },
  },
}
