import { createHash } from 'node:crypto'
import type { BatchItem } from 'drizzle-orm/batch'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { Problem } from '../errors.ts'
import type { RequestContext } from '../http/context.ts'
import { parseIdempotencyKey } from '../http/headers.ts'
import { idempotencyService, isTakenOver, type StoredAnswer } from './idempotency.ts'

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

  const header = c.req.header('Idempotency-Key')
  if (header === undefined) return reply(answerOf(await create(() => [])))

  const key = parseIdempotencyKey(header)
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

/** SHA-256 of the request: its method, path and body. */
async function fingerprintOf(c: RequestContext): Promise<string> {
  const request = `${c.req.method} ${c.req.path}\n${await c.req.text()}`
  return createHash('sha256').update(request).digest('base64url')
}
