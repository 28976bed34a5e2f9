import type { ApiEvent, CloudEvent } from './events.ts'

/** The signature, the time or the form of a webhook is wrong: refuse it with 401. */
export class WebhookError extends Error {
  override readonly name = 'WebhookError'
}

/** What the API sends to find out whether an endpoint wants webhooks. Answer 200 with `{ challenge }`. */
export interface Challenge {
  type: 'endpoint.challenge'
  challenge: string
}

export interface VerifyOptions {
  /** How old a webhook may be, or how far in the future. By default 300. */
  toleranceSeconds?: number
  /** Unix ms. */
  now?: number
}

type HeaderValues = Headers | Record<string, string | string[] | undefined>

/**
 * Verifies a webhook (standardwebhooks.com) and returns what its body says. `secrets` is the secret of the endpoint, or several:
 * while you rotate a secret, both are valid. `body` must be the text as it arrived. Throws a `WebhookError`.
 */
export async function verifyWebhook<Event extends CloudEvent = ApiEvent>(
  secrets: string | readonly string[],
  headers: HeaderValues,
  body: string,
  { toleranceSeconds = 300, now = Date.now() }: VerifyOptions = {},
): Promise<Event | Challenge> {
  const read = (name: string) => String((headers instanceof Headers ? headers.get(name) : headers[name]) ?? '')
  const [id, timestamp, signatures] = [read('webhook-id'), read('webhook-timestamp'), read('webhook-signature')]
  if (id === '' || timestamp === '' || signatures === '') throw new WebhookError('A header of the webhook is missing')
  const ageSeconds = /^\d+$/.test(timestamp) ? Math.floor(now / 1_000) - Number(timestamp) : Infinity
  if (Math.abs(ageSeconds) > toleranceSeconds) throw new WebhookError('The webhook is too old, or from the future')

  const signed = new TextEncoder().encode(`${id}.${timestamp}.${body}`)
  for (const secret of typeof secrets === 'string' ? [secrets] : secrets) {
    const key = await crypto.subtle.importKey(
      'raw',
      fromBase64(secret.replace(/^whsec_/, '')),
      { name: 'HMAC', hash: 'SHA-256' },
      false,
      ['verify'],
    )
    for (const signature of signatures.split(' ')) {
      const [version, value = ''] = signature.split(',')
      const isValid = version === 'v1' && (await crypto.subtle.verify('HMAC', key, fromBase64(value), signed))
      if (isValid) return JSON.parse(body) as Event | Challenge // as the API documents it
    }
  }
  throw new WebhookError('No signature of the webhook is valid')
}

/**
 * Answers a webhook: 401 if it is not genuine, the challenge, or 204 after `handle`. If `handle` throws, so does this: answer
 * 500, and the API delivers the event again. It may deliver an event twice, with the same `id`.
 */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the handler of a custom channel states its events
export async function receiveWebhook<Event extends CloudEvent = ApiEvent>(
  request: Request,
  secrets: string | readonly string[],
  handle: (event: Event) => unknown,
): Promise<Response> {
  try {
    const event = await verifyWebhook<Event>(secrets, request.headers, await request.text())
    if ('challenge' in event) return Response.json({ challenge: event.challenge })
    await handle(event)
    return new Response(null, { status: 204 })
  } catch (error) {
    if (error instanceof WebhookError) return new Response(error.message, { status: 401 })
    throw error
  }
}

/** Empty if it is not base64: no signature is empty. */
function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
  } catch {
    return new Uint8Array()
  }
}
