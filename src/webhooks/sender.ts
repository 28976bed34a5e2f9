import { Webhook } from 'standardwebhooks'
import type { webhooks } from '../db/schema.ts'
import type { StoredEvent } from '../events/catalog.ts'
import { service } from '../service.ts'
import { joinTrace, traceparentOf } from '../trace.ts'
import { type GuardPolicy, objectionTo } from './guard.ts'
import { UnreadableError, type Vault } from './vault.ts'

export type WebhookRow = typeof webhooks.$inferSelect

/** A request to an endpoint. Its id stays the same when it is sent again. */
export interface Sendable {
  id: string
  contentType: 'application/json' | 'application/cloudevents+json'
  body: string
  /** Of the event: each attempt is a span in that trace. */
  traceparent?: string | null
  /** Whether to wait for the body of the answer until the deadline, not only for `BODY_MS`. */
  isAnswerNeeded?: boolean
}

/** One attempt to send a request. */
export interface Attempt {
  /** When it began (Unix ms). */
  at: number
  durationMs: number
  /** HTTP status; null: there was no answer. */
  status: number | null
  /** Why there was no answer. */
  error: string | null
  /** The first KB of the answer. */
  answer: string | null
  /** Headers of the answer, by name. */
  answerHeaders: Record<string, string> | null
  /** How long the endpoint asks to wait. */
  retryAfterMs: number | null
}

const MAX_ANSWER_BYTES = 1_024
/** How long to wait for the body once the status is known: it is only logged, and must not block a connection. */
const BODY_MS = 1_000
const MAX_RETRY_AFTER_MS = 86_400_000

export const isSuccess = ({ status }: Attempt) => status !== null && status >= 200 && status < 300

/** When this isolate started the request in flight to each endpoint (Unix ms). */
export const endpointsInFlight = service<Map<string, number>>('endpoints in flight')

export type Sender = ReturnType<typeof createSender>

/**
 * Sends requests to endpoints, signed as Standard Webhooks requires (https://www.standardwebhooks.com) with the secret
 * and, for a day after a rotation, the previous ones. Continues the trace of the event (W3C Trace Context). Redirects are
 * not followed. One request; headers and body of the answer together take at most `timeoutMs`. Never throws.
 */
export function createSender(policy: GuardPolicy & { timeoutMs: number }, vault: Vault) {
  return async (webhook: WebhookRow, sendable: Sendable, now = Date.now()): Promise<Attempt> => {
    const startedAt = performance.now()
    const outcome = (rest: Partial<Attempt>): Attempt => ({
      at: now,
      durationMs: Math.round(performance.now() - startedAt),
      status: null,
      error: null,
      answer: null,
      answerHeaders: null,
      retryAfterMs: null,
      ...rest,
    })
    const objection = objectionTo(webhook.url, policy) // the policy may have changed since the URL was stored
    if (objection !== undefined) return outcome({ error: `not sent: its URL ${objection}` })
    try {
      const response = await fetch(webhook.url, {
        method: 'POST',
        body: sendable.body,
        redirect: 'manual',
        signal: AbortSignal.timeout(policy.timeoutMs),
        headers: headersOf(webhook, sendable, vault, now),
      })
      const retryAfterMs = readRetryAfter(response.headers.get('Retry-After'), now)
      const leftMs = Math.max(0, policy.timeoutMs - (performance.now() - startedAt))
      const answer = await readStart(response, sendable.isAnswerNeeded ? leftMs : Math.min(leftMs, BODY_MS))
      return outcome({ status: response.status, answer, answerHeaders: keptHeaders(response.headers), retryAfterMs })
    } catch (error) {
      return outcome({ error: describe(error, policy.timeoutMs) })
    }
  }
}

function describe(error: unknown, timeoutMs: number): string {
  if (error instanceof UnreadableError) return `not sent: ${error.message}`
  const isTimeout = error instanceof Error && error.name === 'TimeoutError'
  return isTimeout ? `no answer within ${timeoutMs / 1_000} s` : 'could not be reached'
}

/** The headers of an answer that explain it. */
const KEPT_HEADERS = ['content-type', 'location', 'retry-after', 'server', 'x-request-id']
const MAX_HEADER_LENGTH = 200

const keptHeaders = (headers: Headers): Record<string, string> =>
  Object.fromEntries(
    KEPT_HEADERS.flatMap((name) => {
      const value = headers.get(name)
      return value === null ? [] : [[name, value.slice(0, MAX_HEADER_LENGTH)]]
    }),
  )

/** What requests call themselves. */
const USER_AGENT = 'threads-edge-webhooks'
const CLOUD_EVENT = 'application/cloudevents+json'

/** The headers that the last request for an event had, as far as they are stored. Null: secret. */
export const shownHeaders = (
  { headers }: WebhookRow,
  { id, traceparent }: Pick<StoredEvent, 'id' | 'traceparent'>,
  at: number | undefined,
): Record<string, string | null> => ({
  'user-agent': USER_AGENT,
  ...Object.fromEntries(Object.keys(headers).map((name) => [name.toLowerCase(), null])),
  'content-type': CLOUD_EVENT,
  'webhook-id': id,
  ...(at !== undefined && { 'webhook-timestamp': timestampOf(at) }),
  'webhook-signature': null,
  ...(traceparent !== null && { traceparent }),
})

const timestampOf = (ms: number) => String(Math.floor(ms / 1_000))

/** The headers of the endpoint, then ours, which take precedence. */
function headersOf(webhook: WebhookRow, sendable: Sendable, vault: Vault, now: number): Headers {
  const { id, contentType, body, traceparent } = sendable
  const headers = new Headers({ 'User-Agent': USER_AGENT })
  for (const [name, value] of Object.entries(webhook.headers)) headers.set(name, vault.open(value, webhook.id))
  const secrets = signingSecrets(webhook, now).map((secret) => vault.open(secret, webhook.id))
  headers.set('Content-Type', contentType)
  headers.set('webhook-id', id)
  headers.set('webhook-timestamp', timestampOf(now))
  headers.set('webhook-signature', secrets.map((secret) => new Webhook(secret).sign(id, new Date(now), body)).join(' '))
  if (traceparent) headers.set('traceparent', traceparentOf(joinTrace(traceparent)))
  return headers
}

/** The encrypted secrets that sign at `now`, the latest first. */
export const signingSecrets = (
  {
    secret,
    previousSecret,
    previousSecretUntil,
  }: Pick<WebhookRow, 'secret' | 'previousSecret' | 'previousSecretUntil'>,
  now: number,
) => (previousSecret !== null && now < (previousSecretUntil ?? 0) ? [secret, ...previousSecret.split(' ')] : [secret])

/** The first KB of the body, as text: what arrives within `withinMs`. The rest is cancelled. */
async function readStart(response: Response, withinMs: number): Promise<string> {
  const reader = response.body?.getReader()
  if (!reader) return ''
  const stop = () => reader.cancel().catch(() => {})
  const timer = setTimeout(() => void stop(), withinMs)
  const decoder = new TextDecoder()
  let text = ''
  let left = MAX_ANSWER_BYTES
  try {
    while (left > 0) {
      const { done, value } = await reader.read()
      if (done) break
      const piece = value.subarray(0, left)
      left -= piece.length
      text += decoder.decode(piece, { stream: left > 0 })
    }
  } catch {
    // The answer broke off, or its time was over. The status counts all the same.
  } finally {
    clearTimeout(timer)
    await stop()
  }
  return text
}

/** `Retry-After` (RFC 9110 §10.2.3) in ms from `now`, at most a day; null if absent or not valid. */
export function readRetryAfter(value: string | null, now: number): number | null {
  if (value === null) return null
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1_000 : Date.parse(value) - now
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), MAX_RETRY_AFTER_MS)
}
