import { expect, test } from 'vitest'
import { seriesOf, serverOf, windowOf } from '../../src/monitoring/figures.ts'
import { emptyFolded, fold, recordOnline, prune, topKeys } from '../../src/monitoring/folded.ts'
import { createRecorder } from '../../src/monitoring/recorder.ts'

const MINUTE = 60_000
const T = Date.parse('2026-01-01T12:05:00Z')

/** What an isolate reports at `at`, of one request that took `ms` and cost two commands. */
function reportOf(at: number, ms = 10, status = 200) {
  const recorder = createRecorder(100)
  const watch = recorder.watch()
  watch.onSent({ commands: [['MGET', 'user:u_1', `user:u_${at}`]], ms: 100 + ms, isAnswered: true })
  const meter = { commands: 2, billed: 3, roundTrips: 1, waitedMs: ms, failures: 0 }
  watch.end({ route: 'GET /', status, ms, meter }, at)
  const [slow] = recorder.held().slow
  if (slow) slow.at = at
  return { at, ...recorder.take() }
}

test('reports are summed by step, route, key and slowness; figures older than the window are dropped', () => {
  const folded = emptyFolded()
  for (let minute = 0; minute < 200; minute += 1) {
    const at = T - (199 - minute) * MINUTE
    fold(folded, reportOf(at, 10 + minute, minute === 199 ? 500 : 200))
    recordOnline(folded, at, minute)
    prune(folded, at)
  }
  // From 11:05 on: the twelve slices of five minutes before the one under way.
  expect(Object.keys(folded.slices).length).toBe(13)
  expect(Object.keys(folded.steps).length).toBe(61)
  expect(Object.keys(folded.online).length).toBe(61)
  const { window, routes } = windowOf(folded, 0.000_002, 60, T)
  expect(window).toMatchObject({ from: '2026-01-01T11:05:00.000Z', requests: 61, errors: 1, commands: 122 })
  expect(routes).toMatchObject([
    { route: 'GET /', requests: 61, statuses: { '2xx': 60, '5xx': 1 }, commandsPerRequest: 2, costPerMillionUsd: 6 },
  ])
  const short = windowOf(folded, 0.000_002, 15, T)
  expect(short.window).toMatchObject({ from: '2026-01-01T11:50:00.000Z', requests: 16 })
  expect(short.routes).toMatchObject([{ route: 'GET /', requests: 16 }])
  expect(topKeys(folded)['user:u_1']).toEqual([61])
  expect(Object.keys(topKeys(folded)).length).toBe(20)
  expect(folded.slow.length).toBe(10)
  expect(folded.slow.map(({ ms }) => ms)).toEqual([309, 308, 307, 306, 305, 304, 303, 302, 301, 300])
  expect(folded.totals.routes['GET /']?.[0]).toBe(200) // of all time

  const { requests, online, at } = seriesOf(folded, T - 60 * MINUTE, T)
  expect([at.length, at[0], at.at(-1)]).toEqual([361, (T - 60 * MINUTE) / 1_000, T / 1_000])
  expect(requests.filter((count) => count === 1).length).toBe(61)
  expect(requests.filter((count) => count === 0).length).toBe(300)
  expect(online.at(-1)).toBe(199)
})

test('steps before the first report are unknown, not 0', () => {
  const folded = emptyFolded()
  expect(seriesOf(folded, T - MINUTE, T).requests).toEqual([null, null, null, null, null, null, null])
  fold(folded, reportOf(T - 30_000))
  fold(folded, reportOf(T))
  expect(seriesOf(folded, T - MINUTE, T).requests).toEqual([null, null, null, 1, 0, 0, 1])
  expect(windowOf(folded, 0.000_002, 15, T).window.from).toBe(new Date(T - 30_000).toISOString())
})

test('the cron has no cost per request', () => {
  const folded = emptyFolded()
  const recorder = createRecorder(100)
  const meter = { commands: 9, billed: 9, roundTrips: 2, waitedMs: 1, failures: 0 }
  recorder.watch().end({ route: 'CRON', ms: 5, meter }, T)
  fold(folded, { at: T, ...recorder.take() })
  expect(windowOf(folded, 0.000_002, 15, T).routes).toMatchObject([
    { route: 'CRON', commandsPerRequest: 9, costPerMillionUsd: null },
  ])
})

test('the last failure of a job stays after later runs, and a report that comes late replaces nothing', () => {
  const folded = emptyFolded()
  const ran = (at: number, remaining: number | null, reason?: string) => {
    const recorder = createRecorder(100)
    recorder.ran('purge', { at, ms: 5, remaining, ...(reason ? { failure: { at, reason } } : {}) })
    fold(folded, { at, ...recorder.take() })
  }
  ran(T, null, 'Error D1_ERROR')
  ran(T + MINUTE, 3)
  expect(folded.jobs?.['purge']).toEqual({
    at: T + MINUTE,
    ms: 5,
    remaining: 3,
    failure: { at: T, reason: 'Error D1_ERROR' },
  })
  ran(T - MINUTE, null, 'TypeError')
  expect(folded.jobs?.['purge']).toMatchObject({ at: T + MINUTE, failure: { at: T } })
})

test('a slow round trip is dropped after an hour, even if it was the slowest', () => {
  const folded = emptyFolded()
  fold(folded, reportOf(T, 9_000))
  prune(folded, T + 59 * MINUTE)
  expect(folded.slow.length).toBe(1)
  prune(folded, T + 61 * MINUTE)
  expect(folded.slow).toEqual([])
})

test('a figure that the server does not report is unknown; a limit of 0 means no limit', () => {
  const text = 'redis_version:7.2.4\r\nused_memory:1048576\r\nmaxmemory:0\r\nexpired_keys:12\r\nevicted_keys:0\r\n'
  expect(serverOf(`# Server\r\n${text}`)).toEqual({
    version: '7.2.4',
    usedMemoryBytes: 1_048_576,
    maxMemoryBytes: null,
    expiredKeys: 12,
    evictedKeys: 0,
  })
  expect(serverOf('used_memory:0\nmaxmemory:268435456\nexpired_keys:many')).toEqual({
    version: null,
    usedMemoryBytes: null,
    maxMemoryBytes: 268_435_456,
    expiredKeys: null,
    evictedKeys: null,
  })
})
