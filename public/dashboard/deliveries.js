/** @import { Page } from './api.js' */
/** @import { Context } from './sections.js' */
/** @import { InferOutput } from 'valibot' */
/** @import { DeliveryDetails, ShownAttempt as Attempt, ShownDelivery as Delivery } from '../../src/webhooks/schema.ts' */
import { readPages, reasonOf } from './api.js'
import { button, element, section } from './dom.js'
import { count, milliseconds, moment, NONE } from './format.js'
import { addressOf } from './sections.js'
import { createTable } from './table.js'

/** @typedef {InferOutput<typeof DeliveryDetails>} Details */

const PAGE = 20

/**
 * The deliveries of an endpoint, each with its attempts, its request and the answers.
 *
 * @param {Context} context
 */
export function createDeliveries({ api, say, ended, onEnd }) {
  /** @type {Map<string, string>} what came of a replay, by delivery */
  const notes = new Map()
  /** @type {Delivery[]} */
  let rows = []
  let webhookId = ''
  let selected = ''
  let pages = 1

  const status = element(
    'select',
    { id: 'delivery-status' },
    ...['all', 'pending', 'delivered', 'dead'].map((value) => element('option', { value }, value)),
  )
  status.addEventListener('change', () => ((pages = 1), void reload()))
  const more = button('Show more', () => ((pages += 1), void reload()))
  const table = createTable({
    title: 'Deliveries',
    note: 'the newest first',
    empty: 'No deliveries. Send a test, or publish an event: POST /v1/events',
    key: ({ id }) => id,
    columns: /** @type {import('./table.js').Column<Delivery>[]} */ ([
      {
        title: 'Event',
        text: ({ type, eventId }) => type ?? eventId,
        href: ({ id }) => addressOf('webhooks', webhookId, id),
        isText: true,
        isCode: true,
      },
      { title: 'State', text: ({ status }) => status, isText: true, isBad: ({ status }) => status === 'dead' },
      { title: 'Attempts', text: ({ attempts }) => count(attempts.length) },
      { title: 'Last attempt', text: ({ attempts }) => timeOf(attempts.at(-1)) },
      { title: 'Outcome', text: ({ attempts }) => outcomeOf(attempts.at(-1)), isText: true, isLong: true },
      {
        title: 'Actions',
        isText: true,
        buttons: [
          {
            text: () => 'Replay',
            name: ({ type, eventId }) => `Replay ${type ?? eventId}`,
            isBusy: ({ id }) => notes.get(id) === REPLAYING,
            press: (row) => void replay(row),
          },
        ],
      },
      { title: 'Result', text: ({ id }) => notes.get(id) ?? '', isText: true },
    ]),
  })
  const controls = element(
    'div',
    { class: 'actions start' },
    element('label', { for: 'delivery-status' }, 'Show'),
    status,
  )
  const opened = element('div', { class: 'opened' })
  const root = section('deliveries', 'Deliveries', opened, controls, table.element, more)
  more.hidden = true

  /** @param {Delivery} row */
  async function replay(row) {
    const name = row.type ?? 'The event'
    note(row.id, REPLAYING)
    try {
      await api.webhooks('POST', `/deliveries/${row.id}/replay`)
      note(row.id, 'queued again')
      say(`${name} is queued again.`)
      await reload()
    } catch (error) {
      const reason = reasonOf(error, onEnd)
      if (reason === undefined) return
      note(row.id, reason)
      say(`${name} could not be replayed. ${reason}`)
    }
  }

  /** @param {string} id @param {string} text */
  function note(id, text) {
    notes.set(id, text)
    table.update(rows)
  }

  async function load() {
    const asked = webhookId
    if (!asked) return
    const chosen = status.value === 'all' ? undefined : status.value
    /** @type {Page<Delivery>} */
    const found = await readPages(pages, (cursor) =>
      api.webhooks('GET', `/webhooks/${asked}/deliveries${api.query({ limit: PAGE, cursor, status: chosen })}`),
    )
    if (asked !== webhookId || ended.aborted) return
    rows = found.items
    more.hidden = found.nextCursor === null
    table.update(rows)
    if (selected) await loadOne(selected)
  }

  /** @param {string} id */
  async function loadOne(id) {
    const delivery = await api.webhooks('GET', `/deliveries/${id}`)
    if (id === selected && !ended.aborted) showOne(delivery)
  }

  async function reload() {
    try {
      await load()
    } catch (error) {
      const reason = reasonOf(error, onEnd)
      if (reason !== undefined) say(reason)
    }
  }

  let shown = ''
  /** @param {Details} delivery */
  function showOne(delivery) {
    const state = JSON.stringify(delivery)
    if (state === shown) return // what is read keeps its place
    shown = state
    const { type, eventId, status, attempts, request } = delivery
    const close = element('a', { href: addressOf('webhooks', webhookId) }, 'Close')
    opened.replaceChildren(
      element(
        'div',
        { class: 'card delivery' },
        element('div', { class: 'heading' }, element('h3', {}, `${type ?? 'Event'}: ${status}`), close),
        element('p', { class: 'quiet code' }, eventId),
        element('h4', {}, 'Request'),
        element('p', { class: 'code' }, `POST ${request.url}`),
        headersOf('Headers of the request', request.headers),
        request.body === null
          ? element('p', { class: 'quiet' }, 'The event has expired, or may not be shown.')
          : preformatted('Body of the request', indented(request.body)),
        element('h4', {}, attempts.length === 1 ? 'One attempt' : `${attempts.length} attempts`),
        element('ol', { class: 'attempts' }, ...attempts.map(attemptOf)),
      ),
    )
  }

  return {
    element: root,
    load,
    /** @param {string} webhook none: nothing is shown @param {string} delivery none: the list alone */
    select(webhook, delivery) {
      if (webhook !== webhookId) {
        rows = []
        pages = 1
        table.update(rows)
      }
      if (delivery !== selected) {
        shown = ''
        opened.replaceChildren()
      }
      webhookId = webhook
      selected = delivery
    },
  }
}

const REPLAYING = 'Queueing …'

/** @param {Attempt | undefined} attempt */
const timeOf = (attempt) => (attempt ? moment(attempt.at) : NONE)

/** @param {Attempt | undefined} attempt */
function outcomeOf(attempt) {
  if (!attempt) return 'waits'
  const { status, error, answer } = attempt
  const reason = error ?? answer ?? ''
  const text = reason.length > 80 ? `${reason.slice(0, 80)} …` : reason
  return status === null ? text : `${status} ${text}`.trim()
}

/** @param {Attempt} attempt */
function attemptOf({ at, durationMs, status, error, answer, answerHeaders }) {
  const outcome = status === null ? (error ?? 'no answer') : String(status)
  return element(
    'li',
    {},
    element('p', {}, `${moment(at)}, ${milliseconds(durationMs)}: `, element('b', {}, outcome)),
    ...(answerHeaders && Object.keys(answerHeaders).length > 0
      ? [headersOf('Headers of the answer', answerHeaders)]
      : []),
    ...(answer ? [preformatted('Body of the answer', answer)] : []),
  )
}

/** @param {string} label @param {Record<string, string | null>} headers null: secret */
function headersOf(label, headers) {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value ?? '(secret)'}`)
  return preformatted(label, lines.join('\n'))
}

/** @param {string} label @param {string} text */
const preformatted = (label, text) => element('pre', { tabindex: '0', role: 'group', 'aria-label': label }, text)

/** @param {string} json */
function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2)
  } catch {
    return json
  }
}
