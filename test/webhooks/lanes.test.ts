import fc from 'fast-check'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { SLOW_MS } from '../../src/webhooks/circuit.ts'
import { isBlocked, LANES, pick, runInLanes, type Slot, SUSPECT_LANES, type Task } from '../../src/webhooks/lanes.ts'

const NOW = 1_000_000
const slots = fc.array(
  fc.record({
    isSuspect: fc.boolean(),
    usedMs: fc.nat(20_000),
    startedAt: fc.option(fc.integer({ min: NOW - 3 * SLOW_MS, max: NOW })),
  }),
)
const isSlow = (slot: Slot) => slot.isSuspect || (slot.startedAt !== null && NOW - slot.startedAt >= SLOW_MS)
const countsOf = (all: Slot[]) => {
  const inFlight = all.filter(({ startedAt }) => startedAt !== null)
  const suspects = inFlight.filter(isSlow).length
  return { all: inFlight.length, suspects, healthy: inFlight.length - suspects }
}

test('the next task waits, has a free lane of its kind, and has used the least time', () => {
  fc.assert(
    fc.property(slots, (all) => {
      const picked = pick(all, NOW)
      const { all: connections, suspects, healthy } = countsOf(all)
      const mayStart = all.filter(
        ({ startedAt, isSuspect }) =>
          startedAt === null &&
          connections < LANES + SUSPECT_LANES &&
          (isSuspect ? suspects < SUSPECT_LANES : healthy < LANES),
      )
      expect(picked === undefined).toBe(mayStart.length === 0)
      if (!picked) return
      expect(mayStart).toContain(picked)
      expect(picked.usedMs).toBe(Math.min(...mayStart.map(({ usedMs }) => usedMs)))
    }),
  )
})

test('suspects, however many, leave three lanes to healthy endpoints', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 50 }), (suspects, healthy) => {
      const all: Slot[] = [
        ...Array.from({ length: suspects }, () => ({ isSuspect: true, usedMs: 0, startedAt: null })),
        ...Array.from({ length: healthy }, () => ({ isSuspect: false, usedMs: 9_999, startedAt: null })),
      ]
      for (let slot = pick(all, NOW); slot; slot = pick(all, NOW)) slot.startedAt = NOW
      expect(countsOf(all)).toEqual({
        all: Math.min(suspects, SUSPECT_LANES) + Math.min(healthy, LANES),
        suspects: Math.min(suspects, SUSPECT_LANES),
        healthy: Math.min(healthy, LANES),
      })
      expect(isBlocked(all, NOW)).toBe(false)
    }),
  )
})

test('requests that turn out slow give their lanes back, until they hold every connection', () => {
  const all: Slot[] = Array.from({ length: 7 }, () => ({ isSuspect: false, usedMs: 0, startedAt: null }))
  const fill = (now: number) => {
    for (let slot = pick(all, now); slot; slot = pick(all, now)) slot.startedAt = now
    return all.filter(({ startedAt }) => startedAt !== null).length
  }
  expect([fill(NOW), isBlocked(all, NOW)]).toEqual([3, false])
  expect([fill(NOW + SLOW_MS), isBlocked(all, NOW + SLOW_MS)]).toEqual([5, false])
  expect([fill(NOW + 2 * SLOW_MS), isBlocked(all, NOW + 2 * SLOW_MS)]).toEqual([5, true])
})

/** A task of requests that take `ms` each; it notes what happens in `log`. */
function taskOf(name: string, requests: number, ms: number, log: string[], isSuspect = false): Task {
  let left = requests
  return {
    isSuspect: () => isSuspect,
    step: async () => {
      log.push(name)
      await sleep(ms)
      left -= 1
      return left > 0
    },
    release: () => void log.push(`${name} released`),
  }
}

test('every task runs to its end, one request at a time, and no more than five at once', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ requests: fc.integer({ min: 1, max: 4 }), isSuspect: fc.boolean() }), { maxLength: 12 }),
      async (given) => {
        const running = new Set<number>()
        const done = given.map(() => 0)
        let most = 0
        const tasks = given.map(({ requests, isSuspect }, i): Task => ({
          isSuspect: () => isSuspect,
          step: async () => {
            expect(running.has(i)).toBe(false)
            running.add(i)
            most = Math.max(most, running.size)
            await sleep(1)
            running.delete(i)
            done[i] = (done[i] ?? 0) + 1
            return (done[i] ?? 0) < requests
          },
          release: () => expect.fail('nothing is blocked'),
        }))
        await runInLanes(tasks)
        expect(done).toEqual(given.map(({ requests }) => requests))
        expect(most).toBeLessThanOrEqual(LANES + SUSPECT_LANES)
      },
    ),
    { numRuns: 30 },
  )
})

test('an endpoint that takes longer gets its next turn after the others had as much time', async () => {
  const log: string[] = []
  await runInLanes([
    ...['a', 'b', 'c'].map((name) => taskOf(name, 3, 900, log)),
    ...['x', 'y', 'z'].map((name) => taskOf(name, 3, 1, log)),
  ])
  expect(log.slice(0, 3)).toEqual(['a', 'b', 'c'])
  expect(new Set(log.slice(3, 12))).toEqual(new Set(['x', 'y', 'z']))
  expect(log).toHaveLength(18)
})

test('healthy tasks are released when slow requests hold every connection; suspects wait', async () => {
  const log: string[] = []
  await runInLanes([
    ...['a', 'b', 'c', 'd', 'e'].map((name) => taskOf(name, 1, 3 * SLOW_MS, log)),
    taskOf('healthy', 1, 1, log),
    taskOf('suspect', 1, 1, log, true),
  ])
  expect(log).toContain('healthy released')
  expect(log).not.toContain('healthy')
  expect(log).toContain('suspect')
})
