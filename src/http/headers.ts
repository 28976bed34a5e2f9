import { invalidField } from '../errors.ts'

// Parsers of request headers. Each runs in linear time: a header may have 128 KB.

/** The longest `If-Match` or `If-None-Match` that the API reads. */
export const MAX_CONDITION = 8_192

/** The bearer token of an `Authorization` header (RFC 6750 §2.1). */
export const parseBearer = (header: string): string | undefined => /^Bearer +(\S+)$/i.exec(header)?.[1]

/** The versions in a list of entity tags, or in a bare version. Throws `invalid-request` if the list is not valid. */
export function parseVersions(condition: string): number[] {
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
