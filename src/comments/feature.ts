import { type Feature, provide } from '../feature.ts'
import { commentsService, createComments } from './comments.ts'
import { comments as routes, commentsOnPost } from './routes.ts'

/** How far back the cron looks for comments that Redis missed. */
const RECONCILE_MS = 5 * 60_000

/** Comments on posts. */
export const comments: Feature = {
  name: 'comments',
  provides: [
    provide(commentsService, ({ db, counters, outbox, writeThrough }) =>
      createComments(db, counters.reads, outbox, writeThrough),
    ),
  ],
  routes: [
    ['/v1/posts', commentsOnPost],
    ['/v1/comments', routes],
  ],
  jobs: [
    {
      name: 'reconcile comments',
      isExclusive: true,
      run: ({ use }, { now, signal }) => use(commentsService).reconcile(now - RECONCILE_MS, 500, signal),
    },
  ],
}
