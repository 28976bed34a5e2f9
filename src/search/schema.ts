import * as v from 'valibot'
import { limitOf, pageSchema } from '../http/input.ts'
import { Post } from '../posts/schema.ts'
import { User } from '../users/schema.ts'
import { parseCursor } from './cursor.ts'
import { parseQuery } from './words.ts'

const MAX_CHARACTERS = 200
const MAX_TERMS = 10

const Terms = v.pipe(
  v.string(),
  v.maxLength(MAX_CHARACTERS),
  v.transform(parseQuery),
  v.minLength(1, 'must have a letter or digit'),
  v.maxLength(MAX_TERMS, `must have at most ${MAX_TERMS} words`),
  v.metadata({ type: 'string', minLength: 1, maxLength: MAX_CHARACTERS, items: undefined }),
  v.description('Words to find.'),
)

const Cursor = v.pipe(
  v.string(),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const position = parseCursor(dataset.value)
    if (position === null) addIssue({ message: 'must be the nextCursor of a page' })
    return position ?? NEVER
  }),
  v.description('The `nextCursor` of the page before.'),
)

export const SearchQuery = v.object({
  q: Terms,
  type: v.optional(v.pipe(v.picklist(['posts', 'users']), v.description('What to find.')), 'posts'),
  limit: limitOf(20, 100),
  cursor: v.optional(Cursor),
})

const Snippet = v.pipe(
  v.array(v.object({ text: v.string(), isMatch: v.boolean() })),
  v.description('Parts of the text, in order. Matches are marked. Plain text, never HTML.'),
)

const FoundPost = v.object({ post: Post, snippets: v.object({ text: Snippet }) })
const FoundUser = v.object({
  user: User,
  snippets: v.object({ username: Snippet, displayName: Snippet, bio: Snippet }),
})
export const Results = v.pipe(
  v.union([pageSchema(FoundPost), pageSchema(FoundUser)]),
  v.description('A page of posts or users, the most relevant first.'),
)
