import { expect, test } from 'vitest'
import { type Claims, createSessionStore, type StoredSession } from '../../src/redis/session.ts'
import { createBoundedMap } from '../../src/redis/bounded-map.ts'
import { newKeyspace } from './setup.ts'

const IDLE_MS = 3_600_000
const TOUCH_MS = 300_000
const MEMORY_MS = 5_000
const RECHECK_MS = 4_000
const START = 1_700_000_000_000

/** What travels with the checks of the user. */
interface State {
  version: number
  name: string
}
const STATE: State = { version: 1, name: 'Ada' }

/** Isolates that share one Redis and one source of truth, a map. */
function newWorld() {
  const keyspace = newKeyspace()
  const stored = new Map<string, StoredSession<State>>()
  const touched: string[] = []
  /** An isolate whose source answers after `pause`. `settle` runs its deferred work. */
  const newIsolate = (
    pause: Promise<unknown> = Promise.resolve(),
    beganAt = 0,
    missed?: () => Promise<Set<string>>,
  ) => {
    const later: (() => Promise<unknown>)[] = []
    const source = {
      ...(missed && { missed }),
      async load({ sessionId }: Claims) {
        const session = stored.get(sessionId) ?? null
        const copy = session && { ...session } // read now, returned later
        await pause
        return copy
      },
      async touch(sessionId: string) {
        touched.push(sessionId)
        return stored.has(sessionId)
      },
    }
    const keys = {
      session: (id: string) => `session:${id}`,
      epoch: (id: string) => `epoch:${id}`,
      state: (id: string) => `state:${id}`,
    }
    const policy = { idleMs: IDLE_MS, touchMs: TOUCH_MS, memoryMs: MEMORY_MS, recheckMs: RECHECK_MS }
    const sessions = createSessionStore(keyspace.connect(), source, policy, keys, (work) => void later.push(work), {
      redisFailedAt: beganAt,
      states: createBoundedMap<{ state: State; readAt: number }>(100, () => 1),
    })
    return { sessions, settle: () => Promise.all(later.splice(0).map((work) => work())) }
  }
  const claims: Claims = { userId: 'u_ada', sessionId: 's_1', hash: 'h1' }
  const session: StoredSession<State> = {
    hash: 'h1',
    epoch: 1,
    currentEpoch: 1,
    state: STATE,
    seenAt: START,
    expiresAt: START + 30 * 86_400_000,
  }
  stored.set('s_1', session)
  return { ...keyspace, stored, touched, newIsolate, claims, session }
}

test('a session is live until it idles out; a visit within a minute of the last check writes nothing', async () => {
  const { newIsolate, claims, control, touched } = newWorld()
  const { sessions, settle } = newIsolate()
  expect(await sessions.check(claims, START)).toEqual(STATE)
  await settle()
  await control.reset()

  for (let s = 1; s <= 10; s += 1) expect(await sessions.check(claims, START + s * 1_000)).toEqual(STATE)
  await settle()
  expect((await control.counts()).byCommand).toEqual({ mget: 10 })
  expect(touched).toEqual([])

  const later = START + TOUCH_MS
  expect(await sessions.check(claims, later)).toEqual(STATE)
  await settle()
  expect(touched).toEqual(['s_1'])
  expect(await sessions.check(claims, later + IDLE_MS - 1)).toEqual(STATE)
  await settle()
  expect(await sessions.check(claims, later + 2 * IDLE_MS)).toBeUndefined()
})

test('a session ends at its absolute end, even if it is in use', async () => {
  const { newIsolate, claims, session } = newWorld()
  const { sessions, settle } = newIsolate()
  session.expiresAt = START + 10 * IDLE_MS
  for (let now = START; now < session.expiresAt; now += IDLE_MS / 2) {
    expect(await sessions.check(claims, now)).toEqual(STATE)
    await settle()
  }
  expect(await sessions.check(claims, session.expiresAt)).toBeUndefined()
})

test('a check refuses another secret of the same session', async () => {
  const { newIsolate, claims } = newWorld()
  const { sessions, settle } = newIsolate()
  expect(await sessions.check({ ...claims, hash: 'h2' }, START)).toBeUndefined()
  await sessions.check(claims, START)
  await settle()
  expect(await sessions.check({ ...claims, hash: 'h2' }, START)).toBeUndefined()
})

test('a load does not bring back a session that ended meanwhile', async () => {
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

  expect(await other.sessions.check(claims, START + 1)).toBeUndefined()
  expect(await slow.sessions.check(claims, START + 1)).toBeUndefined()
})

test('a refresh does not bring back a session that ended meanwhile', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START)
  await settle()

  const later = START + TOUCH_MS
  expect(await sessions.check(claims, later)).toEqual(STATE) // its refresh has not run yet
  stored.delete('s_1')
  await newIsolate().sessions.end('s_1')
  await settle()
  expect(await sessions.check(claims, later + 1)).toBeUndefined()
})

test('ending all sessions wins over an earlier load and spares later sessions', async () => {
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
  expect(await other.sessions.check(claims, START + 1)).toBeUndefined()

  const next = { userId: 'u_ada', sessionId: 's_2', hash: 'h2' }
  stored.set('s_2', { ...session, hash: 'h2', epoch: 2, currentEpoch: 2 })
  await other.sessions.begin(next, { hash: 'h2', epoch: 2, seenAt: START, expiresAt: session.expiresAt }, START)
  expect(await other.sessions.check(next, START + 1)).toEqual(STATE)
})

test('the next confirmation finds an end that Redis missed', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START)
  await settle()
  stored.delete('s_1') // Redis still holds it

  await sessions.check(claims, START + TOUCH_MS)
  await settle()
  expect(await sessions.check(claims, START + TOUCH_MS + 1)).toBeUndefined()
})

test('if Redis holds an older epoch than the session, the check asks the source', async () => {
  const { newIsolate, claims, stored, session } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START) // Redis knows epoch 1
  await settle()

  const next = { userId: 'u_ada', sessionId: 's_2', hash: 'h2' }
  stored.set('s_2', { ...session, hash: 'h2', epoch: 2, currentEpoch: 2 })
  expect(await sessions.check(next, START)).toEqual(STATE)
  await settle()
  expect(await sessions.check(claims, START)).toBeUndefined() // Redis holds epoch 2 now
})

test('a fill that began before all sessions ended does not bring one back after a flush', async () => {
  const { newIsolate, claims, stored, session, connect } = newWorld()
  const answered = Promise.withResolvers<void>()
  const slow = newIsolate(answered.promise)
  const checking = slow.sessions.check(claims, START)
  await new Promise((resolve) => setTimeout(resolve, 50)) // it has read the source

  session.currentEpoch = 2
  stored.delete('s_1')
  const other = newIsolate()
  await other.sessions.endAll('u_ada', 2)
  await connect().flushdb()
  answered.resolve()
  await checking
  await slow.settle()

  expect(await other.sessions.check(claims, START + 1)).toBeUndefined()
  expect(await slow.sessions.check(claims, START + 1)).toBeUndefined()
})

test('a filled session is not trusted before the source confirms it', async () => {
  const { newIsolate, claims, stored, session } = newWorld()
  const { sessions } = newIsolate() // its deferred work never runs: the isolate dies
  await sessions.begin(claims, session, START)
  stored.delete('s_1')
  expect(await newIsolate().sessions.check(claims, START + 1)).toBeUndefined()
})

test('an end that Redis missed takes effect within a minute in isolates that saw no failure', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START)
  await settle()
  stored.delete('s_1')

  expect(await sessions.check(claims, START + 59_999)).toEqual(STATE)
  expect(await sessions.check(claims, START + 60_000)).toBeUndefined()
})

test('an end that Redis missed takes effect at once in isolates that saw Redis fail, and in new ones', async () => {
  const { newIsolate, claims, stored, session, control } = newWorld()
  const [ending, other] = [newIsolate(), newIsolate()]
  const now = Date.now()
  Object.assign(session, { seenAt: now, expiresAt: now + 2 * IDLE_MS })
  for (const isolate of [ending, other]) {
    expect(await isolate.sessions.check(claims, now)).toEqual(STATE)
    await isolate.settle()
  }
  await control.fault({ kind: 'refuse' })
  expect(await other.sessions.check(claims, now)).toEqual(STATE)
  stored.delete('s_1')
  await expect(ending.sessions.end('s_1')).rejects.toThrow('did not answer')
  await control.reset()

  for (const isolate of [ending, other, newIsolate(Promise.resolve(), Date.now() + 1)]) {
    expect(await isolate.sessions.check(claims, now + 1)).toBeUndefined()
  }
})

test.each(['oom', 'readonly'] as const)(
  'while Redis refuses writes (%s), an ended session is live for a minute at most',
  async (kind) => {
    const { newIsolate, claims, stored, control } = newWorld()
    const { sessions, settle } = newIsolate()
    await sessions.check(claims, START)
    await settle()
    await control.fault({ kind })
    for (const later of [START + 60_000, START + 120_000]) {
      expect(await sessions.check(claims, later)).toEqual(STATE) // the source confirms, Redis keeps the old entry
      await settle()
    }
    stored.delete('s_1')
    expect(await newIsolate().sessions.check(claims, START + 120_001)).toBeUndefined()
  },
)

test('while the source fails, a session that Redis holds stays live', async () => {
  const { newIsolate, claims } = newWorld()
  const { sessions, settle } = newIsolate()
  await sessions.check(claims, START)
  await settle()
  const down = Promise.reject(new Error('D1 is down'))
  down.catch(() => {})
  const cut = newIsolate(down)
  expect(await cut.sessions.check(claims, START + 90_000)).toEqual(STATE)
  await expect(cut.sessions.check({ ...claims, sessionId: 's_2' }, START)).rejects.toThrow('D1 is down')
})

test('a session confirmed before the clock was set back is not trusted for longer', async () => {
  const { newIsolate, claims, stored } = newWorld()
  const { sessions, settle } = newIsolate()
  const later = START + IDLE_MS / 2
  for (let i = 0; i < 2; i += 1) {
    expect(await sessions.check(claims, later + i)).toEqual(STATE)
    await settle()
  }
  stored.delete(claims.sessionId) // an end that Redis missed
  expect(await sessions.check(claims, later + 2)).toEqual(STATE) // trusted
  expect(await sessions.check(claims, START)).toBeUndefined()
})

test('the state of a user travels with the check, and a change holds for the next check of every isolate', async () => {
  const { newIsolate, claims, session, control } = newWorld()
  const [one, two] = [newIsolate(), newIsolate()]
  expect(await one.sessions.check(claims, START)).toEqual(STATE)
  await one.settle()
  expect(await two.sessions.check(claims, START)).toEqual(STATE)
  await two.settle()
  session.state = { version: 2, name: 'Ada L.' }
  await one.sessions.change('u_ada', session.state)
  await control.reset()
  expect(await two.sessions.check(claims, START + 1)).toEqual(session.state)
  expect(await control.counts()).toMatchObject({ requests: 1, byCommand: { mget: 1 } })
})

test('a change of state that Redis missed holds within a minute, and an older state never replaces a newer', async () => {
  const { newIsolate, claims, session, connect } = newWorld()
  const sdk = connect()
  const isolate = newIsolate()
  await isolate.sessions.check(claims, START)
  await isolate.settle()
  await isolate.sessions.check(claims, START)
  await isolate.settle()
  session.state = { version: 2, name: 'Ada L.' } // Redis does not learn it
  expect(await isolate.sessions.check(claims, START + 59_000)).toEqual(STATE)
  await isolate.settle()
  expect(await isolate.sessions.check(claims, START + 61_000)).toEqual(session.state)
  await isolate.settle()
  expect(await sdk.get('state:u_ada')).toEqual(session.state)
  await newIsolate().sessions.change('u_ada', STATE, START + 61_000) // late
  expect(await sdk.get('state:u_ada')).toEqual(session.state)
})

test('a lost state is loaded, and a check without source and state throws', async () => {
  const { newIsolate, claims, connect, stored } = newWorld()
  const sdk = connect()
  const isolate = newIsolate()
  await isolate.sessions.check(claims, START)
  await isolate.settle()
  await sdk.del('state:u_ada')
  expect(await isolate.sessions.check(claims, START + 1)).toEqual(STATE)
  await isolate.settle()
  expect(await sdk.get('state:u_ada')).toEqual(STATE)
  await sdk.del('state:u_ada')
  stored.get = () => {
    throw new Error('D1 is away')
  }
  await expect(isolate.sessions.check(claims, START + 2)).rejects.toThrow('D1 is away')
  await sdk.set('state:u_ada', STATE)
  expect(await isolate.sessions.check(claims, START + 3)).toEqual(STATE)
})

test('an isolate knows a state for as long as memory may serve it', async () => {
  const { newIsolate, claims } = newWorld()
  const { sessions } = newIsolate()
  expect(sessions.known('u_ada', START)).toBeUndefined()
  await sessions.check(claims, START)
  expect(sessions.known('u_ada', START + MEMORY_MS - 1)).toEqual(STATE)
  expect(sessions.known('u_ada', START + MEMORY_MS)).toBeUndefined()
})

/** Isolates whose source lists missed ends, and how often it was asked. */
function newListingWorld() {
  const world = newWorld()
  const listed = new Set<string>()
  const source = { asked: 0, isDown: false }
  const newIsolate = () =>
    world.newIsolate(Promise.resolve(), 0, async () => {
      source.asked += 1
      if (source.isDown) throw new Error('D1 is down')
      return new Set(listed)
    })
  return { ...world, listed, source, newIsolate }
}

test.each(['s_1', 'u_ada'])('an end that Redis missed takes effect when the list with %s is read', async (id) => {
  const { newIsolate, claims, stored, session, listed } = newListingWorld()
  const { sessions, settle } = newIsolate()
  expect(await sessions.check(claims, START)).toEqual(STATE)
  await settle()
  if (id === 's_1') stored.delete('s_1')
  else session.currentEpoch = 2
  listed.add(id) // after the isolate read it

  expect(await sessions.check(claims, START + RECHECK_MS - 1)).toEqual(STATE)
  expect(await sessions.check(claims, START + RECHECK_MS)).toBeUndefined()
})

test('an isolate in use reads the list after its answers, once in half of the time', async () => {
  const { newIsolate, claims, source } = newListingWorld()
  const { sessions, settle } = newIsolate()
  for (let now = START; now < START + 10 * RECHECK_MS; now += RECHECK_MS / 8) {
    const before = source.asked
    await Promise.all([sessions.check(claims, now), sessions.check(claims, now)])
    if (now > START) expect(source.asked).toBe(before)
    sessions.guard(claims, now)
    await settle()
  }
  expect(source.asked).toBe(2 + 19) // the first two waited for it
})

test('without the list no session is trusted, and what is listed stays ended while the source fails', async () => {
  const { newIsolate, claims, stored, session, listed, source } = newListingWorld()
  const { sessions, settle } = newIsolate()
  const other = { ...claims, sessionId: 's_2' }
  stored.set('s_2', session)
  for (const some of [claims, other]) await sessions.check(some, START)
  await settle()
  stored.delete('s_1') // nobody lists it
  source.isDown = true
  expect(await sessions.check(claims, START + RECHECK_MS)).toBeUndefined()
  await settle()

  source.isDown = false
  listed.add('s_2')
  expect(await sessions.prepare(START + RECHECK_MS)).toBeUndefined()
  stored.get = () => {
    throw new Error('D1 is away')
  }
  await expect(sessions.check(other, START + RECHECK_MS + 1)).rejects.toThrow('D1 is away')
})
