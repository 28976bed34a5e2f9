import { Hono } from 'hono'
import * as v from 'valibot'
import { commentsService } from '../comments/comments.ts'
import { unavailable } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { id } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { requireService } from '../http/service-token.ts'
import { likesService } from '../likes/likes.ts'
import { postsService } from '../posts/posts.ts'
import { usersService } from '../users/users.ts'

const ids = (kind: 'u' | 'p') =>
  v.optional(v.pipe(v.array(id(kind)), v.maxLength(100, 'must have at most 100 ids')), [])

const Invalidation = v.pipe(
  v.strictObject({ users: ids('u'), posts: ids('p'), hot: v.optional(v.boolean(), false) }),
  v.forward(
    v.check(({ users, posts, hot }) => hot || users.length + posts.length > 0, 'name users, posts, or hot: true'),
    ['users'],
  ),
)

export const invalidation = new Hono<AppEnv>().post(
  '/invalidate',
  doc({
    id: 'invalidateCache',
    tag: 'Cache',
    summary: 'Invalidate caches after a change in the database',
    description:
      'For back ends that write the database themselves. The next read loads profiles and texts from D1, and the counts ' +
      'of the posts are set to those of D1. Isolates may answer from memory for some seconds. Safe to repeat. Without ' +
      'Redis: 503, and caches keep old values until they expire.',
    status: 204,
    problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'service-token-required', 'unavailable'],
  }),
  requireService('cache:invalidate'),
  requireJson,
  valid('json', Invalidation),
  async (c) => {
    const { use } = c.var
    const { users, posts, hot } = c.req.valid('json')
    await Promise.all([
      use(usersService).invalidate(users),
      use(postsService).invalidate(posts),
      use(likesService).recount(posts),
      use(commentsService).recount(posts),
      hot ? use(postsService).expireHot() : undefined,
    ]).catch(unavailable('Caches cannot be invalidated right now'))
    return c.body(null, 204)
  },
)
