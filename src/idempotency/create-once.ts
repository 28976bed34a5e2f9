import { createHash } from 'node:crypto'
import type { BatchItem } from 'drizzle-orm/batch'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { invalidField, Problem } from '../errors.ts'
import type { RequestContext } from '../http/context.ts'
import { idempotencyService, isTakenOver, type StoredAnswer } from './idempotency.ts'

/** The draft wants a string of RFC 9651, in quotes. Most clients send visible ASCII. Both are accepted. */
const TOKEN = /^[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]+$/
const STRING = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/
const MAX_LENGTH = 255

/**
 * Creates something for `userId` and answers 201. With an `Idempotency-Key`, repeated requests create it once: the API
 * repeats the first answer with `Idempotent-Replayed: true`.
 *
 * `create` adds the statements of `alongside` to the D1 batch that creates. A failed attempt releases the key. A key costs
 * one more D1 round trip, and no Redis command.
 */
export async function createOnce<T extends object>(
  c: RequestContext,
  userId: string,
  create: (alongside: (created: T) => BatchItem<'sqlite'>[]) => Promise<T>,
  describe: (created: T) => { location: string; etag?: string },
): Promise<Response> {
  const answerOf = (created: T): StoredAnswer => {
    const { location, etag } = describe(created)
    const headers = { 'Content-Type': 'application/json', Location: location, ...(etag ? { ETag: etag } : {}) }
    return { status: 201, headers, body: JSON.stringify(created) }
  }
  const reply = ({ status, headers, body }: StoredAnswer) =>
    c.newResponse(body, status as ContentfulStatusCode, headers) // `answerOf` made the status

  const key = readKey(c.req.header('Idempotency-Key'))
  if (key === undefined) return reply(answerOf(await create(() => [])))

  const attempt = await c.var.use(idempotencyService).begin(userId, key, await fingerprintOf(c))
  if ('body' in attempt) {
    c.header('Idempotent-Replayed', 'true')
    return reply(attempt)
  }
  try {
    return reply(answerOf(await create((created) => [attempt.record(answerOf(created))])))
  } catch (error) {
    await attempt.release().catch(() => {}) // otherwise the next attempt waits a minute
    if (isTakenOver(error)) throw new Problem('idempotency-key-in-use', undefined, { retryAfter: 1 }, { cause: error })
    throw error
  }
}

function readKey(header: string | undefined): string | undefined {
  if (header === undefined) return undefined
  const key = TOKEN.test(header) ? header : STRING.exec(header)?.[1]?.replaceAll(/\\(.)/g, '$1')
  if (key !== undefined && key !== '' && key.length <= MAX_LENGTH) return key
  throw invalidField(
    'header',
    'Idempotency-Key',
    `must be 1 to ${MAX_LENGTH} printable ASCII characters, best in quotes`,
  )
}

/** SHA-256 of the request: its method, path and body. */
async function fingerprintOf(c: RequestContext): Promise<string> {
  const request = `${c.req.method} ${c.req.path}\n${await c.req.text()}`
  return createHash('sha256').update(request).digest('base64url')
}
