import { Hono } from 'hono'
import * as v from 'valibot'
import { admit, readAsViewer } from '../http/admit.ts'
import { revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { limitOf, pageOf } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import { Post } from '../posts/routes.ts'
import { User } from '../users/routes.ts'
import { toUser } from '../users/users.ts'
import { parseCursor } from './search.ts'
import { parseQuery } from './words.ts'

const MAX_CHARACTERS = 200
const MAX_TERMS = 10

const Typed = v.pipe(
  v.string('must be what to look for'),
  v.maxLength(MAX_CHARACTERS, `must have at most ${MAX_CHARACTERS} characters`),
  v.transform(parseQuery),
  v.minLength(1, 'must have a letter or digit'),
  v.maxLength(MAX_TERMS, `must have at most ${MAX_TERMS} words`),
  v.metadata({ type: 'string', minLength: 1, maxLength: MAX_CHARACTERS, items: undefined }),
)

const Cursor = v.pipe(
  v.string(),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const position = parseCursor(dataset.value)
    if (position === null) addIssue({ message: 'must be the nextCursor of a page' })
    return position ?? NEVER
  }),
)

const Snippet = v.pipe(
  v.array(v.object({ text: v.string(), isMatch: v.boolean() })),
  v.description('The text in parts, to be joined; those that were found are marked. Plain text, never HTML.'),
)

const FoundPost = v.object({ post: Post, snippets: v.object({ text: Snippet }) })
const FoundUser = v.object({
  user: User,
  snippets: v.object({ username: Snippet, displayName: Snippet, bio: Snippet }),
})

export const search = new Hono<AppEnv>().get(
  '/',
  doc({
    tag: 'Search',
    summary: 'Search posts or users',
    description:
      'What has all the words of `q`; the last may be the beginning of a word. Case, accents, invisible characters and ' +
      'punctuation do not matter, `đ` is found as `d`, and Chinese, Japanese, Korean and Thai are found by any characters in a row. The most relevant come ' +
      'first, newer posts before older, users with more followers before others; of more than 1 000 matches the newest ' +
      'are ranked. A post is found some seconds after it was written. Without Redis it is answered all the same, with ' +
      'counts that may be a little behind.',
    answer: v.union([pageOf(FoundPost), pageOf(FoundUser)]),
    problems: ['invalid-request'],
  }),
  admit('reads', 'ignored'),
  valid(
    'query',
    v.object({
      q: Typed,
      type: v.optional(v.picklist(['posts', 'users'], 'must be posts or users'), 'posts'),
      limit: limitOf(20, 100),
      cursor: v.optional(Cursor),
    }),
  ),
  async (c) => {
    const { q, type, limit, cursor } = c.req.valid('query')
    const { search, posts } = c.var.services
    revalidate(c)
    if (type === 'users') {
      const { items, nextCursor } = await search.users(q, limit, cursor)
      return c.json({ items: items.map(({ row, snippets }) => ({ user: toUser(row), snippets })), nextCursor })
    }
    const { items, nextCursor } = await search.posts(q, limit, cursor)
    const rows = items.map(({ row }) => row)
    const found = await readAsViewer(c, (viewerId) => posts.withCounts(rows, viewerId))
    return c.json({ items: found.map((post, i) => ({ post, snippets: items[i]?.snippets })), nextCursor })
  },
)
