import * as v from 'valibot'
import { id, Time, written } from '../http/input.ts'
import { SCOPES } from './scopes.ts'

const Scopes = v.pipe(
  v.array(v.picklist(SCOPES)),
  v.transform((scopes) => [...new Set(scopes)].sort()),
  v.minLength(1, 'must name at least one scope'),
  v.metadata({ type: 'array', items: { type: 'string', enum: [...SCOPES] }, minItems: 1 }),
)

export const ServiceTokenId = v.object({ id: id('st') })

export const NewServiceToken = v.strictObject({
  name: v.pipe(written({ max: 60 }), v.description('Who uses the token. Names are unique.')),
  scopes: v.pipe(Scopes, v.description('What the token may do.')),
})
export type NewServiceToken = v.InferOutput<typeof NewServiceToken>

/** How long earlier secrets may work after a rotation, at most: a week. */
const MAX_OVERLAP_SECONDS = 604_800

export const RotationRequest = v.strictObject({
  overlapSeconds: v.pipe(
    v.optional(
      v.pipe(
        v.number(),
        v.integer(),
        v.minValue(0),
        v.maxValue(MAX_OVERLAP_SECONDS, `must be at most ${MAX_OVERLAP_SECONDS}`),
      ),
      86_400,
    ),
    v.description('How long the previous secrets still work. 0: not at all, for a secret that leaked.'),
  ),
})

const shown = {
  id: v.pipe(v.string(), v.description('Sorts by time.')),
  name: v.pipe(v.string(), v.description('Who uses the token.')),
  scopes: v.pipe(v.array(v.string()), v.description('What the token may do.')),
  createdAt: v.pipe(Time, v.description('When it was created.')),
  rotatedAt: v.pipe(v.nullable(Time), v.description('When the current secret was made. Null: with the token.')),
  previousUntil: v.pipe(v.nullable(Time), v.description('Until when a previous secret works. Null: none does.')),
  lastUsedAt: v.pipe(v.nullable(Time), v.description('Accurate to ten minutes. Null: never.')),
}

export const ServiceToken = v.pipe(
  v.object(shown),
  v.metadata({ ref: 'ServiceToken', description: 'A service token, without its secret.' }),
)
export type ServiceToken = v.InferOutput<typeof ServiceToken>

export const IssuedServiceToken = v.pipe(
  v.object({
    ...shown,
    token: v.pipe(v.string(), v.description('The bearer token: `st_…`. No later answer has it.')),
  }),
  v.description('The service token, with its secret.'),
)
