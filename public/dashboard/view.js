/** @import { Api, Stats } from './api.js' */
/** @import { Figure } from './format.js' */
/** @import { Series } from './series.js' */
import { createCharts } from './charts.js'
import { createDeliveries } from './deliveries.js'
import { element, write } from './dom.js'
import * as format from './format.js'
import { perSecond } from './series.js'
import { createTable } from './table.js'

const { amount, bytes, count, duration, milliseconds, percent, usd } = format

/** @typedef {ReturnType<typeof createView>} View */

/**
 * Shows the figures. Call `update` with each answer.
 *
 * @param {HTMLElement} root empty
 * @param {Api} api
 * @param {(text: string) => void} say announces to screen readers
 * @param {AbortSignal} ended when the view is removed
 */
export function createView(root, api, say, ended) {
  const deliveries = createDeliveries(api, say, ended)
  const headline = createHeadline()
  const grid = element('div', { class: 'charts' })
  const server = createFacts('Redis server')
  const flow = createFacts('Queues and outbox')
  root.append(
    element('h1', { class: 'hidden', tabindex: '-1' }, 'Dashboard'),
    headline.list,
    section('traffic', 'Traffic', grid),
    section('routes', 'Routes and caches', routes.element, caches.element),
    section(
      'redis',
      'Redis',
      server.list,
      slowCommands.element,
      topKeys.element,
      element('div', { class: 'pair' }, bigKeys.element, patterns.element),
    ),
    section('events', 'Events and webhooks', flow.list, endpoints.element, deliveries.element),
  )
  const charts = createCharts(grid, ended)

  return {
    /** @param {Stats} stats @param {Series} series @param {number} minutes how much the charts show */
    update(stats, series, minutes) {
      headline.update(headlineOf(stats, series))
      charts.update(series, minutes)
      routes.update(stats.routes)
      caches.update(layersOf(stats.caches))
      server.update(serverOf(stats))
      slowCommands.update(stats.slowCommands)
      topKeys.update(stats.topKeys)
      bigKeys.update(stats.bigKeys)
      patterns.update(stats.scan?.patterns ?? [])
      flow.update(flowOf(stats))
      endpoints.update(stats.webhooks ?? [])
      void deliveries.update(stats.webhooks ?? [])
    },
    focus: () => root.querySelector('h1')?.focus(),
  }
}

/** @param {string} id @param {string} title @param {...Element} children */
function section(id, title, ...children) {
  const heading = element('h2', { id: `${id}-title` }, title)
  return element('section', { id, 'aria-labelledby': `${id}-title` }, heading, ...children)
}

/** @typedef {{ name: string, value: string, unit?: string, note: string, isBad?: boolean }} Tile */

function createHeadline() {
  const list = element('dl', { class: 'headline', 'aria-label': 'Headline figures' })
  /** @type {{ tile: HTMLElement, value: Text, unit: HTMLElement, note: HTMLElement }[]} */
  const held = []
  return {
    list,
    /** @param {Tile[]} tiles always the same ones */
    update(tiles) {
      tiles.forEach(({ name, value, unit, note, isBad }, i) => {
        const parts = (held[i] ??= add(name))
        if (parts.value.data !== value) parts.value.data = value
        write(parts.unit, unit ? ` ${unit}` : '')
        write(parts.note, note)
        parts.tile.classList.toggle('bad', isBad ?? false)
      })
    },
  }
  /** @param {string} name */
  function add(name) {
    const value = new Text()
    const unit = element('span', { class: 'unit' })
    const note = element('dd', { class: 'quiet' })
    const tile = element('div', {}, element('dt', {}, name), element('dd', { class: 'value' }, value, unit), note)
    list.append(tile)
    return { tile, value, unit, note }
  }
}

/** @param {Stats} stats @param {Series} series @returns {Tile[]} */
function headlineOf({ window, caches, presence, outbox }, series) {
  const { requests, errors } = window
  const peak = Math.max(0, ...series.requests) / series.stepSeconds
  const hits = hitRatesOf(caches)
  const failed = requests === 0 ? null : errors / requests
  return [
    {
      name: 'Requests',
      value: amount(perSecond(series, series.requests)),
      unit: '/s',
      note: `peak ${amount(peak)}; ${count(requests)} in the hour`,
    },
    {
      name: 'Failed',
      value: percent(failed),
      note: `${count(errors)} answered 5xx`,
      isBad: failed !== null && failed >= 0.01,
    },
    {
      name: 'Latency, p95',
      value: milliseconds(window.p95Ms),
      note: `p50 ${milliseconds(window.p50Ms)}; p99 ${milliseconds(window.p99Ms)}`,
    },
    {
      name: 'Cache hit rate',
      value: percent(hits.all),
      note: `memory ${percent(hits.memory)}; Redis ${percent(hits.redis)}`,
    },
    {
      name: 'Redis per request',
      value: amount(window.commandsPerRequest),
      unit: 'commands',
      note: `${amount(window.roundTripsPerRequest)} round trips`,
    },
    { name: 'Redis cost', value: usd(window.costPerMillionUsd), note: 'per million requests, with queue and cron' },
    {
      name: 'Online',
      value: count(presence?.online),
      note: presence ? `users online now, of ${count(presence.capacity)} at most` : 'unknown',
      isBad: presence !== null && presence.online >= 0.9 * presence.capacity,
    },
    {
      name: 'Outbox lag',
      value: duration(outbox?.oldestAgeSeconds),
      note: outbox ? `events waiting: ${count(outbox.pending)}` : 'unknown',
      isBad: (outbox?.oldestAgeSeconds ?? 0) > 120,
    },
  ]
}

/**
 * The share of lookups without a load: total, and by layer.
 *
 * @param {Stats['caches']} caches
 */
function hitRatesOf(caches) {
  /** @param {'memory' | 'redis'} layer */
  const sum = (layer) => {
    let answered = 0
    let lookups = 0
    for (const cache of caches) {
      const { hits, staleHits, negativeHits, misses, errors } = cache[layer]
      answered += hits + staleHits + negativeHits
      lookups += hits + staleHits + negativeHits + misses + errors
    }
    return { answered, lookups }
  }
  const [memory, redis] = [sum('memory'), sum('redis')]
  /** @param {number} part @param {number} all */
  const ratio = (part, all) => (all === 0 ? null : part / all)
  return {
    memory: ratio(memory.answered, memory.lookups),
    redis: ratio(redis.answered, redis.lookups),
    // Lookups that miss memory go to Redis.
    all: ratio(memory.answered + redis.answered, memory.answered + redis.lookups),
  }
}

/** @param {string} label */
function createFacts(label) {
  const list = element('dl', { class: 'facts card', 'aria-label': label })
  /** @type {Map<string, HTMLElement>} */
  const held = new Map()
  return {
    list,
    /** @param {[name: string, value: string][]} facts */
    update(facts) {
      const names = new Set(facts.map(([name]) => name))
      for (const [name, value] of held) {
        if (names.has(name)) continue
        value.parentElement?.remove()
        held.delete(name)
      }
      for (const [name, value] of facts) {
        let node = held.get(name)
        if (!node) {
          node = element('dd')
          held.set(name, node)
          list.append(element('div', {}, element('dt', {}, name), node))
        }
        write(node, value)
      }
    },
  }
}

/** @param {Stats} stats @returns {[string, string][]} */
function serverOf({ server, scan }) {
  const memory = bytes(server?.usedMemoryBytes)
  return [
    ['Version', server?.version ?? format.NONE],
    ['Keys', count(server?.keys)],
    ['Memory', server?.maxMemoryBytes ? `${memory} of ${bytes(server.maxMemoryBytes)}` : memory],
    ['Expired keys', count(server?.expiredKeys)],
    ['Evicted keys', count(server?.evictedKeys)],
    ['Scanned keys', scannedOf(scan?.scannedKeys, server?.keys)],
    ['Last complete scan', scan?.completedAt ? format.moment(scan.completedAt) : 'not yet'],
  ]
}

/**
 * The progress of the walk. It may have seen more keys than exist now.
 *
 * @param {Figure} scanned
 * @param {Figure} all
 */
function scannedOf(scanned, all) {
  if (typeof scanned !== 'number' || typeof all !== 'number') return count(scanned)
  return `${count(scanned)} of ${count(Math.max(scanned, all))}`
}

/** @param {Stats} stats @returns {[string, string][]} */
function flowOf({ outbox, queues }) {
  /** @param {number} waiting @param {Figure} age */
  const waiting = (waiting, age) => `${count(waiting)} waiting${age ? `, oldest ${duration(age)}` : ''}`
  return [
    ['Outbox', outbox ? waiting(outbox.pending, outbox.oldestAgeSeconds) : 'unknown'],
    .../** @type {[string, string][]} */ (
      (queues ?? []).map(({ queue, backlog, oldestAgeSeconds }) => [
        `Queue ${queue}`,
        waiting(backlog, oldestAgeSeconds),
      ])
    ),
  ]
}

/** @typedef {Stats['routes'][number]} Route */
/** @param {Route} route */
const failedOf = ({ statuses }) => statuses['5xx']

const routes = createTable({
  title: 'Routes',
  note: 'the last hour',
  empty: 'No requests yet. Send one: curl /v1/posts/hot',
  columns: /** @type {import('./table.js').Column<Route>[]} */ ([
    { title: 'Route', text: ({ route }) => route, sortBy: ({ route }) => route, isText: true, isCode: true },
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
  note: 'the last hour',
  empty: 'No cache lookups yet.',
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

const slowCommands = createTable({
  title: 'Slow commands',
  note: 'the slowest of the last hour',
  empty: 'No slow commands in the last hour.',
  columns: /** @type {import('./table.js').Column<Stats['slowCommands'][number]>[]} */ ([
    {
      title: 'Commands of one round trip',
      text: ({ commands, count: all }) =>
        commands.join('; ') + (all > commands.length ? `; and ${all - commands.length} more` : ''),
      isText: true,
      isCode: true,
    },
    { title: 'Took', text: ({ ms }) => milliseconds(ms), sortBy: ({ ms }) => ms },
    {
      title: 'Answered',
      text: ({ isAnswered }) => (isAnswered ? 'yes' : 'no'),
      isBad: ({ isAnswered }) => !isAnswered,
    },
    { title: 'Route', text: ({ route }) => route, sortBy: ({ route }) => route, isText: true, isCode: true },
    { title: 'At', text: ({ at }) => format.exactClock(at), sortBy: ({ at }) => at },
  ]),
})

/** @typedef {Stats['topKeys'][number]} TopKey */
/** @typedef {Stats['bigKeys'][number]} BigKey */

/** @type {import('./table.js').Column<TopKey | BigKey>[]} */
const keyColumns = [
  { title: 'Type', text: ({ type }) => type ?? format.NONE, isText: true },
  {
    title: 'Expires in',
    text: ({ ttlSeconds }) => duration(ttlSeconds),
    sortBy: ({ ttlSeconds }) => ttlSeconds,
  },
  { title: 'Length', text: ({ length }) => count(length), sortBy: ({ length }) => length },
  { title: 'Size', text: ({ sizeBytes }) => bytes(sizeBytes), sortBy: ({ sizeBytes }) => sizeBytes },
]

const topKeys = createTable({
  title: 'Top keys',
  note: 'the most used in the last hour',
  empty: 'No keys yet.',
  columns: /** @type {import('./table.js').Column<TopKey>[]} */ ([
    { title: 'Key', text: ({ key }) => key, isText: true, isCode: true },
    { title: 'Uses', text: ({ asked }) => count(asked), sortBy: ({ asked }) => asked },
    ...keyColumns,
  ]),
})

const bigKeys = createTable({
  title: 'Big keys',
  note: 'the largest that the scan found',
  empty: 'No keys yet. The scan continues every minute.',
  columns: /** @type {import('./table.js').Column<BigKey>[]} */ ([
    { title: 'Key', text: ({ key }) => key, isText: true, isCode: true },
    ...keyColumns,
    { title: 'Seen at', text: ({ seenAt }) => format.moment(seenAt), sortBy: ({ seenAt }) => seenAt },
  ]),
})

const patterns = createTable({
  title: 'Keys by pattern',
  note: 'from the scan',
  empty: 'No keys yet. The scan continues every minute.',
  columns: /** @type {import('./table.js').Column<NonNullable<Stats['scan']>['patterns'][number]>[]} */ ([
    { title: 'Pattern', text: ({ pattern }) => pattern, isText: true, isCode: true },
    { title: 'Keys', text: ({ keys }) => count(keys), sortBy: ({ keys }) => keys },
    { title: 'Size', text: ({ sizeBytes }) => bytes(sizeBytes), sortBy: ({ sizeBytes }) => sizeBytes },
  ]),
})

const endpoints = createTable({
  title: 'Webhook endpoints',
  note: 'the last day',
  empty: 'There are no webhooks.',
  columns: /** @type {import('./table.js').Column<NonNullable<Stats['webhooks']>[number]>[]} */ ([
    { title: 'Host', text: ({ host }) => host, sortBy: ({ host }) => host, isText: true },
    {
      title: 'State',
      text: ({ isEnabled }) => (isEnabled ? 'enabled' : 'not enabled'),
      isText: true,
      isBad: ({ isEnabled }) => !isEnabled,
    },
    { title: 'Success', text: ({ successRate }) => percent(successRate), sortBy: ({ successRate }) => successRate },
    { title: 'Succeeded', text: ({ succeeded }) => count(succeeded), sortBy: ({ succeeded }) => succeeded },
    { title: 'Failed', text: ({ failed }) => count(failed), sortBy: ({ failed }) => failed },
    { title: 'Pending', text: ({ pending }) => count(pending), sortBy: ({ pending }) => pending },
    { title: 'Dead', text: ({ dead }) => count(dead), sortBy: ({ dead }) => dead, isBad: ({ dead }) => dead > 0 },
  ]),
})
