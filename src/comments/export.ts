import { exported } from '../db/exported.ts'
import { comments as rows } from '../db/schema.ts'

/** The comments of a user. */
export const commentExports = {
  comment: exported(rows, rows.authorId, 'rowid', {
    id: rows.id,
    postId: rows.postId,
    parentId: rows.parentId,
    text: rows.text,
    likesCount: rows.likesCount,
    createdAt: rows.createdAt,
    updatedAt: rows.updatedAt,
    deletedAt: rows.deletedAt,
  }),
}
