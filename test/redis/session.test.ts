import { expect, test } from 'vitest'
import { type Claims, createSessionStore, type StoredSession } from '../../src/redis/session.ts'
import { newKeyspace } from './setup.ts'

const IDLE_MS = 3_600_000
const TOUCH_MS = 300_000
const START = 1_700_000_000_000

/** Isolates over one Redis and one source of truth, a map. A source may be made to wait, to lose races on purpose. */
function newWorld() {
  const keyspace = newKeyspace()
  const stored = new Map<string, StoredSession>()
  const touched: string[] = []
  /** An isolate whose source answers after `pause`. Its deferred work waits for `settle`. */
  const newIsolate = (pause: Promise<unknown> = Promise.resolve()) => {
    const later: (() => Promise<unknown>)[] = []
    const source = {
      async load({ sessionId }: Claims) {
        const session = stored.get(sessionId) ?? null
        const copy = session && { ...session } // read now, answered later
        await pause
        return copy
      },
      async touch(sessionId: string) {
        touched.push(sessionId)
        return stored.has(sessionId)
      },
    }
    const keys = { session: (id: string) => `session:${id}`, epoch: (id: string) => `epoch:${id}` }
    const policy = { idleMs: IDLE_MS, touchMs: TOUCH_MS }
    const sessions = createSessionStore(keyspace.connect(), source, policy, keys, (work) => void later.push(work))
    return { sessions, settle: () => Promise.all(later.splice(0).map((work) => work())) }
  }
  const claims: Claims = { userId: 'u_ada', sessionId: 's_1', hash: 'h1' }
  const session: StoredSession = {
    hash: 'h1',
    epoch: 1,
    currentEpoch: 1,
    seenAt: START,
    expiresAt: START + 30 * 86_400_000,
  }
  stored.set('s_1', session)
  return { ...keyspace, stored, touched, newIsolate, claims, session }
}

test('a session is live until it idles out, and every visit prolongs it without a write each', async () => {
  const { newIsolate, claims, control, touched } = newWorld()
  const { sessions, settle } = newIsolate()
  expect(await sessions.check(claims, START)).toBe(true)
  await settle()
  await control.reset()

  for (let s = 1; s <= 10; s += 1) expect(await sessions.check(claims, START + s * 1_000)).toBe(true)
  await settle()
  expect((await control.counts()).byCommand).toEqual({ mget: 10 })
  expect(touched).toEqual([])

  const later = START + TOUCH_MS
  expect(await sessions.check(claims, later)).toBe(true)
  await settle()
  expect(touched).toEqual(['s_1'])
  expect(await sessions.check(claims, later + IDLE_MS - 1)).toBe(true)
  await settle()
  expect(await sessions.check(claims, later + 2 * IDLE_MS)).toBe(false)
})

test('a session ends at its absolute end, however busy', async () => {
  const { newIsolate, claims, session } = newWorld()
  const { sessions, settle } = newIsolate()
  session.expiresAt = START + 10 * IDLE_MS
  for (let now = START; now < session.expiresAt; now += IDLE_MS / 2) {
    expect(await sessions.check(claims, now)).toBe(true)
    await settle()
  }
  expect(await sessions.check(claims, session.expiresAt)).toBe(false)
})

test('another secret of the same session is refused', async () => {
  const { newIsolate, claims } = newWorld()
  const { sessions, settle } = newIsolate()
  expect(await sessions.check({ ...claims, hash: 'h2' }, START)).toBe(false)
  await sessions.check(claims, START)
  await settle()
  expect(await sessions.check({ ...claims, hash: 'h2' }, START)).toBe(false)
})

test('a session ended during a load is not brought back by its fill', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const answered = Promise.withResolvers<void>()
  const slow = newIsolate(answered.promise)
  const checking = slow.sessions.check(claims, START)
  await new Promise((resolve) => setTimeout(resolve, 50)) // it has read the source

  stored.delete('s_1')
  const other = newIsolate()
  await other.sessions.end('s_1')
  answered.resolve()
  await checking
  await slow.settle()

  expect(await other.sessions.check(claims, START + 1)).toBe(false)
  expect(await slow.sessions.check(claims, START + 1)).toBe(false)
})

test('a session ended during a refresh is not brought back by it', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START)
  await settle()

  const later = START + TOUCH_MS
  expect(await sessions.check(claims, later)).toBe(true) // its refresh is still to come
  stored.delete('s_1')
  await newIsolate().sessions.end('s_1')
  await settle()
  expect(await sessions.check(claims, later + 1)).toBe(false)
})

test('ending all sessions wins over a load that began before, and spares those that begin after', async () => {
  const { newIsolate, claims, stored, session } = newWorld()
  const answered = Promise.withResolvers<void>()
  const slow = newIsolate(answered.promise)
  const checking = slow.sessions.check(claims, START)
  await new Promise((resolve) => setTimeout(resolve, 50))

  stored.delete('s_1')
  const other = newIsolate()
  await other.sessions.endAll('u_ada', 2)
  answered.resolve()
  await checking
  await slow.settle()
  expect(await other.sessions.check(claims, START + 1)).toBe(false)

  const next = { userId: 'u_ada', sessionId: 's_2', hash: 'h2' }
  stored.set('s_2', { ...session, hash: 'h2', epoch: 2, currentEpoch: 2 })
  await other.sessions.begin(next, { hash: 'h2', epoch: 2, seenAt: START, expiresAt: session.expiresAt }, START)
  expect(await other.sessions.check(next, START + 1)).toBe(true)
})

test('an end that Redis never heard of is made up for by the next refresh', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START)
  await settle()
  stored.delete('s_1') // and Redis was not told

  await sessions.check(claims, START + TOUCH_MS)
  await settle()
  expect(await sessions.check(claims, START + TOUCH_MS + 1)).toBe(false)
})

test('a session of a newer epoch than Redis knows is asked of the source, not refused', async () => {
  const { newIsolate, claims, stored, session } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START) // Redis knows epoch 1
  await settle()

  const next = { userId: 'u_ada', sessionId: 's_2', hash: 'h2' }
  stored.set('s_2', { ...session, hash: 'h2', epoch: 2, currentEpoch: 2 })
  expect(await sessions.check(next, START)).toBe(true)
  await settle()
  expect(await sessions.check(claims, START)).toBe(false) // and now Redis knows
})
