import { Hono } from 'hono'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import { requireService } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, Time } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'

const tag = 'Locks'

const Lock = v.pipe(
  v.object({ name: v.string(), owner: v.string(), fence: Count, expiresAt: Time }),
  v.metadata({ ref: 'Lock' }),
)

const Name = v.object({
  name: v.pipe(
    v.string(),
    v.regex(/^[a-z0-9][a-z0-9._:-]{0,99}$/, 'must be 1 to 100 lower-case letters, digits, or . _ : - after the first'),
  ),
})

const Milliseconds = (min: number, max: number) =>
  v.pipe(
    v.number('must be a number of milliseconds'),
    v.integer('must be whole'),
    v.minValue(min, `must be at least ${min}`),
    v.maxValue(max, `must be at most ${max}`),
  )
const Owner = v.pipe(
  v.string('must be a string'),
  v.regex(/^[\w-]{16,64}$/, 'must be 16 to 64 letters, digits, _ or -'),
)
const Ttl = v.optional(Milliseconds(100, 600_000))

const Acquire = v.object({ ttlMs: Ttl, waitMs: v.optional(Milliseconds(0, 10_000), 0), owner: v.optional(Owner) })
const Extend = v.object({ owner: Owner, ttlMs: Ttl })
const Release = v.object({ owner: Owner })

/** Locks of services never meet those of our own jobs. */
const scoped = (name: string) => `service:${name}`

const answer = (name: string, held: { owner: string; fence: number; expiresAt: number }) => ({
  name,
  owner: held.owner,
  fence: held.fence,
  expiresAt: new Date(held.expiresAt).toISOString(),
})

function unavailable(cause: unknown): never {
  throw new Problem('unavailable', 'Locks cannot be asked for right now', { retryAfter: 1 }, { cause })
}

export const locks = new Hono<AppEnv>()
  .post(
    '/:name',
    doc({
      tag,
      summary: 'Acquire a lock',
      description:
        'For `ttlMs`, trying for up to `waitMs`. Write with the `fence`, and let your storage refuse a lower one: a lock ' +
        'that expired while you worked belongs to another. To be able to repeat a request whose answer was lost, choose ' +
        'the `owner` (random and secret): the same owner is given the same hold. Without Redis: 503.',
      answer: Lock,
      problems: [
        'invalid-request',
        'malformed-json',
        'unsupported-media-type',
        'service-token-required',
        'lock-held',
        'unavailable',
      ],
    }),
    requireService,
    valid('param', Name),
    requireJson,
    valid('json', Acquire),
    async (c) => {
      const { name } = c.req.valid('param')
      const { ttlMs = c.var.config.lockTtlMs, waitMs, owner } = c.req.valid('json')
      const outcome = await c.var.services.locks
        .acquire(scoped(name), { ttlMs, waitMs, ...(owner === undefined ? {} : { owner }) })
        .catch(unavailable)
      c.header('Cache-Control', 'no-store')
      if ('fence' in outcome) return c.json(answer(name, outcome))
      const { retryAfterMs } = outcome
      const retryAfter = Math.max(1, Math.ceil(retryAfterMs / 1_000))
      throw new Problem('lock-held', `Another holds ${name}`, { retryAfter, retryAfterMs })
    },
  )
  .patch(
    '/:name',
    doc({
      tag,
      summary: 'Extend a lock',
      description: 'It then lasts `ttlMs` from now. 409 to who does not hold it (any more). Without Redis: 503.',
      answer: Lock,
      problems: [
        'invalid-request',
        'malformed-json',
        'unsupported-media-type',
        'service-token-required',
        'lock-lost',
        'unavailable',
      ],
    }),
    requireService,
    valid('param', Name),
    requireJson,
    valid('json', Extend),
    async (c) => {
      const { name } = c.req.valid('param')
      const { owner, ttlMs = c.var.config.lockTtlMs } = c.req.valid('json')
      const held = await c.var.services.locks.extend(scoped(name), owner, ttlMs).catch(unavailable)
      if (!held) throw new Problem('lock-lost', `${name} is not held by this owner`)
      c.header('Cache-Control', 'no-store')
      return c.json(answer(name, held))
    },
  )
  .delete(
    '/:name',
    doc({
      tag,
      summary: 'Release a lock',
      description:
        '204 also when nobody holds it any more; 409 when another does. Without Redis: 503, and it expires by itself.',
      status: 204,
      problems: ['invalid-request', 'service-token-required', 'lock-lost', 'unavailable'],
    }),
    requireService,
    valid('param', Name),
    valid('query', Release),
    async (c) => {
      const { name } = c.req.valid('param')
      const isReleased = await c.var.services.locks.release(scoped(name), c.req.valid('query').owner).catch(unavailable)
      if (!isReleased) throw new Problem('lock-lost', `Another holds ${name}`)
      return c.body(null, 204)
    },
  )
