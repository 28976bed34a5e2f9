/** @import uPlotClass from 'uplot' */
/** @import { Series } from './series.js' */
import { element, write } from './dom.js'
import { amount, clock, exactClock, milliseconds, percent } from './format.js'

/** @type {typeof uPlotClass} loaded before this module, see index.html */
const uPlot = Reflect.get(globalThis, 'uPlot')

/** @typedef {(number | null)[]} Column */

/**
 * @typedef {object} Line
 * @property {string} label
 * @property {string} color a custom property of the style sheet
 * @property {(series: Series) => Column} column
 * @property {boolean} [isFilled]
 */

/**
 * @typedef {object} ChartKind
 * @property {string} title with its unit
 * @property {string} empty what to say when there is nothing to draw
 * @property {(value: number | null | undefined) => string} format
 * @property {Line[]} lines
 * @property {number} [max] of the scale, where it is known
 * @property {boolean} [isSpanned] true: noted seldom, and joined
 */

const HEIGHT = 168
const TABLE_STEPS = 30

/** @param {Series} series @param {readonly number[]} column counts by step */
const bySecond = ({ stepSeconds }, column) => column.map((value) => value / stepSeconds)
/** @param {Series} series @param {readonly number[]} column counts by step */
const byMinute = ({ stepSeconds }, column) => column.map((value) => (value * 60) / stepSeconds)

/** @type {ChartKind[]} */
const KINDS = [
  {
    title: 'Requests per second',
    empty: 'No requests yet',
    format: amount,
    lines: [
      { label: 'all', color: '--line-1', column: (series) => bySecond(series, series.requests), isFilled: true },
      { label: 'failed (5xx)', color: '--line-bad', column: (series) => bySecond(series, series.errors) },
      { label: 'limited (429)', color: '--line-3', column: (series) => bySecond(series, series.limited) },
    ],
  },
  {
    title: 'Latency of answers',
    empty: 'No requests yet',
    format: milliseconds,
    lines: [
      { label: 'p50', color: '--line-2', column: (series) => series.p50Ms },
      { label: 'p95', color: '--line-1', column: (series) => series.p95Ms },
      { label: 'p99', color: '--line-3', column: (series) => series.p99Ms },
    ],
  },
  {
    title: 'Cache hit rate',
    empty: 'No cache lookups yet',
    format: percent,
    max: 1,
    lines: [
      { label: 'memory', color: '--line-1', column: (series) => series.memoryHitRate },
      { label: 'Redis', color: '--line-3', column: (series) => series.redisHitRate },
    ],
  },
  {
    title: 'Redis per request',
    empty: 'No requests yet',
    format: amount,
    lines: [
      { label: 'commands', color: '--line-1', column: (series) => series.commandsPerRequest },
      {
        label: 'round trips',
        color: '--line-2',
        column: ({ requests, roundTrips }) => roundTrips.map((value, i) => (requests[i] ? value / requests[i] : null)),
      },
    ],
  },
  {
    title: 'Likes per second',
    empty: 'No likes yet',
    format: amount,
    lines: [{ label: 'likes', color: '--line-1', column: (series) => series.likesPerSecond, isFilled: true }],
  },
  {
    title: 'Users online',
    empty: 'Nobody was online yet',
    format: amount,
    isSpanned: true,
    lines: [{ label: 'online', color: '--line-2', column: (series) => series.online, isFilled: true }],
  },
  {
    title: 'Webhook deliveries per minute',
    empty: 'No deliveries yet',
    format: amount,
    lines: [
      {
        label: 'succeeded',
        color: '--line-2',
        column: (series) => byMinute(series, series.deliveriesSucceeded),
        isFilled: true,
      },
      { label: 'failed', color: '--line-bad', column: (series) => byMinute(series, series.deliveriesFailed) },
    ],
  },
]

/** Draws a point where a figure has no neighbours and so no line. @param {Column} column */
const lonely = (column) =>
  column.flatMap((value, i) => (value !== null && (column[i - 1] ?? column[i + 1] ?? null) === null ? [i] : []))

/**
 * All charts, in a grid. Each has a description in words, and its last steps as a table.
 *
 * @param {HTMLElement} grid
 * @param {AbortSignal} ended when they are not shown any more
 */
export function createCharts(grid, ended) {
  const charts = KINDS.map((kind, i) => createChart(kind, `chart-${i}`, ended))
  grid.append(...charts.map((chart) => chart.figure))
  return {
    /**
     * @param {Series} series
     * @param {number} minutes how many of them to show
     */
    update(series, minutes) {
      for (const chart of charts) chart.update(series, minutes)
    },
  }
}

/**
 * @param {ChartKind} kind
 * @param {string} id
 * @param {AbortSignal} ended
 */
function createChart(kind, id, ended) {
  const { title, empty, format, lines } = kind
  const values = lines.map(() => element('b'))
  const legend = element(
    'ul',
    { class: 'legend' },
    ...lines.map((line, i) => {
      const swatch = element('i', { class: 'swatch' })
      swatch.style.background = `var(${line.color})`
      return element('li', {}, swatch, `${line.label} `, values[i] ?? '')
    }),
  )
  const moment = element('span', { class: 'quiet' })
  const summary = element('p', { class: 'hidden', id: `${id}-summary` })
  const canvas = element('div', { class: 'plot', role: 'img', 'aria-labelledby': `${id}-title ${id}-summary` })
  const nothing = element('p', { class: 'empty' }, empty)
  const body = element('tbody')
  const table = element(
    'table',
    {},
    element('caption', { class: 'hidden' }, `${title}, the last five minutes`),
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
    details,
  )

  /** @type {number[]} Unix seconds */
  let times = []
  /** @type {Column[]} one a line */
  let columns = []
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
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'time' }, points: { size: 6 } },
        scales: {
          x: { time: true },
          y: { range: (_plot, _min, max) => [0, kind.max ?? (max > 0 ? max * 1.1 : 1)] },
        },
        axes: [
          { ...axis, space: 56, size: 24, values: (_plot, splits) => splits.map((at) => clock(at * 1_000)) },
          { ...axis, space: 32, size: 52, values: (_plot, splits) => splits.map((value) => format(value)) },
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
        hooks: { setCursor: [showValues] },
      },
      aligned(),
      canvas,
    )
  }

  /** Describes the lines for screen readers. @param {number} minutes */
  function describe(minutes) {
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
    return `The last ${minutes} minutes. ${sentences.join(' ')}`
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
  new ResizeObserver(() => plot?.setSize({ width: canvas.clientWidth, height: HEIGHT })).observe(canvas)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plot && draw(), { signal: ended })
  ended.addEventListener('abort', () => plot?.destroy())

  return {
    figure,
    /** @param {Series} series @param {number} minutes */
    update(series, minutes) {
      // Omit the incomplete step: it would show a fall at the end of every line. Users online are current.
      const end = kind.isSpanned ? undefined : -1
      const start = -1 - Math.round((minutes * 60) / series.stepSeconds)
      times = series.at.slice(start, end)
      columns = lines.map((line) => line.column(series).slice(start, end))
      const hasFigures = columns.some((column) => column.some((value) => value !== null && value !== 0))
      figure.toggleAttribute('data-empty', !hasFigures)
      nothing.hidden = hasFigures
      write(summary, hasFigures ? describe(minutes) : `${empty}.`)
      if (!plot) draw()
      else plot.setData(aligned())
      showValues()
      if (details.open) fillTable()
    },
  }
}
