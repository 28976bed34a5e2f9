import { Hono } from 'hono'
import * as v from 'valibot'
import type { ProblemType } from '../errors.ts'
import { admit, type Writer } from '../http/admit.ts'
import { answerUnstored } from '../http/answer.ts'
import type { AppEnv } from '../http/context.ts'
import { id } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import type { Use } from '../platform.ts'
import { likesService } from './likes.ts'
import { Liked } from './schema.ts'

/** The like routes of one kind of content, mounted below it: `/v1/posts/:id/like`. */
const likeRoutes = (kind: 'p' | 'c', name: 'Post' | 'Comment') => {
  const description = 'Repeated requests count once. Without Redis: 503, because it cannot be counted exactly.'
  const problems: ProblemType[] = ['invalid-request', 'not-signed-in', 'not-found', 'unavailable']
  const Id = v.object({ id: id(kind) })

  const set = (use: Use, writer: Writer<string>, contentId: string, isLiked: boolean) =>
    writer.write(
      (userId, evaluate) => use(likesService).set(contentId, userId, isLiked, evaluate),
      isLiked ? contentId : undefined, // a like can always be taken back
    )

  return new Hono<AppEnv>()
    .put(
      '/:id/like',
      doc({
        id: `like${name}`,
        tag: 'Likes',
        summary: `Like a ${name.toLowerCase()}`,
        description,
        answer: Liked,
        problems,
      }),
      admit('likes', { session: 'required', check: 'within' }),
      valid('param', Id),
      async (c) => answerUnstored(c, await set(c.get('use'), c.get('writer'), c.req.valid('param').id, true)),
    )
    .delete(
      '/:id/like',
      doc({
        id: `unlike${name}`,
        tag: 'Likes',
        summary: `Remove my like of a ${name.toLowerCase()}`,
        description,
        answer: Liked,
        problems,
      }),
      admit('likes', { session: 'required', check: 'within' }),
      valid('param', Id),
      async (c) => answerUnstored(c, await set(c.get('use'), c.get('writer'), c.req.valid('param').id, false)),
    )
}

export const postLikes = likeRoutes('p', 'Post')
export const commentLikes = likeRoutes('c', 'Comment')
