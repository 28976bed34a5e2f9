import { createHash } from 'node:crypto'
import type { BatchItem } from 'drizzle-orm/batch'
import type { Context } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { Problem } from '../errors.ts'
import type { Answer } from '../idempotency/idempotency.ts'
import { requireUserId } from './admit.ts'
import type { AppEnv } from './context.ts'

/** Visible ASCII, as most clients send it, though the draft wants a string of RFC 9651, in quotes: both are taken. */
const TOKEN = /^[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]+$/
const STRING = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/
const MAX_LENGTH = 255

/**
 * Creates something and answers 201. With an `Idempotency-Key` it is created once, however often the request is sent:
 * the first answer is repeated, with `Idempotent-Replayed: true`.
 *
 * `create` puts what `alongside` answers into the D1 batch that creates. A failed attempt leaves the key free. One D1
 * round trip more with a key than without; Redis is not asked.
 */
export async function createOnce<T extends object>(
  c: Context<AppEnv>,
  create: (alongside: (created: T) => BatchItem<'sqlite'>[]) => Promise<T>,
  describe: (created: T) => { location: string; etag?: string },
): Promise<Response> {
  const answerOf = (created: T): Answer => {
    const { location, etag } = describe(created)
    const headers = { 'Content-Type': 'application/json', Location: location, ...(etag ? { ETag: etag } : {}) }
    return { status: 201, headers, body: JSON.stringify(created) }
  }
  const reply = ({ status, headers, body }: Answer) => c.newResponse(body, status as ContentfulStatusCode, headers) // it was one

  const key = readKey(c.req.header('Idempotency-Key'))
  if (key === undefined) return reply(answerOf(await create(() => [])))

  const begun = await c.var.services.idempotency.begin(requireUserId(c), key, await fingerprintOf(c))
  if ('body' in begun) {
    c.header('Idempotent-Replayed', 'true')
    return reply(begun)
  }
  try {
    return reply(answerOf(await create((created) => [begun.record(answerOf(created))])))
  } catch (error) {
    await begun.release().catch(() => {}) // then the next attempt waits a minute
    throw error
  }
}

function readKey(header: string | undefined): string | undefined {
  if (header === undefined) return undefined
  const key = TOKEN.test(header) ? header : STRING.exec(header)?.[1]?.replaceAll(/\\(.)/g, '$1')
  if (key !== undefined && key !== '' && key.length <= MAX_LENGTH) return key
  const message = `must be 1 to ${MAX_LENGTH} printable ASCII characters, best in quotes`
  throw new Problem('invalid-request', `Idempotency-Key: ${message}`, {
    errors: [{ in: 'header', field: 'Idempotency-Key', message }],
  })
}

/** SHA-256 of the request: its method, path and body. */
async function fingerprintOf(c: Context<AppEnv>): Promise<string> {
  const request = `${c.req.method} ${c.req.path}\n${await c.req.text()}`
  return createHash('sha256').update(request).digest('base64url')
}
