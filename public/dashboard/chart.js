/** @import uPlotClass from 'uplot' */
import { element, write } from './dom.js'
import { clock, exactClock } from './format.js'

/** @type {typeof uPlotClass} loaded before this module, see index.html */
const uPlot = Reflect.get(globalThis, 'uPlot')

/** @typedef {(number | null)[]} Column */

/**
 * @template Series
 * @typedef {object} Line
 * @property {string} label
 * @property {string} color a custom property of the style sheet
 * @property {(series: Series) => Column} column
 * @property {boolean} [isFilled]
 */

/**
 * @template Series
 * @typedef {object} ChartKind
 * @property {string} title with its unit
 * @property {string} empty what to say, and to run, when there is nothing to draw
 * @property {(value: number | null | undefined) => string} format
 * @property {Line<Series>[]} lines
 * @property {number} [max] of the scale, where it is known
 * @property {boolean} [isSpanned] true: noted seldom, and joined
 */

const HEIGHT = 168
const TABLE_STEPS = 30
/** A figure this many times as high as nearly all others is an outlier. */
const OUTLYING = 3
/** Fewer figures do not show what is usual, nor that there was nothing before. */
const FEW = 10

/**
 * The top of the scale. A few outliers do not decide it: they would flatten everything else.
 *
 * @param {Column[]} columns
 */
function topOf(columns) {
  const values = columns[0]?.flatMap((_, i) => {
    const highest = Math.max(0, ...columns.map((column) => column[i] ?? 0))
    return highest > 0 ? [highest] : []
  })
  const sorted = (values ?? []).toSorted((a, b) => a - b)
  const highest = sorted.at(-1) ?? 1
  const usual = sorted[Math.floor(0.95 * (sorted.length - 1))] ?? 1
  return sorted.length >= FEW && highest > OUTLYING * usual ? 1.5 * usual : 1.1 * highest
}

/** Draws a point where a figure has no neighbours and so no line. @param {Column} column */
const lonely = (column) =>
  column.flatMap((value, i) => (value !== null && (column[i - 1] ?? column[i + 1] ?? null) === null ? [i] : []))

let charts = 0

/**
 * A chart with its legend, a description in words, and its last steps as a table. The pointer changes texts only: all of
 * them have their place from the start.
 *
 * @template {{ at: number[], requests: Column }} Series whose requests are null where nothing is known
 * @param {ChartKind<Series>} kind
 * @param {AbortSignal} ended when it is not shown any more
 */
export function createChart(kind, ended) {
  const { title, empty, format, lines } = kind
  const id = `chart-${(charts += 1)}`
  const values = lines.map(() => element('b'))
  const legend = element(
    'ul',
    { class: 'legend' },
    ...lines.map((line, i) => {
      const swatch = element('i', { class: 'swatch' })
      swatch.style.background = `var(${line.color})`
      return element('li', {}, element('span', {}, swatch, line.label), values[i] ?? '')
    }),
  )
  const moment = element('span', { class: 'moment quiet' })
  const summary = element('p', { class: 'hidden', id: `${id}-summary` })
  const canvas = element('div', { class: 'plot', role: 'img', 'aria-labelledby': `${id}-title ${id}-summary` })
  const nothing = element('p', { class: 'empty' }, empty)
  const note = element('p', { class: 'note quiet' })
  const body = element('tbody')
  const table = element(
    'table',
    {},
    element('caption', { class: 'hidden' }, `${title}, the last steps`),
    element(
      'thead',
      {},
      element(
        'tr',
        {},
        element('th', { scope: 'col' }, 'Time'),
        ...lines.map((line) => element('th', { scope: 'col', class: 'number' }, line.label)),
      ),
    ),
    body,
  )
  const details = element(
    'details',
    {},
    element('summary', {}, 'Figures', element('span', { class: 'hidden' }, ` of ${title}`)),
    table,
  )
  const figure = element(
    'figure',
    { class: 'card chart', 'aria-labelledby': `${id}-title` },
    element('figcaption', {}, element('h3', { id: `${id}-title` }, title), moment),
    legend,
    canvas,
    nothing,
    summary,
    element('div', { class: 'foot' }, details, note),
  )

  /** @type {number[]} Unix seconds */
  let times = []
  /** @type {Column[]} one a line */
  let columns = []
  let top = 1
  /** @type {uPlotClass | undefined} */
  let plot

  /** The step under the pointer, or else the last step with a figure. */
  function showValues() {
    const at = plot?.cursor.idx
    const isPointed = at !== null && at !== undefined
    write(moment, isPointed ? exactClock((times[at] ?? 0) * 1_000) : '')
    values.forEach((node, i) => {
      const column = columns[i] ?? []
      write(node, format(isPointed ? column[at] : column.findLast((value) => value !== null)))
    })
  }

  /** The data to draw. Omits lines of only 0, which would cover the axis. @returns {uPlotClass.AlignedData} */
  const aligned = () => [times, ...columns.map((column) => (column.some(Boolean) ? column : column.map(() => null)))]

  /** @type {uPlotClass.Series.Points.Filter} */
  const filter = (_plot, i) => lonely(columns[i - 1] ?? [])

  /** The figures above the scale, highest first. */
  const outlying = () =>
    columns
      .flatMap((column, line) =>
        column.flatMap((value, i) => (value !== null && value > top ? [{ value, i, line }] : [])),
      )
      .toSorted((a, b) => b.value - a.value)

  /** Marks each outlier where its line leaves the scale. @param {uPlotClass} drawn */
  function markOutliers(drawn) {
    const { ctx, bbox } = drawn
    const style = getComputedStyle(document.documentElement)
    const size = 5 * devicePixelRatio
    for (const { i, line } of outlying()) {
      const x = drawn.valToPos(times[i] ?? 0, 'x', true)
      ctx.fillStyle = style.getPropertyValue(lines[line]?.color ?? '').trim()
      ctx.beginPath()
      ctx.moveTo(x, bbox.top)
      ctx.lineTo(x - size, bbox.top + 1.6 * size)
      ctx.lineTo(x + size, bbox.top + 1.6 * size)
      ctx.fill()
    }
  }

  function draw() {
    plot?.destroy()
    const style = getComputedStyle(document.documentElement)
    /** @param {string} name */
    const color = (name) => style.getPropertyValue(name).trim()
    const axis = {
      stroke: color('--quiet'),
      font: '11px system-ui, sans-serif',
      grid: { stroke: color('--rule'), width: 1 },
      ticks: { show: false },
    }
    plot = new uPlot(
      {
        width: canvas.clientWidth,
        height: HEIGHT,
        padding: [8, 18, 0, 0], // right: half of the last time
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'time' }, points: { size: 6 } },
        scales: { x: { time: true }, y: { range: () => [0, top] } },
        axes: [
          { ...axis, space: 56, size: 24, values: (_plot, splits) => splits.map((at) => clock(at * 1_000)) },
          { ...axis, space: 32, size: 56, values: (_plot, splits) => splits.map((value) => format(value)) },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.label,
            stroke: color(line.color),
            width: 1.5,
            spanGaps: kind.isSpanned ?? false,
            points: { size: 4, fill: color(line.color), filter },
            ...(line.isFilled ? { fill: color(`${line.color}-fill`) } : {}),
          })),
        ],
        hooks: { setCursor: [showValues], draw: [markOutliers] },
      },
      aligned(),
      canvas,
    )
  }

  /** Describes the lines for screen readers. */
  function describe() {
    const sentences = columns.map((column, i) => {
      const known = column.flatMap((value, at) => (value === null ? [] : [{ value, at }]))
      const [first] = known
      const last = known.at(-1)
      if (!first || !last) return `${lines[i]?.label}: no figures.`
      const highest = known.reduce((most, next) => (next.value > most.value ? next : most), first)
      const lowest = known.reduce((least, next) => (next.value < least.value ? next : least), first)
      const time = clock((times[highest.at] ?? 0) * 1_000)
      const range = `between ${format(lowest.value)} and ${format(highest.value)}, highest at ${time}`
      return `${lines[i]?.label}: now ${format(last.value)}, ${range}.`
    })
    const minutes = Math.round(((times.at(-1) ?? 0) - (times[0] ?? 0)) / 60)
    return `The last ${minutes} minutes. ${sentences.join(' ')}`
  }

  /**
   * What the lines do not show: values above the scale, and when the history begins if it is short.
   *
   * @param {Column} requests
   */
  function noteOf(requests) {
    const found = outlying()
    const [highest] = found
    if (highest) return `▲ ${found.length} above the scale, up to ${format(highest.value)}`
    const begin = requests.findIndex((value) => value !== null)
    const isShort = begin > 0 && requests.length - begin < FEW
    return isShort ? `The history begins at ${clock((times[begin] ?? 0) * 1_000)}.` : ''
  }

  function fillTable() {
    const rows = times.map((at, i) =>
      element(
        'tr',
        {},
        element('th', { scope: 'row' }, exactClock(at * 1_000)),
        ...columns.map((column) => element('td', { class: 'number' }, format(column[i] ?? null))),
      ),
    )
    body.replaceChildren(...rows.slice(-TABLE_STEPS).toReversed())
  }

  details.addEventListener('toggle', () => details.open && fillTable())
  const observer = new ResizeObserver(() => plot?.setSize({ width: canvas.clientWidth, height: HEIGHT }))
  observer.observe(canvas)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plot && draw(), { signal: ended })
  ended.addEventListener('abort', () => {
    observer.disconnect()
    plot?.destroy()
  })

  return {
    figure,
    /** @param {Series} series all of it is shown */
    update(series) {
      times = series.at
      columns = lines.map((line) => line.column(series))
      top = kind.max ?? topOf(columns)
      const hasFigures = columns.some((column) => column.some((value) => value !== null && value !== 0))
      figure.toggleAttribute('data-empty', !hasFigures)
      nothing.hidden = hasFigures
      write(summary, hasFigures ? describe() : empty)
      write(note, hasFigures ? noteOf(series.requests) : '')
      if (!plot) draw()
      else plot.setData(aligned())
      showValues()
      if (details.open) fillTable()
    },
  }
}
