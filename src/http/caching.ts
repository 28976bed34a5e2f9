import type { Context } from 'hono'
import { Problem } from '../errors.ts'
import type { AppEnv } from './context.ts'

/** The entity tag `"version-…"` of what was written or read. */
export const etagOf = (...parts: (number | string)[]) => `"${parts.join('-')}"`

/**
 * The versions that `If-Match` allows a change of (RFC 9110 §13.1.1): undefined is any. Of an entity tag the version
 * alone counts, since likes and follows change the rest. `W/` is ignored: Cloudflare adds it when it compresses. The
 * bare `version` of a body will do too.
 */
export function allowedVersions(c: Context<AppEnv>): number[] | undefined {
  const condition = c.req.header('If-Match')?.trim()
  if (condition === undefined || condition === '*') return undefined
  const tags = /^\d+$/.test(condition) ? [`"${condition}"`] : condition.split(/,(?=(?:[^"]*"[^"]*")*[^"]*$)/)
  return tags.flatMap((tag) => {
    const [, opaque] = /^\s*(?:W\/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*$/.exec(tag) ?? []
    if (opaque === undefined) {
      const message = 'must be *, or entity tags as ETag has them'
      throw new Problem('invalid-request', `If-Match: ${message}`, {
        errors: [{ in: 'header', field: 'If-Match', message }],
      })
    }
    const [, version] = /^(\d{1,15})(?:-|$)/.exec(opaque) ?? []
    return version === undefined ? [] : [Number(version)] // a tag that was never ours matches nothing
  })
}

/**
 * Lets clients keep an answer and ask again whether it is still right (RFC 9111). With `parts` it gets an entity tag
 * `"version-…"` of them; `If-Match` compares the version alone. Without, the `etag` middleware hashes the body.
 */
export function revalidate(c: Context<AppEnv>, ...parts: (number | string)[]): void {
  if (parts.length > 0) c.header('ETag', etagOf(...parts))
  c.header('Cache-Control', c.var.claims ? 'private, no-cache' : 'public, no-cache')
  c.header('Vary', 'Authorization, Cookie', { append: true })
}
