/** Search ranks only the newest of more matches than this, which bounds the cost of a common word. Pages end there. */
export const MAX_RANKED = 1_000

/** Where a page begins. Places are those of `search_documents`, which never change. */
export interface Position {
  /** The last place that the index had when the first page was read. */
  until: number
  /** The places on the pages before, at most `MAX_RANKED`. */
  seen: number[]
}

/** `position` as text: `until-…`, then the places from the last to the first, each by its distance. In base 36. */
export function toCursor({ until, seen }: Position): string {
  let before = until
  const distances = []
  for (const place of seen.toSorted((a, b) => b - a)) {
    distances.push((before - place).toString(36))
    before = place
  }
  return `${until.toString(36)}-${distances.join('.')}`
}

/** The position that a page gave as its `nextCursor`, or null if `cursor` is none. */
export function parseCursor(cursor: string): Position | null {
  const [, first = '', rest = ''] = /^([0-9a-z]{1,10})-([0-9a-z.]+)$/.exec(cursor) ?? []
  const until = parseInt(first, 36)
  const seen: number[] = []
  let place = until
  for (const distance of rest.split('.', MAX_RANKED + 1)) {
    place -= parseInt(distance, 36)
    if (!(place > 0 && Number.isSafeInteger(place)) || (seen.length > 0 && place === seen.at(-1))) return null
    seen.push(place)
  }
  return Number.isSafeInteger(until) && seen.length < MAX_RANKED ? { until, seen } : null
}
