import { invalidField } from '../errors.ts'
import type { RequestContext } from './context.ts'
import { parseVersions } from './headers.ts'

/** The entity tag `"version-…"` of these parts. */
export const etagOf = (...parts: (number | string)[]) => `"${parts.join('-')}"`

/**
 * The versions that the conditions of a write accept (RFC 9110 §13.1). Undefined: any version. Only the version in an
 * entity tag counts, because likes and follows change the rest. `W/` is ignored: Cloudflare adds it when it compresses.
 * The bare `version` of a body is accepted too. `If-None-Match: *` accepts no version: the resource must not exist.
 */
export function allowedVersions(c: RequestContext): number[] | undefined {
  const noneMatch = c.req.header('If-None-Match')?.trim()
  if (noneMatch === '*') return []
  if (noneMatch !== undefined) throw invalidField('header', 'If-None-Match', 'must be * in a request that writes')

  const condition = c.req.header('If-Match')?.trim()
  return condition === undefined || condition === '*' ? undefined : parseVersions(condition)
}

/**
 * Lets clients store an answer and revalidate it (RFC 9111). With `parts` the answer gets the entity tag `"version-…"`.
 * Without, the `etag` middleware hashes the body.
 */
export function revalidate(c: RequestContext, ...parts: (number | string)[]): void {
  if (parts.length > 0) c.header('ETag', etagOf(...parts))
  c.header('Cache-Control', c.var.claims ? 'private, no-cache' : 'public, no-cache')
  c.header('Vary', 'Authorization, Cookie', { append: true })
}
