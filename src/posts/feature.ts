import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { likesService } from '../likes/likes.ts'
import { usersService } from '../users/users.ts'
import { type CachedPost, createPosts, postsService } from './posts.ts'
import { posts as routes, postsByAuthor } from './routes.ts'
import { createViews, viewsService } from './views.ts'

/** Posts, the hot feed, and unique views. */
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
      async run({ use }, { signal }) {
        // Bounded: the next run writes what one minute adds beyond this.
        for (let round = 0; round < 50 && (await use(viewsService).flush(1_000)) > 0; round += 1)
          signal.throwIfAborted()
      },
    },
  ],
  purges: { hotFeeds: ({ use }) => use(postsService).purgeHot() },
}
