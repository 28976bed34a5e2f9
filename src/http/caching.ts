import type { Context } from 'hono'
import type { AppEnv } from './context.ts'

/**
 * Lets clients keep an answer and ask again whether it is still right (RFC 9111). With `parts` it gets an entity tag
 * `"version-…"` of them; `If-Match` compares the version alone. Without, the `etag` middleware hashes the body.
 */
export function revalidate(c: Context<AppEnv>, ...parts: (number | string)[]): void {
  if (parts.length > 0) c.header('ETag', `"${parts.join('-')}"`)
  c.header('Cache-Control', c.var.claims ? 'private, no-cache' : 'public, no-cache')
  c.header('Vary', 'Authorization, Cookie', { append: true })
}
