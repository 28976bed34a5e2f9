/**
 * A page of a list, in a fixed order over a unique, never changing position: rows that come or go elsewhere move
 * nothing (keyset pagination). `nextCursor` asks for the next page, and is null at the end.
 */
export interface Page<T> {
  items: T[]
  nextCursor: string | null
}

/** Cuts a page from `rows`, of which one more than `limit` was asked for, to see whether there is a next. */
export function pageOf<Row, T>(
  rows: Row[],
  limit: number,
  positionOf: (row: Row) => string,
  toItem: (row: Row, i: number) => T,
): Page<T> {
  const last = rows.length > limit ? rows[limit - 1] : undefined
  return { items: rows.slice(0, limit).map(toItem), nextCursor: last === undefined ? null : positionOf(last) }
}
