import { Hono } from 'hono'
import { admit, requireUserId } from '../http/admit.ts'
import { revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { pageOf, pageQuery } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import { Post } from '../posts/routes.ts'

export const feed = new Hono<AppEnv>().get(
  '/',
  doc({
    tag: 'Feed',
    summary: 'Read the posts of those I follow, newest first',
    description: 'Without Redis it is answered all the same, with counts that may be a little behind.',
    answer: pageOf(Post),
    problems: ['invalid-request', 'not-signed-in'],
  }),
  admit('reads', 'required'),
  valid('query', pageQuery('p')),
  async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const page = await c.var.services.feed.page(requireUserId(c), limit, cursor)
    revalidate(c)
    return c.json(page)
  },
)
