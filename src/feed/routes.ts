import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { pageQuery, pageSchema } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import { idsIn, Post } from '../posts/schema.ts'
import { feedService } from './feed.ts'

export const feed = new Hono<AppEnv>().get(
  '/',
  doc({
    id: 'listFeed',
    tag: 'Feed',
    summary: 'List the posts of the users I follow, newest first',
    description: 'Works without Redis. Then counts may be slightly old.',
    answer: pageSchema(Post),
    headers: ['X-D1-Bookmark'],
    sends: ['ETag', 'X-D1-Bookmark'],
    problems: ['invalid-request', 'not-signed-in'],
  }),
  admit('reads', { session: 'required' }),
  valid('query', pageQuery('p')),
  async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const page = await c.var.use(feedService).page(c.var.userId, limit, cursor)
    return answerCacheable(c, page, () => idsIn(page.items))
  },
)
