import { hintsService } from '../events/hints.ts'
import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { likesService } from '../likes/likes.ts'
import { mentionsService } from '../notifications/mentions.ts'
import { removalsService } from '../removals/removals.ts'
import { usersService } from '../users/users.ts'
import { postExports } from './export.ts'
import { countsService, createCounts } from './counts.ts'
import { type CachedPost, createPosts, postsService } from './posts.ts'
import { posts as routes, postsByAuthor } from './routes.ts'
import { createViews, viewsService } from './views.ts'

/** How many contents one run of the cron reconciles. */
const RECONCILED_PER_RUN = 25_000

/**
 * Posts, the hot feed, unique views, and the counts of posts and comments in Redis. D1 triggers record each content whose
 * counts changed (`migrations/0010_unsettled_counts.sql`), and the cron brings Redis to them.
 */
export const posts: Feature = {
  name: 'posts',
  provides: [
    provide(postsService, (platform) => {
      const { cache, use } = platform
      const { posts: policy, hot } = platform.config.caches
      return createPosts(platform, {
        byId: cache<CachedPost>({ ...policy, name: 'post', key: keys.post, versionOf: (post) => post.version }),
        hotIds: cache<string[]>({
          ...hot,
          name: 'hot',
          key: keys.hotPosts,
          versionOf: () => 0,
          generationKey: keys.hotGeneration,
        }),
        likedBy: (userId, ids) => use(likesService).likedBy(userId, ids),
        authors: () => use(usersService),
        mentions: () => use(mentionsService),
      })
    }),
    provide(countsService, ({ db, counters, fences, use }) =>
      createCounts(db, counters.writes, fences, (counts) => use(hintsService).sendCounts(counts)),
    ),
    provide(viewsService, ({ db, counters, fences, use }) =>
      createViews(db, counters.writes, fences, (counts) => use(hintsService).sendCounts(counts)),
    ),
  ],
  routes: [
    ['/v1/posts', () => routes],
    ['/v1/users', () => postsByAuthor],
  ],
  jobs: [
    {
      name: 'write views',
      isExclusive: true,
      run: ({ use }, tick) => use(viewsService).flush(tick),
    },
    {
      name: 'reconcile counts',
      isExclusive: true,
      run: ({ use }, tick) => use(countsService).reconcile(RECONCILED_PER_RUN, tick),
    },
  ],
  exports: () => postExports,
  removals: {
    async user({ use }, id, most) {
      const { removed, owners } = await use(postsService).removeOf(id, most)
      await use(removalsService).begin(owners)
      return removed
    },
  },
  purges: { hotFeeds: ({ use }) => use(postsService).purgeHot() },
}
