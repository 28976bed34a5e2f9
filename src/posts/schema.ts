import * as v from 'valibot'
import { Count, id, Time, written } from '../http/input.ts'

/** A post as a viewer sees it. */
export const Post = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    authorId: v.pipe(v.string(), v.description('The user who wrote it.')),
    text: v.pipe(v.string(), v.description('1 to 500 characters.')),
    createdAt: v.pipe(Time, v.description('When it was written.')),
    updatedAt: v.pipe(Time, v.description('When its text last changed.')),
    version: v.pipe(Count, v.description('The version of the text, for `If-Match`. Counts do not raise it.')),
    likesCount: v.pipe(Count, v.description('How many users like it.')),
    commentsCount: v.pipe(Count, v.description('How many comments it has.')),
    viewsCount: v.pipe(Count, v.description('Unique viewers, approximate')),
    likedByMe: v.pipe(v.optional(v.boolean()), v.description('Whether the signed-in user likes it; absent for others')),
  }),
  v.metadata({ ref: 'Post', description: 'A post, as the caller sees it.' }),
)
export type Post = v.InferOutput<typeof Post>

/** The ids of posts and their authors: the tags of an answer with them. */
export const idsIn = (posts: Post[]): string[] => [...new Set(posts.flatMap(({ id, authorId }) => [id, authorId]))]

export const PostId = v.object({ id: id('p') })

/** The text of a post or comment, as its author sends it. */
export const Writing = v.strictObject({ text: written({ max: 500, isLong: true }) })
