import { element, write } from './dom.js'

/**
 * @template Row
 * @typedef {object} Column
 * @property {string} title
 * @property {(row: Row) => string} text
 * @property {(row: Row) => number | string | null} [sortBy] absent: not sortable
 * @property {boolean} [isText] else figures: right-aligned
 * @property {boolean} [isCode]
 * @property {(row: Row) => boolean} [isBad] to be looked at
 */

/**
 * A table that keeps its cells: what is selected or focused in it stays so while its figures change. It scrolls by
 * itself where it is too wide, also by keyboard.
 *
 * @template Row
 * @param {{ title: string, note?: string, empty: string, columns: Column<Row>[] }} kind the first column names the row
 */
export function createTable({ title, note, empty, columns }) {
  /** @type {Row[]} */
  let rows = []
  /** @type {{ index: number, isDescending: boolean } | undefined} */
  let order

  const body = element('tbody')
  const buttons = columns.map(({ title, sortBy }) => sortBy && element('button', { type: 'button' }, title))
  const headings = columns.map(({ title, isText }, i) =>
    element('th', { scope: 'col', class: isText ? '' : 'number' }, buttons[i] ?? title),
  )
  const caption = element('caption', {}, title)
  if (note) caption.append(element('span', { class: 'quiet' }, note))
  const table = element('table', {}, caption, element('thead', {}, element('tr', {}, ...headings)), body)
  const scroller = element('div', { class: 'scroller card', role: 'group', 'aria-label': title }, table)
  const nothing = element('tr', {}, element('td', { class: 'empty', colspan: String(columns.length) }, empty))

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
  new ResizeObserver(() => {
    if (scroller.scrollWidth > scroller.clientWidth) scroller.tabIndex = 0
    else scroller.removeAttribute('tabindex')
  }).observe(scroller)

  function sorted() {
    const sortBy = order && columns[order.index]?.sortBy
    if (!order || !sortBy) return rows
    const sign = order.isDescending ? -1 : 1
    return rows.toSorted((a, b) => {
      const [left, right] = [sortBy(a), sortBy(b)]
      if (left === right) return 0
      if (left === null || right === null) return left === null ? 1 : -1 // what is not known comes last
      return left < right ? -sign : sign
    })
  }

  function render() {
    const shown = sorted()
    nothing.remove()
    while (body.rows.length > shown.length) body.deleteRow(-1)
    if (shown.length === 0) body.append(nothing)
    shown.forEach((row, i) => {
      const line = body.rows[i] ?? body.appendChild(newLine())
      columns.forEach(({ text, isBad }, column) => {
        const cell = line.cells[column]
        if (!cell) return
        write(cell, text(row))
        cell.classList.toggle('bad', isBad?.(row) ?? false)
      })
    })
  }

  const newLine = () =>
    element(
      'tr',
      {},
      ...columns.map(({ isText, isCode }, i) => {
        const classes = [isText ? 'text' : 'number', isCode ? 'code' : ''].join(' ').trim()
        return i === 0 ? element('th', { scope: 'row', class: classes }) : element('td', { class: classes })
      }),
    )

  return {
    element: scroller,
    /** @param {Row[]} next */
    update(next) {
      rows = next
      render()
    },
  }
}
