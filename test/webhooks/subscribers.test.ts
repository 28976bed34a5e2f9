import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { webhooks } from '../../src/db/schema.ts'
import { migrate, newEdge } from '../edge.ts'
import { db } from '../rows.ts'
import { addWebhook, ask, newDevEdge, publish, readDeliveries, receiver } from './endpoints.ts'
import { guardedD1 } from '../guarded-d1.ts'

beforeAll(migrate)

/** An edge, how often it has read all endpoints, and another isolate in front of the same D1. */
function newReadingEdge() {
  let reads = 0
  const DB = guardedD1((sql, work) => {
    if (/select "id", "channels", "types", "filter", "tenant" from "webhooks"/i.test(sql)) reads += 1
    return work()
  })
  return { edge: newDevEdge({ DB }), other: newDevEdge(), reads: () => reads }
}

test('a batch of events reads the endpoints again only after one of them changed', async () => {
  const { edge, other, reads } = newReadingEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(other, to)
  for (let n = 0; n < 3; n += 1) await publish(edge, channel)
  expect(reads()).toBe(1)
  expect(await readDeliveries(edge, id)).toHaveLength(3)

  await db.update(webhooks).set({ failures: 3, wakeAt: 1, description: 'another' }).where(eq(webhooks.id, id))
  expect((await ask(other, 'POST', `/v1/webhooks/${id}/rotate`)).status).toBe(200)
  await publish(edge, channel)
  expect(reads()).toBe(1) // nothing of that decides which events it takes
  expect(await readDeliveries(edge, id)).toHaveLength(4)
})

test.each([
  ['added', 1, async () => {}],
  ['moved to another channel', 0, (id: string) => ['PATCH', `/v1/webhooks/${id}`, { channels: ['custom_elsewhere'] }]],
  ['given other types', 0, (id: string) => ['PATCH', `/v1/webhooks/${id}`, { types: ['other.type'] }]],
  ['given to a tenant', 0, (id: string) => ['PATCH', `/v1/webhooks/${id}`, { tenant: 'acme' }]],
  ['given a filter', 0, (id: string) => ['PATCH', `/v1/webhooks/${id}`, { filter: { 'data.n': 7 } }]],
  ['paused', 1, (id: string) => ['POST', `/v1/webhooks/${id}/pause`]], // stored, and sent when it is enabled
] as const)(
  'what another isolate knew of an endpoint that was %s does not hold for the next event',
  async (name, stored, change) => {
    const { edge, other } = newReadingEdge()
    const to = receiver()
    await publish(edge, 'custom_nobody') // the isolate has read the endpoints
    const { id, channel } = await addWebhook(other, to)
    if (name !== 'added') await publish(edge, channel)
    const before = (await readDeliveries(edge, id)).length
    expect(before).toBe(name === 'added' ? 0 : 1)
    const request = await change(id)
    if (request) expect((await ask(other, ...(request as [string, string, object?]))).ok).toBe(true)
    await publish(edge, channel)
    expect((await readDeliveries(edge, id)).length - before).toBe(stored)
  },
)

test('an endpoint that is deleted gets nothing more, and one that is disabled nothing until it is enabled', async () => {
  const { edge, other } = newReadingEdge()
  const to = receiver()
  const [gone, disabled] = [await addWebhook(other, to), await addWebhook(other, to)]
  await publish(edge, gone.channel)
  await publish(edge, disabled.channel)
  expect((await ask(other, 'DELETE', `/v1/webhooks/${gone.id}`)).status).toBe(204)
  await db.update(webhooks).set({ status: 'disabled' }).where(eq(webhooks.id, disabled.id)) // as a batch of deliveries does
  edge.deliveries.take()
  for (const { channel } of [gone, disabled]) await publish(edge, channel)
  expect(edge.deliveries.sent).toEqual([])
  expect(await readDeliveries(edge, disabled.id)).toHaveLength(1)
  expect((await ask(other, 'POST', `/v1/webhooks/${disabled.id}/enable`)).status).toBe(200)
  await publish(edge, disabled.channel)
  expect(await readDeliveries(edge, disabled.id)).toHaveLength(2)
  await newEdge().settle()
})
