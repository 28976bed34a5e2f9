import { expect, test } from 'vitest'
import { type CacheEntry, createMemory } from '../../src/redis/memory.ts'

const NOW = 1_700_000_000_000
const LATER = NOW + 1_000
const entry = (version: number, loadedAt = NOW): CacheEntry<string> => ({
  v: version,
  f: NOW + 60_000,
  l: loadedAt,
  g: 0,
  d: version === 0 ? null : `version ${version}`,
})

test('memory does not accept what a read returns that began before a mark of its key', () => {
  const memory = createMemory(100_000)
  const before = memory.begin(NOW)
  memory.mark(['a'], NOW)
  const after = memory.begin(NOW)
  memory.remember('a', entry(1), before, LATER, NOW)
  expect(memory.get('a')?.entry).toBeUndefined()
  memory.remember('b', entry(1), before, LATER, NOW)
  memory.remember('a', entry(1), after, LATER, NOW)
  expect([memory.get('a')?.entry, memory.get('b')?.entry]).toEqual([entry(1), entry(1)])
})

test('marks count in bytes, and a read that began before one that was evicted is accepted for no key', () => {
  const memory = createMemory(10_000)
  const before = memory.begin(NOW)
  for (let i = 0; i < 1_000; i += 1) memory.mark([`key${i}`], NOW)
  expect(memory.size()).toBeLessThanOrEqual(10_000)
  expect(memory.get('key0')).toBeUndefined()

  for (const key of ['key0', 'key999', 'other']) memory.remember(key, entry(1), before, LATER, NOW)
  expect(Array.from(memory.keys()).filter((key) => memory.get(key)?.entry)).toEqual([])
  memory.remember('key0', entry(1), memory.begin(NOW), LATER, NOW)
  expect(memory.get('key0')?.entry).toEqual(entry(1))
})

test('a memory that keeps nothing accepts nothing', () => {
  const memory = createMemory(0)
  const before = memory.begin(NOW)
  memory.mark(['a'], NOW)
  expect(memory.isMarked('a', before)).toBe(true)
  expect(memory.isMarked('a', memory.begin(NOW))).toBe(false)
  memory.remember('a', entry(1), memory.begin(NOW), LATER, NOW)
  expect([memory.get('a'), memory.size()]).toEqual([undefined, 0])
})

test.each([
  ['a lower version', entry(2), entry(1, LATER), 'keeps'],
  ['a higher version, loaded earlier', entry(1, LATER), entry(2), 'replaces'],
  ['null, loaded earlier', entry(1, LATER), entry(0), 'keeps'],
  ['null, loaded later', entry(1), entry(0, LATER), 'replaces'],
  ['a value loaded before it was known not to exist', entry(0, LATER), entry(1), 'keeps'],
  ['a value loaded after that', entry(0), entry(1, LATER), 'replaces'],
  ['a value loaded after the clock was set back', entry(0, NOW + 3_600_000), entry(1), 'replaces'],
] as const)('%s meets an entry', (_, current, next, expected) => {
  const memory = createMemory(100_000)
  memory.remember('a', current, memory.begin(NOW), LATER, NOW)
  expect(memory.isOutdated('a', next, NOW)).toBe(expected === 'keeps')
  memory.remember('a', next, memory.begin(NOW), LATER, NOW)
  expect(memory.get('a')?.entry).toEqual(expected === 'keeps' ? current : next)
})

test('a mark knows older entries by their version, or else by when they were loaded', () => {
  const memory = createMemory(100_000)
  memory.mark(['written'], LATER, 5)
  memory.mark(['written'], LATER, 4) // late
  memory.mark(['invalidated'], LATER)
  const outdated = (key: string, version: number, loadedAt: number) =>
    memory.isOutdated(key, entry(version, loadedAt), LATER)
  expect([outdated('written', 4, LATER), outdated('written', 5, NOW), outdated('written', 6, NOW)]).toEqual([
    true,
    false,
    false,
  ])
  expect([outdated('written', 0, NOW), outdated('written', 0, LATER)]).toEqual([true, false])
  expect([outdated('invalidated', 9, NOW), outdated('invalidated', 1, LATER)]).toEqual([true, false])
  expect(memory.isOutdated('invalidated', entry(1, NOW - 3_600_000), NOW - 3_600_000)).toBe(false) // the clock was set back
  memory.mark(['written'], LATER)
  expect(outdated('written', 9, NOW)).toBe(true) // an invalidation does not know the version
})

test('a write keeps what memory has of its version or later', () => {
  const memory = createMemory(100_000)
  memory.remember('a', entry(3), memory.begin(NOW), LATER, NOW)
  memory.mark(['a'], NOW, 3)
  expect(memory.get('a')?.entry).toEqual(entry(3))
  memory.mark(['a'], NOW, 4)
  expect(memory.get('a')?.entry).toBeUndefined()
})

test('an entry is forgotten by a read that began after the one it comes from', () => {
  const memory = createMemory(100_000)
  const [early, middle, late] = [memory.begin(NOW), memory.begin(NOW), memory.begin(NOW)]
  memory.remember('a', entry(1), middle, LATER, NOW)
  memory.forget('a', early)
  expect(memory.get('a')?.entry).toEqual(entry(1))
  memory.forget('a', late)
  expect(memory.get('a')).toBeUndefined()
})
