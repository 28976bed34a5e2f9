import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, valid } from '../http/openapi.ts'
import { postsService } from '../posts/posts.ts'
import { toUser } from '../users/users.ts'
import { Results, SearchQuery } from './schema.ts'
import { searchService } from './search.ts'

export const search = new Hono<AppEnv>().get(
  '/',
  doc({
    id: 'search',
    tag: 'Search',
    summary: 'Search posts or users',
    description:
      'Finds texts that contain all words of `q`. The last word may be a prefix. Case, accents, invisible characters and ' +
      'punctuation do not matter; `d` matches `đ`. Chinese, Japanese, Korean and Thai text matches any sequence of characters. The most relevant results come ' +
      'first; newer posts and users with more followers rank higher. Of more than 1 000 matches, only the newest are ' +
      'ranked. A new post is found after some seconds. Works without Redis. Then counts may be slightly old.',
    answer: Results,
    sends: ['ETag'],
    problems: ['invalid-request'],
  }),
  admit('reads', { session: 'optional', check: 'alongside' }),
  valid('query', SearchQuery),
  async (c) => {
    const { q, type, limit, cursor } = c.req.valid('query')
    const { use, caller } = c.var
    const search = use(searchService)
    if (type === 'users') {
      const { items, nextCursor } = await caller.browse((viewer) => search.users(q, limit, cursor, viewer?.userId))
      return answerCacheable(c, {
        items: items.map(({ row, snippets }) => ({ user: toUser(row), snippets })),
        nextCursor,
      })
    }
    const find = (viewerId?: string) => search.posts(q, limit, cursor, viewerId)
    const found = await find(caller.claims?.userId) // the session is checked in the round trip of the counts
    const page = await caller.read(async (viewer) => {
      const { items, nextCursor } = viewer?.userId === caller.claims?.userId ? found : await find()
      const rows = items.map(({ row }) => row)
      const posts = await use(postsService).withCounts(rows, viewer?.userId)
      return { items: posts.map((post, i) => ({ post, snippets: items[i]?.snippets })), nextCursor }
    })
    return answerCacheable(c, page)
  },
)
