import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import { RedisServerState, Resp2Server, createRedisCommandExecutor } from 'js-redis-server/core'
import { expect, onTestFinished, test } from 'vitest'
import { Failure, connect, parseRedisUrl } from '../../emulator/resp.ts'
import type { Emulator } from '../../emulator/server.ts'
import { newClient, redisUrl, send, start, until } from './start.ts'

/** An emulator with a proxy in front of its engine. `endConnections` ends every connection to it, as a restart does. */
async function startWithProxy(): Promise<{ emulator: Emulator; endConnections: () => void; open: Set<net.Socket> }> {
  let enginePort: number
  if (redisUrl === undefined) {
    const engine = new Resp2Server({
      server: new RedisServerState({ databaseCount: 16 }),
      executor: createRedisCommandExecutor(),
    })
    await engine.listen(0)
    enginePort = engine.getPort()
    onTestFinished(() => engine.close())
  } else {
    enginePort = parseRedisUrl(redisUrl).port
  }
  const open = new Set<net.Socket>()
  const proxy = net.createServer((socket) => {
    const upstream = net.connect(enginePort)
    socket.pipe(upstream).pipe(socket)
    socket.on('error', () => {})
    upstream.on('error', () => {})
    socket.on('close', () => {
      upstream.destroy()
      open.delete(socket)
    })
    open.add(socket)
  })
  await once(proxy.listen(0, '127.0.0.1'), 'listening')
  const { port } = proxy.address() as AddressInfo // a string only for pipes
  const emulator = await start({ redisUrl: `redis://127.0.0.1:${port}` })
  onTestFinished(async () => {
    await emulator.close()
    await until(() => open.size === 0) // the emulator leaves no connection behind
    proxy.close()
  })
  return { emulator, open, endConnections: () => open.forEach((socket) => socket.destroy()) }
}

test('subscriptions and monitors end with their engine', async () => {
  const { emulator, endConnections } = await startWithProxy()
  const { token } = newClient(emulator)
  const streams = await Promise.all(
    ['/subscribe/c', '/psubscribe/*', '/monitor'].map(async (path) => {
      const response = await fetch(`${emulator.url}${path}?_token=${token}`)
      const reader = response.body?.getReader()
      await reader?.read() // the confirmation
      return reader
    }),
  )
  endConnections()
  for (const reader of streams) await expect(reader?.read()).rejects.toThrow('terminated')
})

test('after the engine ended its connections, old and new tokens connect again', async () => {
  const { emulator, endConnections } = await startWithProxy()
  const { redis, token } = newClient(emulator)
  await redis.set('a', 1)
  const sha = await redis.scriptLoad('return 1')
  const pattern = await fetch(`${emulator.url}/psubscribe/*?_token=${token}`)
  const reader = pattern.body?.getReader()
  await reader?.read()
  expect(await redis.exec(['PUBSUB', 'NUMPAT'])).toBe(1)
  endConnections()
  await expect(reader?.read()).rejects.toThrow('terminated')
  expect(await redis.get('a')).toBe(1)
  expect(await redis.exec(['PUBSUB', 'NUMPAT'])).toBe(0)
  expect(await redis.scriptExists(sha)).toEqual([0]) // a restarted engine has lost its scripts
  expect(await newClient(emulator).redis.set('b', 2)).toBe('OK')
})

test('a subscription that the client ends leaves no connection', async () => {
  const { emulator, open } = await startWithProxy()
  const { redis, token } = newClient(emulator)
  await redis.ping()
  const before = open.size
  const abort = new AbortController()
  const response = await fetch(`${emulator.url}/subscribe/c?_token=${token}`, { signal: abort.signal })
  expect(open.size).toBe(before + 1)
  abort.abort()
  await expect(response.text()).rejects.toThrow('aborted')
  await until(() => open.size === before)
})

test('a subscription that the engine refuses is an error', async ({ skip }) => {
  const url = redisUrl ?? skip('the embedded engine has no users')
  const admin = await connect(parseRedisUrl(url), 0)
  const name = `emulator-${crypto.randomUUID()}`
  const [reply] = await admin.send([['ACL', 'SETUSER', name, 'on', '>secret', '~*', '+@all', 'resetchannels']])
  expect(reply).not.toBeInstanceOf(Failure)
  const emulator = await start({
    redisUrl: String(Object.assign(new URL(url), { username: name, password: 'secret' })),
  })
  try {
    expect(await send(emulator, 'token', '/subscribe/c')).toMatchObject({
      status: 400,
      json: { error: expect.stringMatching(/^NOPERM/) },
    })
  } finally {
    await emulator.close()
    await admin.send([['ACL', 'DELUSER', name]])
    admin.close()
  }
})
