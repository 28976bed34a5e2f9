import * as v from 'valibot'
import { record } from '../http/input.ts'

const MAX_CONDITIONS = 10
const MAX_VALUES = 50

const Scalar = v.union(
  [v.pipe(v.string(), v.maxLength(200, 'must be at most 200 characters')), v.number(), v.boolean(), v.null()],
  'must be a text of at most 200 characters, a number, true, false or null',
)
const Bound = v.optional(v.number('must be a number'))

/** The value at a path must equal this, be one of these, or be within these bounds. */
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
 * The events an endpoint takes, by their fields: `{ "data.authorId": "u_1", "data.value": { "gte": 100 } }`. All
 * conditions must hold. A path names a field of the envelope or, up to five levels deep, of the data.
 */
export const Filter = v.pipe(
  record(
    v.pipe(
      v.string(),
      v.regex(
        /^(subject|type|channel|data(\.[\w-]{1,64}){1,5})$/,
        'must be subject, type, channel, or data. and up to five names',
      ),
    ),
    Condition,
    'must be an object of conditions',
  ),
  v.check(
    (conditions) => Object.keys(conditions).length <= MAX_CONDITIONS,
    `must have at most ${MAX_CONDITIONS} conditions`,
  ),
)
export type Filter = v.InferOutput<typeof Filter>
