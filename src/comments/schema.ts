import * as v from 'valibot'
import { Count, id, pageSchema, Time } from '../http/input.ts'
import { Writing } from '../posts/schema.ts'

/** A comment on a post, or a reply to a comment. */
export const Comment = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    postId: v.pipe(v.string(), v.description('The post it is about.')),
    parentId: v.pipe(
      v.nullable(v.string()),
      v.description('The comment that it replies to. Null: it replies to the post.'),
    ),
    authorId: v.pipe(
      v.nullable(v.string()),
      v.description('The user who wrote it. Null: the comment was deleted, and its replies are still there.'),
    ),
    text: v.pipe(v.string(), v.description('1 to 500 characters. Empty where the comment was deleted.')),
    createdAt: v.pipe(Time, v.description('When it was written.')),
    updatedAt: v.pipe(Time, v.description('When its text was last edited.')),
    version: v.pipe(Count, v.description('The version of the text, for `If-Match`.')),
    likesCount: v.pipe(Count, v.description('How many users like it.')),
    repliesCount: v.pipe(Count, v.description('How many comments reply to it directly.')),
  }),
  v.metadata({ ref: 'Comment', description: 'A comment on a post.' }),
)
export type Comment = v.InferOutput<typeof Comment>

/** A comment with its first replies. `replies.nextCursor` continues `GET /v1/comments/:id/replies`. */
export const Thread = v.pipe(
  v.object({ ...Comment.entries, replies: v.pipe(pageSchema(Comment), v.description('Its first replies.')) }),
  v.metadata({ ref: 'Thread', description: 'A comment with its first replies.' }),
)
export type Thread = v.InferOutput<typeof Thread>

export const CommentId = v.object({ id: id('c') })

/** A comment as its author sends it. */
export const NewComment = v.strictObject({
  ...Writing.entries,
  parentId: v.pipe(v.exactOptional(id('c')), v.description('The comment on this post to reply to')),
})
