import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { likesService } from '../likes/likes.ts'
import { usersService } from '../users/users.ts'
import { countsService, createCounts } from './counts.ts'
import { type CachedPost, createPosts, postsService } from './posts.ts'
import { posts as routes, postsByAuthor } from './routes.ts'
import { createViews, viewsService } from './views.ts'

/** How many contents one run of the cron reconciles. */
const RECONCILED_PER_RUN = 5_000

/**
 * Posts, the hot feed, unique views, and the counts of posts and comments in Redis. D1 triggers record each content whose
 * counts changed (`migrations/0010_unsettled_counts.sql`), and the cron brings Redis to them.
 */
export const posts: Feature = {
  name: 'posts',
  provides: [
    provide(postsService, ({ db, cache, counters, use, outbox, writeThrough, config }) =>
      createPosts({
        db,
        byId: cache<CachedPost>({
          ...config.caches.posts,
          name: 'post',
          key: keys.post,
          versionOf: (post) => post.version,
        }),
        hotIds: cache<string[]>({
          ...config.caches.hot,
          name: 'hot',
          key: keys.hotPosts,
          versionOf: () => 0,
          generationKey: keys.hotGeneration,
        }),
        counters: counters.reads,
        likedBy: (userId, ids) => use(likesService).likedBy(userId, ids),
        authors: use(usersService),
        outbox,
        writeThrough,
        hotWindowMs: config.hotWindowMs,
      }),
    ),
    provide(countsService, ({ db, counters }) => createCounts(db, counters.writes)),
    provide(viewsService, ({ db, counters }) => createViews(db, counters.writes)),
  ],
  routes: [
    ['/v1/posts', routes],
    ['/v1/users', postsByAuthor],
  ],
  jobs: [
    {
      name: 'write views',
      isExclusive: true,
      run: ({ use }, { signal }) => use(viewsService).flush(signal),
    },
    {
      name: 'reconcile counts',
      isExclusive: true,
      run: ({ use }, { signal }) => use(countsService).reconcile(RECONCILED_PER_RUN, signal),
    },
  ],
  purges: { hotFeeds: ({ use }) => use(postsService).purgeHot() },
}
