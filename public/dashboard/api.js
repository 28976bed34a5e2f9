/** @import { InferOutput } from 'valibot' */
/** @import { RouteStats as RouteStatsSchema, Stats as StatsSchema } from '../../src/monitoring/schema.ts' */
/** @import { Content, LogEntry, Report } from '../../src/moderation/schema.ts' */
/** @typedef {InferOutput<typeof StatsSchema>} Stats */
/** @typedef {InferOutput<typeof RouteStatsSchema>} RouteStats */

/**
 * @typedef {object} Session
 * @property {string} name of the service token
 * @property {string[]} scopes
 * @property {string | null} tenant whose endpoints it is limited to
 * @property {string} expiresAt RFC 3339
 */

/** @typedef {{ field: string, message: string }} FieldError */

/**
 * @template Item
 * @typedef {{ items: Item[], nextCursor: string | null }} Page
 */

const PATIENCE_MS = 20_000

/** Why there is no answer: the session has ended, a network failure, an outage, or a refusal. */
export class Failure extends Error {
  /**
   * @param {'session' | 'network' | 'server' | 'refused'} kind
   * @param {string} message for people
   * @param {FieldError[]} fields what is wrong with the input
   */
  constructor(kind, message, fields = []) {
    super(message)
    this.kind = kind
    this.fields = fields
  }
}

/**
 * Sends a request of the session, which is a cookie that no script can read. Returns the answer or throws a `Failure`.
 *
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>} as the API documents it
 */
async function call(method, path, body) {
  /** @type {Response} */
  let response
  /** @type {any} as the API documents it; other answers fail below */
  let answer
  try {
    response = await fetch(path, {
      method,
      headers: {
        Accept: 'application/json',
        ...(method === 'GET' ? {} : { 'X-Dashboard': '1' }), // forms of other sites cannot send it
        ...(body ? { 'Content-Type': 'application/json' } : {}),
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
      cache: 'no-store',
      credentials: 'same-origin',
      redirect: 'error',
      signal: AbortSignal.timeout(PATIENCE_MS),
    })
    answer = response.status === 204 ? undefined : await response.json().catch(() => undefined)
  } catch (error) {
    const isLate = error instanceof DOMException && error.name === 'TimeoutError'
    throw new Failure(
      'network',
      isLate ? `The API did not answer within ${PATIENCE_MS / 1_000} s.` : 'The API cannot be reached.',
    )
  }
  if (response.ok) {
    if (response.status !== 204 && answer === undefined)
      throw new Failure('server', 'The API did not answer with JSON.')
    return answer
  }
  const detail = answer?.detail ?? answer?.title
  const said = typeof detail === 'string' ? detail : ''
  if (response.status === 401) throw new Failure('session', sentence(said || 'This session has ended'))
  const fields = Array.isArray(answer?.errors) ? answer.errors : []
  const message = `The API answered ${response.status}${said ? `: ${said}` : ''}`
  throw new Failure(response.status >= 500 ? 'server' : 'refused', sentence(message), fields)
}

/** @param {string} text */
const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`)

/**
 * Reads the first `count` pages of a list, and where the next one begins; null: it is complete.
 *
 * @template T
 * @param {number} count
 * @param {(cursor: string | undefined) => Promise<Page<T>>} read
 * @returns {Promise<Page<T>>}
 */
export async function readPages(count, read) {
  /** @type {Page<T>} */
  const whole = { items: [], nextCursor: null }
  for (let page = 0; page < count; page += 1) {
    const { items, nextCursor } = await read(whole.nextCursor ?? undefined)
    whole.items.push(...items)
    whole.nextCursor = nextCursor
    if (nextCursor === null) break
  }
  return whole
}

/**
 * Why a call failed, for the page to show. Undefined: the session has ended, which `onEnd` shows. Throws what is no
 * `Failure`.
 *
 * @param {unknown} error
 * @param {(failure: Failure) => void} onEnd
 * @returns {string | undefined}
 */
export function reasonOf(error, onEnd) {
  if (!(error instanceof Failure)) throw error
  if (error.kind !== 'session') return error.message
  onEnd(error)
  return undefined
}

const SESSION = '/dashboard/session'
const V1 = '/dashboard/v1'

/** @param {Record<string, string | number | undefined>} values */
function query(values) {
  const given = Object.entries(values).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]]))
  return `?${new URLSearchParams(given)}`
}

const part = encodeURIComponent

/** The API of the dashboard. Every call returns an answer or throws a `Failure`. */
export const api = {
  /** @returns {Promise<Session>} */
  session: () => call('GET', SESSION),
  /** @param {{ token: string } | { link: string }} credential @returns {Promise<Session>} */
  signIn: (credential) => call('POST', SESSION, credential),
  /** @returns {Promise<void>} */
  signOut: () => call('DELETE', SESSION),

  /**
   * Reads all figures of the last `minutes`.
   *
   * @param {number} minutes 1…60
   * @param {number} [seriesFrom] Unix seconds: only later steps of the series
   * @returns {Promise<Stats>}
   */
  stats: (minutes, seriesFrom) => call('GET', `${V1}/stats${query({ minutes, seriesFrom })}`),
  /** @param {string} route @param {number} minutes @returns {Promise<RouteStats>} */
  route: (route, minutes) => call('GET', `${V1}/stats/route${query({ route, minutes })}`),

  /** @param {{ status?: string, cursor?: string, limit?: number }} of @returns {Promise<Page<Report>>} */
  reports: (of) => call('GET', `${V1}/moderation/reports${query(of)}`),
  /** @param {{ subjectId: string, outcome: 'dismissed' | 'acted', note: string }} resolution */
  resolve: (resolution) => call('POST', `${V1}/moderation/reports/resolve`, resolution),
  /** @param {string} id @returns {Promise<Content>} */
  content: (id) => call('GET', `${V1}/moderation/contents/${part(id)}`),
  /** @param {string} id @param {string} note @returns {Promise<Content>} */
  takeDown: (id, note) => call('PUT', `${V1}/moderation/takedowns/${part(id)}`, { note }),
  /** @param {string} id @param {string} note @returns {Promise<Content>} */
  restore: (id, note) => call('DELETE', `${V1}/moderation/takedowns/${part(id)}`, { note }),
  /** @param {string} id @param {string} note @returns {Promise<void>} */
  suspend: (id, note) => call('PUT', `${V1}/moderation/suspensions/${part(id)}`, { note }),
  /** @param {string} id @param {string} note @returns {Promise<void>} */
  reinstate: (id, note) => call('DELETE', `${V1}/moderation/suspensions/${part(id)}`, { note }),
  /** @param {{ cursor?: string, limit?: number }} of @returns {Promise<Page<LogEntry>>} */
  log: (of) => call('GET', `${V1}/moderation/log${query(of)}`),

  /**
   * Sends a request below `/v1/webhooks` or `/v1/deliveries`.
   *
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   * @returns {Promise<any>} as the API documents it
   */
  webhooks: (method, path, body) => call(method, V1 + path, body),
  query,
}
/** @typedef {typeof api} Api */
