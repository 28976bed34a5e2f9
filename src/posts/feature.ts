import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { likesService } from '../likes/likes.ts'
import type { Platform } from '../platform.ts'
import type { Cache } from '../redis/cache.ts'
import { usersService } from '../users/users.ts'
import { countsService, createCounts } from './counts.ts'
import { type CachedPost, createPosts, type PostsDependencies, postsService } from './posts.ts'
import { posts as routes, postsByAuthor } from './routes.ts'
import { createViews, viewsService } from './views.ts'

/** How many contents one run of the cron reconciles. */
const RECONCILED_PER_RUN = 25_000

/** What posts need, each built at its first use. Getters of a class: those of an object literal cost 20 µs per invocation. */
class PostsParts implements PostsDependencies {
  readonly #platform: Platform
  readonly byId: Cache<CachedPost>
  readonly hotWindowMs: number
  #hotIds: Cache<string[]> | undefined

  constructor(platform: Platform) {
    this.#platform = platform
    const { caches, hotWindowMs } = platform.config
    this.hotWindowMs = hotWindowMs
    this.byId = platform.cache({ ...caches.posts, name: 'post', key: keys.post, versionOf: (post) => post.version })
  }

  likedBy(userId: string, ids: string[]) {
    return this.#platform.use(likesService).likedBy(userId, ids)
  }

  get hotIds() {
    return (this.#hotIds ??= this.#platform.cache<string[]>({
      ...this.#platform.config.caches.hot,
      name: 'hot',
      key: keys.hotPosts,
      versionOf: () => 0,
      generationKey: keys.hotGeneration,
    }))
  }
  get counters() {
    return this.#platform.counters.reads
  }
  get authors() {
    return this.#platform.use(usersService)
  }
  get db() {
    return this.#platform.db
  }
  get outbox() {
    return this.#platform.outbox
  }
  get writeThrough() {
    return this.#platform.writeThrough
  }
}

/**
 * Posts, the hot feed, unique views, and the counts of posts and comments in Redis. D1 triggers record each content whose
 * counts changed (`migrations/0010_unsettled_counts.sql`), and the cron brings Redis to them.
 */
export const posts: Feature = {
  name: 'posts',
  provides: [
    provide(postsService, (platform) => createPosts(new PostsParts(platform))),
    provide(countsService, ({ db, counters, fences }) => createCounts(db, counters.writes, fences)),
    provide(viewsService, ({ db, counters, fences }) => createViews(db, counters.writes, fences)),
  ],
  routes: [
    ['/v1/posts', routes],
    ['/v1/users', postsByAuthor],
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
  purges: { hotFeeds: ({ use }) => use(postsService).purgeHot() },
}
