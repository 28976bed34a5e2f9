import * as v from 'valibot'
import { Count, Time } from '../http/input.ts'

/** A lock that an owner holds. */
export const Lock = v.pipe(
  v.object({ name: v.string(), owner: v.string(), fence: Count, expiresAt: Time }),
  v.metadata({ ref: 'Lock' }),
)
export type Lock = v.InferOutput<typeof Lock>

export const LockName = v.object({
  name: v.pipe(
    v.string(),
    v.regex(/^[a-z0-9][a-z0-9._:-]{0,99}$/, 'must be 1 to 100 lower-case letters, digits, or . _ : - after the first'),
  ),
})

const Milliseconds = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max))
const Owner = v.pipe(v.string(), v.regex(/^[\w-]{16,64}$/, 'must be 16 to 64 letters, digits, _ or -'))
const Ttl = v.optional(Milliseconds(100, 600_000))

export const AcquireRequest = v.object({
  ttlMs: Ttl,
  waitMs: v.optional(Milliseconds(0, 10_000), 0),
  owner: v.optional(Owner),
})
export const ExtendRequest = v.object({ owner: Owner, ttlMs: Ttl })
export const ReleaseQuery = v.object({ owner: Owner })
