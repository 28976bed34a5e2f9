import { invalidField } from '../errors.ts'
import type { RequestContext } from './context.ts'

/** The longest condition that the API reads. */
const MAX_CONDITION = 8_192

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
  if (condition === undefined || condition === '*') return undefined
  if (condition.length > MAX_CONDITION) {
    throw invalidField('header', 'If-Match', `must have at most ${MAX_CONDITION} characters`)
  }
  const tags = /^\d+$/.test(condition) ? [condition] : readTags(condition)
  if (!tags) throw invalidField('header', 'If-Match', 'must be *, or entity tags from an ETag header')
  const versions = tags.flatMap((tag) => {
    const [, version] = /^(\d{1,15})(?:-|$)/.exec(tag) ?? []
    return version === undefined ? [] : [Number(version)] // a tag that the API never issued matches nothing
  })
  return [...new Set(versions)]
}

/** The texts of a list of entity tags, read from left to right in linear time. Undefined: it is not a list of them. */
function readTags(list: string): string[] | undefined {
  const next = /[ \t]*(?:W\/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(,|$)/y
  const tags: string[] = []
  for (;;) {
    const [, tag, end] = next.exec(list) ?? []
    if (tag === undefined) return undefined
    tags.push(tag)
    if (end === '') return tags
  }
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
