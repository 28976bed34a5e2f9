import { env } from 'cloudflare:workers'
import { drizzle } from 'drizzle-orm/d1'
import { asc, eq, sql } from 'drizzle-orm'
import { integer, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { beforeAll, expect, test } from 'vitest'
import { keys } from '../../src/keys.ts'
import { createFences } from '../../src/locks/fences.ts'
import { createLocks, type HeldLock, isHeld, LockLost } from '../../src/redis/lock.ts'
import { migrate } from '../edge.ts'
import { newKeyspace } from './setup.ts'

const db = drizzle(env.DB)
const fences = createFences(db)

/** What the holders of locks wrote, in the order D1 took it. */
const journal = sqliteTable('journal', {
  id: integer().primaryKey({ autoIncrement: true }),
  lock: text().notNull(),
  fence: integer().notNull(),
})
const nowhere = sqliteTable('nowhere', { id: integer() })

beforeAll(async () => {
  await migrate()
  await db.run(sql`CREATE TABLE journal (id INTEGER PRIMARY KEY AUTOINCREMENT, lock TEXT, fence INTEGER)`)
})

/** Locks as one more invocation has them. */
const newLocks = (keyspace = newKeyspace(), timeoutMs = 20_000) =>
  createLocks({ redis: keyspace.connect({ timeoutMs }), keys })

/** The same, extending every 50 ms, whatever the TTL: no stall of this machine comes near a TTL of a minute. */
const newEagerLocks = (keyspace: ReturnType<typeof newKeyspace>) =>
  createLocks({ redis: keyspace.connect(), keys, pause: async () => void (await sleep(50)) })

async function mustAcquire(locks: ReturnType<typeof newLocks>, name: string, ttlMs = 10_000, owner?: string) {
  const held = await locks.acquire(name, { ttlMs, ...(owner === undefined ? {} : { owner }) })
  if (!isHeld(held)) throw new Error('another holds it')
  return held
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

const journalOf = async (name: string) =>
  (await db.select().from(journal).where(eq(journal.lock, name)).orderBy(asc(journal.id))).map(({ fence }) => fence)

const write = (name: string, fence: number) =>
  fences.batch({ name, fence }, [db.insert(journal).values({ lock: name, fence })])

test('one owner holds a lock until it is released', async () => {
  const keyspace = newKeyspace()
  const [ada, bob] = [newLocks(keyspace), newLocks(keyspace)]
  const before = Date.now()
  const held = await mustAcquire(ada, 'a')
  expect(held).toMatchObject({ name: 'a', owner: expect.any(String), fence: expect.any(Number) })
  expect(held.expiresAt - before).toBeGreaterThanOrEqual(10_000)
  expect(held.expiresAt).toBeLessThanOrEqual(Date.now() + 10_000)

  const refused = await bob.acquire('a', { ttlMs: 1_000 })
  expect(refused).toEqual({ retryAfterMs: expect.any(Number) })
  expect(refused).not.toHaveProperty('owner')
  expect(isHeld(await bob.acquire('b', { ttlMs: 1_000 }))).toBe(true) // another lock

  expect(await bob.release('a', 'somebody else')).toBe(false)
  expect(await ada.release('a', held.owner)).toBe(true)
  expect(await ada.release('a', held.owner)).toBe(true) // twice is once
  expect((await mustAcquire(bob, 'a')).fence).toBeGreaterThan(held.fence)
})

test('only its owner extends a lock, and not after its end', async () => {
  const keyspace = newKeyspace()
  const redis = keyspace.connect()
  const locks = newLocks(keyspace)
  const held = await mustAcquire(locks, 'a', 60_000)
  expect(await locks.extend('a', 'somebody else', 600_000)).toBeUndefined()
  expect(await redis.pttl(keys.lock('a'))).toBeLessThanOrEqual(60_000)
  const extended = await locks.extend('a', held.owner, 600_000)
  expect(extended).toMatchObject({ owner: held.owner, fence: held.fence })
  expect(extended?.expiresAt).toBeGreaterThan(held.expiresAt)
  expect(await redis.pttl(keys.lock('a'))).toBeGreaterThan(60_000)
  expect(isHeld(await locks.acquire('a', { ttlMs: 1_000 }))).toBe(false)

  await locks.extend('a', held.owner, 1)
  await expect.poll(() => redis.exists(keys.lock('a')), { timeout: 15_000 }).toBe(0)
  expect(await locks.extend('a', held.owner, 60_000)).toBeUndefined()
})

test('the same owner acquires the same lock again', async () => {
  const locks = newLocks()
  const first = await mustAcquire(locks, 'a', 10_000, 'the same owner')
  const again = await mustAcquire(locks, 'a', 10_000, 'the same owner')
  expect(again.fence).toBe(first.fence)
})

test.each(['cut', 'cut-mid'] as const)('a lost reply (%s) does not lock out its own caller', async (kind) => {
  const keyspace = newKeyspace()
  await keyspace.control.fault({ kind, times: 1 })
  const held = await mustAcquire(newLocks(keyspace), 'a')
  await keyspace.control.fault({ kind, times: 1 })
  expect(await newLocks(keyspace).extend('a', held.owner, 10_000)).toMatchObject({ fence: held.fence })
  await keyspace.control.fault({ kind, times: 1 })
  expect(await newLocks(keyspace).release('a', held.owner)).toBe(true)
  expect(await keyspace.connect().exists(keys.lock('a'))).toBe(0)
})

test('a waiting caller survives lost replies; one that gives up leaves nothing locked', async () => {
  const keyspace = newKeyspace()
  await keyspace.control.fault({ kind: 'cut', times: 5 })
  expect(isHeld(await newLocks(keyspace).acquire('a', { ttlMs: 10_000, waitMs: 10_000 }))).toBe(true)

  await keyspace.control.fault({ kind: 'cut', times: 2 }) // the attempt and its repetition
  await expect(newLocks(keyspace).acquire('b', { ttlMs: 10_000 })).rejects.toThrow('Redis did not answer')
  expect(await keyspace.connect().exists(keys.lock('b'))).toBe(0)
})

test('fences increase with every holder, even after a flush', async () => {
  const keyspace = newKeyspace()
  const redis = keyspace.connect()
  const locks = newLocks(keyspace)
  const seen: number[] = []
  for (let i = 0; i < 20; i += 1) {
    const held = await mustAcquire(locks, 'a')
    seen.push(held.fence)
    await locks.release('a', held.owner)
    if (i % 5 === 4) {
      await redis.flushdb()
      await sleep(2) // the clock of the embedded engine has milliseconds
    }
  }
  expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b))

  // A clock that was set back does not take the fence with it, while the last one is remembered.
  const ahead = (Date.now() + 3_600_000) * 1_000
  await redis.set(keys.fence('a'), String(ahead))
  expect((await mustAcquire(locks, 'a')).fence).toBe(ahead + 1)
  expect(await redis.pttl(keys.fence('a'))).toBeGreaterThan(86_400_000)
})

test('waiting uses random pauses up to a doubling bound, and ends at the deadline', async () => {
  const keyspace = newKeyspace()
  await mustAcquire(newLocks(keyspace), 'a')
  await keyspace.control.reset()
  let clock = 1_000
  const pauses: number[] = []
  const waiting = (share: number, waitMs: number) => {
    pauses.length = 0
    return createLocks({
      redis: keyspace.connect(),
      keys,
      now: () => clock,
      random: () => share,
      pause: async (ms) => {
        pauses.push(ms)
        clock += ms
      },
    }).acquire('a', { ttlMs: 1_000, waitMs })
  }
  expect(isHeld(await waiting(1, 400))).toBe(false)
  expect(pauses).toEqual([25, 50, 100, 200, 25]) // the last is what was left
  expect((await keyspace.control.counts()).requests).toBe(6)

  await waiting(0.5, 10_000)
  expect(pauses.slice(0, 8)).toEqual([12.5, 25, 50, 100, 200, 400, 500, 500]) // a share of the bound, which is capped
  expect(pauses.reduce((sum, ms) => sum + ms)).toBe(10_000)
})

test('a waiting caller gets the lock when it is released', async () => {
  const keyspace = newKeyspace()
  const locks = newLocks(keyspace)
  const held = await mustAcquire(locks, 'a')
  const waiting = newLocks(keyspace).acquire('a', { ttlMs: 1_000, waitMs: 10_000 })
  await sleep(60)
  await locks.release('a', held.owner)
  expect(isHeld(await waiting)).toBe(true)
})

test('acquire, extend and release are one round trip each', async () => {
  const keyspace = newKeyspace()
  const locks = newLocks(keyspace)
  const held = await mustAcquire(locks, 'a')
  await locks.extend('a', held.owner, 1_000)
  await locks.release('a', held.owner)
  expect(await keyspace.control.counts()).toMatchObject({ requests: 3, commands: 3 })
})

test('withLock runs the work under the lock, extends the lock meanwhile, and releases it', async () => {
  const keyspace = newKeyspace()
  const redis = keyspace.connect()
  const other = newLocks(keyspace)
  const result = await newEagerLocks(keyspace).withLock('a', { ttlMs: 60_000 }, async (signal, fence) => {
    expect(isHeld(await other.acquire('a', { ttlMs: 1_000 }))).toBe(false)
    expect(await other.withLock('a', { ttlMs: 1_000 }, async () => 'not run')).toBeUndefined()
    for (let i = 0; i < 2; i += 1) {
      await redis.pexpire(keys.lock('a'), 30_000) // as if half of it had passed
      await expect.poll(() => redis.pttl(keys.lock('a')), { timeout: 15_000 }).toBeGreaterThan(40_000)
    }
    expect(signal.aborted).toBe(false)
    return fence
  })
  expect(result).toBeGreaterThan(0)
  expect(isHeld(await other.acquire('a', { ttlMs: 1_000 }))).toBe(true)
}, 20_000)

test('withLock releases the lock when the work fails, and throws the error of the work', async () => {
  const keyspace = newKeyspace()
  const failing = newLocks(keyspace).withLock('a', { ttlMs: 10_000 }, () => Promise.reject(new Error('of the work')))
  await expect(failing).rejects.toThrow('of the work')
  expect(isHeld(await newLocks(keyspace).acquire('a', { ttlMs: 1_000 }))).toBe(true)
})

test('withLock aborts its work when the lock is taken away, and leaves the new holder alone', async () => {
  const keyspace = newKeyspace()
  const redis = keyspace.connect()
  const other = newLocks(keyspace)
  let usurper: HeldLock | undefined
  // An extension finds it out, not the end of the hold: that is a minute away.
  const working = newEagerLocks(keyspace).withLock('a', { ttlMs: 60_000 }, async (signal) => {
    const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve))
    await redis.del(keys.lock('a'))
    usurper = await mustAcquire(other, 'a', 60_000)
    await aborted
    return 'takes no notice'
  })
  await expect(working).rejects.toThrow(LockLost)
  expect(await other.extend('a', usurper?.owner ?? '', 60_000)).toMatchObject({ fence: usurper?.fence })
}, 20_000)

test.each(['refuse', 'hang', 'delay-after'] as const)(
  'withLock aborts its work before another can hold the lock, when Redis does "%s"',
  async (kind) => {
    const keyspace = newKeyspace()
    await keyspace.connect().ping() // the first command of a keyspace may take longer than we wait below
    const working = newLocks(keyspace, 2_000).withLock('a', { ttlMs: 4_000 }, async (signal) => {
      // Before the first extension. One that was executed and not heard of only makes the hold longer.
      await keyspace.control.fault({ kind })
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      const abortedAt = Date.now()
      await keyspace.control.clearFaults()
      await mustAcquireSoon(keyspace, 'a')
      expect(Date.now()).toBeGreaterThanOrEqual(abortedAt)
      signal.throwIfAborted()
    })
    await expect(working).rejects.toThrow(LockLost)
  },
  30_000,
)

async function mustAcquireSoon(keyspace: ReturnType<typeof newKeyspace>, name: string) {
  const held = await newLocks(keyspace).acquire(name, { ttlMs: 10_000, waitMs: 5_000 })
  if (!isHeld(held)) throw new Error('still held')
}

test('a short outage that an extension survives does not end the work', async () => {
  const keyspace = newKeyspace()
  const redis = keyspace.connect()
  const result = await newEagerLocks(keyspace).withLock('a', { ttlMs: 60_000 }, async (signal) => {
    await redis.pexpire(keys.lock('a'), 30_000)
    await keyspace.control.fault({ kind: 'refuse', times: 4, match: 'EVAL' }) // two extensions and their repetitions
    await expect.poll(() => redis.pttl(keys.lock('a')), { timeout: 15_000 }).toBeGreaterThan(40_000)
    return signal.aborted
  })
  expect(result).toBe(false)
}, 20_000)

test('D1 accepts writes of the current holder, and none of a holder before the last writer', async () => {
  const name = crypto.randomUUID()
  await write(name, 7)
  await write(name, 7) // the same holder again
  await write(name, 9)
  await expect(write(name, 8)).rejects.toMatchObject({ type: 'lock-lost' })
  expect(await journalOf(name)).toEqual([7, 7, 9])
  await write(crypto.randomUUID(), 1) // another lock

  // What fails for another reason says so, and does not raise the fence.
  const broken = fences.batch({ name, fence: 10 }, [db.insert(nowhere).values({ id: 1 })])
  await expect(broken).rejects.not.toMatchObject({ type: 'lock-lost' })
  await write(name, 9)
})

test('a fenced batch returns the results of its statements', async () => {
  const [first, second] = await fences.batch({ name: crypto.randomUUID(), fence: 1 }, [
    db.insert(journal).values({ lock: 'a', fence: 1 }).returning({ lock: journal.lock }),
    db.insert(journal).values({ lock: 'b', fence: 1 }).returning({ fence: journal.fence }),
  ])
  expect([first, second]).toEqual([[{ lock: 'a' }], [{ fence: 1 }]])
})

test('an expired holder that continues writes nothing after the next holder has written', async () => {
  const keyspace = newKeyspace()
  const name = crypto.randomUUID()
  const slow = await mustAcquire(newLocks(keyspace), name, 50)
  await sleep(80)
  const next = await mustAcquire(newLocks(keyspace), name)
  await write(name, next.fence)
  await expect(write(name, slow.fence)).rejects.toMatchObject({ type: 'lock-lost' })
  expect(await journalOf(name)).toEqual([next.fence])
})

test('50 contenders, lost replies, holds that expire during work: never two holders with a valid fence', async () => {
  const keyspace = newKeyspace()
  const name = crypto.randomUUID()
  for (const kind of ['cut', 'refuse', 'cut-mid'] as const) await keyspace.control.fault({ kind, times: 4 })
  const fencesHeld: number[] = []
  // Of those that hold it for longer than they work. Not by the clock: in workerd it stands still within an event.
  let inside = 0
  let most = 0
  const refusals: unknown[] = []

  async function contend(i: number): Promise<void> {
    const locks = newLocks(keyspace)
    const isShort = i % 5 === 0
    const held = await locks.acquire(name, { ttlMs: isShort ? 40 : 20_000, waitMs: 60_000 })
    if (!isHeld(held)) throw new Error('waited in vain')
    fencesHeld.push(held.fence)
    if (!isShort) most = Math.max(most, ++inside)
    for (let n = 0; n < 2; n += 1) {
      if (isShort) await sleep(60) // longer than it holds the lock
      await write(name, held.fence).catch((error: unknown) => refusals.push(error))
    }
    if (!isShort) inside -= 1
    await locks.release(name, held.owner)
  }
  await Promise.all(Array.from({ length: 50 }, (_, i) => contend(i)))

  expect(new Set(fencesHeld).size).toBe(50) // no two were given the same
  expect(most).toBe(1)
  const written = await journalOf(name)
  expect(written).toEqual([...written].sort((a, b) => a - b)) // once the next has written, no one before it does
  expect(refusals).toEqual(refusals.map(() => expect.objectContaining({ type: 'lock-lost' })))
  expect(written.length + refusals.length).toBe(100)
  expect(written.length).toBeGreaterThanOrEqual(80)
}, 60_000)
