import { eq, inArray } from 'drizzle-orm'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, expect, test } from 'vitest'
import { webhooks } from '../../src/db/schema.ts'
import { migrate } from '../edge.ts'
import { db } from '../rows.ts'
import { addWebhook, ask, deliverAll, newDevEdge, publish, readDeliveries, receiver } from './endpoints.ts'
import type { Receiver } from './receiver.ts'

beforeAll(migrate)

const newChannel = () => `custom_${crypto.randomUUID().replaceAll('-', '')}`

/** Adds one endpoint per receiver, all on one channel; answers their ids. */
async function addAll(edge: ReturnType<typeof newDevEdge>, channel: string, receivers: Receiver[]): Promise<string[]> {
  const ids: string[] = []
  for (const to of receivers) ids.push((await addWebhook(edge, to, { channels: [channel] })).id)
  return ids
}

/**
 * Delivers what is in the queue as the platform does: a batch as soon as there are messages, without waiting for what
 * other batches still do, and messages after their delay. Ends when nothing is left.
 */
async function pump(edge: ReturnType<typeof newDevEdge>): Promise<void> {
  const waiting: { body: unknown; dueAt: number }[] = []
  let running = 0
  do {
    for (const { body, delaySeconds } of edge.deliveries.sent.splice(0)) {
      waiting.push({ body, dueAt: Date.now() + delaySeconds * 1_000 })
    }
    const due = waiting.filter(({ dueAt }) => dueAt <= Date.now()).slice(0, 20)
    for (const message of due) waiting.splice(waiting.indexOf(message), 1)
    if (due.length > 0) {
      running += 1
      const bodies = due.map(({ body }) => body)
      void edge.deliver(bodies, 'deliveries').finally(() => (running -= 1))
    }
    await sleep(20)
  } while (running > 0 || waiting.length > 0 || edge.deliveries.sent.length > 0)
}

const rowOf = async (id: string) => (await db.select().from(webhooks).where(eq(webhooks.id, id)))[0]

test.each([
  ['send their answer one byte per second', { isDripping: true }],
  ['answer 200 after three seconds', { delayMs: 3_000 }],
])('six endpoints that %s do not delay healthy endpoints', { timeout: 120_000 }, async (_, plan) => {
  const edge = newDevEdge()
  const channel = newChannel()
  const [slow, healthy] = [Array.from({ length: 6 }, receiver), Array.from({ length: 4 }, receiver)]
  const slowIds = await addAll(edge, channel, slow) // first in every batch
  await addAll(edge, channel, healthy)
  for (const to of slow) await to.plan(plan)
  const send = async (events: number) => {
    for (let event = 0; event < events; event += 1) await publish(edge, channel)
    return { startedAt: Date.now(), delivering: pump(edge) } // one batch of twenty, and what it releases
  }
  const latest = async () =>
    Math.max(
      ...(await Promise.all(healthy.map((to) => to.events())))
        .flat()

        .map(({ at }) => at),
    )

  const first = await send(2)
  await first.delivering
  expect((await Promise.all(healthy.map((to) => to.events()))).map((events) => events.length)).toEqual([2, 2, 2, 2])
  expect((await latest()) - first.startedAt).toBeLessThan(8_000)

  // Their slowness is known from now on, in every isolate.
  const known = await db.select().from(webhooks).where(inArray(webhooks.id, slowIds))
  expect(known.map(({ slowSince, failures }) => [slowSince === null, failures])).toEqual(slow.map(() => [false, 0]))
  const second = await send(1)
  await second.delivering
  expect((await latest()) - second.startedAt).toBeLessThan(5_000)
  for (const id of slowIds) {
    expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(3).fill('delivered'))
  }
})

test('an answer to the challenge has to be complete within the deadline', async () => {
  const edge = newDevEdge({ WEBHOOK_TIMEOUT_SECONDS: '0.5' })
  const to = receiver()
  await to.plan({ isDripping: true, body: '' })
  const created = await addWebhook(edge, to)
  expect(created).toMatchObject({ status: 'unverified', challenge: { status: 200 } })
  expect(created.challenge.durationMs).toBeGreaterThanOrEqual(400)
  expect(created.challenge.durationMs).toBeLessThan(10_000)
})

test('that an endpoint is slow is recorded after its first slow answer, not after its last', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  for (let i = 0; i < 3; i += 1) await publish(edge, channel)
  await to.plan({ isDripping: true })
  await edge.deliver(edge.deliveries.take(), 'deliveries')
  expect(await to.events()).toHaveLength(1)
  expect((await rowOf(id))?.slowSince).toEqual(expect.any(Number))
  expect(edge.deliveries.sent).toHaveLength(2)
  await to.plan({})
  await deliverAll(edge)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(3).fill('delivered'))
})

test('an endpoint that answers fast again is no longer slow', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ delayMs: 1_200 }, {})
  await publish(edge, channel)
  await deliverAll(edge)
  expect((await rowOf(id))?.slowSince).toEqual(expect.any(Number))
  await publish(edge, channel)
  await deliverAll(edge)
  expect((await rowOf(id))?.slowSince).toBeNull()
})

const changes: Record<string, (edge: ReturnType<typeof newDevEdge>, id: string, next: Receiver) => Promise<Response>> =
  {
    deleted: (edge, id) => ask(edge, 'DELETE', `/v1/webhooks/${id}`),
    paused: (edge, id) => ask(edge, 'POST', `/v1/webhooks/${id}/pause`),
    moved: (edge, id, next) => ask(edge, 'PATCH', `/v1/webhooks/${id}`, { url: next.url }),
  }

test.each(Object.entries(changes))(
  'when an endpoint is %s during a batch, only a request in flight completes',
  async (name, change) => {
    const edge = newDevEdge()
    const [to, next] = [receiver(), receiver()]
    const { id, channel } = await addWebhook(edge, to)
    const ids: string[] = []
    for (let i = 0; i < 10; i += 1) ids.push(await publish(edge, channel))
    await to.plan({ delayMs: 400 })
    const delivering = deliverAll(edge)
    while ((await to.events()).length === 0) await sleep(20)
    expect((await change(edge, id, next)).ok).toBe(true)
    const before = (await to.events()).length
    await delivering
    const after = (await to.events()).length
    expect(after - before).toBeLessThanOrEqual(1) // the one in flight
    expect(after).toBeLessThan(10)

    const arrived = (await next.events()).map(({ headers }) => headers['webhook-id'])
    if (name === 'moved') expect(arrived).toEqual(ids.slice(after))
    else expect(arrived).toEqual([])
    if (name === 'deleted') return
    if (name === 'paused') await to.plan({})
    if (name === 'paused') expect((await ask(edge, 'POST', `/v1/webhooks/${id}/enable`)).status).toBe(200)
    await deliverAll(edge)
    expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(10).fill('delivered'))
  },
)

test('an endpoint that has moved is not blamed for the failures of its former address', async () => {
  const edge = newDevEdge({ WEBHOOK_CIRCUIT_FAILURES: '1' })
  const [to, next] = [receiver(), receiver()]
  const { id, channel } = await addWebhook(edge, to)
  await publish(edge, channel)
  await to.plan({ status: 410, delayMs: 1_500 })
  const delivering = deliverAll(edge)
  while ((await to.events()).length === 0) await sleep(20)
  expect((await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { url: next.url })).status).toBe(200)
  await delivering
  expect(await rowOf(id)).toMatchObject({ status: 'enabled', failures: 0, openUntil: null, failingSince: null })
  await edge.cron(Date.now() + 1_000_000)
  await deliverAll(edge)
  expect(await next.events()).toHaveLength(1)
})

test('a rotated secret signs what is sent next, also within a batch', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  for (let i = 0; i < 4; i += 1) await publish(edge, channel)
  await to.plan({ delayMs: 400 })
  const delivering = deliverAll(edge)
  while ((await to.events()).length === 0) await sleep(20)
  await ask(edge, 'POST', `/v1/webhooks/${id}/rotate`)
  await delivering
  const signatures = (await to.events()).map(({ headers }) => headers['webhook-signature']?.split(' ').length)
  expect([signatures[0], signatures.at(-1)]).toEqual([1, 2])
})
