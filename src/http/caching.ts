import { createHash } from 'node:crypto'
import { invalidField } from '../errors.ts'
import { answerHeaders } from './answer.ts'
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

/** The `Link` to the next page of a list (RFC 8288): the URL of the request with its cursor. Undefined: there is none. */
export function nextLink(c: RequestContext, value: { nextCursor?: unknown }): string | undefined {
  if (typeof value.nextCursor !== 'string') return undefined
  const { pathname, searchParams } = new URL(c.req.url)
  searchParams.set('cursor', value.nextCursor)
  return `<${pathname}?${searchParams.toString()}>; rel="next"`
}

/**
 * Answers JSON that clients may store and revalidate (RFC 9111). Its entity tag is `"version-…"` of `parts`: pass all that
 * can change in the body. Without parts it is a hash of the body. A request whose `If-None-Match` has the tag gets a 304.
 * The answer has all its headers at once; those set by `c.header` are not part of it.
 */
export function answerCacheable(c: RequestContext, value: object, ...parts: (number | string)[]): Response {
  const body = JSON.stringify(value)
  const tag = parts.length > 0 ? etagOf(...parts) : `"${createHash('sha1').update(body).digest('base64url')}"`
  const headers = answerHeaders(c)
  headers['ETag'] = tag
  headers['Cache-Control'] = c.get('claims') ? 'private, no-cache' : 'public, no-cache'
  headers['Vary'] =
    headers['Vary'] === undefined ? 'Authorization, Cookie' : `Authorization, Cookie, ${headers['Vary']}`
  const link = nextLink(c, value)
  if (link !== undefined) headers['Link'] = link
  const isCurrent = matches(c.req.header('If-None-Match'), tag)
  if (!isCurrent) headers['Content-Type'] = 'application/json'
  const answer = new Response(isCurrent ? null : body, { status: isCurrent ? 304 : 200, headers })
  c.get('answer').complete = answer
  return answer
}

/** Whether the condition of a read (RFC 9110 §13.1.2) names `tag`. The comparison is weak. */
function matches(condition: string | undefined, tag: string): boolean {
  if (condition === undefined) return false
  return condition.trim() === '*' || condition.split(',').some((listed) => listed.trim().replace(/^W\//, '') === tag)
}
