import * as v from 'valibot'

/** An id of one kind, as it appears in paths, queries and bodies: `u_…`. */
export const id = (kind: 'u' | 'p' | 'c' | 'f') =>
  v.pipe(
    v.string(),
    v.regex(new RegExp(`^${kind}_[a-z0-9]{1,40}$`), `must be an id: ${kind}_ and lower-case letters or digits`),
  )

/** How many items a page has, in a query. Documented as the number it means, not the text it is. */
export const limitOf = (fallback: number, max: number) =>
  v.pipe(
    v.optional(
      v.pipe(
        v.string(),
        v.regex(/^\d{1,9}$/, 'must be a whole number'),
        v.transform(Number),
        v.minValue(1, 'must be at least 1'),
        v.maxValue(max, `must be at most ${max}`),
      ),
      String(fallback),
    ),
    v.metadata({ type: 'integer', pattern: undefined, minimum: 1, maximum: max, default: fallback }),
  )

/** Which page: at most 100 items, `cursor` as the page before it said. */
export const pageQuery = (kind: 'p' | 'c' | 'f') => v.object({ limit: limitOf(20, 100), cursor: v.optional(id(kind)) })

/** A batch of ids, separated by commas; repetitions count once. Documented as the text it is. */
export const idsQuery = (kind: 'u' | 'p', max = 100) =>
  v.object({
    ids: v.pipe(
      v.string('must be ids separated by commas'),
      v.transform((text) => [...new Set(text.split(','))]),
      v.maxLength(max, `must be at most ${max} ids`),
      v.array(id(kind)),
      v.metadata({
        type: 'string',
        pattern: `^${kind}_[a-z0-9]{1,40}(,${kind}_[a-z0-9]{1,40}){0,${max - 1}}$`,
        items: undefined,
        maxLength: undefined,
      }),
    ),
  })

/** The answer that is a list of `item`s with a cursor. */
export const pageOf = <T extends v.GenericSchema>(item: T) =>
  v.object({ items: v.array(item), nextCursor: v.nullable(v.string()) })

/** A time in RFC 3339. */
export const Time = v.pipe(v.string(), v.isoTimestamp())

/** A count, version or number of seconds. */
export const Count = v.pipe(v.number(), v.integer(), v.minValue(0))
