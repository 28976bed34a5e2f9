/** @import { Stats } from './api.js' */
/** @import { ChartKind } from './chart.js' */
/** @import { Series } from './series.js' */
/** @import { Context, Section } from './sections.js' */
import { createChart } from './chart.js'
import { element, section, write } from './dom.js'
import { amount, clock, count, duration, milliseconds, percent, usd } from './format.js'
import { between, perSecond } from './series.js'

/** @param {(number | null)[]} column counts @param {(value: number) => number} change */
const each = (column, change) => column.map((value) => (value === null ? null : change(value)))
/** @param {Series} series @param {(number | null)[]} column counts by step */
const bySecond = ({ stepSeconds }, column) => each(column, (value) => value / stepSeconds)
/** @param {Series} series @param {(number | null)[]} column counts by step */
const byMinute = ({ stepSeconds }, column) => each(column, (value) => (value * 60) / stepSeconds)

/** @type {ChartKind<Series>[]} */
const KINDS = [
  {
    title: 'Requests per second',
    empty: 'No requests yet. Run: npm run traffic',
    format: amount,
    lines: [
      { label: 'all', color: '--line-1', column: (series) => bySecond(series, series.requests), isFilled: true },
      { label: 'failed (5xx)', color: '--line-bad', column: (series) => bySecond(series, series.errors) },
      { label: 'limited (429)', color: '--line-3', column: (series) => bySecond(series, series.limited) },
    ],
  },
  {
    title: 'Latency of answers',
    empty: 'No requests yet. Run: npm run traffic',
    format: milliseconds,
    lines: [
      { label: 'p50', color: '--line-2', column: (series) => series.p50Ms },
      { label: 'p95', color: '--line-1', column: (series) => series.p95Ms },
      { label: 'p99', color: '--line-3', column: (series) => series.p99Ms },
    ],
  },
  {
    title: 'Cache hit rate',
    empty: 'No cache lookups yet. Run: npm run traffic',
    format: percent,
    max: 1,
    lines: [
      { label: 'memory', color: '--line-1', column: (series) => series.memoryHitRate },
      { label: 'Redis', color: '--line-3', column: (series) => series.redisHitRate },
    ],
  },
  {
    title: 'Redis per request',
    empty: 'No requests yet. Run: npm run traffic',
    format: amount,
    lines: [
      { label: 'commands', color: '--line-1', column: (series) => series.commandsPerRequest },
      {
        label: 'round trips',
        color: '--line-2',
        column: ({ requests, roundTrips }) =>
          roundTrips.map((value, i) => (requests[i] ? (value ?? 0) / requests[i] : null)),
      },
    ],
  },
  {
    title: 'Likes per second',
    empty: 'No likes yet. Run: npm run traffic',
    format: amount,
    lines: [{ label: 'likes', color: '--line-1', column: (series) => series.likesPerSecond, isFilled: true }],
  },
  {
    title: 'Users online',
    empty: 'Nobody was online yet. Run: npm run traffic',
    format: amount,
    isSpanned: true,
    lines: [{ label: 'online', color: '--line-2', column: (series) => series.online, isFilled: true }],
  },
  {
    title: 'Deliveries per minute',
    empty: 'No deliveries yet. Add a webhook: npm run receiver',
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

/** Headline figures and charts. @param {Context} context @returns {Section} */
export function createOverview({ ended }) {
  const headline = createHeadline()
  const charts = KINDS.map((kind) => ({ kind, chart: createChart(kind, ended) }))
  const grid = element('div', { class: 'charts' }, ...charts.map(({ chart }) => chart.figure))
  return {
    id: 'overview',
    title: 'Overview',
    hasRange: true,
    element: element('div', {}, headline.list, section('traffic', 'Traffic', grid)),
    update({ stats, series, from }) {
      const shown = between(series, from)
      // The incomplete step would show a fall at the end of every line. Users online are current.
      const complete = between(series, from, -1)
      headline.update(headlineOf(stats, complete, series))
      for (const { kind, chart } of charts) chart.update(kind.isSpanned ? shown : complete)
    },
  }
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

const UNKNOWN = 'unknown'

/** @param {Stats} stats @param {Series} shown @param {Series} all with the incomplete step @returns {Tile[]} */
function headlineOf({ window, caches, presence, outbox }, shown, all) {
  const { requests, errors } = window
  const peak = Math.max(0, ...shown.requests.map((value) => value ?? 0)) / shown.stepSeconds
  const hits = hitRatesOf(caches)
  const failed = requests === 0 ? null : errors / requests
  return [
    {
      name: 'Requests',
      value: amount(perSecond(all, all.requests)),
      unit: '/s',
      note: `peak ${amount(peak)}; ${count(requests)} since ${clock(window.from)}`,
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
      value: presence ? count(presence.online) : UNKNOWN,
      note: presence ? `users online now, of ${count(presence.capacity)} at most` : 'needs Redis',
      isBad: presence !== null && presence.online >= 0.9 * presence.capacity,
    },
    {
      name: 'Outbox lag',
      value: outbox ? duration(outbox.oldestAgeSeconds) : UNKNOWN,
      note: outbox ? `events waiting: ${count(outbox.pending)}` : 'needs D1',
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
