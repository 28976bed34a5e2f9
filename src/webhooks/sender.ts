import { Webhook } from 'standardwebhooks'
import type { webhooks } from '../db/schema.ts'
import { service } from '../service.ts'
import { joinTrace, traceparentOf } from '../trace.ts'
import { type GuardPolicy, objectionTo } from './guard.ts'

export type WebhookRow = typeof webhooks.$inferSelect

/** What is sent, under an id that stays the same however often it is. */
export interface Sendable {
  id: string
  contentType: 'application/json' | 'application/cloudevents+json'
  body: string
  /** Of what it tells of: each attempt is a step of its own in that trace. */
  traceparent?: string | null
}

/** What came of one attempt. */
export interface Attempt {
  /** When it began (Unix ms). */
  at: number
  durationMs: number
  /** HTTP status; null: there was no answer. */
  status: number | null
  /** Why there was none. */
  error: string | null
  /** The first KB of the answer. */
  answer: string | null
  /** How long the endpoint asks to be left alone. */
  retryAfterMs: number | null
}

/** What is read of an answer. */
const MAX_ANSWER_BYTES = 1_024
/** However long an endpoint asks to be left alone. */
const MAX_RETRY_AFTER_MS = 86_400_000

export const isSuccess = ({ status }: Attempt) => status !== null && status >= 200 && status < 300

/** The endpoints that this isolate waits for, and since when (Unix ms). */
export const endpointsInFlight = service<Map<string, number>>('endpoints in flight')

export type Sender = ReturnType<typeof createSender>

/**
 * Sends to endpoints, signed as Standard Webhooks says (https://www.standardwebhooks.com): with the secret, and for a
 * day after a rotation with the one before it too; in the trace of what it tells of (https://www.w3.org/TR/trace-context/).
 * Redirects are not followed. One request of at most `timeoutMs`, never an exception.
 */
export function createSender(policy: GuardPolicy & { timeoutMs: number }) {
  return async (webhook: WebhookRow, sendable: Sendable, now = Date.now()): Promise<Attempt> => {
    const startedAt = performance.now()
    const outcome = (rest: Partial<Attempt>): Attempt => ({
      at: now,
      durationMs: Math.round(performance.now() - startedAt),
      status: null,
      error: null,
      answer: null,
      retryAfterMs: null,
      ...rest,
    })
    const objection = objectionTo(webhook.url, policy) // what was fine when it was given may not be any more
    if (objection !== undefined) return outcome({ error: `not sent: its URL ${objection}` })
    try {
      const response = await fetch(webhook.url, {
        method: 'POST',
        body: sendable.body,
        redirect: 'manual',
        signal: AbortSignal.timeout(policy.timeoutMs),
        headers: headersOf(webhook, sendable, now),
      })
      const retryAfterMs = readRetryAfter(response.headers.get('Retry-After'), now)
      // An answer that breaks off has been given all the same: its status is what counts.
      const answer = await readStart(response).catch(() => null)
      return outcome({ status: response.status, answer, retryAfterMs })
    } catch (error) {
      const isTimeout = error instanceof Error && error.name === 'TimeoutError'
      return outcome({ error: isTimeout ? `no answer within ${policy.timeoutMs / 1_000} s` : 'could not be reached' })
    }
  }
}

/** Its own headers, and ours, which win. */
function headersOf(webhook: WebhookRow, { id, contentType, body, traceparent }: Sendable, now: number): Headers {
  const headers = new Headers({ 'User-Agent': 'threads-edge-webhooks' })
  for (const [name, value] of Object.entries(webhook.headers)) headers.set(name, value)
  const signatures = secretsOf(webhook, now).map((secret) => new Webhook(secret).sign(id, new Date(now), body))
  headers.set('Content-Type', contentType)
  headers.set('webhook-id', id)
  headers.set('webhook-timestamp', String(Math.floor(now / 1_000)))
  headers.set('webhook-signature', signatures.join(' '))
  if (traceparent) headers.set('traceparent', traceparentOf(joinTrace(traceparent)))
  return headers
}

const secretsOf = ({ secret, previousSecret, previousSecretUntil }: WebhookRow, now: number) =>
  previousSecret !== null && now < (previousSecretUntil ?? 0) ? [secret, ...previousSecret.split(' ')] : [secret]

/** The first KB, as text; the rest is not waited for. */
async function readStart(response: Response): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  let left = MAX_ANSWER_BYTES
  if (!response.body) return text
  const reader = response.body.getReader()
  while (left > 0) {
    const { done, value } = await reader.read()
    if (done) return text
    const piece = value.subarray(0, left)
    left -= piece.length
    text += decoder.decode(piece, { stream: left > 0 })
  }
  await reader.cancel().catch(() => {})
  return text
}

/** Seconds or an HTTP date (RFC 9110 §10.2.3), in ms from `now`; null where it says neither. */
export function readRetryAfter(value: string | null, now: number): number | null {
  if (value === null) return null
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1_000 : Date.parse(value) - now
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), MAX_RETRY_AFTER_MS)
}
