import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/server.ts'
import { newClient, start } from './start.ts'

// Commands of Redis 8 on every engine. Expectations: https://redis.io/docs/latest/commands/

let emulator: Emulator
beforeAll(async () => void (emulator = await start()))
afterAll(() => emulator.close())

/** Runs commands in a new keyspace, each a line of words. */
function newRun() {
  const { redis } = newClient(emulator)
  return (line: string): Promise<unknown> => {
    const [name = '', ...rest] = line.split(' ')
    return redis.exec([name, ...rest]).catch((error: Error) => error.message)
  }
}

test('SET and DELEX compare the value that a key has', async () => {
  const run = newRun()
  expect(await run('SET a x IFEQ y')).toBeNull()
  expect(await run('SET a x IFNE y')).toBe('OK')
  expect(await run('SET a z IFEQ y')).toBeNull()
  expect(await run('SET a z IFEQ x EX 100')).toBe('OK')
  expect([await run('GET a'), await run('TTL a')]).toEqual(['z', 100])
  expect(await run('SET a w IFEQ other GET')).toBe('z')
  expect([await run('DELEX a IFEQ x'), await run('DELEX a IFNE z'), await run('DELEX a IFEQ z')]).toEqual([0, 0, 1])
  expect([await run('DELEX a IFNE z'), await run('SET b x'), await run('DELEX b'), await run('DELEX b')]).toEqual([
    0,
    'OK',
    1,
    0,
  ])
  await run('SADD s 1')
  expect(await run('DELEX s IFEQ 1')).toContain('WRONGTYPE')
})

test('HGETDEL, HSETEX and HGETEX take and set fields', async () => {
  const run = newRun()
  await run('HSET h a x b y')
  expect(await run('HGETDEL h FIELDS 2 a absent')).toEqual(['x', null])
  expect(await run('HKEYS h')).toEqual(['b'])
  expect([await run('HSETEX h FNX FIELDS 2 b z c z'), await run('HSETEX h FXX FIELDS 1 c z')]).toEqual([0, 0])
  expect([await run('HSETEX h FIELDS 1 c z'), await run('HMGET h b c')]).toEqual([1, ['y', 'z']])
  expect(await run('HGETEX h FIELDS 1 c')).toEqual(['z'])
  expect(await run('HGETDEL h FIELDS 2 a')).toContain('ERR')
})

test('XDELEX and XACKDEL delete entries, by what groups still refer to', async () => {
  const run = newRun()
  for (const id of ['1-0', '2-0', '3-0']) await run(`XADD s ${id} n x`)
  await run('XGROUP CREATE s g 0')
  await run('XREADGROUP GROUP g c COUNT 2 STREAMS s >')
  expect(await run('XDELEX s ACKED IDS 3 1-0 3-0 9-0')).toEqual([2, 2, -1])
  expect(await run('XACKDEL s g ACKED IDS 2 1-0 9-0')).toEqual([1, -1])
  expect(await run('XDELEX s KEEPREF IDS 1 2-0')).toEqual([1])
  expect(await run('XPENDING s g')).toEqual([1, '2-0', '2-0', [['c', expect.anything()]]])
  await run('XREADGROUP GROUP g c COUNT 2 STREAMS s >')
  expect(await run('XDELEX s DELREF IDS 1 3-0')).toEqual([1])
  expect([await run('XLEN s'), await run('XPENDING s g')]).toEqual([0, [1, '2-0', '2-0', [['c', expect.anything()]]]])
})

test('BITOP has DIFF, DIFF1, ANDOR and ONE', async () => {
  const run = newRun()
  for (const [key, bits] of Object.entries({ x: [0, 1, 2], y: [1, 3], z: [2, 3] }))
    for (const bit of bits) await run(`SETBIT ${key} ${bit} 1`)
  const bitsAfter = async (operation: string) => {
    expect(await run(`BITOP ${operation}`)).toBe(1)
    const bits = await Promise.all([0, 1, 2, 3, 4].map((bit) => run(`GETBIT to ${bit}`)))
    return bits.join('')
  }
  expect(await bitsAfter('DIFF to x y z')).toBe('10000')
  expect(await bitsAfter('DIFF1 to x y z')).toBe('00010')
  expect(await bitsAfter('ANDOR to x y z')).toBe('01100')
  expect(await bitsAfter('ONE to x y z')).toBe('10000')
  expect(await run('BITOP DIFF to x')).toContain('wrong number of arguments')
})
