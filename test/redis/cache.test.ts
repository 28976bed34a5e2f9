import { expect, test, vi } from 'vitest'
import { type Cache, type CacheEvent, type CacheKind, createCache } from '../../src/redis/cache.ts'
import { createMemory } from '../../src/redis/memory.ts'
import { keysOf, newDeferral, newKeyspace, newWithholdingRedis } from './setup.ts'

interface Thing {
  name: string
  version: number
}

const kind: CacheKind<Thing> = {
  name: 'thing',
  key: (id) => `thing:${id}`,
  versionOf: (thing) => thing.version,
  freshMs: 10_000,
  staleMs: 5_000,
  staleIfErrorMs: 60_000,
  negativeMs: 1_000,
  memoryMs: 2_000,
  softTimeoutMs: 2_000,
  leaseMs: 5_000,
  waitMs: 20_000,
  maxValueBytes: 1_000,
}

/** Caches over one keyspace, each with its own memory, as in different isolates. They share a clock. */
function newWorld() {
  const keyspace = newKeyspace()
  const deferral = newDeferral()
  const clock = { now: 1_700_000_000_000 }
  const events: CacheEvent[] = []
  return {
    ...keyspace,
    ...deferral,
    clock,
    events,
    outcomes: () => events.splice(0).map((event) => `${event.layer} ${event.outcome}`),
    newCache: (
      overrides: Partial<CacheKind<Thing>> = {},
      redis = keyspace.connect(),
      random = () => 0.5,
      memory = createMemory(1_000_000),
    ) =>
      createCache<Thing>(
        {
          redis: () => redis,
          memory,
          defer: deferral.defer,
          onEvent: (event) => events.push(event),
          now: () => clock.now,
          random,
        },
        { ...kind, ...overrides },
      ),
  }
}

const ada: Thing = { name: 'Ada', version: 1 }
const adaNow: Thing = { name: 'Ada L.', version: 2 }
/** Begins a read. Its load has begun, and ends when `loaded` is called. */
async function beginRead(cache: Cache<Thing>, id: string) {
  const loading = Promise.withResolvers<Thing>()
  const began = Promise.withResolvers<void>()
  const reading = cache.get(id, () => {
    began.resolve()
    return loading.promise
  })
  await began.promise
  return { reading, loaded: loading.resolve }
}

const never = async () => {
  throw new Error('the loader must not run')
}
const fail = () => Promise.reject(new Error('D1 is down'))

test('a value is loaded once; then memory answers in this isolate, and Redis in others', async () => {
  const world = newWorld()
  const cache = world.newCache()

  expect(await cache.get('a', async () => ada)).toEqual(ada)
  await world.settle()
  expect(world.outcomes()).toEqual(['memory miss', 'redis miss', 'loader load', 'redis store'])

  await world.control.reset()
  expect(await cache.get('a', never)).toEqual(ada)
  expect(world.outcomes()).toEqual(['memory hit'])
  expect((await world.control.counts()).requests).toBe(0)

  expect(await world.newCache().get('a', never)).toEqual(ada)
  expect(world.outcomes()).toEqual(['memory miss', 'redis hit'])
  expect((await world.control.counts()).requests).toBe(1)
})

test('memory asks Redis again after memoryMs', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await cache.get('a', async () => ada)
  await world.settle()
  await world.newCache().put('a', adaNow)

  world.clock.now += 1_999
  expect(await cache.get('a', never)).toEqual(ada)
  world.clock.now += 1
  expect(await cache.get('a', never)).toEqual(adaNow)
})

test('1 000 concurrent cold readers, each in its own isolate, run one load', async () => {
  const world = newWorld()
  let loads = 0
  const load = async () => {
    loads += 1
    await new Promise((resolve) => setTimeout(resolve, 300))
    return ada
  }

  const values = await Promise.all(
    Array.from({ length: 1_000 }, () => world.newCache({ leaseMs: 60_000 }).get('a', load)),
  )
  await world.settle()

  expect(values.every((value) => value?.name === 'Ada')).toBe(true)
  expect(loads).toBe(1)
}, 60_000)

test.each(['invalidate', 'drop'] as const)('after "%s" during a load the old value is never stored', async (change) => {
  const world = newWorld()
  const slow = world.newCache()
  const { reading, loaded } = await beginRead(slow, 'a')

  await world.newCache()[change](['a'])
  loaded(ada) // read before the change
  await reading
  await world.settle()

  expect(world.outcomes()).toContain('redis lost')
  expect(await slow.get('a', async () => adaNow)).toEqual(adaNow)
  expect(await world.newCache().get('a', async () => adaNow)).toEqual(adaNow)
})

test('one command drops a thousand entries, cached or not, and memory forgets them', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await cache.get('7', async () => ada)
  await world.settle()
  await world.control.reset()

  await cache.drop(Array.from({ length: 1_000 }, (_, i) => String(i)))
  expect(await world.control.counts()).toMatchObject({ requests: 1, byCommand: { del: 1 } })
  expect(await cache.get('7', async () => adaNow)).toEqual(adaNow)
  await cache.drop([])
})

test('a write-through during a load is never overwritten by the old value', async () => {
  const world = newWorld()
  const slow = world.newCache()
  const { reading, loaded } = await beginRead(slow, 'a')

  await world.newCache().put('a', adaNow)
  loaded(ada)
  await reading
  await world.settle()

  expect(await slow.get('a', never)).toEqual(adaNow)
  expect(await world.newCache().get('a', never)).toEqual(adaNow)
})

test('an older version never replaces a newer one', async () => {
  const world = newWorld()
  const late = world.newCache()
  await world.newCache().put('a', adaNow)
  await late.put('a', ada)

  expect(world.outcomes()).toEqual(['redis store', 'redis lost'])
  expect(await late.get('a', never)).toEqual(adaNow)
})

test('a late write-through does not undo an invalidation', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await cache.invalidate(['a'])
  await cache.put('a', ada)

  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
})

test('a late write-through ends the load that began before it, even if it is not stored', async () => {
  const world = newWorld()
  await world.newCache().invalidate(['a'])
  const { reading, loaded } = await beginRead(world.newCache(), 'a')
  await world.newCache().put('a', adaNow)
  loaded(ada)
  await reading
  await world.settle()

  expect(await world.newCache().get('a', async () => adaNow)).toEqual(adaNow)
})

test('an error of the loader is thrown, is not cached, and releases the lease', async () => {
  const world = newWorld()
  const cache = world.newCache({ waitMs: 0 })
  await expect(cache.get('a', () => Promise.reject(new Error('D1 is down')))).rejects.toThrow('D1 is down')
  await world.settle()

  expect(await cache.get('a', async () => ada)).toEqual(ada)
  await world.settle()
  expect(world.outcomes()).toContain('redis store') // so the lease was free
})

test('null is cached for a shorter time', async () => {
  const world = newWorld()
  const cache = world.newCache({ memoryMs: 0, negativeMs: 500 })
  expect(await cache.get('a', async () => null)).toBeNull()
  await world.settle()
  world.outcomes()

  expect(await cache.get('a', never)).toBeNull()
  expect(world.outcomes()).toEqual(['memory miss', 'redis negative'])
  world.clock.now += 500
  expect(await cache.get('a', async () => ada)).toEqual(ada)
})

test('a stale value is served to all readers and refreshed once', async () => {
  const world = newWorld()
  await world.newCache().get('a', async () => ada)
  await world.settle()
  world.clock.now += 10_000

  let loads = 0
  const answered = Promise.withResolvers<void>()
  const load = async () => {
    loads += 1
    await answered.promise // a refresh that is done earlier serves the others a fresh value
    return adaNow
  }
  const readers = Array.from({ length: 50 }, () => world.newCache())
  const values = await Promise.all(readers.map((reader) => reader.get('a', load)))
  expect(values.every((value) => value?.version === 1)).toBe(true)
  answered.resolve()
  await world.settle()

  expect(loads).toBe(1)
  expect(await world.newCache().get('a', never)).toEqual(adaNow)
})

test('a value that is fresh for less than eagerMs is served, and refreshed once', async () => {
  const world = newWorld()
  const eager = { eagerMs: 2_000 }
  await world.newCache(eager).get('a', async () => ada)
  await world.settle()
  world.clock.now += 7_000
  expect(await world.newCache(eager).get('a', never)).toEqual(ada)
  await world.settle()
  world.clock.now += 2_000
  world.outcomes()
  const readers = Array.from({ length: 5 }, () => world.newCache(eager))
  await Promise.all(readers.map((reader) => reader.get('a', async () => adaNow)))
  await world.settle()
  const outcomes = world.outcomes()
  expect(outcomes.filter((outcome) => outcome === 'redis hit')).toHaveLength(5)
  expect(outcomes.filter((outcome) => outcome === 'loader load')).toHaveLength(1)
  expect(await world.newCache(eager).get('a', never)).toEqual(adaNow)
})

test('a value past its stale time is loaded again before the answer', async () => {
  const world = newWorld()
  await world.newCache().get('a', async () => ada)
  await world.settle()
  world.clock.now += 15_000

  expect(await world.newCache().get('a', async () => adaNow)).toEqual(adaNow)
})

test('a value past its stale time is served when the loader fails, until staleIfErrorMs', async () => {
  const world = newWorld()
  await world.newCache().get('a', async () => ada)
  await world.settle()

  world.clock.now += 69_999
  expect(await world.newCache().get('a', fail)).toEqual(ada)
  await world.settle()
  world.clock.now += 1
  await expect(world.newCache().get('a', fail)).rejects.toThrow('D1 is down')
})

test('a batch takes one MGET, and one load for what is not cached', async () => {
  const world = newWorld()
  const asked: string[][] = []
  const load = async (ids: string[]) => {
    asked.push(ids)
    return ids.map((id) => (id === 'none' ? null : { name: id, version: 1 }))
  }
  expect(await world.newCache().getMany(['a', 'b'], load)).toMatchObject([{ name: 'a' }, { name: 'b' }])
  await world.settle()
  const some = await world.newCache().getMany(['c', 'a', 'none', 'a', 'b'], load)
  expect(some.map((thing) => thing?.name)).toEqual(['c', 'a', undefined, 'a', 'b'])
  await world.settle()
  expect(asked).toEqual([
    ['a', 'b'],
    ['c', 'none'],
  ])

  await world.control.reset()
  await world.newCache().getMany(['c', 'b', 'a', 'none'], never)
  expect(await world.control.counts()).toMatchObject({ requests: 1, commands: 1, byCommand: { mget: 1 } })
})

test('a batch misses in at most three round trips, the fill among them', async () => {
  const world = newWorld()
  const ids = Array.from({ length: 20 }, (_, i) => `id${i}`)
  await world.newCache().getMany(ids, async (missing) => missing.map((name) => ({ name, version: 1 })))
  await world.settle()

  expect((await world.control.counts()).requests).toBe(3)
})

test('one script purges the entries of earlier generations and keeps the current ones', async () => {
  const world = newWorld()
  const cache = world.newCache({ generationKey: 'generation:thing', memoryMs: 0 })
  const read = async (ids: string[]) => {
    await cache.getMany(ids, async (missing) => missing.map((id) => (id === 'nobody' ? null : ada)))
    await world.settle()
  }
  await read(['a', 'b', 'nobody'])
  expect(await cache.purge(['a', 'b', 'nobody', 'unknown'])).toBe(0)
  await cache.expireAll()
  await read(['b'])
  await world.control.reset()
  expect(await cache.purge(['a', 'b', 'nobody', 'unknown'])).toBe(2)
  expect(await world.control.counts()).toMatchObject({ requests: 1, commands: 1 })
  const redis = world.connect()
  expect(await redis.mget('thing:a', 'thing:b', 'thing:nobody')).toEqual([null, expect.any(Object), null])
  expect(await world.newCache().purge(['b'])).toBe(0) // a kind without generations has no earlier one
})

test('raising the generation expires every entry of the kind, and a load in flight', async () => {
  const world = newWorld()
  const generations = { generationKey: 'generation:thing' }
  const other = world.newCache(generations)
  const cache = world.newCache(generations)
  await cache.getMany(['a', 'b'], async () => [ada, ada])
  await world.settle()
  const { reading, loaded } = await beginRead(other, 'c')

  await world.control.reset()
  await cache.expireAll()
  expect((await world.control.counts()).commands).toBe(1)
  loaded(ada)
  await reading
  await world.settle()

  const now = await world.newCache(generations).getMany(['a', 'b', 'c'], async (ids) => ids.map(() => adaNow))
  expect(now).toEqual([adaNow, adaNow, adaNow])
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow) // its own memory does not keep them either
})

test('fresh times vary by ten percent', async () => {
  const world = newWorld()
  const ttls = []
  for (const random of [0, 0.5, 1]) {
    const cache = world.newCache({}, undefined, () => random)
    await cache.get(`at${random}`, async () => ada)
    await world.settle()
    await cache.get(`at${random}`, never)
    ttls.push(world.events.findLast((event) => event.outcome === 'hit')?.ttlMs)
  }
  expect(ttls).toEqual([9_000, 10_000, 11_000])
})

test('a value over the size limit is returned but not stored, and its lease is released', async () => {
  const world = newWorld()
  const cache = world.newCache({ waitMs: 0 })
  const large = { name: 'é'.repeat(600), version: 1 }
  expect(await cache.get('a', async () => large)).toEqual(large)
  await world.settle()
  expect(world.outcomes()).toContain('redis refused')

  expect(await cache.get('a', async () => ada)).toEqual(ada)
  await world.settle()
  expect(world.outcomes()).toContain('redis store')
})

test('without Redis values come from the loader, and from memory while they are fresh or stale', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await world.control.fault({ kind: 'refuse' })
  expect(await cache.get('a', async () => ada)).toEqual(ada)
  expect(await cache.get('a', never)).toEqual(ada)

  world.clock.now += 14_999 // memory would ask Redis; without it, a stale value is served
  expect(await cache.get('a', never)).toEqual(ada)
  world.clock.now += 1
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
})

test.each(['hang', 'cut', 'status', 'delay'] as const)(
  'a Redis that does "%s" costs its timeout, not the answer',
  async (fault) => {
    const world = newWorld()
    await world.control.fault({ kind: fault, status: 503 })
    const cache = world.newCache({}, world.connect({ timeoutMs: 100 }))

    expect(await cache.get('a', async () => ada)).toEqual(ada)
    expect(world.outcomes()).toContain('redis error')
  },
)

test('a fresh or stale value in memory does not wait for a slow Redis', async () => {
  const world = newWorld()
  const cache = world.newCache({ softTimeoutMs: 50 })
  await cache.get('a', async () => ada)
  await world.settle()
  await world.newCache().put('a', adaNow)
  world.clock.now += 2_000
  await world.control.fault({ kind: 'delay', times: 1 })

  expect(await cache.get('a', never)).toEqual(ada)
  await world.control.clearFaults()
  await world.settle() // the late reply is remembered
  expect(await cache.get('a', never)).toEqual(adaNow)
})

test('a fill whose reply is lost is stored all the same', async () => {
  const world = newWorld()
  const cache = world.newCache({}, world.connect({ isSafeTwice: false }))
  await world.control.fault({ kind: 'cut', match: 'EVAL', times: 1 })
  expect(await cache.get('a', async () => ada)).toEqual(ada)
  await world.settle()

  expect(await world.newCache().get('a', never)).toEqual(ada) // Redis had executed it
})

test('a waiting reader takes what another reader of its isolate has loaded', async () => {
  const world = newWorld()
  const memory = createMemory(1_000_000)
  const ofIsolate = (waitMs: number) => world.newCache({ waitMs }, undefined, undefined, memory)
  const elsewhere = await beginRead(world.newCache({ leaseMs: 60_000 }), 'a')

  const waiting = ofIsolate(60_000).get('a', never)
  expect(await ofIsolate(0).get('a', async () => ada)).toEqual(ada) // does not wait
  expect(await waiting).toEqual(ada)

  elsewhere.loaded(ada)
  await elsewhere.reading
  await world.settle()
})

test('after a reader dies during its load, others wait no longer than its lease', async () => {
  const world = newWorld()
  const dead = world.newCache({ leaseMs: 200 })
  const began = Promise.withResolvers<void>()
  void dead.get('a', () => {
    began.resolve()
    return new Promise(() => {})
  })
  await began.promise

  expect(await world.newCache().get('a', async () => adaNow)).toEqual(adaNow)
  await world.settle()
  expect(await world.newCache().get('a', never)).toEqual(adaNow) // the second one held a lease
})

test('a reader that waits for the loads of others sends one command per look, however many they are', async () => {
  const world = newWorld()
  const ids = Array.from({ length: 50 }, (_, i) => `id${i}`)
  const loading = Promise.withResolvers<void>()
  const began = Promise.withResolvers<void>()
  const load = async (missing: string[]) => {
    began.resolve()
    await loading.promise
    return missing.map((name) => ({ name, version: 1 }))
  }
  const first = world.newCache({ leaseMs: 60_000 }).getMany(ids, load)
  await began.promise
  await world.control.reset()
  const second = world.newCache().getMany(ids, never)
  await vi.waitFor(async () => expect((await world.control.counts()).byCommand.mget).toBeGreaterThan(3), 10_000)
  const { mget = 0, set = 0 } = (await world.control.counts()).byCommand
  loading.resolve()
  await first
  await world.settle()
  expect(await second).toHaveLength(50)
  expect([set, mget > 3]).toEqual([50, true]) // it claimed once
})

test('a load that finds many ids absent stores none of them in Redis: memory remembers them, and their leases end', async () => {
  const world = newWorld()
  const cache = world.newCache()
  const ids = Array.from({ length: 20 }, (_, i) => `id${i}`)
  const load = async (missing: string[]) => missing.map((id) => (id === 'id7' ? ada : null))
  const values = ids.map((id) => (id === 'id7' ? ada : null))
  expect(await cache.getMany(ids, load)).toEqual(values)
  await world.settle()
  expect(await keysOf(world.connect())).toEqual(['thing:id7'])
  await world.control.reset()
  expect(await cache.getMany(ids, never)).toEqual(values)
  expect((await world.control.counts()).requests).toBe(0)

  // What is created is found at once here, and in other isolates when they ask Redis again.
  const elsewhere = world.newCache()
  expect(await elsewhere.getMany(ids, load)).toEqual(values)
  await cache.put('id3', adaNow)
  expect(await cache.get('id3', async () => adaNow)).toEqual(adaNow)
  world.clock.now += 2_000
  expect(await elsewhere.get('id3', async () => adaNow)).toEqual(adaNow)
})

test('a creation during a load that finds many ids absent wins over it', async () => {
  const world = newWorld()
  const cache = world.newCache()
  const ids = Array.from({ length: 20 }, (_, i) => `id${i}`)
  const values = await cache.getMany(ids, async (missing) => {
    await cache.put('id3', ada)
    return missing.map(() => null)
  })
  expect(values).toEqual(ids.map(() => null)) // the answer of a read that began before
  await world.settle()
  expect(await cache.get('id3', never)).toEqual(ada)
  expect(await world.newCache().get('id3', never)).toEqual(ada)
})

test('memory evicts the least recently used entry when it is full', async () => {
  const world = newWorld()
  const memory = createMemory(2_000)
  const redis = world.connect()
  const dependencies = { redis: () => redis, memory, defer: world.defer, onEvent: () => {} }
  const cache = createCache<Thing>(dependencies, kind)
  const ids = Array.from({ length: 20 }, (_, i) => `id${i}`)
  await cache.getMany(ids, async (missing) => missing.map((name) => ({ name, version: 1 })))
  await world.settle()

  expect(memory.size()).toBeLessThanOrEqual(2_000)
  expect(memory.get('thing:id19')).toBeDefined()
  expect(memory.get('thing:id0')).toBeUndefined()
})

// Old values do not return

test.each([
  ['put', ada],
  ['invalidate', ada],
  ['drop', ada],
  ['invalidate', null],
] as const)('a late reply does not undo "%s" in the same isolate (it says %j)', async (change, old) => {
  const world = newWorld()
  const memory = createMemory(1_000_000)
  const slow = newWithholdingRedis(world.server)
  await world.newCache({ negativeMs: 60_000 }).get('a', async () => old)
  await world.settle()

  const { withheld, release } = slow.withholdNext('reply')
  const reading = world.newCache({}, slow.redis, undefined, memory).get('a', never)
  await withheld
  const cache = world.newCache({}, undefined, undefined, memory)
  await (change === 'put' ? cache.put('a', adaNow) : cache[change](['a']))
  release()
  await reading // it began before the change: both values are right

  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
  world.clock.now += 2_000
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
})

test('a late reply does not undo the end of a generation in the same isolate', async () => {
  const world = newWorld()
  const memory = createMemory(1_000_000)
  const slow = newWithholdingRedis(world.server)
  const generations = { generationKey: 'generation:thing' }
  await world.newCache(generations).get('a', async () => ada)
  await world.settle()

  const { withheld, release } = slow.withholdNext('reply')
  const reading = world.newCache(generations, slow.redis, undefined, memory).get('a', never)
  await withheld
  const cache = world.newCache(generations, undefined, undefined, memory)
  await cache.expireAll()
  release()
  expect(await reading).toEqual(ada)
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
})

test('a late reply does not replace what the same isolate has read since, with a version or without', async () => {
  for (const versionOf of [(thing: Thing) => thing.version, () => 0]) {
    const world = newWorld()
    const memory = createMemory(1_000_000)
    const slow = newWithholdingRedis(world.server)
    const elsewhere = world.newCache({ versionOf })
    await elsewhere.get('a', async () => ada)
    await world.settle()

    const { withheld, release } = slow.withholdNext('reply')
    const reading = world.newCache({ versionOf }, slow.redis, undefined, memory).get('a', never)
    await withheld
    world.clock.now += 1
    await elsewhere.invalidate(['a'])
    await elsewhere.get('a', async () => adaNow)
    await world.settle()
    const cache = world.newCache({ versionOf }, undefined, undefined, memory)
    expect(await cache.get('a', never)).toEqual(adaNow)
    release()
    await reading
    expect(await cache.get('a', never)).toEqual(adaNow)
  }
})

test.each(['invalidate', 'drop', 'expireAll'] as const)(
  'what is read while "%s" is on its way to Redis is not remembered after it',
  async (change) => {
    const world = newWorld()
    const memory = createMemory(1_000_000)
    const slow = newWithholdingRedis(world.server)
    const kind = change === 'expireAll' ? { generationKey: 'generation:thing' } : {}
    await world.newCache(kind).get('a', async () => ada)
    await world.settle()
    const { withheld, release } = slow.withholdNext('request')
    const slowCache = world.newCache(kind, slow.redis, undefined, memory)
    const changing = change === 'expireAll' ? slowCache.expireAll() : slowCache[change](['a'])
    await withheld
    const cache = world.newCache(kind, undefined, undefined, memory)
    expect(await cache.get('a', never)).toEqual(ada)
    release()
    await changing
    expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
  },
)

test('a write-through whose reply comes after a later invalidation is not remembered', async () => {
  const world = newWorld()
  const memory = createMemory(1_000_000)
  const slow = newWithholdingRedis(world.server)
  const { withheld, release } = slow.withholdNext('reply')
  const putting = world.newCache({}, slow.redis, undefined, memory).put('a', ada)
  await withheld
  const cache = world.newCache({}, undefined, undefined, memory)
  await cache.invalidate(['a'])
  release()
  await putting
  expect(await cache.get('a', async () => null)).toBeNull()
})

test.each(['put', 'invalidate', 'drop'] as const)(
  'without Redis a load that began before "%s" is not remembered after it',
  async (change) => {
    const world = newWorld()
    const memory = createMemory(1_000_000)
    const ofIsolate = () => world.newCache({}, undefined, undefined, memory)
    await world.control.fault({ kind: 'refuse' })
    const { reading, loaded } = await beginRead(ofIsolate(), 'a')
    const cache = ofIsolate()
    await expect(change === 'put' ? cache.put('a', adaNow) : cache[change](['a'])).rejects.toThrow('did not answer')
    loaded(ada)
    await reading

    expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
  },
)

test.each(['put', 'invalidate', 'drop', 'expireAll'] as const)(
  'the isolate whose "%s" did not reach Redis does not accept the old value from there, and repairs it',
  async (change) => {
    const world = newWorld()
    const kind = change === 'expireAll' ? { generationKey: 'generation:thing' } : {}
    const cache = world.newCache(kind)
    await cache.get('a', async () => ada)
    await world.settle()
    world.clock.now += 1
    await world.control.fault({ kind: 'refuse', times: 2 }) // and its retry
    const changing =
      change === 'put' ? cache.put('a', adaNow) : change === 'expireAll' ? cache.expireAll() : cache[change](['a'])
    await expect(changing).rejects.toThrow('did not answer')

    expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
    await world.settle()
    expect(await world.newCache(kind).get('a', never)).toEqual(adaNow)
  },
)

test('what was loaded before a write elsewhere is remembered for memoryMs from the start of its load', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await world.control.fault({ kind: 'refuse', times: 2 })
  const { reading, loaded } = await beginRead(cache, 'a')
  world.clock.now += 1_500 // a slow load
  await world.newCache().put('a', adaNow)
  loaded(ada)
  expect(await reading).toEqual(ada)
  world.clock.now += 500
  expect(await cache.get('a', never)).toEqual(adaNow)
})

test('a write-through that comes after a later deletion does not bring the value back', async () => {
  const world = newWorld()
  await world.newCache().invalidate(['a']) // the deletion …
  expect(await world.newCache().get('a', async () => null)).toBeNull() // … which a reader has seen
  await world.settle()
  world.outcomes()
  await world.newCache().put('a', ada) // written before the deletion

  expect(world.outcomes()).toEqual(['redis lost'])
  expect(await world.newCache().get('a', async () => null)).toBeNull()
  expect(world.outcomes()).toContain('loader load')
})

test('a write-through of a value without a version is an invalidation', async () => {
  const world = newWorld()
  const cache = world.newCache({ versionOf: () => 0 })
  await cache.put('a', ada)
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
})

// An invalidation ends stale-if-error

test.each(['invalidate', 'drop'] as const)(
  'after %s no isolate serves the value when the loader fails',
  async (change) => {
    const world = newWorld()
    const here = world.newCache()
    const elsewhere = world.newCache()
    await here.get('a', async () => ada)
    await world.settle()
    await elsewhere.get('a', never)
    await here[change](['a'])

    await expect(here.get('a', fail)).rejects.toThrow('D1 is down')
    world.clock.now += 2_000
    await expect(elsewhere.get('a', fail)).rejects.toThrow('D1 is down')
    await world.control.fault({ kind: 'refuse' })
    await expect(elsewhere.get('a', fail)).rejects.toThrow('D1 is down') // nor from memory alone
    await expect(here.get('a', fail)).rejects.toThrow('D1 is down')
  },
)

test('an invalidation during a load that fails ends stale-if-error too', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await cache.get('a', async () => ada)
  await world.settle()
  world.clock.now += 20_000 // past stale
  const loading = Promise.withResolvers<Thing>()
  const began = Promise.withResolvers<void>()
  const reading = cache.get('a', () => {
    began.resolve()
    return loading.promise
  })
  await began.promise
  await cache.invalidate(['a'])
  loading.reject(new Error('D1 is down'))
  await expect(reading).rejects.toThrow('D1 is down')
})

// No reader waits for itself

/** A cache of one invocation: what it defers runs when `answered` is called. */
function newInvocation(
  world: ReturnType<typeof newWorld>,
  overrides: Partial<CacheKind<Thing>>,
  memory = createMemory(1_000_000),
) {
  const deferred: (() => Promise<unknown>)[] = []
  const redis = world.connect()
  const cache = createCache<Thing>(
    {
      redis: () => redis,
      memory,
      defer: (work) => void deferred.push(work),
      onEvent: (event) => world.events.push(event),
      now: () => world.clock.now,
      random: () => 0.5,
    },
    { ...kind, ...overrides },
  )
  return {
    cache,
    answered: async () => {
      while (deferred.length > 0) await Promise.all(deferred.splice(0).map((work) => work()))
    },
  }
}

test.each([
  ['a value in memory', {}, 1_000_000],
  ['a value that memory does not keep', {}, 0],
  ['a value too large to store', { maxValueBytes: 1 }, 1_000_000],
] as const)(
  'a second read in one invocation has what the first loaded, before Redis has: %s',
  async (_, overrides, bytes) => {
    const world = newWorld()
    const { cache, answered } = newInvocation(world, overrides, createMemory(bytes))
    expect(await cache.get('a', async () => ada)).toEqual(ada)
    await world.control.reset()
    expect(await cache.get('a', never)).toEqual(ada)
    expect((await world.control.counts()).requests).toBe(0)

    await cache.invalidate(['a'])
    expect(await cache.get('a', async () => adaNow)).toEqual(adaNow) // not what was loaded before
    await answered()
    expect(await newInvocation(world, overrides).cache.get('a', async () => adaNow)).toEqual(adaNow)
  },
)

test('an invocation that may remember nothing loads twice, and does not wait for its own lease', async () => {
  const world = newWorld()
  const { cache, answered } = newInvocation(world, { memoryMs: 0 })
  for (let i = 0; i < 3; i += 1) {
    await world.control.reset()
    expect(await cache.get('a', async () => ada)).toEqual(ada)
    expect((await world.control.counts()).requests).toBe(2)
  }
  await answered()
})

test('another invocation of the isolate has what was loaded, before Redis has', async () => {
  const world = newWorld()
  const memory = createMemory(1_000_000)
  const first = newInvocation(world, {}, memory)
  await first.cache.get('a', async () => ada)
  await world.control.reset()
  expect(await newInvocation(world, {}, memory).cache.get('a', never)).toEqual(ada)
  expect((await world.control.counts()).requests).toBe(0)

  await world.newCache().put('a', adaNow) // another isolate
  await first.answered()
  expect(await newInvocation(world, {}, memory).cache.get('a', never)).toEqual(adaNow) // the fill was lost
})

test('two reads at once in one invocation share one load', async () => {
  const world = newWorld()
  const { cache, answered } = newInvocation(world, {})
  let loads = 0
  const load = async () => {
    loads += 1
    await new Promise((resolve) => setTimeout(resolve, 200))
    return ada
  }
  await world.control.reset()
  expect(await Promise.all([cache.get('a', load), cache.get('a', load)])).toEqual([ada, ada])
  expect(loads).toBe(1)
  expect((await world.control.counts()).requests).toBe(2)
  await answered()
})

test('a reader that repeated its claim, because the reply was lost, has the lease', async () => {
  const world = newWorld()
  await world.control.fault({ kind: 'cut', match: 'set', times: 1 })
  expect(await world.newCache().get('a', async () => ada)).toEqual(ada)
  await world.settle()
  expect(await world.control.counts()).toMatchObject({ requests: 4, byCommand: { set: 2, eval: 1 } })
  expect(world.outcomes()).toContain('redis store')
})

test('a reader whose claim failed releases the lease: Redis may have executed the claim', async () => {
  const world = newWorld()
  await world.control.fault({ kind: 'cut', match: 'set', times: 2 })
  expect(await world.newCache().get('a', async () => ada)).toEqual(ada)
  await world.settle()
  world.outcomes()
  expect(await world.newCache({ waitMs: 0 }).get('a', async () => ada)).toEqual(ada)
  await world.settle()
  expect(world.outcomes()).toContain('redis store')
})

// A clock that is set back

const HOUR = 3_600_000

test('memory does not answer for longer when the clock is set back', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await cache.get('a', async () => ada)
  await world.settle()
  await world.newCache().put('a', adaNow)
  world.clock.now -= HOUR
  expect(await cache.get('a', never)).toEqual(adaNow)
})

test('an entry loaded before the clock was set back is served stale and refreshed; null is loaded again', async () => {
  const world = newWorld()
  await world.newCache().getMany(['a', 'nobody'], async (ids) => ids.map((id) => (id === 'a' ? ada : null)))
  await world.settle()
  world.clock.now -= HOUR
  expect(await world.newCache().get('a', async () => adaNow)).toEqual(ada)
  expect(await world.newCache().get('nobody', async () => ada)).toEqual(ada)
  await world.settle()
  expect(await world.newCache().get('a', never)).toEqual(adaNow)
})

test('an invalidation before the clock was set back does not keep newer values out of memory', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await cache.invalidate(['a'])
  world.clock.now -= HOUR
  await world.newCache().get('a', async () => ada)
  await world.settle()
  expect(await cache.get('a', never)).toEqual(ada)
  expect(await cache.get('a', never)).toEqual(ada)
  expect(world.outcomes().slice(-1)).toEqual(['memory hit'])
})

test('a reader stops waiting for the load of another when the clock is set back', async () => {
  const world = newWorld()
  const elsewhere = await beginRead(world.newCache({ leaseMs: 60_000 }), 'a')
  const waiting = world.newCache({ waitMs: 10_000 }).get('a', async () => adaNow)
  await expect.poll(async () => (await world.control.counts()).requests).toBeGreaterThan(3)
  world.clock.now -= HOUR
  expect(await waiting).toEqual(adaNow)
  elsewhere.loaded(ada)
  await elsewhere.reading
  await world.settle()
})
