import { env } from 'cloudflare:workers'
import { eq, isNotNull, sql } from 'drizzle-orm'
import { beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { events } from '../../src/db/schema.ts'
import { readConfig } from '../../src/config.ts'
import { keys } from '../../src/keys.ts'
import { createConcurrency } from '../../src/redis/concurrency.ts'
import { createStream } from '../../src/redis/stream.ts'
import { createStreams, type Streamed } from '../../src/streams/streams.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { db } from '../rows.ts'
import { custom, open, publish, SERVICE, until } from './world.ts'

beforeAll(migrate)
beforeEach(async () => {
  await db.update(events).set({ missedAt: null }) // each test has a Redis of its own, and D1 is one
  vi.spyOn(console, 'error').mockImplementation(() => {}) // failures are meant
})

/** An edge that asks Redis every time, also when it has just failed. */
const newPersistent = (bindings: Record<string, string> = {}, token?: string) =>
  newEdge({ REDIS_BREAKER_FAILURES: '1000', ...bindings }, token)

const missedTypes = async () => {
  const rows = await db
    .select()
    .from(events)
    .where(isNotNull(events.missedAt))
    .orderBy(sql`rowid`)
  return rows.map(({ type }) => type)
}

/** Publishes while Redis is away. */
async function publishUnheard(edge: Edge, ...types: string[]): Promise<void> {
  await edge.redis.fault({ kind: 'refuse' })
  for (const type of types) {
    const body = JSON.stringify(custom(type, { subject: 'room:1' }))
    expect((await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body })).status).toBe(202)
  }
  await until(() => edge.events.sent.length === types.length)
  expect(await edge.dispatch()).toBe(0)
  await edge.redis.clearFaults()
}

/** Publishes an event; answers the position of a client that has received it. */
async function publishSeen(edge: Edge): Promise<string> {
  const stream = await open(edge)
  await publish(edge, custom('seen', { subject: 'room:1' }))
  expect((await stream.event()).type).toBe('seen')
  await stream.close()
  return stream.lastEventId()
}

/** Resumes after `seen`; answers the types of the events received until the call of the answer. */
async function resume(edge: Edge, seen: string) {
  const stream = await open(edge, { 'Last-Event-ID': seen })
  return async () => {
    await publish(edge, custom('end'))
    const types = []
    for (;;) {
      const message = await stream.next()
      if (message?.event === 'end') break
      types.push(message?.event)
    }
    await stream.close()
    return types
  }
}

/** Makes D1 refuse to set `missed_at` so, as if the Worker died there. */
async function refusing(value: 'NULL' | 'NOT NULL', during: () => Promise<void>): Promise<void> {
  await env.DB.exec(
    `CREATE TRIGGER refuse BEFORE UPDATE OF missed_at ON events WHEN NEW.missed_at IS ${value} BEGIN SELECT RAISE(ABORT, 'died'); END`,
  )
  try {
    await during()
  } finally {
    await env.DB.exec('DROP TRIGGER refuse')
  }
}

test('events of a Redis outage reach the streams afterwards: in order, once, after newer ones', async () => {
  const edge = newPersistent()
  const seen = await publishSeen(edge)
  await publishUnheard(edge, 'one', 'two', 'three')
  expect(await missedTypes()).toEqual(['one', 'two', 'three'])
  const undelivered = await db.select().from(events).where(isNotNull(events.dueAt))
  expect(undelivered).toEqual([]) // the other listeners have handled them: they do not receive them again

  await edge.redis.fault({ kind: 'refuse' })
  await expect(edge.cron()).rejects.toThrow('jobs failed') // it is not back yet
  await edge.redis.clearFaults()
  expect(await missedTypes()).toHaveLength(3)

  await publish(edge, custom('newer', { subject: 'room:1' }))
  const resumedAtOnce = await resume(edge, seen)
  await edge.cron()
  expect(await missedTypes()).toEqual([])
  const resumedLater = await resume(edge, seen)
  const missed = await open(edge, { 'Last-Event-ID': seen })
  await edge.cron() // has nothing more to do
  for (const rest of [resumedAtOnce, resumedLater])
    expect((await rest()).filter((type) => type !== 'end')).toEqual(['newer', 'one', 'two', 'three'])
  const sequences = []
  for (let i = 0; i < 4; i += 1) sequences.push(Number(((await missed.event()) as { sequence?: string }).sequence))
  expect(sequences).toEqual([5, 2, 3, 4])
  await missed.close()
  await edge.settle()
})

test('a minute without missed events costs no command; otherwise a script and a PUBLISH per page', async () => {
  const edge = newPersistent()
  await publish(edge, custom('heard'))
  expect(await missedTypes()).toEqual([])
  const costOf = async () => {
    await edge.settle()
    await edge.redis.reset()
    await edge.cron()
    return (await edge.redis.counts()).byCommand
  }
  await costOf() // what is done once
  const idle = await costOf()
  expect(idle['publish']).toBeUndefined()
  await publishUnheard(edge, ...Array.from({ length: 150 }, (_, i) => `n${i}`))
  const busy = await costOf()
  expect(busy).toEqual({ ...idle, publish: 2, eval: (idle['eval'] ?? 0) + 2 })
  expect(await costOf()).toEqual(idle)
})

test.each([
  ['the Worker dies before they are noted as there', 'NULL'],
  ['the Worker dies before they are noted as missed', 'NOT NULL'],
] as const)('when %s, the catch-up runs again, and no event appears twice', async (_, value) => {
  const edge = newPersistent()
  const seen = await publishSeen(edge)
  if (value === 'NULL') {
    await publishUnheard(edge, 'one', 'two')
    await refusing(value, () => expect(edge.cron()).rejects.toThrow('jobs failed'))
    expect(await edge.sdk.xlen(keys.streamLog)).toBe(3)
    expect(await missedTypes()).toEqual(['one', 'two'])
  } else {
    const died = () => publishUnheard(edge, 'one', 'two')
    await refusing(value, () => expect(died()).rejects.toThrow('expected 2 to be +0')) // both are to be given again
    await edge.redis.clearFaults()
    await edge.cron(Date.now() + 61_000)
    expect(await edge.dispatch()).toBe(0)
  }
  const rest = await resume(edge, seen)
  await edge.cron()
  expect(await rest()).toEqual(['one', 'two'])
  expect(await missedTypes()).toEqual([])
  await edge.settle()
})

test('an event that Redis stored but could not confirm appears once', async () => {
  const edge = newPersistent()
  const seen = await publishSeen(edge)
  for (const match of ['EVAL', 'PUBLISH']) {
    await edge.redis.fault({ kind: 'cut', match, times: 2 }) // the second time it is asked, too
    await publish(edge, custom(`cut_${match.toLowerCase()}`))
  }
  expect(await missedTypes()).toEqual(['cut_eval', 'cut_publish'])
  const rest = await resume(edge, seen)
  await edge.cron()
  expect(await missedTypes()).toEqual([])
  expect(await rest()).toEqual(['cut_eval', 'cut_publish'])
  await edge.settle()
})

test('an event appears once although the queue repeats it, or two crons run at once', async () => {
  const edge = newPersistent()
  const seen = await publishSeen(edge)
  const names = Array.from({ length: 120 }, (_, i) => `n${i}`)
  await publishUnheard(edge, ...names)
  const missed = await db
    .select()
    .from(events)
    .where(isNotNull(events.missedAt))
    .orderBy(sql`rowid`)
  const deliverAgain = async (id = '') => {
    await db.update(events).set({ dueAt: 0 }).where(eq(events.id, id))
    expect(await edge.deliver([{ kind: 'event', id }], 'events')).toEqual({ acked: [0], retried: [] })
  }
  await edge.redis.fault({ kind: 'refuse' })
  await deliverAgain(missed[3]?.id) // missed again: it keeps its place
  await edge.redis.clearFaults()
  await deliverAgain(missed[7]?.id)
  await Promise.all([edge.cron(), newPersistent({}, edge.token).cron()])
  expect(await (await resume(edge, seen))()).toEqual(['n7', ...names.filter((name) => name !== 'n7')])
  await edge.settle()
})

test('an open stream gets all events even if the log keeps fewer; a stream opened later is reset', async () => {
  const edge = newPersistent({ STREAM_EVENTS: '100' })
  const seen = await publishSeen(edge)
  const names = Array.from({ length: 250 }, (_, i) => `n${i}`)
  await publishUnheard(edge, ...names)
  const rest = await resume(edge, seen)
  await edge.cron()
  expect(await edge.sdk.xlen(keys.streamLog)).toBe(100)
  const late = await open(edge, { 'Last-Event-ID': seen })
  expect((await late.next())?.event).toBe('reset')
  await late.close()
  expect(await rest()).toEqual(names)
  await edge.settle()
}, 60_000)

test('when Redis comes back empty, a resumed stream is reset, then gets what the log missed', async () => {
  const edge = newPersistent()
  const seen = await publishSeen(edge)
  await publishUnheard(edge, 'one', 'two')
  await edge.sdk.flushdb()
  const before = await resume(edge, seen)
  await edge.cron()
  const after = await resume(edge, seen)
  expect(await before()).toEqual(['reset', 'one', 'two'])
  expect((await after()).filter((type) => type !== 'end')).toEqual(['reset'])
  await edge.settle()
})

test('events missed longer ago than the log is kept are skipped, and delay no others', async () => {
  const edge = newPersistent()
  await publishUnheard(edge, 'old')
  const { meta } = await env.DB.prepare('UPDATE events SET missed_at = missed_at - 86400000 WHERE missed_at > 0').run()
  expect(meta.changes).toBe(1)
  await publishUnheard(edge, 'recent')
  await edge.cron()
  expect(await missedTypes()).toEqual(['old'])
  expect(await edge.sdk.xlen(keys.streamLog)).toBe(1)
})

test('the catch-up runs in bounded steps, oldest first, within its limits', async () => {
  const edge = newPersistent()
  await publishUnheard(edge, 'one', 'two', 'three')
  const { redis } = edge
  const policy = readConfig({ ...env, UPSTASH_REDIS_REST_TOKEN: edge.token }).streams
  const streams = createStreams({
    db,
    log: createStream<Streamed>(
      { redis: edge.sdk, writes: edge.sdk, join: () => Promise.reject(new Error('nobody follows')) },
      keys,
      { maxEntries: 100, ttlMs: 60_000 },
    ),
    places: createConcurrency(edge.sdk, keys, { ...policy, ttlMs: 60_000 }),
    open: { count: 0 },
    source: '/test',
    policy: { ...policy, keptMs: 60_000 },
    defer: (work) => void work(),
    onFailure: () => {},
  })
  await redis.reset()
  await expect(streams.catchUp(2, Date.now(), AbortSignal.abort())).rejects.toThrow('aborted')
  expect((await redis.counts()).requests).toBe(0)
  expect(await streams.catchUp(2, Date.now(), new AbortController().signal)).toBe(2)
  expect(await missedTypes()).toEqual(['three'])
  expect((await redis.counts()).byCommand).toEqual({ eval: 1, publish: 1 })
  expect(await streams.catchUp(2, Date.now(), new AbortController().signal)).toBe(1)
})
