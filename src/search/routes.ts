import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, valid } from '../http/openapi.ts'
import { postsService } from '../posts/posts.ts'
import { idsIn } from '../posts/schema.ts'
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
    headers: ['X-D1-Bookmark'],
    sends: ['ETag', 'X-D1-Bookmark'],
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
      const found = items.map(({ row, snippets }) => ({ user: toUser(row), snippets }))
      return answerCacheable(c, { items: found, nextCursor }, () => items.map(({ row }) => row.id))
    }
    const find = (viewerId?: string) => search.posts(q, limit, cursor, viewerId)
    const first = await find(caller.claims?.userId) // the session is checked in the round trip of the counts
    const { posts, snippets, nextCursor } = await caller.read(async (viewer) => {
      const { items, nextCursor } = viewer?.userId === caller.claims?.userId ? first : await find()
      const rows = items.map(({ row }) => row)
      const posts = await use(postsService).withCounts(rows, viewer?.userId)
      return { posts, snippets: items.map((item) => item.snippets), nextCursor }
    })
    const found = posts.map((post, i) => ({ post, snippets: snippets[i] }))
    return answerCacheable(c, { items: found, nextCursor }, () => idsIn(posts))
  },
)
