import { describe, expect, test, vi } from 'vitest'
import { keys } from '../../src/keys.ts'
import {
  type Counter,
  createCounters,
  type LikeState,
  type LoadedLike,
  type LoadStates,
} from '../../src/redis/counter.ts'
import { newMeter } from '../../src/redis/client.ts'
import { keysOf, newDeferral, newKeyspace } from './setup.ts'

const TTL_MS = 60_000

/** The source of truth: like states as D1 keeps them, and what is queued for it. */
function newSource() {
  const rows = new Map<string, LikeState>()
  let revision = 0
  const rowOf = (userId: string) => rows.get(userId) ?? { isLiked: false, changedAt: 0, stateSince: null }
  const statesOf = (userId: string, post: string) => {
    const row = rows.get(userId)
    return new Map<string, LikeState>(row ? [[post, row]] : [])
  }
  const counted = () => ({
    count: [...rows.values()].filter(({ isLiked }) => isLiked).length,
    changedAt: Math.max(0, ...[...rows.values()].map((row) => row.changedAt)),
    revision,
  })
  return {
    rowOf,
    counted,
    /** What `userId` has said of `post`, which is all that they ever said. */
    states: (userId: string, post: string): LoadStates => ({
      of: async () => statesOf(userId, post),
      newest: async () => ({ states: statesOf(userId, post), from: 'p_' }),
    }),
    load: (userId: string) => async (): Promise<LoadedLike | null> => ({ ...counted(), state: rowOf(userId) }),
    write(userId: string, state: LikeState): void {
      revision += 1
      if (state.changedAt > rowOf(userId).changedAt) rows.set(userId, state)
    },
  }
}

function newWorld(keyspace = newKeyspace()) {
  const redis = keyspace.connect({ timeoutMs: 5_000 }) // workerd keeps at most 10 000 timeouts
  const deferral = newDeferral()
  const deferred = () => deferral.settle()
  const counters = createCounters(redis, keys, TTL_MS, deferral.defer)
  const source = newSource()
  const post = `p_${crypto.randomUUID()}`
  const queue: { userId: string; state: LikeState }[] = []
  return {
    keyspace,
    redis,
    counters,
    source,
    post,
    queue,
    deferred,
    async like(userId: string, isLiked: boolean): Promise<number> {
      const counted = await counters.like(post, userId, isLiked, source.load(userId))
      if (!counted) throw new Error('the source knows the post')
      const { count, changedAt, stateSince } = counted
      queue.push({ userId, state: { isLiked, changedAt, stateSince } })
      return count
    },
    /** Delivers the queue, the latest first. */
    async deliver(): Promise<void> {
      for (const { userId, state } of queue.splice(0).toReversed()) {
        source.write(userId, state)
        await counters.settle(
          [{ counter: 'likes', contentId: post, ...source.counted() }],
          [{ contentId: post, userId, ...state, state: source.rowOf(userId) }],
        )
      }
    },
    async read(): Promise<number> {
      const load = async () => new Map([[post, { likes: source.counted().count, ...source.counted() }]])
      const [[likes] = []] = await counters.read(['likes'], [post], load)
      await deferred()
      return likes ?? NaN
    },
    async isLikedBy(userId: string): Promise<boolean> {
      const [state] = await counters.states(userId, [post], source.states(userId, post))
      await deferred()
      return state?.isLiked ?? false
    },
  }
}

/** Every subset of `items`. */
const subsetsOf = <T>(items: readonly T[]): T[][] =>
  Array.from({ length: 2 ** items.length }, (_, bits) => items.filter((_item, i) => (bits >> i) & 1))

const ADA = 'u_ada'
const BOB = 'u_bob'

describe('likes, whatever Redis evicts', () => {
  const places = (post: string) => ({
    count: keys.count('likes', post),
    tally: keys.tally('likes', post),
    ada: keys.likedBy(ADA),
    bob: keys.likedBy(BOB),
    unwritten: keys.likesUnwritten,
  })
  const names = ['count', 'tally', 'ada', 'bob', 'unwritten'] as const
  const acts = [ADA, BOB].flatMap((userId) => [true, false].map((isLiked) => ({ userId, isLiked })))

  const last = [
    { userId: BOB, isLiked: true },
    { userId: ADA, isLiked: false },
  ]
  test.each(acts.flatMap((first, i) => [[first, last[i % 2] ?? first] as const]))(
    'ada and bob like a post, keys are evicted, then %o and %o',
    async (...later) => {
      const keyspace = newKeyspace()
      for (const evicted of subsetsOf(names)) {
        for (const { isDelivered, isRead } of [false, true].flatMap((isDelivered) => [
          { isDelivered, isRead: false },
          { isDelivered, isRead: true },
        ])) {
          const world = newWorld(keyspace)
          await world.redis.flushdb()
          const liked = new Set([ADA, BOB])
          await world.like(ADA, true)
          await world.like(BOB, true)
          if (isDelivered) await world.deliver()
          const doomed = evicted.map((name) => places(world.post)[name])
          if (doomed.length > 0) await world.redis.del(...doomed)

          // Exact unless both copies of the count are lost, or both of a state, while the source lacks the likes.
          const lost = new Set<string>(evicted)
          const isCountLost = lost.has('count') && lost.has('tally')
          const isStateLost = lost.has('unwritten') && (lost.has('ada') || lost.has('bob'))
          const isExact = isDelivered || !(isCountLost || isStateLost)
          // Loads their states, and stores them.
          for (const user of isRead ? [ADA, BOB] : []) {
            const isLiked = await world.isLikedBy(user)
            if (!isStateLost || isDelivered)
              expect([evicted, isDelivered, isLiked]).toEqual([evicted, isDelivered, true])
          }
          for (const { userId, isLiked } of later) {
            const count = await world.like(userId, isLiked)
            liked[isLiked ? 'add' : 'delete'](userId)
            if (isExact) expect([evicted, isDelivered, count]).toEqual([evicted, isDelivered, liked.size])
            else expect(count).toBeGreaterThanOrEqual(0)
            if (isExact) expect([evicted, await world.read()]).toEqual([evicted, liked.size])
          }
          await world.deliver()
          expect([evicted, isDelivered, await world.read()]).toEqual([evicted, isDelivered, liked.size])
          expect(world.source.counted().count).toBe(liked.size)
          for (const user of [ADA, BOB]) expect(await world.isLikedBy(user)).toBe(liked.has(user))
          if (!lost.has('unwritten')) expect(await world.counters.unwrittenLikes(10)).toEqual([])
        }
      }
    },
    60_000,
  )

  test('a like, an evicted count and an unlike are 0', async () => {
    const world = newWorld()
    expect(await world.like(ADA, true)).toBe(1)
    await world.redis.del(keys.count('likes', world.post))
    expect(await world.read()).toBe(1)
    expect(await world.like(ADA, false)).toBe(0)
  })
})

test('a like is one round trip, and one that changes nothing counts once', async () => {
  const keyspace = newKeyspace()
  const meter = newMeter()
  const counters = createCounters(keyspace.connect({}, undefined, meter), keys, TTL_MS, () => {})
  const load = newSource().load(ADA)
  await counters.like('p_1', ADA, true, load)
  const before = { ...meter }
  for (let i = 0; i < 3; i += 1) expect(await counters.like('p_1', ADA, true, load)).toMatchObject({ count: 1 })
  expect(meter.roundTrips - before.roundTrips).toBe(3)
  expect(meter.billed - before.billed).toBe(3 * 8) // the script, one MGET and six commands in it
})

test('a state that replaces another is newer, whatever the clock of this isolate says', async () => {
  const world = newWorld()
  for (const isLiked of [true, false, true, false]) await world.like(ADA, isLiked)
  const times = world.queue.map(({ state }) => state.changedAt)
  expect(times).toEqual(times.toSorted((a, b) => a - b))
  expect(new Set(times).size).toBe(4)
})

test('a like whose reply was lost is unwritten until the source has it', async () => {
  const world = newWorld()
  await world.keyspace.control.fault({ kind: 'cut', match: 'EVAL', times: 2 })
  await expect(world.like(ADA, true)).rejects.toThrow('Redis did not answer') // it was to be loaded first: nothing is counted
  expect(await world.counters.unwrittenLikes(10)).toEqual([])
  await world.like(BOB, true)
  await world.isLikedBy(ADA)
  await world.keyspace.control.fault({ kind: 'cut', match: 'EVAL', times: 2 })
  await expect(world.like(ADA, true)).rejects.toThrow('Redis did not answer') // counted
  expect(await world.read()).toBe(2)
  expect(await world.counters.unwrittenLikes(10)).toEqual([
    { contentId: world.post, userId: BOB, isLiked: true, changedAt: expect.any(Number) },
    { contentId: world.post, userId: ADA, isLiked: true, changedAt: expect.any(Number) },
  ])
})

test('a like whose reply was lost is unwritten again as it is now, or its counts are loaded', async () => {
  const world = newWorld()
  const { counters, post, redis } = world
  await world.like(ADA, true)
  await world.like(ADA, true)
  const [said] = await counters.unwrittenLikes(10)
  const lost = { contentId: post, userId: ADA, isLiked: true }
  for (const isLost of [false, true]) {
    if (isLost) await redis.del(keys.likesUnwritten)
    await counters.recover([lost, { ...lost, userId: BOB, isLiked: false }])
    expect(await counters.unwrittenLikes(10)).toEqual([said])
  }
  expect(await world.read()).toBe(0) // as the source has it: bob's unlike may have been counted
})

describe('the states of a user', () => {
  const NOT_LIKED = { isLiked: false, changedAt: 0, stateSince: null }
  const never: LoadStates = {
    of: async () => expect.fail('no state is loaded'),
    newest: async () => expect.fail('no state is loaded'),
  }

  test.each([[[]], [['unwritten']]])(
    'that are loaded before the source has a like, and stored after it confirmed the like, have the like; evicted: %o',
    async (evicted) => {
      const world = newWorld()
      await world.like(ADA, true)
      await world.redis.del(keys.likedBy(ADA), ...evicted.map(() => keys.likesUnwritten))
      let loads = 0
      await world.counters.states(ADA, [world.post], {
        ...never,
        newest: async () => {
          loads += 1
          await world.deliver() // the source has it now, and this load does not
          return { states: new Map(), from: 'p_' }
        },
      })
      await world.deferred()
      expect([loads, await world.isLikedBy(ADA)]).toEqual([1, true])
    },
  )

  test('are loaded once: what is not among them was never liked', async () => {
    const { counters, source, deferred, redis } = newWorld()
    source.write(ADA, { isLiked: true, changedAt: 5, stateSince: 4 })
    expect(await counters.states(ADA, ['p_1', 'p_2'], source.states(ADA, 'p_2'))).toEqual([
      NOT_LIKED,
      { isLiked: true, changedAt: 5, stateSince: 4 },
    ])
    await deferred()
    expect(await redis.hgetall(keys.likedBy(ADA))).toEqual({ ':from': 'p_', p_2: '1:4:5' })
    const [first, second, third] = await counters.states(ADA, ['p_1', 'p_2', 'p_3'], never)
    expect([first?.isLiked, second?.isLiked, third?.isLiked]).toEqual([false, true, false])
    // Of a post that they never liked, a like needs no state from the source.
    await counters.read(['likes'], ['p_3'], async () => new Map([['p_3', { likes: 7, changedAt: 0, revision: 0 }]]))
    await deferred()
    const loads = async () => expect.fail('nothing is loaded')
    expect(await counters.like('p_3', ADA, true, loads)).toMatchObject({ count: 8 })
    expect(await counters.like('p_3', ADA, true, loads)).toMatchObject({ count: 8 })
  })

  test('older than the newest are loaded each time, and never taken for none', async () => {
    const { counters, deferred, redis } = newWorld()
    const liked = { isLiked: true, changedAt: 5, stateSince: null }
    const asked: string[][] = []
    const load: LoadStates = {
      newest: async () => ({ from: 'p_5', states: new Map(['p_2', 'p_5', 'p_7'].map((id) => [id, liked])) }),
      of: async (ids) => {
        asked.push(ids)
        return new Map([['p_2', liked]])
      },
    }
    const areLiked = async (of: LoadStates) => {
      const states = await counters.states(ADA, ['p_2', 'p_3', 'p_5', 'p_6', 'p_7', 'c_9'], of)
      await deferred()
      return states.map(({ isLiked }) => isLiked)
    }
    for (let i = 0; i < 3; i += 1) expect(await areLiked(load)).toEqual([true, false, true, false, true, false])
    expect(asked).toEqual([
      ['p_2', 'p_3', 'c_9'],
      ['p_2', 'p_3', 'c_9'],
    ])
    expect(await redis.hkeys(keys.likedBy(ADA))).toEqual([':from', 'p_5', 'p_7'])
    const source = { count: 7, changedAt: 5, revision: 1, state: liked }
    await counters.read(['likes'], ['p_2'], async () => new Map([['p_2', { ...source, likes: 7 }]]))
    await deferred()
    expect(await counters.like('p_2', ADA, true, async () => source)).toMatchObject({ count: 7 })
  })

  test('that changed while they were loaded stay, and an older unwritten like changes none', async () => {
    const world = newWorld()
    const { counters, source, post, redis } = world
    source.write(ADA, { isLiked: false, changedAt: 5, stateSince: null })
    const { of, newest } = source.states(ADA, post)
    const late = async (ids: string[]) => {
      const loaded = await newest(ids)
      await world.like(ADA, true)
      return loaded
    }
    await counters.states(ADA, [post], { of, newest: late })
    await world.deferred()
    expect(await world.isLikedBy(ADA)).toBe(true)

    await redis.flushdb()
    await redis.zadd(keys.likesUnwritten, { score: 4, member: `${post}:${ADA}:1` })
    expect([await world.isLikedBy(ADA), await world.isLikedBy(ADA)]).toEqual([false, false])
  })

  test('get a like that Redis had lost when they were stored', async () => {
    const world = newWorld()
    await world.like(ADA, true)
    await world.redis.flushdb()
    expect(await world.isLikedBy(ADA)).toBe(false) // it is in the queue only
    await world.deliver()
    expect(await world.isLikedBy(ADA)).toBe(true)
    await world.like(ADA, false)
    await world.deliver()
    expect(await world.isLikedBy(ADA)).toBe(false)
  })

  test('are not stored while too many likes are unwritten, and have the newer of two', async () => {
    const world = newWorld()
    await world.like(ADA, true)
    await world.deliver()
    await world.like(ADA, false)
    const [first, ...others] = Array.from({ length: 5_000 }, (_, i) => ({ score: i + 1, member: `p_${i}:${BOB}:1` }))
    if (first) await world.redis.zadd(keys.likesUnwritten, first, ...others)
    await world.redis.del(keys.likedBy(ADA))
    expect([world.source.rowOf(ADA).isLiked, await world.isLikedBy(ADA)]).toEqual([true, false])
    expect(await world.redis.exists(keys.likedBy(ADA))).toBe(0)
    await world.redis.zrem(keys.likesUnwritten, `p_0:${BOB}:1`)
    expect(await world.isLikedBy(ADA)).toBe(false)
    expect(await world.redis.hget(keys.likedBy(ADA), world.post)).toMatch(/^0:/)
  })
})

test('a batch of likes is settled by one script', async () => {
  const keyspace = newKeyspace()
  const meter = newMeter()
  const counters = createCounters(keyspace.connect({}, undefined, meter), keys, TTL_MS, () => {})
  const source = newSource()
  const likes = []
  for (let i = 0; i < 20; i += 1) {
    const liked = await counters.like(`p_${i}`, ADA, true, source.load(ADA))
    if (!liked) throw new Error('the source knows the post')
    const state = { isLiked: true, ...liked }
    likes.push({ contentId: `p_${i}`, userId: ADA, ...state, state })
  }
  const before = { ...meter }
  await counters.settle(
    likes.map(({ contentId, changedAt }) => ({
      counter: 'likes' as const,
      contentId,
      count: 1,
      revision: 1,
      changedAt,
    })),
    likes,
  )
  expect([meter.roundTrips - before.roundTrips, meter.commands - before.commands]).toEqual([1, 1])
  expect(await counters.unwrittenLikes(100)).toEqual([])
})

test('a like that is repeated while the source writes it stays unwritten', async () => {
  const world = newWorld()
  await world.like(ADA, true)
  const [first] = world.queue.splice(0)
  await world.like(ADA, true)
  if (first) world.queue.unshift(first)
  const later = world.queue.pop()
  await world.deliver()
  expect(await world.counters.unwrittenLikes(10)).toHaveLength(1)
  if (later) world.queue.push(later)
  await world.deliver()
  expect(await world.counters.unwrittenLikes(10)).toEqual([])
})

/** What may happen while a value is being loaded: each makes the loaded value old, or unwanted. */
const interruptions: [string, (world: ReturnType<typeof newWorld>) => Promise<unknown>][] = [
  ['a like and a flush', async (world) => (await world.like(ADA, true), await world.deliver(), world.redis.flushdb())],
  [
    'a like and an eviction',
    async (world) => {
      await world.like(ADA, true)
      await world.deliver()
      await world.redis.del(keys.count('likes', world.post), keys.tally('likes', world.post), keys.likedBy(ADA))
    },
  ],
  ['a like', async (world) => (await world.like(ADA, true), world.deliver())],
]

test.each(interruptions)('a fill during which there is %s stores nothing old', async (_, interrupt) => {
  const world = newWorld()
  const { counters, post, source } = world
  let loads = 0
  // The first load is for the answer, the second for the fill.
  const interrupted = async () => {
    loads += 1
    const loaded = new Map([[post, { likes: source.counted().count, ...source.counted() }]])
    if (loads === 2) await interrupt(world)
    return loaded
  }
  await counters.read(['likes'], [post], interrupted)
  await world.deferred()
  expect(loads).toBe(2)
  expect(await world.read()).toBe(1)

  const second = newWorld()
  let stateLoads = 0
  const { of, newest } = second.source.states(ADA, second.post)
  const interruptedNewest = async (ids: string[]) => {
    stateLoads += 1
    const loaded = await newest(ids)
    await interrupt(second)
    return loaded
  }
  await second.counters.states(ADA, [second.post], { of, newest: interruptedNewest })
  await second.deferred()
  expect(stateLoads).toBe(1)
  expect(await second.isLikedBy(ADA)).toBe(true)
})

test('a load that a deletion overtakes leaves nothing in Redis, for a like, a view and a read', async () => {
  const { counters, redis, post, deferred } = newWorld()
  const evict = () => counters.evict(['likes', 'comments', 'views'], [post])
  let isThere = true
  const loadOnce = <T>(value: T) => {
    isThere = true
    return async (): Promise<T | null> => {
      const loaded = isThere ? value : null
      isThere = false
      await evict()
      return loaded
    }
  }
  const state = { isLiked: false, changedAt: 0, stateSince: null }
  const authors = 'u_cleo'
  const like = { state, count: 5, changedAt: 1, revision: 1, authors }
  expect(await counters.like(post, ADA, true, loadOnce(like))).toBeNull()
  expect(await counters.view(post, ADA, loadOnce({ views: 5, authors }))).toBeNull()
  const loadCounts = async () => {
    const loaded = new Map([[post, { likes: 5, comments: 4, views: 3, changedAt: 1, revision: 1, authors }]])
    await evict()
    return loaded
  }
  expect(await counters.read(['likes', 'comments', 'views'], [post], loadCounts)).toEqual([[5, 4, 3]])
  await deferred()
  await counters.settle([{ counter: 'likes', contentId: post, count: 5, revision: 1, changedAt: 1 }])
  expect(await keysOf(redis)).toEqual([])
})

test('settlements are taken in the order of their revisions, and never from before a load', async () => {
  const { counters, post, deferred, redis } = newWorld()
  const settle = (count: number, revision: number) =>
    counters.settle([{ counter: 'comments', contentId: post, count, revision, changedAt: 0 }])
  const read = async (count: number, revision: number) => {
    const load = async () => new Map([[post, { comments: count, changedAt: 0, revision }]])
    const [[comments] = []] = await counters.read(['comments'], [post], load)
    await deferred()
    return comments
  }
  expect(await read(6, 6)).toBe(6)
  await settle(5, 5)
  expect(await read(0, 0)).toBe(6)
  await settle(8, 8)
  await settle(7, 7)
  expect(await read(0, 0)).toBe(8)
  await redis.del(keys.tally('comments', post)) // with it goes what a settlement is compared with
  await settle(7, 7)
  expect(await read(9, 9)).toBe(9)
})

test('only counts that Redis contradicts differ', async () => {
  const { counters, post, deferred } = newWorld()
  const settlement = { counter: 'comments', contentId: post, count: 6, revision: 6, changedAt: 0 } as const
  expect(await counters.differing([settlement])).toEqual([]) // nothing is there to contradict
  await counters.read(['comments'], [post], async () => new Map([[post, { comments: 5, changedAt: 0, revision: 5 }]]))
  await deferred()
  expect(await counters.differing([settlement, { ...settlement, count: 5 }])).toEqual([settlement])
})

test('a count of comments is that of the source, whatever Redis evicts', async () => {
  const keyspace = newKeyspace()
  for (const evicted of subsetsOf(['count', 'tally'] as const)) {
    for (const isEvictedFirst of [true, false]) {
      const { counters, redis, post, deferred } = newWorld(keyspace)
      let atSource = 5
      const load = async () => new Map([[post, { comments: atSource, changedAt: 0, revision: atSource }]])
      const readCount = async () => {
        const counts = await counters.read(['comments'], [post], load)
        await deferred()
        return counts
      }
      const settle = (count: number) =>
        counters.settle([{ counter: 'comments', contentId: post, count, revision: count, changedAt: 0 }])
      const evict = async () => {
        for (const name of evicted) await redis.del(keys[name]('comments', post))
      }
      expect(await readCount()).toEqual([[5]])
      atSource = 6
      if (isEvictedFirst) await evict()
      await settle(6)
      if (!isEvictedFirst) await evict()
      expect([evicted, await readCount()]).toEqual([evicted, [[6]]])
      await settle(5) // a late one
      await evict()
      expect([evicted, await readCount(), await readCount()]).toEqual([evicted, [[6]], [[6]]])
    }
  }
})

describe('views, whatever Redis evicts', () => {
  const names = ['count', 'tally', 'viewers', 'unwritten'] as const

  test('six viewers, an eviction and one more viewer are seven, unless all is lost', async () => {
    const keyspace = newKeyspace()
    for (const evicted of subsetsOf(names)) {
      for (const isWritten of [false, true]) {
        const { counters, redis, post, deferred } = newWorld(keyspace)
        await redis.flushdb()
        const places = {
          count: keys.count('views', post),
          tally: keys.tally('views', post),
          viewers: keys.viewers(post),
          unwritten: keys.viewsUnwritten,
        }
        let atSource = 10
        const load = async () => ({ views: atSource })
        for (let i = 0; i < 6; i += 1) expect(await counters.view(post, `u_${i}`, load)).toBe(11 + i)
        const unwritten = await counters.unwrittenViews(10)
        expect(unwritten).toEqual(new Map([[post, 16]]))
        if (isWritten) {
          atSource = 16
          expect(await counters.confirmViews(unwritten)).toBe(1)
          expect(await counters.unwrittenViews(10)).toEqual(new Map())
        }
        const doomed = evicted.map((name) => places[name])
        if (doomed.length > 0) await redis.del(...doomed)

        const lost = new Set<string>(evicted)
        const isLost = !isWritten && lost.has('count') && lost.has('tally') && lost.has('unwritten')
        const loaded = async () => new Map([[post, { views: atSource, changedAt: 0, revision: 0 }]])
        const expected = isLost ? 11 : 17
        expect([evicted, isWritten, await counters.view(post, 'u_new', load)]).toEqual([evicted, isWritten, expected])
        expect(await counters.read(['views'], [post], loaded)).toEqual([[expected]])
        await deferred()
        // One who has viewed it before counts once more where the viewers are lost, and then no more.
        const again = await counters.view(post, 'u_0', load)
        expect(again).toBe(lost.has('viewers') ? expected + 1 : expected)
        expect(await counters.view(post, 'u_0', load)).toBe(again)
      }
    }
  })

  test('the source gets every count of which Redis has kept a copy', async () => {
    const keyspace = newKeyspace()
    for (const evicted of subsetsOf(names)) {
      for (const isWritten of [false, true]) {
        const { counters, redis, post } = newWorld(keyspace)
        await redis.flushdb()
        for (let i = 0; i < 6; i += 1) await counters.view(post, `u_${i}`, async () => ({ views: 10 }))
        if (isWritten) await counters.confirmViews(await counters.unwrittenViews(10))
        const places = [keys.count('views', post), keys.tally('views', post), keys.viewers(post), keys.viewsUnwritten]
        const doomed = names.flatMap((name, i) => (evicted.includes(name) ? (places[i] ?? []) : []))
        if (doomed.length > 0) await redis.del(...doomed)
        const load = async () => new Map([[post, isWritten ? 16 : 10]])
        expect(await counters.restoreUnwrittenViews(load, 10)).toBe(true)
        const isLost = ['count', 'tally', 'unwritten'].every((name) => (evicted as string[]).includes(name))
        const expected = isWritten || isLost ? [] : [[post, 16]]
        expect([evicted, isWritten, [...(await counters.unwrittenViews(10))]]).toEqual([evicted, isWritten, expected])
        expect(await counters.unwritten('views')).toBe(expected.length)
      }
    }
  })

  test('the list of unwritten views is restored in steps, and from the start if it is evicted again', async () => {
    const { counters, redis } = newWorld()
    const ids = Array.from({ length: 3_000 }, (_, i) => `p_${i}`)
    await redis.mset(Object.fromEntries(ids.map((id) => [keys.count('views', id), 2])))
    const load = async (asked: string[]) => new Map(asked.map((id) => [id, id.endsWith('7') ? 2 : 1]))
    const expected = new Map(ids.filter((id) => !id.endsWith('7')).map((id) => [id, 2]))
    expect(await counters.restoreUnwrittenViews(load, 1)).toBe(false)
    const first = await counters.unwritten('views')
    expect(first).toBeGreaterThan(0)
    expect(first).toBeLessThan(expected.size)
    await redis.del(keys.viewsUnwritten)
    for (let runs = 1; !(await counters.restoreUnwrittenViews(load, 1)); runs += 1) expect(runs).toBeLessThan(10)
    expect(await counters.unwrittenViews(5_000)).toEqual(expected)
    await redis.set(keys.count('views', 'p_later'), 9)
    expect(await counters.restoreUnwrittenViews(load, 1)).toBe(true) // complete: it walks no more
    expect(await counters.unwritten('views')).toBe(expected.size)
  })

  test('a count that rose while it was written stays unwritten', async () => {
    const { counters, post } = newWorld()
    const load = async () => ({ views: 0 })
    await counters.view(post, 'u_1', load)
    const views = await counters.unwrittenViews(10)
    await counters.view(post, 'u_2', load)
    expect(await counters.confirmViews(views)).toBe(0)
    expect(await counters.unwrittenViews(10)).toEqual(new Map([[post, 2]]))
  })

  test('a count that was loaded before the source had the views does not stay', async () => {
    for (const isStored of [false, true]) {
      const { counters, redis, post, deferred } = newWorld()
      let atSource = 0
      await counters.view(post, 'u_1', async () => ({ views: atSource }))
      const unwritten = await counters.unwrittenViews(10)
      await redis.del(keys.count('views', post), keys.tally('views', post))
      const loading = Promise.withResolvers<void>()
      const load = async () => {
        const views = atSource
        await loading.promise
        return new Map([[post, { views, changedAt: 0, revision: 0 }]])
      }
      const reading = counters.read(['views'], [post], load, new Map([[post, { views: 0 }]]))
      await reading
      const filling = deferred()
      if (isStored) {
        loading.resolve()
        await filling
      } else {
        await vi.waitUntil(async () => (await redis.get(keys.count('views', post))) !== null)
      }
      atSource = 1
      await counters.confirmViews(unwritten)
      loading.resolve()
      await filling
      expect(await counters.read(['views'], [post], load)).toEqual([[1]])
    }
  })

  test('a view whose reply is lost is counted once', async () => {
    const { counters, keyspace, post, redis } = newWorld()
    const load = async () => ({ views: 0 })
    await counters.view(post, 'u_1', load)
    await keyspace.control.fault({ kind: 'cut', match: 'EVAL', times: 1 })
    expect(await counters.view(post, 'u_2', load)).toBe(2)
    expect(await redis.zscore(keys.viewsUnwritten, post)).toBe(2)
  })
})

test('without Redis, counts and states are those of the source', async () => {
  const world = newWorld()
  await world.keyspace.control.fault({ kind: 'refuse' })
  const counters: Counter[] = ['likes', 'comments', 'views']
  const load = async () => new Map([[world.post, { likes: 3, comments: 2, views: 1, changedAt: 0, revision: 0 }]])
  expect(await world.counters.read(counters, [world.post, 'p_unknown'], load)).toEqual([
    [3, 2, 1],
    [0, 0, 0],
  ])
  expect(await world.isLikedBy(ADA)).toBe(false)
  await expect(world.like(ADA, true)).rejects.toThrow('Redis did not answer')
})
