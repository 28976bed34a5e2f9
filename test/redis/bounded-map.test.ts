import { expect, test } from 'vitest'
import { createBoundedMap } from '../../src/redis/bounded-map.ts'

test('the least recently used values are evicted until the sizes fit', () => {
  const evicted: string[] = []
  const map = createBoundedMap<string>(
    10,
    (value) => value.length,
    (value) => evicted.push(value),
  )
  map.set('a', 'aaaa')
  map.set('b', 'bbbb')
  map.get('a')
  map.set('c', 'cccc')
  expect([...map.keys()]).toEqual(['a', 'c'])
  expect(evicted).toEqual(['bbbb'])
  map.set('a', 'a') // replaced, and smaller
  map.set('d', 'dddd')
  expect([...map.keys()]).toEqual(['c', 'a', 'd'])
  expect(map.size()).toBe(9)
  map.delete('c')
  map.delete('unknown')
  expect(map.size()).toBe(5)
  expect(evicted).toEqual(['bbbb']) // replaced and deleted values are not evicted
})

test('a value larger than the bound is not kept, and the value it replaces is removed', () => {
  const evicted: string[] = []
  const map = createBoundedMap<string>(
    3,
    (value) => value.length,
    (value) => evicted.push(value),
  )
  map.set('a', 'aa')
  map.set('a', 'aaaa')
  expect([map.get('a'), map.size()]).toEqual([undefined, 0])
  expect(evicted).toEqual(['aaaa'])
})
