import { getTableColumns, getTableName, type Table } from 'drizzle-orm'
import * as schema from '../../src/db/schema.ts'
import type { Demo } from './data.ts'

/** The part of `D1Database` that scripts use. Its own type comes with the types of workerd, which scripts do not load. */
export interface Database {
  prepare(sql: string): Statement
  batch(statements: Statement[]): Promise<unknown>
}

interface Statement {
  bind(...values: unknown[]): Statement
  first<T>(column: string): Promise<T | null>
}

/** D1 accepts values up to 2 MB. A character has up to three bytes. */
const CHUNK_CHARACTERS = 300_000

/** Whether the database has no users. Demo data goes only into such a database. */
export async function isEmpty(db: Database): Promise<boolean> {
  return (await db.prepare('SELECT EXISTS (SELECT 1 FROM users) AS hasUsers').first<number>('hasUsers')) === 0
}

/** Inserts `demo` in one batch, which is one transaction: if it fails or is interrupted, nothing is inserted. */
export async function loadDemo(db: Database, demo: Demo): Promise<void> {
  await db.batch([
    ...insert(db, schema.users, demo.users),
    ...insert(db, schema.posts, demo.posts),
    ...insert(db, schema.follows, demo.follows),
    ...insert(db, schema.postLikes, demo.postLikes),
    ...insert(db, schema.comments, demo.comments),
    ...insert(db, schema.commentLikes, demo.commentLikes),
  ])
}

/** Statements that insert `rows` in chunks. Each chunk is one JSON parameter: D1 binds at most 100 values. */
function insert<T extends Table>(db: Database, table: T, rows: Partial<T['$inferInsert']>[]): Statement[] {
  const columns = Object.entries(getTableColumns(table)).filter(([key]) => key in (rows[0] ?? {}))
  const names = columns.map(([, column]) => column.name)
  const values = columns.map((_, i) => `value ->> ${i}`)
  const sql = `INSERT INTO ${getTableName(table)} (${names.join()}) SELECT ${values.join()} FROM json_each(?1)`

  const chunks: string[][] = []
  let left = 0
  for (const row of rows) {
    const tuple = JSON.stringify(columns.map(([key]) => row[key as keyof typeof row]))
    if (tuple.length > left) {
      chunks.push([])
      left = CHUNK_CHARACTERS
    }
    chunks.at(-1)?.push(tuple)
    left -= tuple.length + 1
  }
  return chunks.map((chunk) => db.prepare(sql).bind(`[${chunk.join()}]`))
}
