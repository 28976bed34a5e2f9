import { exported } from '../db/exported.ts'
import * as rows from '../db/schema.ts'

/** What a user likes, and has liked within a month. */
export const likeExports = {
  postLike: exported(rows.postLikes, rows.postLikes.userId, rows.postLikes.postId, {
    postId: rows.postLikes.postId,
    isLiked: rows.postLikes.isLiked,
    changedAt: rows.postLikes.changedAt,
  }),
  commentLike: exported(rows.commentLikes, rows.commentLikes.userId, rows.commentLikes.commentId, {
    commentId: rows.commentLikes.commentId,
    isLiked: rows.commentLikes.isLiked,
    changedAt: rows.commentLikes.changedAt,
  }),
}
