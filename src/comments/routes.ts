import { Hono } from 'hono'
import * as v from 'valibot'
import { admit, requireUserId } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, Time } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'

export const Comment = v.pipe(
  v.object({
    id: v.string(),
    postId: v.string(),
    authorId: v.string(),
    text: v.string(),
    createdAt: Time,
    likesCount: Count,
  }),
  v.metadata({ ref: 'Comment' }),
)

/** Comments by themselves; those on a post are with the posts. */
export const comments = new Hono<AppEnv>().delete(
  '/:id',
  doc({
    tag: 'Posts',
    summary: 'Delete a comment',
    description:
      'Of mine, or on a post of mine. Without Redis it is deleted all the same, and the count of comments follows.',
    status: 204,
    problems: ['invalid-request', 'not-signed-in', 'not-yours', 'not-found'],
  }),
  admit('comments', 'required'),
  valid('param', v.object({ id: id('c') })),
  async (c) => {
    await c.var.services.comments.remove(c.req.valid('param').id, requireUserId(c))
    return c.body(null, 204)
  },
)
