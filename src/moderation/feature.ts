import { commentsService } from '../comments/comments.ts'
import { type Feature, provide } from '../feature.ts'
import { likesService } from '../likes/likes.ts'
import { postsService } from '../posts/posts.ts'
import { accountsService } from '../sessions/sessions.ts'
import { usersService } from '../users/users.ts'
import { moderationExports } from './export.ts'
import { createModeration, moderationService } from './moderation.ts'
import { moderation as routes, reports } from './routes.ts'

/** Reports of members, and what moderators do about them. */
export const moderation: Feature = {
  name: 'moderation',
  provides: [
    provide(moderationService, (platform) => {
      const { use } = platform
      return createModeration(platform, {
        refresh: (contentId, postId, authorId) => [
          ...(contentId === postId ? [use(postsService).invalidate([postId])] : []),
          platform.counters.writes.evict(contentId === postId ? ['likes', 'comments', 'views'] : ['likes'], [
            contentId,
          ]),
          use(likesService).recount([postId]),
          use(commentsService).recount([postId]),
          use(usersService).invalidate([authorId]),
        ],
        recordEnd: (when, now) => use(accountsService).recordEnd(when, now),
        signOutEverywhere: (userId) => use(accountsService).signOutEverywhere(userId),
      })
    }),
  ],
  routes: [
    ['/v1/reports', () => reports],
    ['/v1/moderation', () => routes],
  ],
  dashboard: [['/v1/moderation', () => routes]],
  exports: () => moderationExports,
  purges: {
    reports: ({ use, config }, most, now) => use(moderationService).purge(most, now - config.moderation.keptMs),
  },
  removals: { user: ({ use }, id, most) => use(moderationService).removeOf(id, most) },
}
