import { eq } from 'drizzle-orm'
import { Webhook as Verifier } from 'standardwebhooks'
import { beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { events, webhooks } from '../../src/db/schema.ts'
import { migrate } from '../edge.ts'
import { db } from '../rows.ts'
import {
  addWebhook,
  ask,
  deliverAll,
  newDevEdge,
  publish,
  readDeliveries,
  readWebhook,
  receiver,
  type Webhook,
} from './endpoints.ts'
import { losing } from '../guarded-d1.ts'

beforeAll(migrate)
beforeEach(() => {
  vi.spyOn(console, 'error').mockImplementation(() => {}) // every fault is logged
})

const rowOf = async (id: string) => (await db.select().from(webhooks).where(eq(webhooks.id, id)))[0]
const rowsAt = (url: string) => db.select().from(webhooks).where(eq(webhooks.url, url))

/** An edge over the queues of `edge` whose D1 loses replies. */
function losingEdge(edge: ReturnType<typeof newDevEdge>, match: RegExp, times = 1) {
  const fault = losing(match, times)
  const faulty = newDevEdge({ DB: fault.DB, EVENTS: edge.events, DELIVERIES: edge.deliveries })
  return Object.assign(faulty, { hasLost: fault.hasLost })
}

const verifies = (secret: string, sent: { body: string; headers: Record<string, string> } | undefined) => {
  try {
    return Boolean(new Verifier(secret).verify(sent?.body ?? '', sent?.headers ?? {}))
  } catch {
    return false
  }
}

test.each([
  ['is stored', /^insert into "webhooks"/i],
  ['is enabled', /^update "webhooks" set .*"failing_since"/i],
])('a webhook is created once although the reply is lost when it %s', async (_, match) => {
  const edge = newDevEdge()
  const to = receiver()
  const faulty = losingEdge(edge, match)
  const { id, channel, secret } = await addWebhook(faulty, to)
  expect(faulty.hasLost()).toBe(true)
  expect((await rowsAt(to.url)).map((row) => [row.id, row.status])).toEqual([[id, 'enabled']])
  expect(await to.all()).toHaveLength(1)
  await publish(edge, channel)
  await deliverAll(edge)
  expect(verifies(secret, (await to.events())[0])).toBe(true)
})

test('a creation that fails for good is undone', async () => {
  const to = receiver()
  const faulty = losingEdge(newDevEdge(), /^update "webhooks"/i, 2)
  expect((await ask(faulty, 'POST', '/v1/webhooks', { url: to.url, channels: ['post_events'] })).status).toBe(503)
  expect(await rowsAt(to.url)).toEqual([])
})

test.each([
  ['the reply to the first write is lost, twice', /^insert into "webhooks"/i, 'after'],
  ['nothing is written after the challenge', /^(update|delete).*webhooks/i, 'before'],
] as const)('the cron removes a webhook whose creation failed: %s', async (_, match, when) => {
  const edge = newDevEdge()
  const to = receiver()
  const fault = losing(match, 1_000, when)
  const faulty = newDevEdge({ DB: fault.DB, EVENTS: edge.events, DELIVERIES: edge.deliveries })
  expect((await ask(faulty, 'POST', '/v1/webhooks', { url: to.url, channels: ['post_events'] })).status).toBe(503)
  expect(await rowsAt(to.url)).toMatchObject([{ status: 'unverified' }])
  await edge.cron(Date.now() + 60_000)
  await deliverAll(edge)
  expect(await rowsAt(to.url)).toHaveLength(1) // it might still be under way
  await edge.cron(Date.now() + 130_000)
  await deliverAll(edge)
  expect(await rowsAt(to.url)).toEqual([])
})

test('an endpoint that is unverified because it did not answer stays, however long', async () => {
  const edge = newDevEdge()
  const [created, moved] = [receiver(), receiver()]
  await created.plan({ status: 404 })
  const unverified = await addWebhook(edge, created)
  const { id } = await addWebhook(edge, receiver())
  await moved.plan({ status: 404 })
  await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { url: moved.url })
  for (const minutes of [3, 6, 100]) {
    await edge.cron(Date.now() + minutes * 60_000)
    await deliverAll(edge)
    await edge.deliver(
      [
        { kind: 'wake', webhookId: unverified.id },
        { kind: 'wake', webhookId: id },
      ],
      'deliveries',
    )
  }
  expect((await readWebhook(edge, unverified.id)).status).toBe('unverified')
  expect((await readWebhook(edge, id)).status).toBe('unverified')
})

test('a move whose reply is lost is complete; one that fails for good is completed by repeating it', async () => {
  const edge = newDevEdge()
  const [to, next, last] = [receiver(), receiver(), receiver()]
  const { id, channel } = await addWebhook(edge, to)
  await ask(edge, 'POST', `/v1/webhooks/${id}/pause`)
  const move = (at: ReturnType<typeof newDevEdge>, url: string) => ask(at, 'PATCH', `/v1/webhooks/${id}`, { url })

  const faulty = losingEdge(edge, /^update "webhooks"/i)
  expect(await (await move(faulty, next.url)).json()).toMatchObject({ status: 'paused', url: next.url })
  expect(faulty.hasLost()).toBe(true)

  expect((await move(losingEdge(edge, /^update "webhooks"/i, 2), last.url)).status).toBe(503)
  expect(await (await move(edge, last.url)).json()).toMatchObject({ status: 'paused', url: last.url })
  await publish(edge, channel)
  expect((await ask(edge, 'POST', `/v1/webhooks/${id}/enable`)).status).toBe(200)
  await deliverAll(edge)
  expect(await last.events()).toHaveLength(1)
})

test('the URL of an unverified endpoint, given again, is sent the challenge again', async () => {
  const edge = newDevEdge()
  const to = receiver()
  await to.plan({ status: 404 })
  const { id } = await addWebhook(edge, to)
  await to.plan({})
  const response = await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { url: to.url })
  expect(await response.json()).toMatchObject({ status: 'enabled', challenge: { status: 200 } })
})

test('a rotation whose reply is lost answers the secret that signs, and takes no place of a previous one', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, secret, channel } = await addWebhook(edge, to)
  const faulty = losingEdge(edge, /^update "webhooks"/i)
  const rotated = await (await ask(faulty, 'POST', `/v1/webhooks/${id}/rotate`)).json<Webhook>()
  expect(faulty.hasLost()).toBe(true)
  await publish(edge, channel)
  await deliverAll(edge)
  const [sent] = await to.events()
  expect([verifies(rotated.secret, sent), verifies(secret, sent)]).toEqual([true, true])
  expect(sent?.headers['webhook-signature']?.split(' ')).toHaveLength(2)
})

test('three rotations in a row may fail for good: the secret that receivers have still signs', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, secret, channel } = await addWebhook(edge, to)
  for (let time = 0; time < 3; time += 1) {
    const faulty = losingEdge(edge, /^update "webhooks"/i, 2)
    expect((await ask(faulty, 'POST', `/v1/webhooks/${id}/rotate`)).status).toBe(503)
  }
  await publish(edge, channel)
  await deliverAll(edge)
  expect(verifies(secret, (await to.events())[0])).toBe(true)
})

test('pause, enable and delete answer what happened although the reply is lost', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  const lossy = (match: RegExp) => losingEdge(edge, match)
  const paused = await ask(lossy(/^update "webhooks"/i), 'POST', `/v1/webhooks/${id}/pause`)
  expect(await paused.json()).toMatchObject({ status: 'paused' })
  await publish(edge, channel)
  const enabled = await ask(lossy(/^update "webhooks"/i), 'POST', `/v1/webhooks/${id}/enable`)
  expect(await enabled.json()).toMatchObject({ status: 'enabled' })
  await edge.cron(Date.now() + 1_000) // wakes it, as the message may be missing
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)
  expect((await ask(lossy(/^delete from "webhooks"/i), 'DELETE', `/v1/webhooks/${id}`)).status).toBe(204)
  expect((await ask(edge, 'DELETE', `/v1/webhooks/${id}`)).status).toBe(404)
})

test('an endpoint that was disabled is enabled once, with one event, although the reply is lost', async () => {
  const edge = newDevEdge()
  const { id } = await addWebhook(edge, receiver())
  await db.update(webhooks).set({ status: 'disabled', disabledReason: 'gone' }).where(eq(webhooks.id, id))
  const faulty = losingEdge(edge, /update "webhooks"/i)
  expect(await (await ask(faulty, 'POST', `/v1/webhooks/${id}/enable`)).json()).toMatchObject({ status: 'enabled' })
  expect(faulty.hasLost()).toBe(true)
  expect(await db.select().from(events).where(eq(events.subject, id))).toMatchObject([{ type: 'webhook_enabled' }])
})

test('a replay whose reply is lost is sent by the cron', async () => {
  const edge = newDevEdge({ WEBHOOK_RETRY_SECONDS: '0.5' })
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ status: 500 }, { status: 500 }, {})
  await publish(edge, channel)
  await deliverAll(edge)
  const [dead] = await readDeliveries(edge, id)
  expect(dead).toMatchObject({ status: 'dead' })
  const faulty = losingEdge(edge, /^update "deliveries"/i)
  expect((await ask(faulty, 'POST', `/v1/deliveries/${dead?.id}/replay`)).status).toBe(503)
  expect(edge.deliveries.sent).toEqual([])
  await edge.cron(Date.now() + 130_000)
  await deliverAll(edge)
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'delivered' }])
})

test('a replay that was accepted survives an outage of D1 longer than the queue retries', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { channel } = await addWebhook(edge, receiver())
  for (let i = 0; i < 3; i += 1) await publish(edge, channel)
  const { id } = await addWebhook(edge, to, { channels: [channel] })
  const since = new Date(Date.now() - 60_000).toISOString()
  edge.deliveries.sent.splice(0)
  expect((await ask(edge, 'POST', `/v1/webhooks/${id}/replay`, { since })).status).toBe(202)
  for (let time = 0; time < 10; time += 1) {
    const down = newDevEdge({ DB: losing(/./, 1_000).DB, EVENTS: edge.events, DELIVERIES: edge.deliveries })
    const messages = edge.deliveries.take()
    expect(messages).toMatchObject([{ kind: 'replay', webhookId: id }])
    expect((await down.deliver(messages, 'deliveries')).retried).toEqual([])
    expect(edge.deliveries.sent.map(({ delaySeconds }) => delaySeconds)).toEqual([60])
  }
  const messages = edge.deliveries.take()
  await edge.deliver(messages, 'deliveries')
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(3)
  // A message that still fails after a day is given to the queue, which keeps it as a dead letter.
  const stale = { kind: 'replay', webhookId: id, after: [0, 0], until: Date.now() - 86_500_000, isAll: false }
  const down = newDevEdge({ DB: losing(/./, 1_000).DB })
  expect((await down.deliver([stale], 'deliveries')).retried).toEqual([0])
})

test('when D1 loses the reply of the outcomes, a delivery that arrived is not sent again', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await publish(edge, channel)
  const faulty = losingEdge(edge, /outcome/i)
  await faulty.deliver(edge.deliveries.take(), 'deliveries')
  expect(faulty.hasLost()).toBe(true)
  await edge.cron(Date.now() + 300_000)
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'delivered', attempts: [{ status: 200 }] }])
  expect(await rowOf(id)).toMatchObject({ failures: 0 })
})

test('when the row of an endpoint cannot be read again, nothing more is sent, and the rest comes later', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  await to.plan({ delayMs: 200 })
  const ids: string[] = []
  for (let i = 0; i < 3; i += 1) ids.push(await publish(edge, channel))
  const faulty = losingEdge(edge, /^select [^;]* from "webhooks" where "webhooks"."id" in [^;]*$/i)
  await faulty.deliver(edge.deliveries.take(), 'deliveries')
  expect(faulty.hasLost()).toBe(true)
  expect(await to.events()).toHaveLength(1)
  await deliverAll(edge)
  expect((await to.events()).map(({ headers }) => headers['webhook-id'])).toEqual(ids)
  expect((await readDeliveries(edge, id)).map(({ status }) => status)).toEqual(Array(3).fill('delivered'))
})
