import { type SQL, sql } from 'drizzle-orm'

/** `(…)` with the values, for `IN`: one parameter, however many there are. D1 binds at most 100. */
export const listOf = (values: (string | number)[]): SQL =>
  sql`(SELECT value FROM json_each(${JSON.stringify(values)}))`
