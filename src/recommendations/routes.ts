import { Hono } from 'hono'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import { admit, readAsViewer, readClaims } from '../http/admit.ts'
import { revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { limitOf, pageOf } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import { Post } from '../posts/routes.ts'

export const recommendations = new Hono<AppEnv>().get(
  '/',
  doc({
    tag: 'Feed',
    summary: 'Read posts for me',
    description:
      'What many like, comment on and see, the younger the better, and what those like who like the same posts as I do; ' +
      'none of my own, and none I like already. Who likes nothing yet gets the hot feed. The list is made anew every few ' +
      'minutes; counts are fresh. Without Redis it is answered all the same.',
    answer: pageOf(Post),
    problems: ['invalid-request', 'not-signed-in'],
  }),
  admit('reads', 'ignored'),
  valid('query', v.object({ limit: limitOf(20, 50) })),
  async (c) => {
    const { limit } = c.req.valid('query')
    const { recommendations } = c.var.services
    const claims = readClaims(c)
    if (!claims) throw new Problem('not-signed-in')
    const ids = await recommendations.list(claims.userId)
    // The session is checked beside the posts: nothing is told of what was found if it is over.
    const items = await readAsViewer(c, async (viewerId) => {
      if (viewerId === undefined) throw new Problem('not-signed-in', 'This session is over')
      return recommendations.read(ids, viewerId, limit)
    })
    revalidate(c)
    return c.json({ items, nextCursor: null })
  },
)
