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
  // From 11:00 on: the six slices of ten minutes before the one under way.
  expect(Object.keys(folded.slices).length).toBe(7)
  expect(Object.keys(folded.steps).length).toBe(66)
  expect(Object.keys(folded.online).length).toBe(66)
  const { window, routes } = windowOf(folded, 0.000_002, T)
  expect(window).toMatchObject({ from: '2026-01-01T11:00:00.000Z', requests: 66, errors: 1, commands: 132 })
  expect(routes).toMatchObject([
    { route: 'GET /', requests: 66, statuses: { '2xx': 65, '5xx': 1 }, commandsPerRequest: 2, costPerMillionUsd: 6 },
  ])
  expect(topKeys(folded)['user:u_1']).toEqual([66])
  expect(Object.keys(topKeys(folded)).length).toBe(20)
  expect(folded.slow.length).toBe(10)
  expect(folded.slow.map(({ ms }) => ms)).toEqual([309, 308, 307, 306, 305, 304, 303, 302, 301, 300])
  expect(folded.totals.routes['GET /']?.[0]).toBe(200) // of all time

  const { requests, online, at } = seriesOf(folded, 60, T)
  expect([at.length, at[0], at.at(-1)]).toEqual([360, (T - 60 * MINUTE) / 1_000 + 10, T / 1_000])
  expect(requests.reduce((sum, count) => sum + count, 0)).toBe(60)
  expect(online.at(-1)).toBe(199)
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
