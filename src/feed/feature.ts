import { type Feature, provide } from '../feature.ts'
import { postsService } from '../posts/posts.ts'
import { createFeed, feedService } from './feed.ts'
import { feed as routes } from './routes.ts'

/** The posts of the users one follows. */
export const feed: Feature = {
  name: 'feed',
  provides: [provide(feedService, ({ replica, use }) => createFeed(replica, use(postsService).withCounts))],
  routes: [['/v1/feed', () => routes]],
}
