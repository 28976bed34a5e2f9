/**
 * A page of a list, ordered by a unique position that never changes (keyset pagination): rows that come or go elsewhere
 * do not move it. `nextCursor` selects the next page, and is null at the end.
 */
export interface Page<T> {
  items: T[]
  nextCursor: string | null
}

/** Cuts a page from `rows`. Query one row more than `limit`: it shows whether there is a next page. */
export function pageOf<Row, T>(
  rows: Row[],
  limit: number,
  positionOf: (row: Row) => string,
  toItem: (row: Row, i: number) => T,
): Page<T> {
  const last = rows.length > limit ? rows[limit - 1] : undefined
  return { items: rows.slice(0, limit).map(toItem), nextCursor: last === undefined ? null : positionOf(last) }
}
