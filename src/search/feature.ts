import { type Feature, provide } from '../feature.ts'
import { search as routes } from './routes.ts'
import { createSearch, searchService } from './search.ts'

/** Full-text search of posts and users. */
export const search: Feature = {
  name: 'search',
  provides: [provide(searchService, (platform) => createSearch(platform.db, () => platform.replica))],
  routes: [['/v1/search', () => routes]],
  listener: ({ use }) => use(searchService).listener,
}
