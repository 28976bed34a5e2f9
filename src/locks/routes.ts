import { Hono } from 'hono'
import { Problem, unavailable } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { requireService } from '../http/service-token.ts'
import { AcquireRequest, ExtendRequest, Lock, LockName, ReleaseQuery } from './schema.ts'

const tag = 'Locks'

/** Separates the locks of services from those of our own jobs. */
const scoped = (name: string) => `service:${name}`

const toLock = (name: string, held: { owner: string; fence: number; expiresAt: number }): Lock => ({
  name,
  owner: held.owner,
  fence: held.fence,
  expiresAt: new Date(held.expiresAt).toISOString(),
})

const cannotLock = unavailable('Locks are not available right now', 1)

export const locks = new Hono<AppEnv>()
  .post(
    '/:name',
    doc({
      id: 'acquireLock',
      tag,
      summary: 'Acquire a lock',
      description:
        'The lock lasts `ttlMs`. The request tries for up to `waitMs`. Write with the `fence`, and let your storage refuse ' +
        'lower fences: your lock may expire while you work. To repeat a request safely after a lost answer, choose the ' +
        '`owner` yourself (random and secret): the same owner gets the same lock. Without Redis: 503.',
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
    requireService('locks'),
    valid('param', LockName),
    requireJson,
    valid('json', AcquireRequest),
    async (c) => {
      const { name } = c.req.valid('param')
      const { ttlMs = c.var.config.lockTtlMs, waitMs, owner } = c.req.valid('json')
      const outcome = await c.var.platform.locks
        .acquire(scoped(name), { ttlMs, waitMs, ...(owner === undefined ? {} : { owner }) })
        .catch(cannotLock)
      c.header('Cache-Control', 'no-store')
      if ('fence' in outcome) return c.json(toLock(name, outcome))
      const { retryAfterMs } = outcome
      const retryAfter = Math.max(1, Math.ceil(retryAfterMs / 1_000))
      throw new Problem('lock-held', `Another owner holds ${name}`, { retryAfter, retryAfterMs })
    },
  )
  .patch(
    '/:name',
    doc({
      id: 'extendLock',
      tag,
      summary: 'Extend a lock',
      description: 'The lock lasts `ttlMs` from now. 409 if the owner does not hold it. Without Redis: 503.',
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
    requireService('locks'),
    valid('param', LockName),
    requireJson,
    valid('json', ExtendRequest),
    async (c) => {
      const { name } = c.req.valid('param')
      const { owner, ttlMs = c.var.config.lockTtlMs } = c.req.valid('json')
      const held = await c.var.platform.locks.extend(scoped(name), owner, ttlMs).catch(cannotLock)
      if (!held) throw new Problem('lock-lost', `This owner does not hold ${name}`)
      c.header('Cache-Control', 'no-store')
      return c.json(toLock(name, held))
    },
  )
  .delete(
    '/:name',
    doc({
      id: 'releaseLock',
      tag,
      summary: 'Release a lock',
      description:
        '204 also if no owner holds it. 409 if another owner holds it. Without Redis: 503; the lock expires.',
      status: 204,
      problems: ['invalid-request', 'service-token-required', 'lock-lost', 'unavailable'],
    }),
    requireService('locks'),
    valid('param', LockName),
    valid('query', ReleaseQuery),
    async (c) => {
      const { name } = c.req.valid('param')
      const { owner } = c.req.valid('query')
      const isReleased = await c.var.platform.locks.release(scoped(name), owner).catch(cannotLock)
      if (!isReleased) throw new Problem('lock-lost', `Another owner holds ${name}`)
      return c.body(null, 204)
    },
  )
