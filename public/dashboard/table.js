import { element, write } from './dom.js'

/**
 * @template Row
 * @typedef {object} Column
 * @property {string} title
 * @property {(row: Row) => string} [text] of the cell
 * @property {(row: Row) => number | string | null} [sortBy] absent: not sortable
 * @property {Button<Row>[]} [buttons] instead of a text
 * @property {(row: Row) => string} [href] of the first column: a link to more about the row
 * @property {boolean} [isText] else figures: right-aligned
 * @property {boolean} [isLong] sentences: they wrap, so that what follows stays in sight
 * @property {boolean} [isCode]
 * @property {(row: Row) => boolean} [isBad] to be looked at
 */

/**
 * @template Row
 * @typedef {object} Button
 * @property {(row: Row) => string} text empty: there is nothing to do, and no button
 * @property {(row: Row) => string} name what it does, complete without the rest of the row
 * @property {(row: Row) => boolean} isBusy
 * @property {(row: Row) => void} press
 */

/**
 * A table that keeps its cells: selection and focus survive updates. A wide table scrolls on its own, also by keyboard,
 * and the names of its rows stay visible.
 *
 * @template Row
 * @param {object} kind
 * @param {string} kind.title
 * @param {string} [kind.note]
 * @param {string} kind.empty what to say when there are no rows
 * @param {Column<Row>[]} kind.columns the first names the row
 * @param {(row: Row) => string} [kind.key] what makes a row the same row; absent: its place
 */
export function createTable({ title, note, empty, columns, key }) {
  /** @type {Row[]} */
  let rows = []
  /** @type {{ index: number, isDescending: boolean } | undefined} */
  let order
  /** @type {Map<HTMLTableRowElement, { key: string, row: Row }>} */
  const lines = new Map()

  const body = element('tbody')
  const buttons = columns.map(({ title, sortBy }) => sortBy && element('button', { type: 'button' }, title))
  const headings = columns.map(({ title, isText }, i) =>
    element('th', { scope: 'col', class: isText ? '' : 'number' }, buttons[i] ?? title),
  )
  const named = element('div', { class: 'held' }, title)
  if (note) named.append(element('span', { class: 'quiet' }, note))
  const table = element(
    'table',
    {},
    element('caption', {}, named),
    element('thead', {}, element('tr', {}, ...headings)),
    body,
  )
  const scroller = element('div', { class: 'scroller card', role: 'group', 'aria-label': title }, table)
  const none = element('div', { class: 'held empty' }, 'Loading …')
  const nothing = element('tr', {}, element('td', { colspan: String(columns.length) }, none))

  buttons.forEach((button, index) =>
    button?.addEventListener('click', () => {
      const isDescending = order?.index === index ? !order.isDescending : !columns[index]?.isText
      order = { index, isDescending }
      headings.forEach((heading, i) => {
        if (i === index) heading.setAttribute('aria-sort', isDescending ? 'descending' : 'ascending')
        else heading.removeAttribute('aria-sort')
      })
      render()
    }),
  )
  const observer = new ResizeObserver(() => {
    if (scroller.scrollWidth > scroller.clientWidth) scroller.tabIndex = 0
    else scroller.removeAttribute('tabindex')
  })
  observer.observe(scroller)
  observer.observe(table)

  function sorted() {
    const sortBy = order && columns[order.index]?.sortBy
    if (!order || !sortBy) return rows
    const sign = order.isDescending ? -1 : 1
    return rows.toSorted((a, b) => {
      const [left, right] = [sortBy(a), sortBy(b)]
      if (left === right) return 0
      if (left === null || right === null) return left === null ? 1 : -1 // unknown values come last
      return left < right ? -sign : sign
    })
  }

  function render() {
    const shown = sorted()
    const { activeElement } = document
    const focused = activeElement?.closest('tr')
    const index = focused && lines.has(focused) ? focused.sectionRowIndex : undefined

    /** @type {Map<string, HTMLTableRowElement>} */
    const held = new Map([...lines].map(([line, { key }]) => [key, line]))
    lines.clear()
    const names = shown.map((row, i) => key?.(row) ?? String(i))
    nothing.remove()
    for (const [name, line] of held) if (!names.includes(name)) line.remove()
    shown.forEach((row, i) => {
      const name = names[i] ?? ''
      const line = held.get(name) ?? newLine()
      lines.set(line, { key: name, row })
      fill(line, row)
      if (body.rows[i] !== line) body.insertBefore(line, body.rows[i] ?? null) // moving a row loses focus and clicks
    })
    if (shown.length === 0) body.append(nothing)

    if (index !== undefined && !activeElement?.isConnected) {
      const next = body.rows[Math.min(index, body.rows.length - 1)]?.querySelector('button, a')
      if (!(next instanceof HTMLElement)) scroller.tabIndex = -1
      ;(next instanceof HTMLElement ? next : scroller).focus()
    }
  }

  function newLine() {
    const cells = columns.map(({ isText, isLong, isCode, buttons = [], href }, i) => {
      const classes = [isText ? 'text' : 'number', isLong ? 'long' : '', isCode ? 'code' : ''].filter(Boolean).join(' ')
      if (i === 0)
        return element('th', { scope: 'row', class: classes }, element(href ? 'a' : 'span', { class: 'name' }))
      const actions = buttons.map(() => element('button', { type: 'button' }))
      return element(
        'td',
        { class: classes },
        ...(actions.length > 0 ? [element('div', { class: 'row' }, ...actions)] : []),
      )
    })
    const line = element('tr', {}, ...cells)
    columns.forEach(({ buttons = [] }, i) =>
      cells[i]?.querySelectorAll('button').forEach((node, index) =>
        node.addEventListener('click', () => {
          const [row, button] = [lines.get(line)?.row, buttons[index]]
          if (row && !button?.isBusy(row)) button?.press(row)
        }),
      ),
    )
    return line
  }

  /** @param {HTMLTableRowElement} line @param {Row} row */
  function fill(line, row) {
    columns.forEach(({ text, isBad, buttons, href }, i) => {
      const cell = line.cells[i]
      if (!cell) return
      const name = cell.querySelector('.name')
      if (text) write(name ?? cell, text(row))
      if (name instanceof HTMLAnchorElement && href) name.href = href(row)
      cell.classList.toggle('bad', isBad?.(row) ?? false)
      buttons?.forEach((button, index) => {
        const node = cell.querySelectorAll('button')[index]
        if (!node) return
        const label = button.text(row)
        write(node, label)
        node.hidden = label === ''
        node.setAttribute('aria-label', button.name(row))
        node.setAttribute('aria-disabled', String(button.isBusy(row))) // `disabled` would lose the focus
      })
    })
  }

  body.append(nothing)
  return {
    element: scroller,
    /** Until the first update the table says that it loads. @param {Row[] | null} next null: unknown */
    update(next) {
      write(none, next ? empty : 'Unknown: the API cannot read this now.')
      rows = next ?? []
      render()
    },
  }
}
