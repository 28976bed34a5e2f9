import type { Redis } from '@upstash/redis/cloudflare'
import { env } from 'cloudflare:workers'
import { createControl } from '../../emulator/control.ts'
import { type Breaker, createBreaker, createConnection, newMeter, type Use } from '../../src/redis/client.ts'

/** A Redis keyspace of its own, its control path, and clients for it as the Worker makes them. */
export function newKeyspace() {
  const server = { url: env.UPSTASH_REDIS_REST_URL, token: `test-${crypto.randomUUID()}` }
  const patient: Use = { timeoutMs: 20_000, isSafeTwice: true }
  return {
    server,
    control: createControl(server.url, server.token),
    /** A client like that of one more invocation: patient, and safe twice, unless told otherwise. */
    connect: (use: Partial<Use> = {}, breaker: Breaker = createBreaker(1_000, 1_000), meter = newMeter()) =>
      createConnection(server, breaker, meter)({ ...patient, ...use }),
  }
}

/** The keys that match, in no order. Not by KEYS, which docs/redis.md denies the Worker's user of Redis: `.ci/run` has it. */
export async function keysOf(redis: Pick<Redis, 'scan'>, match = '*'): Promise<string[]> {
  const found = new Set<string>()
  for (let cursor = '0'; ;) {
    const [next, keys] = await redis.scan(cursor, { match, count: 1_000 })
    for (const key of keys) found.add(key)
    if (next === '0') return [...found]
    cursor = next
  }
}

/** Collects what is deferred to after the answer. */
export function newDeferral() {
  const works: Promise<unknown>[] = []
  return {
    defer: (work: () => Promise<unknown>) => void works.push(work()),
    /** Waits for all of it, and for what that defers in turn. */
    async settle(): Promise<void> {
      while (works.length > 0) await Promise.all(works.splice(0))
    },
  }
}
