import { type Feature, provide } from '../feature.ts'
import { mentionsService } from '../notifications/mentions.ts'
import { commentsService, createComments } from './comments.ts'
import { comments as routes, commentsOnPost } from './routes.ts'

/** Comments on posts. */
export const comments: Feature = {
  name: 'comments',
  provides: [
    provide(commentsService, ({ db, counters, outbox, writeThrough, use }) =>
      createComments(db, counters.reads, outbox, writeThrough, use(mentionsService)),
    ),
  ],
  routes: [
    ['/v1/posts', commentsOnPost],
    ['/v1/comments', routes],
  ],
  removals: { post: ({ use }, postId, most) => use(commentsService).removeOfPost(postId, most) },
}
