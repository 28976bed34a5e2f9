import { expect, test } from 'vitest'
import { keys } from '../../src/keys.ts'
import { createConcurrency } from '../../src/redis/concurrency.ts'
import { keysOf, newKeyspace } from './setup.ts'

const T = 1_800_000_000_000
const POLICY = { maxPerCaller: 2, maxTotal: 3, ttlMs: 1_000, lifeMs: 10_000 }

function newPlaces() {
  const { connect, control } = newKeyspace()
  const redis = connect()
  return { ...createConcurrency(redis, keys, POLICY), redis, control }
}

test('a caller and all callers together have a bounded number of places', async () => {
  const places = newPlaces()
  expect(await places.take('u_ada', 'a', T)).toBe('taken')
  expect(await places.take('u_ada', 'b', T)).toBe('taken')
  expect(await places.take('u_ada', 'c', T)).toBe('caller-full')
  expect(await places.take('u_bob', 'd', T)).toBe('taken')
  expect(await places.take('u_eve', 'e', T)).toBe('all-full')
  await places.release('u_ada', 'a')
  expect(await places.take('u_eve', 'e', T)).toBe('taken')
  expect(await places.take('u_ada', 'c', T)).toBe('all-full') // what was refused holds nothing
  expect(await places.take('u_bob', 'd', T)).toBe('taken') // a repetition holds its place
})

test('of many attempts at once exactly as many succeed as there are places', async () => {
  const { take } = newPlaces()
  const places = await Promise.all(Array.from({ length: 20 }, (_, i) => take('u_ada', `m${i}`, T + i)))
  expect(places.filter((place) => place === 'taken')).toHaveLength(2)
})

test('a place that is not renewed becomes free after its time; a renewed one does not', async () => {
  const places = newPlaces()
  await places.take('u_ada', 'kept', T)
  await places.take('u_ada', 'dead', T)
  await places.keep('u_ada', 'kept', T + 900)
  expect(await places.take('u_ada', 'new', T + 999)).toBe('caller-full')
  expect(await places.take('u_ada', 'new', T + 1_000)).toBe('taken')
  expect(await places.take('u_ada', 'newer', T + 1_500)).toBe('caller-full')
})

test('each operation costs one round trip, can be repeated after a lost reply, and leaves only keys that expire', async () => {
  const places = newPlaces()
  const { redis, control } = places
  const costs = []
  for (const work of [
    () => places.take('u_ada', 'a', T),
    () => places.keep('u_ada', 'a', T),
    () => places.take('u_ada', 'b', T),
    () => places.release('u_ada', 'b'),
  ]) {
    await control.reset()
    await work()
    costs.push((await control.counts()).requests)
    await control.fault({ kind: 'cut', times: 1 })
    await work()
  }
  expect(costs).toEqual([1, 1, 1, 1])
  expect(await redis.zrange(keys.openStreams('u_ada'), 0, -1)).toEqual(['a'])
  for (const key of await keysOf(redis))
    expect([key, await redis.pttl(key)]).toEqual([key, expect.toSatisfy((ms) => ms > 10_000)])
  await places.release('u_ada', 'a')
  expect(await keysOf(redis)).toEqual([])
})
