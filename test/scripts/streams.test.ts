import { setTimeout as sleep } from 'node:timers/promises'
import type { Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createControl } from '../../emulator/control.ts'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { newReader } from '../streams/reader.ts'
import { SERVICE_TOKEN, startWorker } from './worker.ts'

// The deployed Worker in workerd, with a direct socket: the proxy of `wrangler dev` hides that a client disconnected.
const TOKEN = 'token-of-streams'
let emulator: Emulator
let workerd: Miniflare
let origin = ''

beforeAll(async () => {
  emulator = await startEmulator({ openTokens: true })
  ;({ workerd, origin } = await startWorker(emulator, TOKEN, {
    REDIS_WRITE_TIMEOUT_MS: '5000',
    STREAM_HEARTBEAT_SECONDS: '0.2', // a disconnected client is noticed at the next write
  }))
}, 90_000)

afterAll(async () => {
  await workerd.dispose()
  await emulator.close()
})

/** How many hints are published, over some seconds. */
const HINTS = 1_000

async function open(channel = 'custom_test', headers: Record<string, string> = {}) {
  const leaving = new AbortController()
  const path = `/v1/events/stream?channels=${channel}`
  const response = await fetch(origin + path, { headers, signal: leaving.signal })
  return { response, ...newReader(response.body), leave: () => leaving.abort() }
}

async function publish(type: string): Promise<void> {
  const response = await fetch(`${origin}/v1/events`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${SERVICE_TOKEN}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ channel: 'custom_test', type, data: {}, audience: 'everyone' }),
  })
  expect(response.status).toBe(202)
}

/** Publishes a hint as the consumer of the queue does. */
async function publishHint(value: number): Promise<void> {
  const event = { type: 'counter_update', channel: 'counter_events', subject: 'p_1', data: { contentId: 'p_1', value } }
  const message = JSON.stringify({ passing: [{ event, audience: 'everyone', publicSequence: 0 }] })
  const response = await fetch(emulator.url, {
    method: 'POST',
    headers: { Authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify(['PUBLISH', 'events:live', message]),
  })
  expect(await response.json()).toEqual({ result: expect.toSatisfy((receivers) => receivers >= 1) })
}

async function subscriptions(): Promise<number> {
  const response = await fetch(`${emulator.url}/pubsub/numsub/events:live`, {
    headers: { Authorization: `Bearer ${TOKEN}` },
  })
  const { result } = (await response.json()) as { result: [string, number] }
  return result[1]
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 30_000; !(await condition()); await sleep(50)) {
    if (Date.now() > deadline) throw new Error('the condition was not met within 30 s')
  }
}

test(
  'two readers receive an event while their streams are open, and one that disconnected resumes',
  { timeout: 90_000 },
  async () => {
    const [stays, leaves] = [await open(), await open()]
    expect(stays.response.headers.get('Content-Type')).toBe('text/event-stream; charset=utf-8')
    await publish('one')
    for (const stream of [stays, leaves]) expect((await stream.event()).type).toBe('one') // not buffered: the streams are still open
    expect(await subscriptions()).toBe(1) // both are in one isolate

    leaves.leave()
    await publish('two')
    expect((await stays.event()).type).toBe('two')
    const resumed = await open('custom_test', { 'Last-Event-ID': leaves.lastEventId() })
    await publish('three')
    for (const type of ['two', 'three']) expect((await resumed.event()).type).toBe(type)
    expect((await stays.event()).type).toBe('three')
    resumed.leave()
    stays.leave()
    await until(async () => (await subscriptions()) === 0)
  },
)

test(
  'readers that stay receive every hint, while those whose requests read the subscription leave one after the other',
  { timeout: 90_000 },
  async () => {
    const streams = [await open('counter_events'), await open('counter_events'), await open('counter_events')]
    streams.push(await open('counter_events'))
    const [first, one, two, last] = streams
    if (!first || !one || !two || !last) throw new Error('too few streams')
    expect(await subscriptions()).toBe(1)
    const received = [one, two].map(async (stream) => {
      const values: unknown[] = []
      while (values.at(-1) !== HINTS) values.push((await stream.event()).data['value'])
      return values
    })
    for (let value = 1; value <= HINTS; value += 1) {
      await publishHint(value)
      if (value === HINTS / 4) first.leave() // the newest takes over from it
      if (value === HINTS / 2) last.leave()
    }
    const all = Array.from({ length: HINTS }, (_, i) => i + 1)
    for (const values of await Promise.all(received)) expect(values).toEqual(all)
    one.leave()
    two.leave()
    await until(async () => (await subscriptions()) === 0)
  },
)

test(
  'when Redis stops, open streams end, opening one answers 503, and afterwards missed events arrive',
  { timeout: 90_000 },
  async () => {
    const stream = await open()
    const { port } = emulator
    await emulator.close()
    expect(await stream.next()).toBeUndefined()
    const refused = await open()
    expect([refused.response.status, refused.response.headers.get('Retry-After')]).toEqual([503, '5'])
    await refused.close()
    await publish('unheard')
    const database = await workerd.getD1Database('DB')
    const isMissed = database.prepare(`SELECT 1 FROM events WHERE type = 'unheard' AND missed_at IS NOT NULL`)
    await until(async () => (await isMissed.first()) !== null) // the queue consumer has handled it

    emulator = await startEmulator({ openTokens: true, port })
    await createControl(emulator.url, TOKEN).reset()
    await until(async () => {
      const { response, leave } = await open()
      leave()
      return response.status === 200
    })
    const returned = await open()
    // Missing in the types of Miniflare.
    const worker = (await workerd.getWorker()) as unknown as { scheduled: (event: object) => Promise<unknown> }
    await until(async () => {
      await worker.scheduled({ cron: '* * * * *', scheduledTime: new Date() })
      return (await isMissed.first()) === null
    })
    expect((await returned.event()).type).toBe('unheard')
    returned.leave()
  },
)
