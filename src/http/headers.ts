import { invalidField } from '../errors.ts'

// Parsers of request headers. Each runs in linear time: a header may have 128 KB.

/** The longest `If-Match` or `If-None-Match` that the API reads. */
const MAX_CONDITION = 8_192

/** The draft wants a string of RFC 9651, in quotes. Most clients send visible ASCII. Both are accepted. */
const TOKEN = /^[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]+$/
const STRING = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/
const MAX_KEY = 255
/** A key of which each character is escaped, in quotes. */
const MAX_STRING = 2 * MAX_KEY + 2

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

/** Whether the condition of a read (RFC 9110 §13.1.2) names `tag`. The comparison is weak. A longer list names none. */
export function namesTag(condition: string | undefined, tag: string): boolean {
  if (condition === undefined || condition.length > MAX_CONDITION) return false
  return condition.trim() === '*' || condition.split(',').some((listed) => listed.trim().replace(/^W\//, '') === tag)
}

/** The key of an `Idempotency-Key` header. Throws `invalid-request` if it is not valid. */
export function parseIdempotencyKey(header: string): string {
  const isKey = header.length <= MAX_KEY && TOKEN.test(header)
  const text = header.length <= MAX_STRING ? STRING.exec(header)?.[1] : undefined
  const key = isKey ? header : text?.replaceAll(/\\(.)/g, '$1')
  if (key !== undefined && key !== '' && key.length <= MAX_KEY) return key
  throw invalidField('header', 'Idempotency-Key', `must be 1 to ${MAX_KEY} printable ASCII characters, best in quotes`)
}
