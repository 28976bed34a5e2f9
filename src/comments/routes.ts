import { Hono } from 'hono'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { id, pageQuery, pageSchema } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { createOnce } from '../idempotency/create-once.ts'
import { postsService } from '../posts/posts.ts'
import { PostId, Writing } from '../posts/schema.ts'
import { commentsService } from './comments.ts'
import { Comment } from './schema.ts'

const tag = 'Posts'

/** The comments on a post, below `/v1/posts`. */
export const commentsOnPost = new Hono<AppEnv>()
  .get(
    '/:id/comments',
    doc({
      tag,
      summary: 'List the comments on a post, newest first',
      answer: pageSchema(Comment),
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', PostId),
    valid('query', pageQuery('c')),
    async (c) => {
      const { id } = c.req.valid('param')
      const { limit, cursor } = c.req.valid('query')
      const { use } = c.var
      const [page] = await c.var.caller.browse((viewer) =>
        Promise.all([
          use(commentsService).ofPost(id, limit, cursor, viewer?.userId),
          use(postsService).requireVisible(id, viewer),
        ]),
      )
      return answerCacheable(c, page)
    },
  )
  .post(
    '/:id/comments',
    doc({
      tag,
      summary: 'Comment on a post',
      description: 'At most 500 characters. Works without Redis. Then the count follows later.',
      answer: Comment,
      status: 201,
      headers: ['Idempotency-Key'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'not-found',
        'unsupported-media-type',
        'idempotency-key-in-use',
        'idempotency-key-reused',
      ],
    }),
    admit('comments', { session: 'required' }),
    requireJson,
    valid('param', PostId),
    valid('json', Writing),
    async (c) => {
      const { id } = c.req.valid('param')
      const { text } = c.req.valid('json')
      const { use, userId } = c.var
      return createOnce(
        c,
        userId,
        (alongside) => use(commentsService).create(id, userId, text, alongside),
        (comment: Comment) => ({ location: `/v1/comments/${comment.id}` }),
      )
    },
  )

export const comments = new Hono<AppEnv>().delete(
  '/:id',
  doc({
    tag,
    summary: 'Delete a comment',
    description:
      'Deletes my comment, or a comment on my post. Works without Redis. Then the count of comments follows later.',
    status: 204,
    problems: ['invalid-request', 'not-signed-in', 'not-yours', 'not-found'],
  }),
  admit('comments', { session: 'required' }),
  valid('param', v.object({ id: id('c') })),
  async (c) => {
    await c.var.use(commentsService).remove(c.req.valid('param').id, c.var.userId)
    return c.body(null, 204)
  },
)
