/** @import { RouteStats, Stats } from './api.js' */
/** @import { ChartKind } from './chart.js' */
/** @import { Context, Section } from './sections.js' */
import { reasonOf } from './api.js'
import { createChart } from './chart.js'
import { element, write } from './dom.js'
import { amount, count, milliseconds, percent, usd } from './format.js'
import { addressOf } from './sections.js'
import { createTable } from './table.js'

/** How often the history of a route has something new. */
const RELOAD_MS = 30_000

/** @type {ChartKind<RouteStats>[]} */
const KINDS = [
  {
    title: 'Latency',
    empty: 'No requests in this time. Send one, or show 60 minutes.',
    format: milliseconds,
    lines: [
      { label: 'p50', color: '--line-2', column: ({ p50Ms }) => p50Ms },
      { label: 'p95', color: '--line-1', column: ({ p95Ms }) => p95Ms },
      { label: 'p99', color: '--line-3', column: ({ p99Ms }) => p99Ms },
    ],
  },
  {
    title: 'Requests per minute',
    empty: 'No requests in this time. Send one, or show 60 minutes.',
    format: amount,
    lines: [
      { label: 'all', color: '--line-1', column: ({ requests }) => requests, isFilled: true },
      { label: '4xx', color: '--line-3', column: ({ refused }) => refused },
      { label: '5xx', color: '--line-bad', column: ({ errors }) => errors },
    ],
  },
  {
    title: 'Redis per request',
    empty: 'No commands in this time. Send a request, or show 60 minutes.',
    format: amount,
    lines: [
      { label: 'commands', color: '--line-1', column: ({ commandsPerRequest }) => commandsPerRequest },
      { label: 'round trips', color: '--line-2', column: ({ roundTripsPerRequest }) => roundTripsPerRequest },
    ],
  },
]

/** Routes and caches, and the history of one route. @param {Context} context @returns {Section} */
export function createRoutes(context) {
  const history = createHistory(context)
  return {
    id: 'routes',
    title: 'Routes',
    hasRange: true,
    element: element('div', {}, history.element, routes.element, caches.element),
    show: ([route]) => history.show(route),
    hide: () => history.show(undefined),
    update({ stats, from }) {
      routes.update(stats.routes.filter(({ route }) => isRoute(route)))
      caches.update(layersOf(stats.caches))
      history.update(Math.ceil((Date.now() / 1_000 - from) / 60))
    },
  }
}

/** Whether requests cause it: not the cron and the queues. @param {string} route */
export const isRoute = (route) => route !== 'CRON' && !route.startsWith('QUEUE ')

/** Latency, requests and commands of one route over time. @param {Context} context */
function createHistory({ api, ended, onEnd }) {
  const charts = KINDS.map((kind) => createChart(kind, ended))
  const note = element('p', { class: 'quiet', role: 'status' })
  const close = element('a', { href: addressOf('routes') }, 'Close')
  const name = element('h2', { id: 'history-title', class: 'code' })
  const panel = element(
    'section',
    { id: 'history', class: 'history', 'aria-labelledby': 'history-title' },
    element('div', { class: 'heading' }, name, close),
    note,
    element('div', { class: 'charts' }, ...charts.map(({ figure }) => figure)),
  )
  panel.hidden = true
  /** @type {string | undefined} */
  let shown
  let minutes = 60
  let loadedAt = 0

  async function load() {
    const [route, asked] = [shown, minutes]
    if (route === undefined) return
    loadedAt = Date.now()
    try {
      const series = await api.route(route, Math.min(60, asked))
      if (shown !== route) return
      const isKnown = series.requests.some((value) => value !== null)
      write(
        note,
        isKnown
          ? 'By the minute, from D1.'
          : 'No history yet. The cron records it each minute: it begins within two minutes.',
      )
      for (const chart of charts) chart.update(series)
    } catch (error) {
      const reason = reasonOf(error, onEnd)
      if (reason === undefined) return
      if (shown === route) write(note, reason)
      loadedAt = 0
    }
  }

  return {
    element: panel,
    /** @param {string} [route] none: hides it */
    show(route) {
      if (route === shown) return
      shown = route || undefined
      panel.hidden = shown === undefined
      if (shown === undefined) return
      write(name, shown)
      write(note, 'Loading …')
      for (const { figure } of charts) figure.toggleAttribute('data-empty', true)
      void load()
      panel.scrollIntoView({ block: 'nearest' })
    },
    /** @param {number} next minutes */
    update(next) {
      const isOther = next - minutes > 5 || minutes - next > 5
      minutes = next
      if (shown !== undefined && (isOther || Date.now() - loadedAt > RELOAD_MS)) void load()
    },
  }
}

/** @typedef {Stats['routes'][number]} Route */
/** @param {Route} route */
const failedOf = ({ statuses }) => statuses['5xx']

const routes = createTable({
  title: 'Requests by route',
  note: 'select a route to see it over time',
  empty: `No requests yet. Run: curl ${location.origin}/v1/posts/hot`,
  columns: /** @type {import('./table.js').Column<Route>[]} */ ([
    {
      title: 'Route',
      text: ({ route }) => route,
      sortBy: ({ route }) => route,
      href: ({ route }) => addressOf('routes', route),
      isText: true,
      isCode: true,
    },
    { title: 'Requests', text: ({ requests }) => count(requests), sortBy: ({ requests }) => requests },
    { title: '4xx', text: ({ statuses }) => count(statuses['4xx']), sortBy: ({ statuses }) => statuses['4xx'] },
    { title: '5xx', text: (route) => count(failedOf(route)), sortBy: failedOf, isBad: (route) => failedOf(route) > 0 },
    { title: 'p50', text: ({ p50Ms }) => milliseconds(p50Ms), sortBy: ({ p50Ms }) => p50Ms },
    { title: 'p95', text: ({ p95Ms }) => milliseconds(p95Ms), sortBy: ({ p95Ms }) => p95Ms },
    { title: 'p99', text: ({ p99Ms }) => milliseconds(p99Ms), sortBy: ({ p99Ms }) => p99Ms },
    {
      title: 'Commands per request',
      text: ({ commandsPerRequest }) => amount(commandsPerRequest),
      sortBy: ({ commandsPerRequest }) => commandsPerRequest,
    },
    {
      title: 'Round trips per request',
      text: ({ roundTripsPerRequest }) => amount(roundTripsPerRequest),
      sortBy: ({ roundTripsPerRequest }) => roundTripsPerRequest,
    },
    {
      title: 'Cost per million',
      text: ({ costPerMillionUsd }) => usd(costPerMillionUsd),
      sortBy: ({ costPerMillionUsd }) => costPerMillionUsd,
    },
  ]),
})

/** @typedef {Stats['caches'][number]} Cache */
/** @typedef {Cache['memory'] & { name: string, loads: string, loadErrors: number, stores: string }} CacheLayer */

/** @param {Stats['caches']} caches @returns {CacheLayer[]} */
function layersOf(caches) {
  return caches.flatMap(({ cache, memory, redis, loader, stores }) => [
    { ...memory, name: `${cache}, memory`, loads: '', loadErrors: 0, stores: '' },
    {
      ...redis,
      name: `${cache}, Redis`,
      loads: count(loader.loads),
      loadErrors: loader.errors,
      stores: [
        count(stores.stored),
        ...(stores.lost > 0 ? [`${count(stores.lost)} lost`] : []),
        ...(stores.refused > 0 ? [`${count(stores.refused)} too large`] : []),
      ].join(', '),
    },
  ])
}

const caches = createTable({
  title: 'Caches by layer',
  empty: `No cache lookups yet. Run: curl ${location.origin}/v1/posts/hot`,
  columns: /** @type {import('./table.js').Column<CacheLayer>[]} */ ([
    { title: 'Cache', text: ({ name }) => name, sortBy: ({ name }) => name, isText: true },
    { title: 'Hit rate', text: ({ hitRate }) => percent(hitRate), sortBy: ({ hitRate }) => hitRate },
    { title: 'Hits', text: ({ hits }) => count(hits), sortBy: ({ hits }) => hits },
    { title: 'Stale hits', text: ({ staleHits }) => count(staleHits), sortBy: ({ staleHits }) => staleHits },
    {
      title: 'Negative hits',
      text: ({ negativeHits }) => count(negativeHits),
      sortBy: ({ negativeHits }) => negativeHits,
    },
    { title: 'Misses', text: ({ misses }) => count(misses), sortBy: ({ misses }) => misses },
    {
      title: 'Errors',
      text: ({ errors }) => count(errors),
      sortBy: ({ errors }) => errors,
      isBad: ({ errors }) => errors > 0,
    },
    { title: 'Loads', text: ({ loads }) => loads },
    {
      title: 'Failed loads',
      text: ({ loads, loadErrors }) => (loads === '' ? '' : count(loadErrors)),
      isBad: ({ loadErrors }) => loadErrors > 0,
    },
    { title: 'Stored', text: ({ stores }) => stores },
  ]),
})
