import { Hono } from 'hono'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { limitOf, pageSchema } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import { idsIn, Post } from '../posts/schema.ts'
import { recommendationsService } from './recommendations.ts'

export const recommendations = new Hono<AppEnv>().get(
  '/',
  doc({
    id: 'listRecommendations',
    tag: 'Feed',
    summary: 'List posts recommended to me',
    description:
      'Posts with many likes, comments and views, younger posts first, and posts liked by users with a similar taste. ' +
      'Never my own posts, and none that I like already. A user without likes gets the hot feed. The list is refreshed ' +
      'every few minutes; counts are current. Works without Redis.',
    answer: pageSchema(Post),
    sends: ['ETag'],
    problems: ['invalid-request', 'not-signed-in'],
  }),
  admit('reads', { session: 'required', check: 'alongside' }),
  valid('query', v.object({ limit: limitOf(20, 50) })),
  async (c) => {
    const { limit } = c.req.valid('query')
    const { caller, use } = c.var
    const recommendations = use(recommendationsService)
    const ids = await recommendations.list(caller.claims.userId)
    const items = await caller.read((viewer) => recommendations.read(ids, viewer, limit))
    return answerCacheable(c, { items, nextCursor: null }, () => idsIn(items))
  },
)
