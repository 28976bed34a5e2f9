import { Hono } from 'hono'
import * as v from 'valibot'
import { admit, requireUserId } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'

const tag = 'Likes'
const Liked = v.object({ liked: v.boolean(), likes: Count })

/** The like of one kind of content, mounted below it: `/v1/posts/:id/like`. */
export const likesOf = (kind: 'p' | 'c') => {
  const name = kind === 'p' ? 'post' : 'comment'
  const described = (summary: string) =>
    doc({
      tag,
      summary,
      description: 'However often it is asked, it counts once. Without Redis it cannot be counted exactly: 503.',
      answer: Liked,
      problems: ['invalid-request', 'not-signed-in', 'not-found', 'unavailable'],
    })
  const Id = v.object({ id: id(kind) })

  return new Hono<AppEnv>()
    .put('/:id/like', described(`Like a ${name}`), admit('likes', 'required'), valid('param', Id), async (c) =>
      c.json(await c.var.services.likes.set(c.req.valid('param').id, requireUserId(c), true)),
    )
    .delete(
      '/:id/like',
      described(`Take back a like of a ${name}`),
      admit('likes', 'required'),
      valid('param', Id),
      async (c) => c.json(await c.var.services.likes.set(c.req.valid('param').id, requireUserId(c), false)),
    )
}
