/** @import { Api, Delivery, Stats } from './api.js' */
import { Failure } from './api.js'
import { count, moment, NONE } from './format.js'
import { createTable } from './table.js'

/** @typedef {NonNullable<Stats['webhooks']>[number]} Endpoint */
/** @typedef {Delivery & { host: string }} Row */

const MOST_ENDPOINTS = 10
const MOST_DELIVERIES = 20
/** Reloads this often: the count of dead deliveries may stay equal while the deliveries differ. */
const RELOAD_MS = 60_000

/**
 * The dead deliveries of webhooks, each with a retry button. Reloads when their number changes, every minute, and when the
 * window gets the focus: another window may have retried some.
 *
 * @param {Api} api
 * @param {(text: string) => void} say
 * @param {AbortSignal} ended when the view is removed
 */
export function createDeliveries(api, say, ended) {
  /** @type {Map<string, string>} the result of a retry, by delivery */
  const notes = new Map()
  /** @type {Row[]} */
  let rows = []
  let known = ''
  /** Unix ms: when to reload `rows` at the latest */
  let reloadAt = 0
  let isLoading = false

  const table = createTable({
    title: 'Dead deliveries',
    note: `the newest ${MOST_DELIVERIES} of each endpoint`,
    empty: 'No dead deliveries.',
    key: (row) => row.id,
    columns: /** @type {import('./table.js').Column<Row>[]} */ ([
      { title: 'Event', text: ({ type, eventId }) => type ?? eventId, isText: true, isCode: true },
      { title: 'Endpoint', text: ({ host }) => host, sortBy: ({ host }) => host, isText: true },
      { title: 'Attempts', text: ({ attempts }) => count(attempts.length), sortBy: ({ attempts }) => attempts.length },
      {
        title: 'Last attempt',
        text: ({ attempts }) => timeOf(attempts.at(-1)),
        sortBy: (row) => row.attempts.at(-1)?.at ?? null,
      },
      { title: 'Outcome', text: ({ attempts }) => outcomeOf(attempts.at(-1)), isText: true },
      {
        title: 'Retry',
        text: () => 'Retry',
        isText: true,
        button: {
          name: ({ type, host }) => `Retry ${type ?? 'the event'} to ${host}`,
          isBusy: ({ id }) => notes.get(id) === RETRYING,
          press: (row) => void retry(row),
        },
      },
      { title: 'Result', text: ({ id }) => notes.get(id) ?? '', isText: true },
    ]),
  })
  table.update([])
  addEventListener('focus', () => (reloadAt = 0), { signal: ended })

  /** @param {Row} row */
  async function retry(row) {
    const name = `${row.type ?? 'The event'} to ${row.host}`
    note(row.id, RETRYING)
    try {
      await api.replay(row.id)
      rows = rows.filter(({ id }) => id !== row.id)
      note(row.id, '')
      say(`${name} is queued again.`)
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      note(row.id, error.message)
      say(`${name} could not be retried. ${error.message}`)
    }
  }

  /** @param {string} id @param {string} text */
  function note(id, text) {
    notes.set(id, text)
    table.update(rows)
  }

  /** @param {Endpoint[]} endpoints */
  async function load(endpoints) {
    const pages = await Promise.all(endpoints.map(({ id }) => api.deadDeliveries(id, MOST_DELIVERIES)))
    rows = pages.flatMap(({ items }, i) =>
      items.map((delivery) => Object.assign(delivery, { host: endpoints[i]?.host ?? '' })),
    )
    table.update(rows)
  }

  return {
    element: table.element,
    /** @param {Endpoint[]} endpoints */
    async update(endpoints) {
      const failing = endpoints.filter(({ dead }) => dead > 0).slice(0, MOST_ENDPOINTS)
      const state = failing.map(({ id, dead }) => `${id} ${dead}`).join()
      const now = Date.now()
      if (isLoading || (state === known && now < reloadAt)) return
      isLoading = true
      reloadAt = now + RELOAD_MS
      try {
        await load(failing)
        known = state
      } catch (error) {
        if (!(error instanceof Failure)) throw error
        reloadAt = 0 // retry with the next figures
      } finally {
        isLoading = false
      }
    },
  }
}

const RETRYING = 'Retrying …'

/** @param {Delivery['attempts'][number] | undefined} attempt */
const timeOf = (attempt) => (attempt ? moment(attempt.at) : NONE)

/** @param {Delivery['attempts'][number] | undefined} attempt */
function outcomeOf(attempt) {
  if (!attempt) return NONE
  const { status, error, answer } = attempt
  const reason = error ?? answer ?? ''
  const text = reason.length > 80 ? `${reason.slice(0, 80)} …` : reason
  return status === null ? text : `${status} ${text}`.trim()
}
