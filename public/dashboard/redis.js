/** @import { Stats } from './api.js' */
/** @import { Figure } from './format.js' */
/** @import { Section } from './sections.js' */
import { createFacts, element } from './dom.js'
import * as format from './format.js'
import { createTable } from './table.js'

const { bytes, count, duration, milliseconds } = format

const UNKNOWN = 'unknown'

/** The server, its slow commands and its keys. @returns {Section} */
export function createRedis() {
  const server = createFacts('Redis server')
  return {
    id: 'redis',
    title: 'Redis',
    element: element(
      'div',
      {},
      server.list,
      slowCommands.element,
      topKeys.element,
      element('div', { class: 'pair' }, bigKeys.element, patterns.element),
    ),
    update({ stats }) {
      const { unavailable, scan } = stats
      const isKnown = stats.topKeys.length > 0 || !unavailable.includes('redis')
      server.update(serverOf(stats))
      slowCommands.update(stats.slowCommands)
      topKeys.update(isKnown ? stats.topKeys : null)
      bigKeys.update(scan ? stats.bigKeys : null)
      patterns.update(scan?.patterns ?? null)
    },
  }
}

/** @param {Stats} stats @returns {[string, string][]} */
function serverOf({ server, scan }) {
  const memory = bytes(server?.usedMemoryBytes)
  return [
    ['Version', server?.version ?? UNKNOWN],
    ['Keys', count(server?.keys)],
    ['Memory', server?.maxMemoryBytes ? `${memory} of ${bytes(server.maxMemoryBytes)}` : memory],
    ['Expired keys', count(server?.expiredKeys)],
    ['Evicted keys', count(server?.evictedKeys)],
    ['Scanned keys', scannedOf(scan?.scannedKeys, server?.keys)],
    ['Last complete scan', scan ? (scan.completedAt ? format.moment(scan.completedAt) : 'not yet') : UNKNOWN],
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

const slowCommands = createTable({
  title: 'Slow commands',
  note: 'the slowest of the last hour, measured by the Worker',
  empty: 'No slow commands in the last hour. SLOW_COMMAND_MS sets the limit.',
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
  empty: `No keys yet. Run: curl ${location.origin}/v1/posts/hot`,
  columns: /** @type {import('./table.js').Column<TopKey>[]} */ ([
    { title: 'Key', text: ({ key }) => key, isText: true, isCode: true },
    { title: 'Uses', text: ({ asked }) => count(asked), sortBy: ({ asked }) => asked },
    ...keyColumns,
  ]),
})

const bigKeys = createTable({
  title: 'Big keys',
  note: 'the largest that the scan found',
  empty: 'No keys yet. The cron scans some each minute.',
  columns: /** @type {import('./table.js').Column<BigKey>[]} */ ([
    { title: 'Key', text: ({ key }) => key, isText: true, isCode: true },
    ...keyColumns,
    { title: 'Seen at', text: ({ seenAt }) => format.moment(seenAt), sortBy: ({ seenAt }) => seenAt },
  ]),
})

const patterns = createTable({
  title: 'Keys by pattern',
  note: 'from the scan',
  empty: 'No keys yet. The cron scans some each minute.',
  columns: /** @type {import('./table.js').Column<NonNullable<Stats['scan']>['patterns'][number]>[]} */ ([
    { title: 'Pattern', text: ({ pattern }) => pattern, isText: true, isCode: true },
    { title: 'Keys', text: ({ keys }) => count(keys), sortBy: ({ keys }) => keys },
    { title: 'Size', text: ({ sizeBytes }) => bytes(sizeBytes), sortBy: ({ sizeBytes }) => sizeBytes },
  ]),
})
