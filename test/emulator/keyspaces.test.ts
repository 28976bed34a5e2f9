import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { newClient, redisUrl, send, start, until } from './start.ts'

let emulator: Emulator
beforeAll(async () => {
  emulator = await start()
})
afterAll(() => emulator.close())

test('a token sees only its own keys, and empties only its own keyspace', async () => {
  const { redis: ada } = newClient(emulator)
  const { redis: bob } = newClient(emulator)
  await ada.mset({ a: 'ada', b: 2 })
  await bob.set('a', 'bob')
  expect(await bob.keys('*')).toEqual(['a'])
  expect(await bob.dbsize()).toBe(1)
  expect((await bob.scan(0))[1]).toEqual(['a'])
  expect(await bob.randomkey()).toBe('a')
  await bob.flushall()
  expect(await bob.dbsize()).toBe(0)
  expect(await ada.get('a')).toBe('ada')
  await bob.flushdb()
  expect(await ada.dbsize()).toBe(2)
})

test('scripts read and write the keyspace of their token', async () => {
  const { redis: ada } = newClient(emulator)
  const { redis: bob } = newClient(emulator)
  await ada.eval('return redis.call("SET", KEYS[1], ARGV[1])', ['k'], ['ada'])
  expect(await bob.eval('return redis.call("GET", KEYS[1])', ['k'], [])).toBeNull()
  expect(await ada.get('k')).toBe('ada')
})

test('a script is known to the token that loaded it, until that token flushes', async () => {
  const { redis: ada } = newClient(emulator)
  const { redis: bob } = newClient(emulator)
  const sha = await ada.scriptLoad('return 42')
  expect(await bob.scriptExists(sha)).toEqual([0])
  await expect(bob.evalsha(sha, [], [])).rejects.toThrow('NOSCRIPT')
  await bob.scriptLoad('return 42')
  await bob.scriptFlush()
  expect(await ada.evalsha(sha, [], [])).toBe(42)
})

test('channels of different tokens are separate', async () => {
  const { redis: ada } = newClient(emulator)
  const { redis: bob } = newClient(emulator)
  const got: unknown[] = []
  let confirmed = 0
  const exact = ada.subscribe('c')
  const pattern = ada.psubscribe('*')
  exact.on('subscribe', () => confirmed++)
  pattern.on('psubscribe', () => confirmed++)
  exact.on('message', ({ message }) => got.push(message))
  pattern.on('pmessage', ({ message }) => got.push(message))
  await until(() => confirmed === 2)
  expect(await bob.publish('c', '"from bob"')).toBe(0)
  expect(await bob.exec(['PUBSUB', 'CHANNELS', '*'])).toEqual([])
  expect(await bob.exec(['PUBSUB', 'NUMSUB', 'c'])).toEqual(['c', 0])
  expect(await bob.exec(['PUBSUB', 'NUMPAT'])).toBe(0)
  expect(await ada.publish('c', '"from ada"')).toBe(2)
  await until(() => got.length === 2)
  expect(got).toEqual(['from ada', 'from ada'])
  await exact.unsubscribe()
  await pattern.unsubscribe()
})

test('hundreds of tokens at once each get their own keyspace', async () => {
  const clients = Array.from({ length: 300 }, () => newClient(emulator).redis)
  await Promise.all(clients.map((redis, i) => redis.set('me', i)))
  const answers = await Promise.all(clients.map((redis) => redis.get('me')))
  expect(answers).toEqual(clients.map((_, i) => i))
  expect(await Promise.all(clients.map((redis) => redis.dbsize()))).toEqual(clients.map(() => 1))
})

test('two emulators in test mode do not share keyspaces, even for the same token', async () => {
  const second = await start()
  try {
    const { token, redis } = newClient(emulator)
    await redis.set('a', 1)
    expect((await send(second, token, '/get/a')).json).toEqual({ result: null })
  } finally {
    await second.close()
  }
})

test('a token that finds no free database is an error', async () => {
  const tokens = Array.from({ length: 20_000 }, (_, i) => `token-${i}`)
  const crowded = await start({ openTokens: false, tokens })
  try {
    expect((await send(crowded, 'token-3', '/ping')).json).toEqual({ result: 'PONG' })
    const { status, json } = await send(crowded, 'token-19999', '/ping')
    expect(status).toBe(500)
    expect(json).toEqual({ error: expect.stringMatching(/the engine has \d+ databases and each token takes one/) })
  } finally {
    await crowded.close()
  }
})

test('an unreachable Redis is an error at the start', async () => {
  await expect(startEmulator({ redisUrl: 'redis://127.0.0.1:1' })).rejects.toThrow('the engine at 127.0.0.1:1 failed')
})

/** Runs `node emulator/main.ts` until its first line of output. */
async function runMain(env: Record<string, string>) {
  const child = spawn(process.execPath, ['emulator/main.ts'], { env: { PATH: process.env.PATH ?? '', ...env } })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  await until(() => output.includes('\n'))
  return { child, output: () => output }
}

test('the process serves its token, reports a taken port, and stops on SIGTERM', async () => {
  const env = { EMULATOR_PORT: '0', UPSTASH_REDIS_REST_TOKEN: 'secret', ...(redisUrl ? { REDIS_URL: redisUrl } : {}) }
  const { child, output } = await runMain(env)
  const url = /http:\/\/\S+/.exec(output())?.[0] ?? ''
  const headers = { authorization: 'Bearer secret' }
  expect(await (await fetch(`${url}/ping`, { headers })).json()).toEqual({ result: 'PONG' })
  expect((await fetch(`${url}/ping?_token=other`)).status).toBe(401)

  const second = await runMain({ ...env, EMULATOR_PORT: new URL(url).port })
  const [code] = second.child.exitCode === null ? await once(second.child, 'exit') : [second.child.exitCode]
  expect(code).toBe(1)
  expect(second.output()).toMatch(/^Upstash emulator: port \d+ is taken.*\n$/)

  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
})
