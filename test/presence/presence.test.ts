import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { users } from '../../src/db/schema.ts'
import { keys } from '../../src/keys.ts'
import { createPresence, type StatusChange } from '../../src/presence/presence.ts'
import { CLAIM_MS, createOnline } from '../../src/redis/presence.ts'
import { migrate } from '../edge.ts'
import { keysOf, newDeferral, newKeyspace } from '../redis/setup.ts'
import { addFollow, addUser, db } from '../rows.ts'

beforeAll(migrate)

const T = 1_800_000_000_000
const WINDOW_MS = 1_000

/** Presence as an invocation has it, with a listener that records. */
function newPresence(keyspace = newKeyspace(), shards = 2) {
  const policy = { windowMs: WINDOW_MS, shards, shardUsers: 1_000, maxDevices: 5 }
  const redis = keyspace.connect()
  const deferral = newDeferral()
  const told: StatusChange[] = []
  const failures: Error[] = []
  const listener = async (changes: StatusChange[]) => {
    const failure = failures.pop()
    if (failure) throw failure
    told.push(...changes)
  }
  const presence = createPresence(db, createOnline(redis, keys, policy), listener, deferral.defer)
  return {
    keyspace,
    redis,
    presence,
    settle: () => deferral.settle(),
    told,
    /** What the listener throws when told next. */
    failures,
    beat: async (userId: string, now: number, deviceId = 'phone') => {
      await presence.heartbeat(userId, deviceId, now)
      await deferral.settle()
    },
  }
}

const lastSeenOf = async (userId: string) =>
  (await db.select({ at: users.lastSeenAt }).from(users).where(eq(users.id, userId)))[0]?.at

test('listeners are told once of coming, and once of going', async () => {
  const { beat, presence, settle, told } = newPresence()
  const ada = await addUser()
  await beat(ada.id, T)
  await beat(ada.id, T + 10)
  await beat(ada.id, T + 20, 'laptop')
  expect(told).toEqual([{ userId: ada.id, isOnline: true, at: T, visibility: 'everyone' }])

  await presence.leave(ada.id, 'phone', T + 30)
  await settle()
  expect(told).toHaveLength(1)
  await presence.leave(ada.id, 'laptop', T + 40)
  await presence.leave(ada.id, 'laptop', T + 50)
  await settle()
  expect(told.slice(1)).toEqual([{ userId: ada.id, isOnline: false, at: T + 40, visibility: 'everyone' }])
  expect(await lastSeenOf(ada.id)).toBe(T + 40)
})

test('who goes silent is swept: told once under concurrent sweeps, and last seen stored', async () => {
  const keyspace = newKeyspace()
  const first = newPresence(keyspace)
  const everyone = await Promise.all(Array.from({ length: 120 }, () => addUser()))
  for (const [i, user] of everyone.entries()) await first.beat(user.id, T + i)
  const alive = everyone[0]?.id ?? ''
  await first.beat(alive, T + 5_000)

  const sweepers = Array.from({ length: 6 }, () => newPresence(keyspace))
  const swept = await Promise.all(sweepers.map(({ presence }) => presence.sweep(T + 5_000)))
  const told = sweepers.flatMap((sweeper) => sweeper.told)
  expect(told.map(({ userId }) => userId).sort()).toEqual(
    everyone
      .slice(1)
      .map(({ id }) => id)
      .sort(),
  )
  expect(told.every(({ isOnline }) => !isOnline)).toBe(true)
  expect(swept.reduce((sum, n) => sum + n)).toBe(119)
  for (const [i, user] of everyone.entries()) expect(await lastSeenOf(user.id)).toBe(i === 0 ? null : T + i)
  expect(await first.presence.sweep(T + 5_000)).toBe(0)
})

test('a sweep takes thousands, in batches, and a sweep that finds nobody is one round trip', async () => {
  const { keyspace, redis, presence, told } = newPresence()
  const user = await addUser()
  const silent = Array.from({ length: 2_700 }, (_, i) => ({ score: T + i, member: `u_gone${i}` }))
  await redis.zadd(keys.presence(0), { score: T, member: user.id }, ...silent)
  expect(await presence.sweep(T + 10_000)).toBe(2_701)
  expect(told.map(({ userId }) => userId)).toEqual([user.id]) // the others have no account
  await keyspace.control.reset()
  await presence.sweep(T + 10_000)
  expect((await keyspace.control.counts()).requests).toBe(1)
})

test('with another number of shards nobody who is alive is told to be gone, and who is not, once', async () => {
  const keyspace = newKeyspace()
  const [before, after] = [newPresence(keyspace, 2), newPresence(keyspace, 5)]
  const everyone = await Promise.all(Array.from({ length: 20 }, () => addUser()))
  const alive = everyone.slice(0, 10)
  for (const user of everyone) await before.beat(user.id, T)
  for (const user of alive) await after.beat(user.id, T + 900)
  await after.presence.sweep(T + 1_500)
  const gone = after.told.filter(({ isOnline }) => !isOnline).map(({ userId }) => userId)
  const silent = everyone.slice(10).map(({ id }) => id)
  expect(gone.sort()).toEqual(silent.sort())
  expect((await after.presence.latest(undefined, 100, T + 1_500)).map(({ userId }) => userId).sort()).toEqual(
    alive.map(({ id }) => id).sort(),
  )
})

test('an older last seen never replaces a newer one', async () => {
  const { beat, presence } = newPresence()
  const ada = await addUser({ lastSeenAt: T + 9_000 })
  await beat(ada.id, T)
  await presence.sweep(T + 5_000)
  expect(await lastSeenOf(ada.id)).toBe(T + 9_000)
})

test('a sweep whose listener fails, or whose sweeper dies, is made up for by a later one', async () => {
  const { beat, presence, told, failures } = newPresence()
  const ada = await addUser()
  await beat(ada.id, T)
  failures.push(new Error('the listener'))
  await expect(presence.sweep(T + 2_000)).rejects.toThrow('the listener')
  await presence.sweep(T + 3_000) // still claimed
  expect(told.filter(({ isOnline }) => !isOnline)).toEqual([])
  await presence.sweep(T + 2_000 + CLAIM_MS)
  await presence.sweep(T + 2_000 + 3 * CLAIM_MS)
  expect(told.filter(({ isOnline }) => !isOnline)).toMatchObject([{ userId: ada.id, at: T }])
})

test('a sweep stops when its signal aborts', async () => {
  const { beat, presence, told } = newPresence()
  await beat((await addUser()).id, T)
  expect(await presence.sweep(T + 2_000, AbortSignal.abort())).toBe(0)
  expect(told).toHaveLength(1)
})

test('whom nobody may see is not written, and nobody is told', async () => {
  const { beat, presence, redis, told } = newPresence()
  const shy = await addUser({ presenceVisibility: 'nobody' })
  await beat(shy.id, T)
  await beat(shy.id, T + 500)
  await beat(shy.id, T + 5_000)
  await presence.sweep(T + 10_000)
  expect(await keysOf(redis, 'presence:[0-9]*')).toEqual([])
  expect(told).toEqual([])
  expect(await lastSeenOf(shy.id)).toBeNull()
  expect(await presence.ofUsers(shy.id, [shy.id], T + 500)).toEqual([
    { userId: shy.id, isOnline: false, lastSeenAt: null },
  ])
})

test('who hides goes offline, is told about one last time, and is no longer last seen', async () => {
  const { beat, presence, settle, told } = newPresence()
  const ada = await addUser({ lastSeenAt: T - 1 })
  await beat(ada.id, T)
  await presence.setVisibility(ada.id, 'nobody', T + 10)
  await settle()
  await beat(ada.id, T + 20)
  await presence.sweep(T + 10_000)
  expect(told.slice(1)).toEqual([{ userId: ada.id, isOnline: false, at: T + 10, visibility: 'nobody' }])
  expect(await lastSeenOf(ada.id)).toBeNull()

  await presence.setVisibility(ada.id, 'followers', T + 20_000)
  await beat(ada.id, T + 20_001)
  expect(told.at(-1)).toEqual({ userId: ada.id, isOnline: true, at: T + 20_001, visibility: 'followers' })
})

test('hiding holds at once while Redis cannot be told, for readers and listeners', async () => {
  const { beat, presence, settle, told, keyspace, redis } = newPresence()
  const [ada, bob] = [await addUser(), await addUser()]
  await beat(ada.id, T)
  await beat(bob.id, T)
  await presence.leave(bob.id, 'phone', T + 1)
  await settle()
  await keyspace.control.fault({ kind: 'refuse' })
  await presence.setVisibility(ada.id, 'nobody', T + 10)
  await presence.setVisibility(bob.id, 'nobody', T + 10)
  await keyspace.control.clearFaults()
  expect((await redis.zcard(keys.presence(0))) + (await redis.zcard(keys.presence(1)))).toBe(1) // Redis still has Ada
  expect(await presence.ofUsers(undefined, [ada.id], T + 20)).toMatchObject([{ isOnline: false, lastSeenAt: null }])
  expect(await presence.latest(undefined, 10, T + 20)).toEqual([])

  told.length = 0
  await beat(bob.id, T + 20) // Redis believes that everyone may see Bob
  expect(told).toEqual([])
  expect(await redis.zscore(keys.presence(0), bob.id)).toBeNull()
  expect(await redis.zscore(keys.presence(1), bob.id)).toBeNull()
  await presence.sweep(T + 5_000) // listeners had heard that Ada came
  expect(told).toEqual([{ userId: ada.id, isOnline: false, at: T + 5_000, visibility: 'nobody' }])
  expect(await lastSeenOf(ada.id)).toBeNull()
})

test('followers see who is for followers; others, and nobody in particular, do not', async () => {
  const { beat, presence } = newPresence()
  const [ada, fan, stranger] = [await addUser({ presenceVisibility: 'followers' }), await addUser(), await addUser()]
  await addFollow(fan.id, ada.id)
  await addFollow(ada.id, stranger.id) // the other direction counts for nothing
  await beat(ada.id, T)
  const seenBy = async (viewerId: string | undefined) => [
    (await presence.ofUsers(viewerId, [ada.id], T))[0]?.isOnline,
    (await presence.latest(viewerId, 10, T)).length,
  ]
  expect(await seenBy(fan.id)).toEqual([true, 1])
  expect(await seenBy(ada.id)).toEqual([true, 1])
  expect(await seenBy(stranger.id)).toEqual([false, 0])
  expect(await seenBy(undefined)).toEqual([false, 0])
})

test('the list is full even when those seen last are not for everyone', async () => {
  const { beat, presence } = newPresence()
  const open = []
  for (let i = 0; i < 3; i += 1) {
    const user = await addUser()
    open.unshift(user.id)
    await beat(user.id, T + i)
  }
  for (let i = 0; i < 9; i += 1) await beat((await addUser({ presenceVisibility: 'followers' })).id, T + 100 + i)
  expect((await presence.latest(undefined, 3, T + 200)).map(({ userId }) => userId)).toEqual(open)
})

test('500 users are one round trip and one query, in the order asked, without the unknown', async () => {
  const { beat, presence, keyspace } = newPresence()
  const [online, silent, never] = [await addUser(), await addUser({ lastSeenAt: T - 50 }), await addUser()]
  await beat(online.id, T)
  await beat(silent.id, T - 5_000)
  const asked = [never.id, ...Array.from({ length: 497 }, (_, i) => `u_unknown${i}`), silent.id, online.id]
  expect(asked).toHaveLength(500)
  await keyspace.control.reset()
  expect(await presence.ofUsers(undefined, asked, T)).toEqual([
    { userId: never.id, isOnline: false, lastSeenAt: null },
    { userId: silent.id, isOnline: false, lastSeenAt: new Date(T - 50).toISOString() },
    { userId: online.id, isOnline: true, lastSeenAt: new Date(T).toISOString() },
  ])
  expect((await keyspace.control.counts()).requests).toBe(1)
})

test('a flush forgets who is online and nothing else: the next beat joins again', async () => {
  const { beat, presence, redis, told } = newPresence()
  const ada = await addUser()
  await beat(ada.id, T)
  await redis.flushdb()
  expect(await presence.ofUsers(undefined, [ada.id], T + 1)).toMatchObject([{ isOnline: false }])
  await beat(ada.id, T + 2)
  expect(told).toMatchObject([{ at: T }, { at: T + 2 }])
  expect(await presence.ofUsers(undefined, [ada.id], T + 3)).toMatchObject([{ isOnline: true }])
})

test('a beat of an account that is gone leaves nothing', async () => {
  const { beat, redis, told } = newPresence()
  await beat('u_gone', T)
  expect([told, await keysOf(redis, 'presence:[0-9]*')]).toEqual([[], []])
})

test('who is shown again while a beat believes them hidden comes online all the same', async () => {
  const { keyspace, presence, told, settle } = newPresence()
  const ada = await addUser({ presenceVisibility: 'nobody' })
  await keyspace.control.fault({ kind: 'delay', delayMs: 0, times: 1 })
  await keyspace.control.fault({ kind: 'delay', delayMs: 1_000, times: 1, match: 'EVAL' })
  await presence.heartbeat(ada.id, 'phone', T) // now asks D1, then Redis again, which takes its time
  await new Promise((resolve) => setTimeout(resolve, 100))
  await presence.setVisibility(ada.id, 'everyone', T + 1)
  await settle()
  expect(told).toMatchObject([{ isOnline: true, visibility: 'everyone' }])
})
