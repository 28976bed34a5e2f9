import { type SQL, sql } from 'drizzle-orm'

/** The values as a subquery for `IN`. It binds one parameter for any number of values; D1 binds at most 100. */
export const listOf = (values: (string | number)[]): SQL =>
  sql`(SELECT value FROM json_each(${JSON.stringify(values)}))`
