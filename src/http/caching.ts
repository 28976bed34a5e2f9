import { invalidField } from '../errors.ts'
import type { RequestContext } from './context.ts'

/** The entity tag `"version-…"` of these parts. */
export const etagOf = (...parts: (number | string)[]) => `"${parts.join('-')}"`

/**
 * The versions that `If-Match` accepts (RFC 9110 §13.1.1). Undefined: any version. Only the version in an entity tag
 * counts, because likes and follows change the rest. `W/` is ignored: Cloudflare adds it when it compresses. The bare
 * `version` of a body is accepted too.
 */
export function allowedVersions(c: RequestContext): number[] | undefined {
  const condition = c.req.header('If-Match')?.trim()
  if (condition === undefined || condition === '*') return undefined
  const tags = /^\d+$/.test(condition) ? [`"${condition}"`] : condition.split(/,(?=(?:[^"]*"[^"]*")*[^"]*$)/)
  return tags.flatMap((tag) => {
    const [, opaque] = /^\s*(?:W\/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*$/.exec(tag) ?? []
    if (opaque === undefined) throw invalidField('header', 'If-Match', 'must be *, or entity tags from an ETag header')
    const [, version] = /^(\d{1,15})(?:-|$)/.exec(opaque) ?? []
    return version === undefined ? [] : [Number(version)] // a tag that we never issued matches nothing
  })
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
