import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

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
