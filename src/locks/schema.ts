import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

/** A lock that an owner holds. */
export const Lock = v.pipe(
  v.object({
    name: v.pipe(v.string(), v.description('The name of the lock.')),
    owner: v.pipe(v.string(), v.description('Secret. Send it to extend or release the lock.')),
    fence: v.pipe(Count, v.description('Rises with each acquisition. Let your storage refuse lower fences.')),
    expiresAt: v.pipe(Time, v.description('When it expires unless the owner extends it.')),
  }),
  v.metadata({ ref: 'Lock', description: 'The lock that the owner holds now.' }),
)
export type Lock = v.InferOutput<typeof Lock>

export const LockName = v.object({
  name: v.pipe(
    v.string(),
    v.regex(/^[a-z0-9][a-z0-9._:-]{0,99}$/, 'must be 1 to 100 lower-case letters, digits, or . _ : - after the first'),
    v.description('The name of the lock.'),
  ),
})

const Milliseconds = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max))
const Owner = v.pipe(
  v.string(),
  v.regex(/^[\w-]{16,64}$/, 'must be 16 to 64 letters, digits, _ or -'),
  v.description('Who holds the lock: random and secret.'),
)
const Ttl = v.optional(Milliseconds(100, 600_000))

export const AcquireRequest = v.object({
  ttlMs: Ttl,
  waitMs: v.optional(Milliseconds(0, 10_000), 0),
  owner: v.optional(Owner),
})
export const ExtendRequest = v.object({ owner: Owner, ttlMs: Ttl })
export const ReleaseQuery = v.object({ owner: Owner })
