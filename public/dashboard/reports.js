/** @import { Context, Section } from './sections.js' */
/** @import { Content, LogEntry, Report } from '../../src/moderation/schema.ts' */
import { Failure, readPages, reasonOf } from './api.js'
import { ask } from './dialog.js'
import { button, element, section, write } from './dom.js'
import { count, moment, NONE } from './format.js'
import { createTable } from './table.js'

const RELOAD_MS = 30_000
const PAGE = 100
const LOG = 50

/** A subject with its reports. @typedef {{ id: string, reports: Report[], content: Content | null | undefined }} Case */

/**
 * The queue of reports, by subject, and what moderators did.
 *
 * @param {Context} context
 * @returns {Section}
 */
export function createReports({ api, say, ended, onEnd }) {
  /** What is known of posts and comments. Null: gone. @type {Map<string, Content | null>} */
  const contents = new Map()
  /** Those that were read since the last decision. @type {Set<string>} */
  const current = new Set()
  /** @type {Report[]} */
  let reports = []
  let pages = 1
  let isShown = false
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer

  /** @param {string} label @param {(row: Case) => void} press @param {string} [what] */
  const action = (label, press, what = label) => ({
    text: (/** @type {Case} */ row) => labelOf(label, row),
    name: (/** @type {Case} */ row) => `${labelOf(what, row)} ${row.id}`,
    isBusy: () => false,
    press,
  })
  const queue = createTable({
    title: 'Open reports',
    note: 'by subject',
    empty: 'No open reports. Members send them: POST /v1/reports',
    key: ({ id }) => id,
    columns: /** @type {import('./table.js').Column<Case>[]} */ ([
      { title: 'Subject', text: subjectOf, isText: true },
      { title: 'Reports', text: ({ reports }) => count(reports.length), sortBy: ({ reports }) => reports.length },
      {
        title: 'Reasons',
        text: ({ reports }) => [...new Set(reports.map(({ reason }) => reason))].join(', '),
        isText: true,
      },
      {
        title: 'Latest',
        text: ({ reports }) => moment(reports[0]?.createdAt ?? ''),
        sortBy: ({ reports }) => reports[0]?.createdAt ?? null,
      },
      {
        title: 'Words of reporters',
        text: ({ reports }) =>
          reports
            .flatMap(({ text }) => text || [])
            .slice(0, 3)
            .join(' / '),
        isText: true,
        isLong: true,
      },
      {
        title: 'Actions',
        isText: true,
        buttons: [
          action('Take down', (row) => takeDown(row)),
          action('Suspend', (row) => suspend(row), 'Suspend the author of'),
          action('Resolve', (row) => resolve(row), 'Resolve the reports about'),
        ],
      },
    ]),
  })
  const log = createTable({
    title: 'What moderators did',
    note: `the last ${LOG}`,
    empty: 'No decisions yet: they appear here when a moderator has made one.',
    key: ({ id }) => id,
    columns: /** @type {import('./table.js').Column<LogEntry>[]} */ ([
      { title: 'Action', text: ({ action }) => action, isText: true },
      { title: 'Subject', text: ({ subjectId }) => subjectId, isText: true, isCode: true },
      { title: 'Note', text: ({ note }) => note, isText: true, isLong: true },
      { title: 'Token', text: ({ tokenName }) => tokenName, isText: true },
      { title: 'At', text: ({ createdAt }) => moment(createdAt), sortBy: ({ createdAt }) => createdAt },
      {
        title: 'Actions',
        isText: true,
        buttons: [
          {
            text: ({ action }) => UNDO[action] ?? '',
            name: ({ action, subjectId }) => `${UNDO[action]} ${subjectId}`,
            isBusy: () => false,
            press: ({ action, subjectId }) => undo(action, subjectId),
          },
        ],
      },
    ]),
  })
  const problem = element('p', { class: 'error', role: 'alert' })
  const more = button('Show more', () => ((pages += 1), void load()))
  more.hidden = true

  async function load() {
    clearTimeout(timer)
    try {
      const found = await readPages(pages, (cursor) => api.reports({ limit: PAGE, ...(cursor && { cursor }) }))
      const entries = await api.log({ limit: LOG })
      if (ended.aborted) return
      reports = found.items
      more.hidden = found.nextCursor === null
      log.update(entries.items)
      show()
      write(problem, '')
      await readContents()
    } catch (error) {
      if (ended.aborted) return
      const reason = reasonOf(error, onEnd)
      if (reason === undefined) return
      write(problem, reason)
    }
    if (isShown && !ended.aborted) timer = setTimeout(() => void load(), RELOAD_MS)
  }

  /** Reads what the reports are about, a few at a time. */
  async function readContents() {
    const missing = [...new Set(reports.map(({ subjectId }) => subjectId))].filter(
      (id) => !id.startsWith('u_') && !current.has(id),
    )
    while (missing.length > 0 && !ended.aborted) {
      await Promise.all(
        missing.splice(0, 4).map(async (id) => {
          contents.set(id, await readContent(id))
          current.add(id)
        }),
      )
      show()
    }
  }

  /** @param {string} id */
  async function readContent(id) {
    try {
      return await api.content(id)
    } catch (error) {
      if (error instanceof Failure && error.kind === 'refused') return null // its author has deleted it
      throw error
    }
  }

  function show() {
    const bySubject = Map.groupBy(reports, ({ subjectId }) => subjectId)
    queue.update([...bySubject].map(([id, about]) => ({ id, reports: about, content: contents.get(id) })))
  }

  /**
   * Asks for a note, acts, and shows the result.
   *
   * @param {{ title: string, text: string, action: string, isDanger?: boolean }} question
   * @param {(note: string) => Promise<unknown>} work
   * @param {string} done
   */
  function decide(question, work, done) {
    const fields = /** @type {import('./dialog.js').Field[]} */ ([
      { name: 'note', label: 'Note', kind: 'long', isRequired: true, hint: 'Why. The log keeps it.' },
    ])
    ask({ ...question, fields }, async ({ note = '' }) => {
      await work(String(note))
      current.clear() // the rows keep what they show until it is read again
      say(done)
      void load()
    })
  }

  /** @param {Case} row */
  function takeDown({ id, content }) {
    if (content?.takenDown) return undo('take-down', id)
    decide(
      { title: 'Take it down?', text: content?.text ?? id, action: 'Take down', isDanger: true },
      (note) => api.takeDown(id, note),
      'Taken down.',
    )
  }

  /** @param {Case} row */
  function suspend({ id, content }) {
    const userId = id.startsWith('u_') ? id : content?.authorId
    if (!userId) return say('Its author is not known.')
    decide(
      {
        title: 'Suspend the account?',
        text: `${userId}: its sessions end, and it cannot sign in. What it wrote stays.`,
        action: 'Suspend',
        isDanger: true,
      },
      (note) => api.suspend(userId, note),
      'Suspended.',
    )
  }

  /** @param {Case} row */
  function resolve({ id, reports: about }) {
    const fields = /** @type {import('./dialog.js').Field[]} */ ([
      {
        name: 'outcome',
        label: 'Outcome',
        kind: 'choices',
        choices: ['dismissed', 'acted'],
        hint: 'Whether you did something about it.',
      },
      { name: 'note', label: 'Note', kind: 'long', isRequired: true, hint: 'Why. The log keeps it.' },
    ])
    const text = `${about.length === 1 ? 'One report' : `${about.length} reports`} about ${id}. This changes nothing else.`
    ask({ title: 'Resolve the reports?', text, fields, action: 'Resolve' }, async ({ outcome, note = '' }) => {
      const { hasMore } = await api.resolve({
        subjectId: id,
        outcome: outcome === 'acted' ? 'acted' : 'dismissed',
        note: String(note),
      })
      say(hasMore ? 'Resolved the first 500. Repeat it.' : 'Resolved.')
      void load()
    })
  }

  /** @param {LogEntry['action']} action @param {string} id */
  function undo(action, id) {
    if (action === 'take-down') {
      const question = { title: 'Restore it?', text: `${id}, with its likes and comments.`, action: 'Restore' }
      decide(question, (note) => api.restore(id, note), 'Restored.')
    }
    if (action === 'suspend') {
      const question = { title: 'Reinstate the account?', text: `${id} can sign in again.`, action: 'Reinstate' }
      decide(question, (note) => api.reinstate(id, note), 'Reinstated.')
    }
  }

  return {
    id: 'reports',
    title: 'Reports',
    element: element('div', {}, problem, queue.element, more, section('log', 'Log', log.element)),
    show() {
      isShown = true
      void load()
    },
    hide() {
      isShown = false
      clearTimeout(timer)
    },
  }
}

/** What undoes an action. @type {Partial<Record<LogEntry['action'], string>>} */
const UNDO = { 'take-down': 'Restore', suspend: 'Reinstate' }

/** What a button does; empty: nothing. @param {string} action @param {Case} row */
function labelOf(action, { id, content }) {
  if (action !== 'Take down') return action
  if (id.startsWith('u_') || content === null) return ''
  return content?.takenDown ? 'Restore' : action
}

/** @param {Case} row */
function subjectOf({ id, content }) {
  if (id.startsWith('u_')) return `User ${id}`
  if (content === undefined) return id
  if (content === null) return `${id}: deleted by its author`
  const text = content.text.length > 120 ? `${content.text.slice(0, 120)} …` : content.text
  return content.takenDown ? `(taken down) ${text}` : text || NONE
}
