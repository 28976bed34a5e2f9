import { expect, test } from 'vitest'
import { type Cache, type CacheEvent, type CacheKind, createCache, createMemory } from '../../src/redis/cache.ts'
import { newDeferral, newKeyspace } from './setup.ts'

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

/** Caches over one keyspace, each with a memory of its own, as in isolates of their own; they share a clock. */
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
          redis,
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
/** Starts a read whose load has begun, and ends when `loaded` is called. */
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

test('a value is loaded once, then answered by memory, and by Redis to others', async () => {
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

test('1 000 concurrent cold readers with caches of their own run one load', async () => {
  const world = newWorld()
  let loads = 0
  const load = async () => {
    loads += 1
    await new Promise((resolve) => setTimeout(resolve, 300))
    return ada
  }

  const values = await Promise.all(Array.from({ length: 1_000 }, () => world.newCache().get('a', load)))
  await world.settle()

  expect(values.every((value) => value?.name === 'Ada')).toBe(true)
  expect(loads).toBe(1)
}, 60_000)

test.each(['invalidate', 'drop'] as const)('after %s during a load the old value is never stored', async (forget) => {
  const world = newWorld()
  const slow = world.newCache()
  const { reading, loaded } = await beginRead(slow, 'a')

  await world.newCache()[forget](['a'])
  loaded(ada) // read before the change
  await reading
  await world.settle()

  expect(world.outcomes()).toContain('redis lost')
  expect(await slow.get('a', async () => adaNow)).toEqual(adaNow)
  expect(await world.newCache().get('a', async () => adaNow)).toEqual(adaNow)
})

test('a thousand are dropped by one command, whether they are held or not, memory included', async () => {
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

test('a late write-through ends the load that began before it, though it is not stored itself', async () => {
  const world = newWorld()
  await world.newCache().invalidate(['a'])
  const { reading, loaded } = await beginRead(world.newCache(), 'a')
  await world.newCache().put('a', adaNow)
  loaded(ada)
  await reading
  await world.settle()

  expect(await world.newCache().get('a', async () => adaNow)).toEqual(adaNow)
})

test('an error of the loader reaches its caller, is not cached, and gives the lease back', async () => {
  const world = newWorld()
  const cache = world.newCache({ waitMs: 0 })
  await expect(cache.get('a', () => Promise.reject(new Error('D1 is down')))).rejects.toThrow('D1 is down')
  await world.settle()

  expect(await cache.get('a', async () => ada)).toEqual(ada)
  await world.settle()
  expect(world.outcomes()).toContain('redis store') // so the lease was free
})

test('null is cached, for less long', async () => {
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

test('a stale value is served, and refreshed once however many readers there are', async () => {
  const world = newWorld()
  await world.newCache().get('a', async () => ada)
  await world.settle()
  world.clock.now += 10_000

  let loads = 0
  const load = async () => {
    loads += 1
    return adaNow
  }
  const readers = Array.from({ length: 50 }, () => world.newCache())
  const values = await Promise.all(readers.map((reader) => reader.get('a', load)))
  expect(values.every((value) => value?.version === 1)).toBe(true)
  await world.settle()

  expect(loads).toBe(1)
  expect(await world.newCache().get('a', never)).toEqual(adaNow)
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
  const fail = () => Promise.reject(new Error('D1 is down'))
  await world.newCache().get('a', async () => ada)
  await world.settle()

  world.clock.now += 69_999
  expect(await world.newCache().get('a', fail)).toEqual(ada)
  await world.settle()
  world.clock.now += 1
  await expect(world.newCache().get('a', fail)).rejects.toThrow('D1 is down')
})

test('a batch is one MGET when all is cached, and one load for what is not', async () => {
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

test('what is left of a generation that is over can be removed, in one script; what is current stays', async () => {
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
  expect(await world.newCache().purge(['b'])).toBe(0) // a kind without generations has none that is over
})

test('raising the generation expires every entry of the kind, and a load under way', async () => {
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
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow) // nor does its own memory keep them
})

test('fresh times are spread by a tenth either way', async () => {
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

test('a value over the size limit is answered but not stored, and its lease given back', async () => {
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

test('without Redis values come from the loader, and from memory while it is servable', async () => {
  const world = newWorld()
  const cache = world.newCache()
  await world.control.fault({ kind: 'refuse' })
  expect(await cache.get('a', async () => ada)).toEqual(ada)
  expect(await cache.get('a', never)).toEqual(ada)

  world.clock.now += 14_999 // memory would ask Redis; the value is stale, and good enough
  expect(await cache.get('a', never)).toEqual(ada)
  world.clock.now += 1
  expect(await cache.get('a', async () => adaNow)).toEqual(adaNow)
})

test.each(['hang', 'cut', 'status', 'delay'] as const)(
  'a Redis that does "%s" costs its timeout, not the answer',
  async (fault) => {
    const world = newWorld()
    await world.control.fault({ kind: fault, delayMs: 2_000, status: 503 })
    const cache = world.newCache({}, world.connect({ timeoutMs: 100 }))

    expect(await cache.get('a', async () => ada)).toEqual(ada)
    expect(world.outcomes()).toContain('redis error')
  },
)

test('a servable value in memory is not kept waiting by a slow Redis', async () => {
  const world = newWorld()
  const cache = world.newCache({ softTimeoutMs: 50 })
  await cache.get('a', async () => ada)
  await world.settle()
  await world.newCache().put('a', adaNow)
  world.clock.now += 2_000
  await world.control.fault({ kind: 'delay', delayMs: 500, times: 1 })

  expect(await cache.get('a', never)).toEqual(ada)
  await world.settle() // the slow answer came, and was kept
  expect(await cache.get('a', never)).toEqual(adaNow)
})

test('a reply cut off during the fill loses nothing but the fill', async () => {
  const world = newWorld()
  const cache = world.newCache({}, world.connect({ isSafeTwice: false }))
  await world.control.fault({ kind: 'cut', match: 'EVAL', times: 1 })
  expect(await cache.get('a', async () => ada)).toEqual(ada)
  await world.settle()

  expect(await world.newCache().get('a', never)).toEqual(ada) // it had been executed
})

test('a reader who waits takes what another of its isolate has loaded meanwhile', async () => {
  const world = newWorld()
  const memory = createMemory(1_000_000)
  const ofIsolate = (waitMs: number) => world.newCache({ waitMs }, undefined, undefined, memory)
  const elsewhere = await beginRead(world.newCache({ leaseMs: 60_000 }), 'a')

  const waiting = ofIsolate(60_000).get('a', never)
  expect(await ofIsolate(0).get('a', async () => ada)).toEqual(ada) // waits for nobody
  expect(await waiting).toEqual(ada)

  elsewhere.loaded(ada)
  await elsewhere.reading
  await world.settle()
})

test('a filler that dies keeps others waiting no longer than its lease', async () => {
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

test('memory forgets the least recently used when it is full', async () => {
  const world = newWorld()
  const memory = createMemory(2_000)
  const dependencies = { redis: world.connect(), memory, defer: world.defer, onEvent: () => {} }
  const cache = createCache<Thing>(dependencies, kind)
  const ids = Array.from({ length: 20 }, (_, i) => `id${i}`)
  await cache.getMany(ids, async (missing) => missing.map((name) => ({ name, version: 1 })))
  await world.settle()

  expect(memory.size()).toBeLessThanOrEqual(2_000)
  expect(memory.get('thing:id19')).toBeDefined()
  expect(memory.get('thing:id0')).toBeUndefined()
})
