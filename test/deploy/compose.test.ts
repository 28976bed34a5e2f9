import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { freePort } from '../../scripts/ports.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

const Compose = v.object({
  services: v.record(
    v.string(),
    v.object({
      image: v.optional(v.string()),
      build: v.optional(v.object({ context: v.string(), dockerfile: v.string() })),
      environment: v.record(v.string(), v.union([v.string(), v.number()])),
      ports: v.array(v.string()),
      healthcheck: v.object({ test: v.array(v.string()) }),
      depends_on: v.optional(v.record(v.string(), v.object({ condition: v.string() }))),
      volumes: v.optional(v.array(v.string())),
    }),
  ),
  configs: v.object({ redis: v.object({ content: v.string() }) }),
})

const { services, configs } = v.parse(Compose, parse(await readFile(join(root, 'compose.yaml'), 'utf8')))
const { redis, emulator } = services

/** Replaces `${NAME:?…}` by its value, as compose does. */
const interpolate = (text: string, values: Record<string, string>) =>
  text.replaceAll(/\$\{(\w+):\?[^}]+\}/g, (_, name: string) => values[name] ?? '')

test('no port is reachable from another machine', () => {
  for (const { ports } of Object.values(services)) {
    expect(ports.length).toBeGreaterThan(0)
    for (const port of ports) expect(port).toMatch(/^127\.0\.0\.1:\d+:\d+$/)
  }
})

test('the compose file requires a password and a token, and contains neither', () => {
  expect(configs.redis.content).toMatch(/^requirepass \$\{REDIS_PASSWORD:\?.+\}$/m)
  expect(redis?.environment['REDISCLI_AUTH']).toMatch(/^\$\{REDIS_PASSWORD:\?.+\}$/)
  expect(emulator?.environment['REDIS_URL']).toMatch(/^redis:\/\/:\$\{REDIS_PASSWORD:\?.+\}@redis:6379$/)
  expect(emulator?.environment['UPSTASH_REDIS_REST_TOKEN']).toMatch(/^\$\{UPSTASH_REDIS_REST_TOKEN:\?.+\}$/)
})

test('Redis 7 persists its data within its memory limit, and the emulator waits until Redis is healthy', () => {
  expect(redis?.image).toMatch(/^redis:7\./)
  expect(redis?.volumes).toEqual(['redis:/data'])
  expect(configs.redis.content).toMatch(/^appendonly yes$/m)
  expect(configs.redis.content).toMatch(/^maxmemory 256mb$/m)
  expect(configs.redis.content).toMatch(/^maxmemory-policy allkeys-lru$/m)
  expect(redis?.healthcheck.test.at(-1)).toContain('redis-cli ping')
  expect(emulator?.depends_on).toEqual({ redis: { condition: 'service_healthy' } })
  expect(existsSync(join(root, emulator?.build?.context ?? '', emulator?.build?.dockerfile ?? ''))).toBe(true)
})

const hasRedis = (process.env['PATH'] ?? '').split(delimiter).some((folder) => existsSync(join(folder, 'redis-server')))

// Only `.ci/run` installs a Redis: `npm run test:redis` runs this.
test.skipIf(!hasRedis)(
  'Redis and the emulator behave so, and the health checks notice a stopped Redis',
  { timeout: 60_000 },
  async () => {
    const values = { REDIS_PASSWORD: 'ownpassword', UPSTASH_REDIS_REST_TOKEN: `token-${crypto.randomUUID()}` }
    const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
    const [redisPort, emulatorPort] = [await freePort(), await freePort()]
    await writeFile(join(folder, 'redis.conf'), interpolate(configs.redis.content, values))
    const children = [
      spawn('redis-server', ['redis.conf', '--port', `${redisPort}`, '--bind', '127.0.0.1'], { cwd: folder }),
    ]
    try {
      const auth = { PATH: process.env['PATH'], REDISCLI_AUTH: values.REDIS_PASSWORD }
      const cli = (...args: string[]) =>
        execFileSync('redis-cli', ['-p', `${redisPort}`, ...args], {
          encoding: 'utf8',
          env: auth,
          stdio: 'pipe',
        }).trim()
      await until(() => cli('ping') === 'PONG')
      expect(cli('config', 'get', 'appendonly')).toBe('appendonly\nyes')
      expect(cli('config', 'get', 'maxmemory')).toBe(`maxmemory\n${256 * 1024 * 1024}`)
      expect(cli('config', 'get', 'maxmemory-policy')).toBe('maxmemory-policy\nallkeys-lru')
      const unknown = { ...process.env, REDISCLI_AUTH: '' }
      expect(
        execFileSync('redis-cli', ['-p', `${redisPort}`, 'ping'], { encoding: 'utf8', env: unknown, stdio: 'pipe' }),
      ).toContain('NOAUTH')

      const declared = Object.entries(emulator?.environment ?? {}).map(([name, value]) => {
        const set = interpolate(String(value), values).replace('redis:6379', `127.0.0.1:${redisPort}`)
        return [name, name === 'EMULATOR_PORT' ? String(emulatorPort) : set]
      })
      const env = { PATH: process.env['PATH'], ...(Object.fromEntries(declared) as Record<string, string>) }
      children.push(spawn(process.execPath, ['emulator/main.ts'], { cwd: root, env }))
      const [, node, ...check] = (emulator?.healthcheck.test ?? []).map((arg) =>
        arg.replace('8079', String(emulatorPort)),
      )
      expect(node).toBe('node')
      await until(() => execFileSync(process.execPath, check, { env, stdio: 'pipe' }) !== undefined)
      await fetch(`http://127.0.0.1:${emulatorPort}/set/kept/yes`, {
        headers: { Authorization: `Bearer ${values.UPSTASH_REDIS_REST_TOKEN}` },
      })
      expect(cli('get', 'kept')).toBe('yes')

      children[0]?.kill('SIGKILL')
      await once(children[0] ?? expect.fail('Redis was not started'), 'close')
      expect(() => execFileSync(process.execPath, check, { env, stdio: 'ignore' })).toThrow('Command failed')
    } finally {
      for (const child of children) child.kill('SIGKILL')
      await rm(folder, { recursive: true })
    }
  },
)

/** Waits until it is true and does not throw. */
async function until(holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 30_000; ; await sleep(100)) {
    try {
      if (holds()) return
    } catch (error) {
      if (Date.now() > deadline) throw error
    }
  }
}
