import * as v from 'valibot'
import type { CloudEvent } from '../events/catalog.ts'

const MAX_CONDITIONS = 10
const MAX_VALUES = 50

const Scalar = v.union(
  [v.pipe(v.string(), v.maxLength(200, 'must be at most 200 characters')), v.number(), v.boolean(), v.null()],
  'must be a text of at most 200 characters, a number, true, false or null',
)
const Bound = v.optional(v.number('must be a number'))

/** What the value at one path must be: this, one of these, or within these bounds. */
const Condition = v.union(
  [
    Scalar,
    v.pipe(v.array(Scalar), v.minLength(1), v.maxLength(MAX_VALUES)),
    v.pipe(
      v.strictObject({
        gt: Bound,
        gte: Bound,
        lt: Bound,
        lte: Bound,
        exists: v.optional(v.boolean()),
        not: v.optional(Scalar),
      }),
      v.check((bounds) => Object.keys(bounds).length > 0),
    ),
  ],
  `must be a value, a list of 1 to ${MAX_VALUES} values, or an object of gt, gte, lt, lte (numbers), not (a value), exists (true or false)`,
)

/**
 * Which events an endpoint takes, by their fields: `{ "data.authorId": "u_1", "data.value": { "gte": 100 } }`. All
 * conditions must hold. A path leads to a field of the envelope or, up to five steps deep, of the data.
 */
export const Filter = v.pipe(
  v.record(
    v.pipe(
      v.string(),
      v.regex(
        /^(subject|type|channel|data(\.[\w-]{1,64}){1,5})$/,
        'must be subject, type, channel, or data. and up to five names',
      ),
    ),
    Condition,
  ),
  v.check(
    (conditions) => Object.keys(conditions).length <= MAX_CONDITIONS,
    `must have at most ${MAX_CONDITIONS} conditions`,
  ),
)
export type Filter = v.InferOutput<typeof Filter>

/** Whether `event` meets every condition. A field that is not there is `undefined`, which meets only `exists: false` and `not`. */
export function meets(event: Pick<CloudEvent, 'subject' | 'type' | 'channel' | 'data'>, filter: Filter): boolean {
  return Object.entries(filter).every(([path, condition]) => {
    const value = path.split('.').reduce<unknown>(fieldOf, event)
    if (Array.isArray(condition)) return condition.some((wanted) => wanted === value)
    if (typeof condition !== 'object' || condition === null) return value === condition
    const { gt, gte, lt, lte, exists, not } = condition
    if (exists !== undefined && exists !== (value !== undefined)) return false
    if (not !== undefined && value === not) return false
    if ([gt, gte, lt, lte].every((bound) => bound === undefined)) return true
    return (
      typeof value === 'number' &&
      (gt === undefined || value > gt) &&
      (gte === undefined || value >= gte) &&
      (lt === undefined || value < lt) &&
      (lte === undefined || value <= lte)
    )
  })
}

const fieldOf = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name] // its own, as was just seen
    : undefined
