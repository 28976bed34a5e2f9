import * as v from 'valibot'
import { Count, id, Time, written } from '../http/input.ts'

/** A post as a viewer sees it. */
export const Post = v.pipe(
  v.object({
    id: v.string(),
    authorId: v.string(),
    text: v.string(),
    createdAt: Time,
    updatedAt: Time,
    version: Count,
    likesCount: Count,
    commentsCount: Count,
    viewsCount: v.pipe(Count, v.description('Unique viewers, approximate')),
    likedByMe: v.pipe(v.optional(v.boolean()), v.description('Whether the signed-in user likes it; absent for others')),
  }),
  v.metadata({ ref: 'Post' }),
)
export type Post = v.InferOutput<typeof Post>

export const PostId = v.object({ id: id('p') })

/** The text of a post or comment, as its author sends it. */
export const Writing = v.strictObject({ text: written({ max: 500, isLong: true }) })
