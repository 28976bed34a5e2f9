import { getTableColumns, getTableName, is } from 'drizzle-orm'
import { getTableConfig, type SQLiteColumn, SQLiteTable } from 'drizzle-orm/sqlite-core'
import * as schema from '../src/db/schema.ts'
import { addComment, addPost, addUser } from './rows.ts'

/** Every column that refers to a user, with its table. */
export const references = Object.values(schema)
  .filter((table) => is(table, SQLiteTable))
  .flatMap((table) =>
    getTableConfig(table).foreignKeys.flatMap((key) => {
      const { columns, foreignTable } = key.reference()
      return getTableName(foreignTable) === 'users' ? columns.map((column) => ({ table, column })) : []
    }),
  )

/** Another user, with a post and a comment on it: their ids, by table. */
export async function newOther(): Promise<Record<string, string>> {
  const other = await addUser()
  const post = await addPost({ authorId: other.id })
  const comment = await addComment({ postId: post.id, authorId: other.id })
  return { users: other.id, posts: post.id, comments: comment.id }
}

/** A row of any table: `owner` has the id of `userId`; what else refers to something refers to what is `other`'s. */
export function newRow(table: SQLiteTable, owner: SQLiteColumn, userId: string, other: Record<string, string>) {
  const referred = new Map(
    getTableConfig(table).foreignKeys.flatMap((key) => {
      const { columns, foreignTable } = key.reference()
      return columns.map((column) => [column.name, other[getTableName(foreignTable)]])
    }),
  )
  const kinds: Record<string, string> = { posts: 'p_', comments: 'c_', takedowns: 'p_' }
  const unique = `${kinds[getTableName(table)] ?? ''}${crypto.randomUUID()}`
  return Object.fromEntries(
    Object.entries(getTableColumns(table)).flatMap(([name, column]): [string, unknown][] => {
      if (column.name === owner.name) return [[name, userId]]
      if (referred.has(column.name)) return column.notNull ? [[name, referred.get(column.name)]] : []
      if (!column.notNull || column.hasDefault || column.generated) return []
      if (column.enumValues?.[0] !== undefined) return [[name, column.enumValues[0]]]
      const values: Record<string, unknown> = { string: unique, number: 1_700_000_000_000, boolean: true, json: [] }
      return [[name, values[column.dataType]]]
    }),
  )
}
