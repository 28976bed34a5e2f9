import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

/** A comment on a post. */
export const Comment = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    postId: v.pipe(v.string(), v.description('The post it is about.')),
    authorId: v.pipe(v.string(), v.description('The user who wrote it.')),
    text: v.pipe(v.string(), v.description('1 to 500 characters.')),
    createdAt: v.pipe(Time, v.description('When it was written.')),
    likesCount: v.pipe(Count, v.description('How many users like it.')),
  }),
  v.metadata({ ref: 'Comment', description: 'A comment on a post.' }),
)
export type Comment = v.InferOutput<typeof Comment>
