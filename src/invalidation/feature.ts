import type { Feature } from '../feature.ts'
import { commentsService } from '../comments/comments.ts'
import { likesService } from '../likes/likes.ts'
import { postsService } from '../posts/posts.ts'
import { usersService } from '../users/users.ts'
import { createCompletion } from './completion.ts'
import { invalidation as routes } from './routes.ts'

/** Lets other back ends invalidate caches, and brings them to writes whose request did not. */
export const invalidation: Feature = {
  name: 'invalidation',
  routes: [['/v1/cache', () => routes]],
  listener: ({ use }) =>
    createCompletion(async ({ users, posts }) => {
      await Promise.all([
        use(usersService).invalidate(users),
        use(postsService).invalidate(posts),
        use(likesService).recount(posts),
        use(commentsService).recount(posts),
      ])
    }),
}
