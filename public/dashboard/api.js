/** @import { InferOutput } from 'valibot' */
/** @import { Stats as StatsSchema } from '../../src/monitoring/schema.ts' */
/** @typedef {InferOutput<typeof StatsSchema>} Stats */

/**
 * @typedef {object} Attempt
 * @property {string} at RFC 3339
 * @property {number | null} status of HTTP; null: there was no answer
 * @property {string | null} error why there was none
 * @property {string | null} answer its first KB
 */

/**
 * @typedef {object} Delivery
 * @property {string} id
 * @property {string} webhookId
 * @property {string} eventId
 * @property {string | null} type of the event; null: it is not kept any more
 * @property {Attempt[]} attempts the oldest first
 */

const PATIENCE_MS = 10_000

/** Why there is no answer: an invalid token, a network failure, or an error of the API. */
export class Failure extends Error {
  /**
   * @param {'token' | 'network' | 'server' | 'refused'} kind
   * @param {string} message for people
   */
  constructor(kind, message) {
    super(message)
    this.kind = kind
  }
}

/**
 * The API with the service token. Every call returns an answer or throws a `Failure`.
 *
 * Only this closure holds the token.
 *
 * @typedef {ReturnType<typeof createApi>} Api
 * @param {string} token
 */
export function createApi(token) {
  /**
   * @param {string} method
   * @param {string} path
   */
  async function call(method, path) {
    // A header cannot contain other characters.
    if (!/^[\x21-\x7e]+$/.test(token)) throw new Failure('token', 'This token is not valid.')
    /** @type {Response} */
    let response
    /** @type {any} as the API documents it; other answers fail below */
    let body
    try {
      response = await fetch(path, {
        method,
        headers: { Accept: 'application/json', Authorization: `Bearer ${token}` },
        cache: 'no-store',
        credentials: 'omit',
        redirect: 'error',
        signal: AbortSignal.timeout(PATIENCE_MS),
      })
      body = response.status === 204 ? undefined : await response.json().catch(() => undefined)
    } catch (error) {
      const isLate = error instanceof DOMException && error.name === 'TimeoutError'
      const message = isLate ? `The API did not answer within ${PATIENCE_MS / 1_000} s.` : 'The API cannot be reached.'
      throw new Failure('network', message)
    }
    if (response.status === 401) throw new Failure('token', 'This token is not valid.')
    if (!response.ok) {
      const detail = body?.detail ?? body?.title
      const message = `The API answered ${response.status}${typeof detail === 'string' ? `: ${detail}` : ''}.`
      throw new Failure(response.status >= 500 ? 'server' : 'refused', message.replace(/\.\.$/, '.'))
    }
    if (response.status !== 204 && body === undefined) throw new Failure('server', 'The API did not answer with JSON.')
    return body
  }

  return {
    /**
     * Reads all figures, with the series of the last `minutes`.
     *
     * @param {number} minutes 1…60
     * @returns {Promise<Stats>}
     */
    stats: (minutes) => call('GET', `/v1/stats?minutes=${minutes}`),

    /**
     * Lists the dead deliveries of a webhook, newest first.
     *
     * @param {string} webhookId
     * @param {number} limit 1…100
     * @returns {Promise<{ items: Delivery[], nextCursor: string | null }>}
     */
    deadDeliveries: (webhookId, limit) =>
      call('GET', `/v1/webhooks/${encodeURIComponent(webhookId)}/deliveries?status=dead&limit=${limit}`),

    /**
     * Replays a delivery with a new retry schedule.
     *
     * @param {string} id
     * @returns {Promise<void>}
     */
    replay: (id) => call('POST', `/v1/deliveries/${encodeURIComponent(id)}/replay`),
  }
}
