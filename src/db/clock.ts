import { sql } from 'drizzle-orm'

/** Now by the clock of D1 (Unix ms). It has one, isolates have many. */
export const NOW = sql<number>`CAST(round(unixepoch('subsec') * 1000) AS INTEGER)`
