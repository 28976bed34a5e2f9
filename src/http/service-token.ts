import { createHash, timingSafeEqual } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import { Problem } from '../errors.ts'
import type { AppEnv, RequestContext } from './context.ts'
import { described } from './openapi.ts'
import { bearerOf } from './session.ts'

/** Whether the request presents the service token as its bearer token. */
export function isService(c: RequestContext): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest() // equal lengths, for the comparison
  const presented = bearerOf(c)
  return presented !== undefined && timingSafeEqual(digest(presented), digest(c.var.config.serviceToken))
}

/** Admits only requests that present the service token. */
export const requireService: MiddlewareHandler<AppEnv> = described(
  { security: [{ serviceToken: [] }] },
  async (c, next) => {
    if (!isService(c)) throw new Problem('service-token-required')
    await next()
  },
)
