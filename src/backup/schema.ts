import * as v from 'valibot'
import { limitOf } from '../http/input.ts'

const Columns = v.array(v.string())
/** Each row in the order of the columns. */
const Rows = v.array(v.array(v.union([v.string(), v.number(), v.null()])))

export const TableName = v.object({
  table: v.pipe(v.string(), v.regex(/^[a-z_]{1,40}$/), v.description('The name of a table.')),
})

/** The tables in the order in which to read them. */
export const Tables = v.pipe(v.object({ tables: v.array(v.string()) }), v.description('The tables in reading order.'))

export const PageQuery = v.object({
  after: v.exactOptional(v.pipe(v.string(), v.regex(/^\d{1,20}$/), v.description('The `next` of the page before.'))),
  limit: limitOf(2_000, 5_000),
})
export const TablePage = v.pipe(
  v.object({ columns: Columns, rows: Rows, next: v.nullable(v.string()) }),
  v.description('Rows of the table, each in the order of the columns. `next` is null at the end.'),
)

export const RestoreRequest = v.object({ backup: v.pipe(v.string(), v.minLength(1), v.maxLength(100)) })
export const RestoreRows = v.object({ columns: v.pipe(Columns, v.minLength(1)), rows: Rows })
export const Restored = v.pipe(v.object({ inserted: v.number() }), v.description('How many rows were new.'))
export const Rebuilding = v.pipe(
  v.object({ rebuilding: v.array(v.string()) }),
  v.description('What the queue rebuilds now.'),
)

export const DailyFile = v.object({
  date: v.pipe(v.string(), v.regex(/^\d{4}-\d\d-\d\d$/), v.description('The day of the backup.')),
  file: v.pipe(v.string(), v.regex(/^[a-z_]+(-\d+\.jsonl\.gz|\.json)$/), v.description('The name of a file.')),
})
