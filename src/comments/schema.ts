import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

/** A comment on a post. */
export const Comment = v.pipe(
  v.object({
    id: v.string(),
    postId: v.string(),
    authorId: v.string(),
    text: v.string(),
    createdAt: Time,
    likesCount: Count,
  }),
  v.metadata({ ref: 'Comment' }),
)
export type Comment = v.InferOutput<typeof Comment>
