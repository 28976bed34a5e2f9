import { exported } from '../db/exported.ts'
import { posts as rows } from '../db/schema.ts'

/** The posts of a user. */
export const postExports = {
  post: exported(rows, rows.authorId, rows.id, {
    id: rows.id,
    text: rows.text,
    likesCount: rows.likesCount,
    commentsCount: rows.commentsCount,
    viewsCount: rows.viewsCount,
    createdAt: rows.createdAt,
    updatedAt: rows.updatedAt,
  }),
}
