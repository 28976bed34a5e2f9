import { createHash } from 'node:crypto'
import { invalidField } from '../errors.ts'
import type { Platform } from '../platform.ts'
import { answerHeaders } from './answer.ts'
import type { RequestContext } from './context.ts'
import { namesTag, parseVersions } from './headers.ts'

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
 *
 * Shared caches may keep an answer to a request without credentials and cookies for a moment, by `sharedControl`, under
 * the tags `ids`: the users and posts that it shows. Any other answer is private.
 */
export function answerCacheable(
  c: RequestContext,
  value: object,
  ids: () => string[],
  ...parts: (number | string)[]
): Response {
  const body = JSON.stringify(value)
  const tag = parts.length > 0 ? etagOf(...parts) : `"${createHash('sha1').update(body).digest('base64url')}"`
  const headers = answerHeaders(c)
  headers['ETag'] = tag
  const shared = c.get('answer').isAnonymous ? sharedControl(c.get('platform')) : undefined
  headers['Cache-Control'] = shared ?? 'private, no-cache'
  if (shared !== undefined) headers['Cache-Tag'] = ids().join()
  headers['Vary'] =
    headers['Vary'] === undefined ? 'Authorization, Cookie' : `Authorization, Cookie, ${headers['Vary']}`
  const link = nextLink(c, value)
  if (link !== undefined) headers['Link'] = link
  const isCurrent = namesTag(c.req.header('If-None-Match'), tag)
  if (!isCurrent) headers['Content-Type'] = 'application/json'
  const answer = new Response(isCurrent ? null : body, { status: isCurrent ? 304 : 200, headers })
  c.get('answer').complete = answer
  return answer
}

/**
 * How long shared caches may keep an answer: as long as the memory of this isolate may go on to serve the values in it. So
 * a change or deletion disappears from Cloudflare's cache when it disappears from the isolates, `MEMORY_SECONDS` after the
 * write at the latest. The last quarter of this time an answer is served while the cache asks for the next one.
 * `stale-if-error=0`, because Cloudflare would serve an old answer for as long as the Worker fails.
 */
function sharedControl({ config, cacheEvents }: Platform): string {
  let ageMs = config.edgeCacheMs
  for (const { memoryMs = ageMs } of cacheEvents) if (memoryMs < ageMs) ageMs = memoryMs
  const seconds = Math.floor(ageMs / 1_000)
  if (seconds === 0) return 'public, no-cache' // stored, and checked before each use
  const staleSeconds = Math.floor(seconds / 4)
  return `public, max-age=${seconds - staleSeconds}, stale-while-revalidate=${staleSeconds}, stale-if-error=0`
}
