import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { keys } from '../../src/keys.ts'
import {
  type Beat,
  type Change,
  CLAIM_MS,
  createOnline,
  type OnlinePolicy,
  type Visibility,
} from '../../src/redis/presence.ts'
import { InterceptedRedis, keysOf, newKeyspace } from './setup.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      USERS_ONLINE: string
    }
  }
}

/** A million over a real Redis (`npm run test:redis`): the embedded engine would need a minute to store them. */
const MANY = Number(env.USERS_ONLINE)
const T = 1_800_000_000_000
const POLICY: OnlinePolicy = { windowMs: 1_000, shards: 4, shardUsers: 1_000, maxDevices: 3 }

function newOnline(policy: Partial<OnlinePolicy> = {}, keyspace = newKeyspace()) {
  const redis = keyspace.connect()
  const online = createOnline(redis, keys, { ...POLICY, ...policy })
  /** A beat, repeated with the visibility where Redis does not know it. */
  async function arrive(beat: Beat, now: number | undefined, visibility?: Visibility) {
    const outcome = await online.beat(beat, now)
    return outcome === 'unknown' && visibility ? online.beat(beat, now, visibility) : outcome
  }
  /** The same, and its arrival is announced at once. */
  async function beat(beat: Beat, now: number | undefined, visibility?: Visibility) {
    const outcome = await arrive(beat, now, visibility)
    if (typeof outcome === 'string') return outcome
    await online.confirm([outcome])
    return 'joined'
  }
  return {
    ...online,
    keyspace,
    redis,
    beat,
    arrive,
    /** The repetition alone. */
    repeat: (...given: Parameters<typeof online.beat>) => online.beat(...given),
    /** A beat of which nobody announces what it changed. */
    unannounced: (userId: string, now: number) =>
      arrive({ userId, deviceId: 'phone', beatId: crypto.randomUUID() }, now, 'everyone'),
    /** A beat of a user whom everyone may see. */
    seen: (userId: string, now: number, deviceId = 'phone') =>
      beat({ userId, deviceId, beatId: crypto.randomUUID() }, now, 'everyone'),
  }
}

const ids = (people: { userId: string }[]) => people.map(({ userId }) => userId).sort()

test('a user is online until the window after the last beat, and joins once', async () => {
  const online = newOnline()
  expect(await online.seen('u_ada', T)).toBe('joined')
  expect(await online.seen('u_ada', T + 500)).toBe('online')

  const [ada = null, bob = null] = await online.lastSeen(['u_ada', 'u_bob'])
  expect([ada, bob]).toEqual([T + 500, null])
  expect([online.isOnline(ada, T + 1_499), online.isOnline(ada, T + 1_500), online.isOnline(bob, T)]).toEqual([
    true,
    false,
    false,
  ])
})

/** Adds every ARGV[3]rd user from ARGV[1] to ARGV[2], each seen so many milliseconds after ARGV[4]. */
const FILL = `#!lua flags=allow-key-locking
local added = {}
for i = ARGV[1], ARGV[2], ARGV[3] do
  added[#added + 1] = ARGV[4] + i
  added[#added + 1] = string.format('u_%07d', i)
  if #added >= 2000 or i + ARGV[3] > tonumber(ARGV[2]) then
    redis.call('ZADD', KEYS[1], unpack(added))
    added = {}
  end
end
return 1`

test(`a list costs the same at a thousand users online and at ${MANY}, in commands and in the size of replies`, async () => {
  const cost = async (shards: number, users: number) => {
    const keyspace = newKeyspace()
    const received = { bytes: 0 }
    const redis = new InterceptedRedis(keyspace.server, async (send) => {
      const reply = await send()
      received.bytes += JSON.stringify(reply).length
      return reply
    })
    const online = createOnline(redis, keys, { ...POLICY, windowMs: 10_000_000, shards, shardUsers: 50_000 })
    for (let shard = 0; shard < shards; shard += 1) {
      await redis.eval(FILL, [keys.presence(shard)], [shard, users - 1, shards, T])
    }
    await keyspace.control.reset()
    received.bytes = 0
    const listed = await online.latest(200, T + users)
    expect(listed).toHaveLength(200)
    const times = listed.map(({ at }) => at)
    expect(times).toEqual(times.toSorted((a, b) => b - a))
    const share = Math.min(1, 4 / shards)
    expect(times.at(-1)).toBeGreaterThan(T + users - (2 * 200) / share) // all of them were seen a moment ago
    const { requests, commands } = await keyspace.control.counts()
    return { requests, commands, bytes: received.bytes }
  }
  const few = await cost(20, 1_000)
  const many = await cost(20, MANY)
  const single = await cost(1, 1_000)
  expect([single.requests, single.commands]).toEqual([1, 1])
  expect([many.requests, many.commands]).toEqual([1, 4])
  expect(few.requests).toBeLessThanOrEqual(2)
  expect(few.commands).toBeLessThanOrEqual(20)
  for (const { bytes } of [few, many]) expect(bytes / single.bytes).toBeLessThan(6)
  expect(many.bytes / single.bytes).toBeLessThan(2.2)
}, 120_000)

test('where few are online, a list has all of them, whatever their shards', async () => {
  const online = newOnline({ shards: 20 })
  for (let i = 0; i < 30; i += 1) await online.seen(`u_${i}`, T + i)
  const all = Array.from({ length: 30 }, (_, i) => `u_${29 - i}`)
  expect((await online.latest(100, T + 40)).map(({ userId }) => userId)).toEqual(all)
})

test('those online are counted over all shards, in one request', async () => {
  const online = newOnline()
  for (let i = 0; i < 10; i += 1) await online.seen(`u_${i}`, T + i * 200)
  await online.keyspace.control.reset()
  expect(await online.count(T + 1_800)).toBe(5) // the others have been silent for the window
  expect(await online.keyspace.control.counts()).toMatchObject({ requests: 1, commands: POLICY.shards })
  expect(await online.count(T + 10_000)).toBe(0)
})

test('a late heartbeat does not move the last time back', async () => {
  const online = newOnline()
  await online.seen('u_ada', T + 500)
  expect(await online.seen('u_ada', T, 'tablet')).toBe('online')
  expect(await online.lastSeen(['u_ada'])).toEqual([T + 500])
})

test('of many concurrent heartbeats exactly one brings the user online', async () => {
  const keyspace = newKeyspace()
  const outcomes = await Promise.all(Array.from({ length: 40 }, (_, i) => newOnline({}, keyspace).seen('u_ada', T + i)))
  expect(outcomes.filter((outcome) => outcome === 'joined')).toHaveLength(1)
})

test('an arrival whose reply is lost is answered again to the same beat, and to no other', async () => {
  const online = newOnline()
  await online.keyspace.control.fault({ kind: 'cut', times: 1, match: 'EVAL' }) // executed; the client repeats it
  expect(await online.seen('u_ada', T)).toBe('joined')
  expect(await online.seen('u_ada', T)).toBe('online') // another beat in the same millisecond
  await online.keyspace.control.fault({ kind: 'cut', times: 1, match: 'EVAL' })
  expect(await online.seen('u_ada', T + 1)).toBe('online') // a repeated beat that is no join
})

test('a user is not online while their visibility is unknown, nor when nobody may see them', async () => {
  const online = newOnline()
  const ada = { userId: 'u_ada', deviceId: 'phone', beatId: 'b' }
  expect(await online.beat(ada, T)).toBe('unknown')
  expect(await keysOf(online.redis)).toEqual([keys.presenceDevices('u_ada')])

  expect(await online.beat(ada, T, 'nobody')).toBe('hidden')
  expect(await online.beat(ada, T)).toBe('hidden') // remembered
  expect(await keysOf(online.redis)).toEqual([keys.presenceVisibility('u_ada')])
  expect(await online.redis.pttl(keys.presenceVisibility('u_ada'))).toBeLessThanOrEqual(POLICY.windowMs)

  await online.show('u_ada', 'followers')
  expect(await online.beat(ada, T)).toBe('joined')
  expect(await online.hide('u_ada', T + 10)).toMatchObject({ userId: 'u_ada', at: T + 10 })
  expect(await online.lastSeen(['u_ada'])).toEqual([null])
  // A beat that was admitted before does not bring them back.
  expect(await online.repeat(ada, T + 11, 'everyone')).toBe('left')
})

test('a device that leaves before its visibility is known does not come online', async () => {
  const online = newOnline()
  const [phone, laptop] = ['phone', 'laptop'].map((deviceId) => ({ userId: 'u_ada', deviceId, beatId: deviceId }))
  if (!phone || !laptop) expect.fail('two devices')
  expect(await online.beat(phone, T)).toBe('unknown')
  expect(await online.leave('u_ada', 'phone', T + 1)).toBeUndefined()
  expect(await online.repeat(phone, T, 'everyone')).toBe('left')
  expect(await online.lastSeen(['u_ada'])).toEqual([null])

  expect(await online.beat(phone, T + 2)).toBe('unknown')
  expect(await online.beat(laptop, T + 2, 'everyone')).toBe('joined')
  expect(await online.leave('u_ada', 'phone', T + 3)).toBeUndefined()
  expect(await online.repeat(phone, T + 2, 'everyone')).toBe('left')
  expect(await online.leave('u_ada', 'laptop', T + 4)).toMatchObject({ at: T + 4 }) // it was the last
})

test('a user goes offline with the last of their devices', async () => {
  const online = newOnline()
  await online.seen('u_ada', T, 'phone')
  await online.seen('u_ada', T + 10, 'laptop')
  expect(await online.leave('u_ada', 'phone', T + 20)).toBeUndefined()
  expect(await online.lastSeen(['u_ada'])).toEqual([T + 10])
  expect(await online.leave('u_ada', 'laptop', T + 30)).toMatchObject({ userId: 'u_ada', at: T + 30 })
  expect(await online.lastSeen(['u_ada'])).toEqual([null])
  expect(await online.seen('u_ada', T + 40, 'phone')).toBe('joined')
})

test('devices that were last seen by a time leave, and others keep their user online', async () => {
  const online = newOnline()
  await online.seen('u_ada', T, 'phone')
  await online.seen('u_ada', T + 10, 'tablet')
  await online.seen('u_ada', T + 20, 'laptop')
  expect(await online.leaveUntil('u_ada', T + 10, T + 30)).toBeUndefined()
  expect(await online.leaveUntil('u_ada', T + 20, T + 30)).toMatchObject({ userId: 'u_ada', at: T + 30 })
  expect(await online.leaveUntil('u_ada', T + 20, T + 40)).toBeUndefined()
})

test('a device without heartbeats does not keep its user online', async () => {
  const online = newOnline()
  await online.seen('u_ada', T, 'phone')
  await online.seen('u_ada', T + 900, 'laptop')
  expect(await online.leave('u_ada', 'laptop', T + 1_000)).toMatchObject({ userId: 'u_ada' })
})

test('the number of devices of a user is bounded; the one silent for longest is dropped first', async () => {
  const online = newOnline({ maxDevices: 3 })
  for (let i = 0; i < 10; i += 1) await online.seen('u_ada', T + i, `device-${i}`)
  expect(await online.redis.zrange(keys.presenceDevices('u_ada'), 0, -1)).toEqual(['device-7', 'device-8', 'device-9'])
})

test('users are spread over the shards and listed latest first', async () => {
  const online = newOnline()
  const everyone = Array.from({ length: 60 }, (_, i) => `u_${i}`)
  for (const [i, userId] of everyone.entries()) await online.seen(userId, T + i)
  for (let shard = 0; shard < 4; shard += 1) {
    expect(await online.redis.zcard(keys.presence(shard))).toBeGreaterThan(5)
  }
  expect(await online.lastSeen(everyone)).toEqual(everyone.map((_, i) => T + i))
  expect(ids(await online.latest(100, T + 1_029))).toEqual(everyone.slice(30).sort()) // the others are out of the window
  expect((await online.latest(3, T + 60)).map(({ userId }) => userId)).toEqual(['u_59', 'u_58', 'u_57'])
  expect((await online.latest(2, T + 60, T + 57)).map(({ userId }) => userId)).toEqual(['u_57', 'u_56'])
})

test('a heartbeat, a departure, the list, a sweep and a read of 500 users cost one round trip each', async () => {
  const online = newOnline()
  await online.seen('u_ada', T)
  const { control } = online.keyspace
  const cost = async (work: () => Promise<unknown>) => {
    await control.reset()
    await work()
    return (await control.counts()).requests
  }
  const many = Array.from({ length: 500 }, (_, i) => `u_${i}`)
  await online.show('u_new', 'everyone')
  expect(await cost(() => online.seen('u_ada', T + 1))).toBe(1)
  expect(await cost(() => online.unannounced('u_new', T + 1))).toBe(1)
  expect(await cost(() => online.lastSeen(many))).toBe(1)
  expect((await control.counts()).commands).toBe(4) // one of each shard
  expect(await cost(() => online.latest(100, T + 1))).toBe(1)
  expect(await cost(() => online.leave('u_ada', 'phone', T + 2))).toBe(1)
  const { changes: gone } = await online.takeChanges(100, T + 10_000)
  expect(await cost(() => online.takeChanges(100, T + 10_000))).toBe(1)
  expect(await cost(() => online.confirm(gone))).toBe(1)
  expect(await cost(() => online.lastSeen([]))).toBe(0)
})

test('a shard never holds more than its bound; displaced users are handed to the sweep', async () => {
  const online = newOnline({ shards: 1, shardUsers: 5 })
  for (let i = 0; i < 8; i += 1) await online.seen(`u_${i}`, T + i)
  expect(await online.redis.zcard(keys.presence(0))).toBe(5)
  expect(ids(await online.latest(10, T + 8))).toEqual(['u_3', 'u_4', 'u_5', 'u_6', 'u_7'])
  const { changes: gone } = await online.takeChanges(10, T + 9)
  expect(gone).toEqual([0, 1, 2].map((i) => ({ userId: `u_${i}`, at: T + i, isOnline: false, shard: 0 })))

  for (let i = 8; i < 30; i += 1) await online.seen(`u_${i}`, T + i) // and nobody sweeps
  expect(await online.redis.zcard(keys.presenceChanges(0))).toBe(5)
})

test('a sweep takes offline the silent users alone', async () => {
  const online = newOnline()
  await online.seen('u_silent', T)
  await online.seen('u_ada', T + 1)
  expect((await online.takeChanges(10, T + 999)).changes).toEqual([])
  expect((await online.takeChanges(10, T + 1_000)).changes).toMatchObject([{ userId: 'u_silent', at: T }])
  expect(ids(await online.latest(10, T + 1_000))).toEqual(['u_ada'])
})

test('concurrent sweeps in small batches hand out each departure exactly once', async () => {
  const keyspace = newKeyspace()
  const online = newOnline({}, keyspace)
  const everyone = Array.from({ length: 300 }, (_, i) => `u_${i}`)
  await Promise.all(everyone.map((userId, i) => online.seen(userId, T + (i % 7)))) // many in the same millisecond
  const sweep = async () => {
    const online = newOnline({}, keyspace)
    const all: Change[] = []
    for (let hasMore = true; hasMore;) {
      const taken = await online.takeChanges(10, T + 5_000)
      all.push(...taken.changes)
      await online.confirm(taken.changes)
      hasMore = taken.hasMore
    }
    return all
  }
  const gone = (await Promise.all(Array.from({ length: 5 }, sweep))).flat()
  expect(ids(gone)).toEqual(everyone.sort())
  expect(await keysOf(keyspace.connect(), 'presence:[0-9]*')).toEqual([])
})

test('a departure that nobody confirmed is handed out again once its claim has lapsed', async () => {
  const online = newOnline()
  await online.seen('u_ada', T)
  await online.seen('u_bob', T)
  await online.leave('u_bob', 'phone', T + 1) // and its caller dies
  const first = await online.takeChanges(10, T + 2_000)
  expect(ids(first.changes)).toEqual(['u_ada'])

  const second = await online.takeChanges(10, T + 1 + CLAIM_MS)
  expect(second.changes).toMatchObject([{ userId: 'u_bob', at: T + 1 }])
  await online.confirm(second.changes)
  const third = await online.takeChanges(10, T + 2_000 + CLAIM_MS)
  expect(third.changes).toEqual(first.changes)
  await online.confirm(third.changes)
  expect((await online.takeChanges(10, T + 10 * CLAIM_MS)).changes).toEqual([])
})

test('an arrival that nobody confirmed is returned at once, and again once its claim has lapsed', async () => {
  const online = newOnline({ shards: 1 })
  await online.show('u_ada', 'everyone')
  await online.keyspace.control.fault({ kind: 'cut', times: 2 }) // executed; the client gives up
  await expect(online.unannounced('u_ada', T)).rejects.toThrow('did not answer')
  expect(await online.seen('u_ada', T + 1)).toBe('online')
  const arrival = { userId: 'u_ada', at: T, isOnline: true, shard: 0 }
  expect((await online.takeChanges(10, T + 2)).changes).toEqual([arrival])
  expect((await online.takeChanges(10, T + 3)).changes).toEqual([])
  const again = await online.takeChanges(10, T + 2 + CLAIM_MS)
  expect(again.changes.filter(({ isOnline }) => isOnline)).toEqual([arrival])
  await online.confirm(again.changes)
  expect((await online.takeChanges(10, T + 9 * CLAIM_MS)).changes).toEqual([])
})

test('the changes of a user are ordered by Redis, whatever the clocks of the isolates', async () => {
  const keyspace = newKeyspace()
  const [slow, fast] = [newOnline({ windowMs: 300_000 }, keyspace), newOnline({ windowMs: 300_000 }, keyspace)]
  const beat = async (online: typeof slow) =>
    online.beat({ userId: 'u_ada', deviceId: 'phone', beatId: crypto.randomUUID() }, undefined, 'everyone')
  const before = Date.now()
  for (let round = 0; round < 20; round += 1) {
    await beat(round % 2 === 0 ? slow : fast)
    await (round % 3 === 0 ? fast : slow).leave('u_ada', 'phone')
  }
  const members = await keyspace.connect().zrange<string[]>(keys.presenceChanges(slow.shardOf('u_ada')), 0, -1)
  expect(members).toHaveLength(20) // the arrivals are confirmed
  const departures = members.map((member) => Number(/^-(\d+):/.exec(member)?.[1])).sort((a, b) => a - b)
  expect(new Set(departures).size).toBe(20)
  expect(departures[0]).toBeGreaterThanOrEqual(before - 1_000)
  expect(departures.at(-1)).toBeLessThanOrEqual(Date.now() + 1_000)

  await slow.show('u_ada', 'everyone', T)
  const arrival = await slow.unannounced('u_ada', T)
  const departure = await slow.leave('u_ada', 'phone', T - 3_000) // an isolate whose clock is behind
  const next = await slow.unannounced('u_ada', T - 5_000)
  expect([arrival, departure, next]).toMatchObject([
    { at: T, isOnline: true },
    { at: T, isOnline: false },
    { at: T + 1, isOnline: true },
  ])
})

test('a user who is online when their visibility changes is announced again', async () => {
  const online = newOnline()
  expect(await online.show('u_ada', 'followers', T)).toBeUndefined()
  await online.seen('u_ada', T)
  expect(await online.show('u_ada', 'everyone', T + 10)).toMatchObject({ userId: 'u_ada', at: T + 10, isOnline: true })
  expect(await online.show('u_ada', 'everyone', T + 5_000)).toBeUndefined() // silent for longer than the window
})

test('a departure survives the loss of its reply, of leave and of a sweep', async () => {
  const online = newOnline({ shards: 1 })
  await online.seen('u_ada', T)
  await online.seen('u_bob', T)
  await online.keyspace.control.fault({ kind: 'cut', times: 1 })
  await online.leave('u_ada', 'phone', T + 1)
  await online.keyspace.control.fault({ kind: 'cut', times: 1 })
  const repeated = await online.takeChanges(10, T + 2_000)
  const later = await online.takeChanges(10, T + 3_000 + CLAIM_MS)
  expect(ids([...repeated.changes, ...later.changes])).toEqual(['u_ada', 'u_bob'])
})

test('after a change of the number of shards, a user who is online in one shard does not leave from another', async () => {
  const keyspace = newKeyspace()
  const before = newOnline({ shards: 2 }, keyspace)
  const after = newOnline({ shards: 3 }, keyspace)
  const everyone = Array.from({ length: 30 }, (_, i) => `u_${i}`)
  for (const userId of everyone) await before.seen(userId, T)
  for (const userId of everyone) await after.seen(userId, T + 900)
  const listed = await after.latest(100, T + 901)
  expect(ids(listed)).toEqual([...everyone].sort()) // each once
  expect(listed.every(({ at }) => at === T + 900)).toBe(true)

  const { changes: gone } = await after.takeChanges(100, T + 1_500)
  expect(gone.length).toBeGreaterThan(0)
  expect(gone.every((who) => after.isMisplaced(who))).toBe(true)
  expect(await after.lastSeen(ids(gone))).toEqual(gone.map(() => T + 900))
})

test('every key of presence expires once it is swept', async () => {
  const online = newOnline()
  await online.seen('u_ada', T)
  await online.seen('u_bob', T + 10_000)
  await online.takeChanges(10, T + 10_000)
  for (const key of await keysOf(online.redis)) expect([key, (await online.redis.pttl(key)) > 0]).toEqual([key, true])
})

test('after any actions of devices, arrivals and departures alternate and match a model', async () => {
  const step = fc.record({
    user: fc.constantFrom('u_ada', 'u_bob'),
    device: fc.constantFrom('phone', 'laptop'),
    act: fc.constantFrom('beat', 'beat', 'leave', 'sweep'),
    after: fc.integer({ min: 1, max: 700 }),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
      const online = newOnline({ shards: 2 })
      const announced: string[] = []
      const expected: string[] = []
      const devicesOf = new Map<string, Map<string, number>>() // of the users announced as online
      const lastBeat = new Map<string, number>()
      let now = T
      const isSilent = (at: number) => at <= now - POLICY.windowMs
      for (const { user, device, act, after } of steps) {
        now += after
        const devices = devicesOf.get(user)
        if (act === 'beat') {
          if ((await online.seen(user, now, device)) === 'joined') announced.push(`${user} on`)
          if (!devices) expected.push(`${user} on`)
          devicesOf.set(user, (devices ?? new Map<string, number>()).set(device, now))
          lastBeat.set(user, now)
        } else if (act === 'leave') {
          if (await online.leave(user, device, now)) announced.push(`${user} off`)
          devices?.delete(device)
          if (devices && [...devices.values()].every(isSilent)) {
            devicesOf.delete(user)
            expected.push(`${user} off`)
          }
        } else {
          const { changes: gone } = await online.takeChanges(10, now)
          await online.confirm(gone)
          announced.push(...ids(gone).map((userId) => `${userId} off`))
          for (const userId of [...devicesOf.keys()].sort()) {
            if (!isSilent(lastBeat.get(userId) ?? 0)) continue
            devicesOf.delete(userId)
            expected.push(`${userId} off`)
          }
        }
      }
      expect(announced).toEqual(expected)
    }),
    { numRuns: 40 },
  )
})
