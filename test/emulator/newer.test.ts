import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/server.ts'
import { newClient, send, start } from './start.ts'

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

test('DIGEST is the XXH3 of a value, and SET and DELEX compare it', async () => {
  const { redis } = newClient(emulator)
  await redis.set('a', 'Hello world')
  expect(await redis.exec(['DIGEST', 'a'])).toBe('b6acb9d84a38ff74') // https://redis.io/docs/latest/commands/digest/
  const run = newRun()
  const [test, hello] = ['9ec9f7918d7dfc40', '9555e8555c62dcfd']
  await run('SET a hello')
  expect([await run('DIGEST a'), await run('DIGEST absent')]).toEqual([hello, null])
  expect(await run(`SET a test IFDEQ ${test}`)).toBeNull() // it is hello
  expect(await run(`SET a test IFDEQ ${hello.toUpperCase()} EX 100`)).toBe('OK')
  expect([await run('GET a'), await run('TTL a')]).toEqual(['test', 100])
  expect(await run(`SET a x IFDNE ${test} GET`)).toBe('test')
  expect(await run(`SET a hello IFDNE ${hello} GET`)).toBe('test')
  expect([await run(`SET b x IFDEQ ${test}`), await run(`SET b x IFDNE ${test}`)]).toEqual([null, 'OK'])
  expect([await run(`DELEX a IFDEQ ${test}`), await run(`DELEX a IFDNE ${hello}`)]).toEqual([0, 0])
  expect([await run(`DELEX a IFDEQ ${hello}`), await run(`DELEX a IFDNE ${hello}`)]).toEqual([1, 0])
  expect(await run('SET a x IFDEQ 12')).toContain('16 hexadecimal')
  expect(await run('DIGEST')).toContain('wrong number of arguments')
  await run('SADD s 1')
  for (const line of ['DIGEST s', `DELEX s IFDEQ ${test}`]) expect(await run(line)).toContain('WRONGTYPE')
})

test('of many writers that compare the digest of a value, one succeeds; in a transaction they are refused', async () => {
  const { redis, token } = newClient(emulator)
  await redis.set('a', 'test')
  const writers = Array.from({ length: 20 }, (_, i) => redis.exec(['SET', 'a', `w${i}`, 'IFDEQ', '9ec9f7918d7dfc40']))
  expect((await Promise.all(writers)).filter((reply) => reply === 'OK')).toHaveLength(1)
  const transaction = JSON.stringify([['SET', 'a', 'x', 'IFDEQ', '9ec9f7918d7dfc40']])
  const { status, json } = await send(emulator, token, '/multi-exec', transaction)
  expect([status, json]).toEqual([400, { error: expect.stringContaining('transaction') }])
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

test('fields of hashes expire where the engine can do that; elsewhere the command is refused and changes nothing', async () => {
  const run = newRun()
  const canExpire = !String(await run('HEXPIRE absent 1 FIELDS 1 a')).startsWith('ERR')
  await run('HSET h a x')
  const set = String(await run('HSETEX h EX 100 FIELDS 1 b y'))
  if (canExpire) {
    expect([set, await run('HTTL h FIELDS 2 a b')]).toEqual(['1', [-1, 100]])
    expect([await run('HGETEX h PERSIST FIELDS 1 b'), await run('HTTL h FIELDS 1 b')]).toEqual([['y'], [-1]])
  } else {
    expect([set, await run('HKEYS h')]).toEqual([expect.stringMatching(/^ERR emulator/), ['a']])
    expect(await run('HGETEX h EX 100 FIELDS 1 a')).toMatch(/^ERR emulator/)
  }
})

test('COPY knows the only database of a keyspace, as on Upstash', async () => {
  const run = newRun()
  await run('SET a x')
  expect([await run('COPY a b DB 0'), await run('GET b')]).toEqual([1, 'x'])
  for (const line of ['COPY a c DB 1', 'COPY a c REPLACE DB 1'])
    expect(await run(line)).toContain('ERR DB index is out of range')
  expect(await run('EXISTS c')).toBe(0)
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

test('XADD and XTRIM take =, ~ and LIMIT in scripts too, and lines of errors keep their numbers', async () => {
  const { redis } = newClient(emulator)
  const lengthAfter = async (options: string, script: string) => {
    await redis.del('s')
    for (const id of ['1-0', '2-0', '3-0']) await redis.xadd('s', id, { n: 1 })
    await redis.eval(script.replace('OPTIONS', options), ['s'], [])
    return redis.xlen('s')
  }
  const add = "return redis.call('XADD', KEYS[1], OPTIONS, '9-0', 'n', 1)"
  for (const first of ['', '#!lua flags=allow-key-locking\n']) {
    expect(await lengthAfter("'MAXLEN', 2", first + add)).toBe(2)
    expect(await lengthAfter("'MAXLEN', '=', 2", first + add)).toBe(2)
    expect(await lengthAfter("'NOMKSTREAM', 'minid', '=', '3-0'", first + add)).toBe(2)
    expect(await lengthAfter("'MAXLEN', '=', 1", `${first}return redis.pcall('XTRIM', KEYS[1], OPTIONS)`)).toBe(1)
    // Redis trims whole nodes of its tree: it may keep more.
    const most = await lengthAfter("'MAXLEN', '~', 2, 'LIMIT', 10", first + add)
    expect([2, 4]).toContain(most)
  }
  const broken = "local a = 1\nredis.call('XADD', KEYS[1], 'MAXLEN', '=', 'x', '*', 'n', 1)"
  await expect(redis.eval(broken, ['s'], [])).rejects.toThrow(/ERR/)
  await expect(redis.eval("local a = 'XADD'\nreturn a + nil", [], [])).rejects.toThrow(/user_script:2/)
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

test('options come in any order, and what Redis refuses is refused', async () => {
  const run = newRun()
  await run('XADD log 1-1 a 1')
  await run('XADD log 2-1 b 2')
  await run('XGROUP CREATE log g 0')
  const first = [['log', [['1-1', ['a', 1]]]]]
  expect(await run('XREADGROUP COUNT 1 GROUP g c STREAMS log >')).toEqual(first)
  expect(await run('XREADGROUP NOACK COUNT 1 GROUP g c STREAMS log >')).toEqual([['log', [['2-1', ['b', 2]]]]])
  expect(await run('XREADGROUP COUNT 1 BLOCK 5 GROUP g c STREAMS log >')).toContain('not allowed in REST')
  for (const line of ['XRANGE log (- +', 'XREVRANGE log (+ -']) expect(await run(line)).toContain('Invalid stream ID')
  for (const count of ['0', '-1'])
    expect(await run(`XAUTOCLAIM log g d 0 0 COUNT ${count}`)).toContain('COUNT must be > 0')
  expect(await run('SETRANGE s 536870911 xy')).toContain('exceeds maximum allowed size')
  expect(await run('EXISTS s')).toBe(0)
  expect(await run('SETRANGE s 2 xy')).toBe(4)
})
