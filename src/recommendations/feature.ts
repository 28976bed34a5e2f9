import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { postsService } from '../posts/posts.ts'
import { createRecommendations, recommendationsService } from './recommendations.ts'
import { recommendations as routes } from './routes.ts'

/** Posts recommended to a user. */
export const recommendations: Feature = {
  name: 'recommendations',
  provides: [
    provide(recommendationsService, ({ db, cache, use, config }) => {
      const posts = use(postsService)
      return createRecommendations({
        db,
        lists: cache<string[]>({
          ...config.caches.recommended,
          name: 'recommended',
          key: keys.recommended,
          versionOf: () => 0,
        }),
        hot: (limit) => posts.hot(limit),
        getMany: posts.getMany,
      })
    }),
  ],
  routes: [['/v1/recommendations', () => routes]],
  removals: {
    async user({ use }, id) {
      await use(recommendationsService).forget(id)
      return { next: null }
    },
  },
  listener: ({ use }) => use(recommendationsService).listener,
}
