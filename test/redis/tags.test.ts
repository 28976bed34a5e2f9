import { Redis } from '@upstash/redis/cloudflare'
import { expect, test } from 'vitest'
import { createTaggedCache } from '../../package/redis.ts'
import { createTags, newKnownTags } from '../../package/tags.ts'
import { newDeferral, newKeyspace } from './setup.ts'

interface Page {
  text: string
  topics: string[]
}

/** A cache, the source of its values, and another isolate that invalidates tags. */
function newWorld(options: { memoryMs?: number; maxTags?: number } = {}, isPipelining = true) {
  const { connect, control, server } = newKeyspace()
  const deferral = newDeferral()
  const source = new Map<string, Page>()
  const loads: string[] = []
  const name = crypto.randomUUID()
  const cache = createTaggedCache<Page>({
    redis: isPipelining ? connect() : new Redis({ ...server, enableTelemetry: false, enableAutoPipelining: false }),
    name,
    tagsOf: ({ topics }) => topics,
    defer: deferral.defer,
    memoryMs: 0,
    softTimeoutMs: 20_000,
    ...options,
  })
  const { maxTags = 5_000 } = options
  return {
    cache,
    control,
    loads,
    log: `${name}:tags`,
    elsewhere: createTags(connect(), `${name}:tags`, newKnownTags(), 100_000_000, maxTags),
    write: (id: string, text: string, ...topics: string[]) => void source.set(id, { text, topics }),
    read: async (...ids: string[]) => {
      const pages = await cache.getMany(ids, async (missing) => {
        loads.push(...missing)
        return missing.map((id) => source.get(id) ?? null)
      })
      await deferral.settle()
      return pages.map((page) => page?.text ?? null)
    },
  }
}

test('an invalidated tag makes the values with that tag out of date, and no other', async () => {
  const { cache, read, write, loads } = newWorld()
  await cache.invalidateTags(['begin'])
  write('a', 'A', 'red', 'blue')
  write('b', 'B', 'blue')
  write('c', 'C', 'green')
  expect(await read('a', 'b', 'c', 'd')).toEqual(['A', 'B', 'C', null])
  expect(await read('a', 'b', 'c', 'd')).toEqual(['A', 'B', 'C', null])
  expect(loads.splice(0)).toEqual(['a', 'b', 'c', 'd'])

  write('a', 'A2', 'red')
  await cache.invalidateTags(['red', 'nothing'])
  expect(await read('a', 'b', 'c')).toEqual(['A2', 'B', 'C'])
  await cache.invalidateTags(['blue'])
  expect(await read('a', 'b', 'c')).toEqual(['A2', 'B', 'C']) // the tags of `a` have changed
  expect(loads).toEqual(['a', 'b'])
})

test('a read costs one round trip and one command more than without tags, and none from memory', async () => {
  const { read, write, control, elsewhere, loads } = newWorld()
  await elsewhere.invalidate(['begin'])
  write('a', 'A', 'red')
  await read('a')
  await control.reset()
  expect(await read('a')).toEqual(['A'])
  expect(await control.counts()).toMatchObject({ requests: 1, byCommand: { mget: 1, zrange: 1 } })
  await elsewhere.invalidate(['red'])
  write('a', 'A2', 'red')
  expect(await read('a')).toEqual(['A2'])
  expect(loads).toEqual(['a', 'a'])

  const remembering = newWorld({ memoryMs: 60_000 })
  await remembering.elsewhere.invalidate(['begin'])
  remembering.write('a', 'A', 'red')
  await remembering.read('a')
  await remembering.elsewhere.invalidate(['red'])
  await remembering.control.reset()
  expect(await remembering.read('a')).toEqual(['A']) // for `memoryMs`
  expect((await remembering.control.counts()).requests).toBe(0)
  remembering.write('a', 'A2', 'red')
  await remembering.cache.invalidateTags(['red'])
  expect(await remembering.read('a')).toEqual(['A2']) // at once in the isolate that invalidates
})

test('a read waits for what was invalidated, where that arrives after the values', async () => {
  const { read, write, control, elsewhere } = newWorld({}, false)
  await elsewhere.invalidate(['begin'])
  write('a', 'A', 'red')
  await read('a')
  write('a', 'A2', 'red')
  await elsewhere.invalidate(['red'])
  await control.fault({ kind: 'delay-after', match: 'ZRANGE', delayMs: 300 })
  expect(await read('a')).toEqual(['A2'])
})

test('an invalidation while a value is being loaded wins', async () => {
  const { cache, read, write, elsewhere } = newWorld()
  await elsewhere.invalidate(['begin'])
  await read('nothing')
  const loading = Promise.withResolvers<void>()
  const reading = Promise.withResolvers<void>()
  const slow = cache.get('a', async () => {
    reading.resolve()
    await loading.promise
    return { text: 'old', topics: ['red'] }
  })
  await reading.promise
  write('a', 'new', 'red')
  await elsewhere.invalidate(['red'])
  loading.resolve()
  expect(await slow).toMatchObject({ text: 'old' }) // it was asked for before
  expect(await read('a')).toEqual(['new'])
})

test('when Redis loses what was invalidated, nothing from before is served', async () => {
  const { read, write, loads, control, elsewhere, log } = newWorld()
  await elsewhere.invalidate(['begin'])
  write('a', 'A', 'red')
  write('b', 'B', 'blue')
  await read('a', 'b')
  await elsewhere.invalidate(['red'])
  write('a', 'A2', 'red')
  expect(await control.evict({ keys: [log] })).toEqual([log])
  expect(await read('a', 'b')).toEqual(['A2', 'B'])
  expect(await read('a', 'b')).toEqual(['A2', 'B'])
  expect(loads.splice(0)).toEqual(['a', 'b', 'a', 'b'])

  write('b', 'B2', 'blue')
  await elsewhere.invalidate(['blue']) // begins a new log
  expect(await read('a', 'b')).toEqual(['A2', 'B2'])
  expect(loads).toEqual(['a', 'b'])
  await control.flush()
  expect(await read('a')).toEqual(['A2'])
})

test('more invalidated tags than are remembered expire the values from before, and no later ones', async () => {
  const { read, write, loads, elsewhere } = newWorld({ maxTags: 5 })
  await elsewhere.invalidate(['begin'])
  write('a', 'A', 'red')
  await read('a')
  for (let i = 0; i < 4; i += 1) await elsewhere.invalidate([`t${i}`])
  await read('a')
  expect(loads.splice(0)).toEqual(['a'])
  for (let i = 4; i < 10; i += 1) await elsewhere.invalidate([`t${i}`])
  await read('a')
  await read('a')
  expect(loads.splice(0)).toEqual(['a'])
  await elsewhere.invalidate(['t9', 'red'])
  write('a', 'A2', 'red')
  expect(await read('a')).toEqual(['A2'])
})

test('without Redis, values are loaded, and an invalidation throws', async () => {
  const { cache, read, write, control } = newWorld()
  write('a', 'A', 'red')
  await control.fault({ kind: 'refuse' })
  expect(await read('a')).toEqual(['A'])
  await expect(cache.invalidateTags(['red'])).rejects.toThrow('Redis')
})

test('a write-through replaces a value and its tags', async () => {
  const { cache, read, elsewhere, write, loads } = newWorld()
  await elsewhere.invalidate(['begin'])
  write('a', 'A', 'red')
  await read('a')
  write('a', 'A2', 'blue')
  await cache.put('a', { text: 'A2', topics: ['blue'] })
  await elsewhere.invalidate(['red'])
  expect(await read('a')).toEqual(['A2'])
  await elsewhere.invalidate(['blue'])
  write('a', 'A3', 'blue')
  expect(await read('a')).toEqual(['A3'])
  expect(loads.length).toBeGreaterThan(1)
})
