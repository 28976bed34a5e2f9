import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { migrate, newQueue } from '../edge.ts'
import { guardedD1 } from '../guarded-d1.ts'
import { addWebhook, ask, deliverAll, newDevEdge, publish, readDeliveries, receiver } from './endpoints.ts'

beforeAll(migrate)

const MINUTE = 60_000

/** D1 that dies at the first call that `isMeant`, before or after it was executed: later calls fail too. */
function dying(isMeant: (sql: string) => boolean, when: 'before' | 'after') {
  let isDead = false
  const DB = guardedD1(async (sql, work) => {
    const isFatal = !isDead && isMeant(sql)
    if (isDead || (isFatal && when === 'before')) {
      isDead = true
      throw new Error('the Worker died')
    }
    const result = await work()
    if (isFatal) {
      isDead = true
      throw new Error('the Worker died')
    }
    return result
  })
  return { DB, hasDied: () => isDead }
}

/** A queue that refuses every message. */
const refusing = () => ({
  ...newQueue(),
  send: () => Promise.reject(new Error('the queue is down')),
  sendBatch: () => Promise.reject(new Error('the queue is down')),
})

/** Runs the crons of the next minutes and all messages they enqueue. What is not done by then is lost. */
async function recover(edge: ReturnType<typeof newDevEdge>) {
  for (const minute of [2, 5, 13, 26]) {
    await edge.cron(Date.now() + minute * MINUTE)
    await edge.dispatch()
    await deliverAll(edge)
  }
}

const isInsertOf = (table: string) => (sql: string) => new RegExp(`insert into "${table}"`, 'i').test(sql)
const isUpdateOf = (table: string, what: RegExp) => (sql: string) =>
  new RegExp(`update "${table}"`, 'i').test(sql) && what.test(sql)

beforeEach(() => {
  vi.spyOn(console, 'error').mockImplementation(() => {}) // every fault is logged
})

/** What fails, by the step whose invocation it happens in. */
const gaps: Record<string, { request?: object; dispatch?: () => object; deliver?: () => object; mayRepeat?: boolean }> =
  {
    'the event is stored, and the queue of events refuses': { request: { EVENTS: refusing() } },
    'the Worker dies before the deliveries are stored': {
      dispatch: () => dying(isInsertOf('deliveries'), 'before'),
    },
    'the Worker dies after the deliveries are stored, before the queue': {
      dispatch: () => dying(isInsertOf('deliveries'), 'after'),
    },
    'the deliveries are stored, and their queue refuses': { dispatch: () => ({ DELIVERIES: refusing() }) },
    'the Worker dies before the event is marked as dispatched': {
      dispatch: () => dying(isUpdateOf('events', /due_at/), 'before'),
    },
    'the Worker dies before a delivery is claimed': {
      deliver: () => dying(isUpdateOf('deliveries', /ticket/), 'before'),
    },
    'the Worker dies after a delivery is claimed, before it is sent': {
      deliver: () => dying(isUpdateOf('deliveries', /ticket/), 'after'),
    },
    'the Worker dies after the answer, before it is recorded': {
      deliver: () => dying(isUpdateOf('deliveries', /outcome/), 'before'),
      mayRepeat: true,
    },
    'the Worker dies after the answer is recorded': {
      deliver: () => dying(isUpdateOf('deliveries', /outcome/), 'after'),
    },
  }

test.each(Object.entries(gaps))(
  'nothing is lost when %s',
  async (_, { request, dispatch, deliver, mayRepeat = false }) => {
    const edge = newDevEdge()
    const to = receiver()
    const { id, channel } = await addWebhook(edge, to)
    edge.deliveries.sent.splice(0)
    const faulty = (fault: object) => newDevEdge({ EVENTS: edge.events, DELIVERIES: edge.deliveries, ...fault })

    const at = request ? faulty(request) : edge
    const response = await ask(at, 'POST', '/v1/events', { channel, type: 'thing.happened', data: {} })
    expect(response.status).toBe(202)
    const eventId = (await response.json<{ id: string }>()).id
    expect(edge.events.sent).toHaveLength(request ? 0 : 1)

    if (dispatch) {
      const fault = dispatch()
      const result = await faulty(fault)
        .deliver(edge.events.take(), 'events')
        .catch(() => undefined)
      expect(result?.acked ?? []).toEqual([])
      if ('hasDied' in fault) expect((fault.hasDied as () => boolean)()).toBe(true)
      // The platform would deliver the message again. Here it is lost too: only D1 knows the event.
    } else await edge.dispatch()
    if (deliver) {
      const fault = deliver()
      await faulty(fault)
        .deliver(edge.deliveries.take(), 'deliveries')
        .catch(() => undefined)
      expect((fault as { hasDied: () => boolean }).hasDied()).toBe(true)
    }
    await recover(edge)

    const arrived = (await to.events()).map(({ headers }) => headers['webhook-id'])
    expect(arrived).toEqual(mayRepeat ? [eventId, eventId] : [eventId])
    expect(await readDeliveries(edge, id)).toMatchObject([{ eventId, status: 'delivered' }])
  },
)

test('nothing is lost when the queue refuses a retry', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  edge.deliveries.sent.splice(0)
  await to.plan({ status: 500 }, {})
  await publish(edge, channel)
  await newDevEdge({ DELIVERIES: refusing() }).deliver(edge.deliveries.take(), 'deliveries')
  expect(edge.deliveries.sent).toEqual([])
  await recover(edge)
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'delivered', attempts: [{ status: 500 }, {}] }])
})

test('messages that arrive twice, concurrently, late or for an earlier turn send nothing twice', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  edge.deliveries.sent.splice(0)
  await to.plan({ delayMs: 200 })
  const eventId = await publish(edge, channel)
  const [message] = edge.deliveries.take()
  await Promise.all([
    edge.deliver([message, message], 'deliveries'),
    newDevEdge({}).deliver([message], 'deliveries'),
    newDevEdge({}).deliver([message], 'deliveries'),
  ])
  await edge.deliver([message], 'deliveries')
  await edge.deliver([{ kind: 'delivery', id: 'dl_none', turn: 0 }], 'deliveries')
  expect((await to.events()).map(({ headers }) => headers['webhook-id'])).toEqual([eventId])
  expect(await readDeliveries(edge, id)).toMatchObject([{ status: 'delivered', attempts: [{}] }])
})

test('an event that is dispatched twice has one delivery', async () => {
  const edge = newDevEdge()
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  const message = { kind: 'event', id: await publish(edge, channel) }
  await env.DB.prepare('UPDATE events SET due_at = 1 WHERE id = ?').bind(message.id).run()
  await edge.deliver([message, message], 'events')
  await deliverAll(edge)
  expect(await to.events()).toHaveLength(1)
  expect(await readDeliveries(edge, id)).toHaveLength(1)
})

test('an unknown message is retried alone', async () => {
  const edge = newDevEdge()
  const result = await edge.deliver([{ kind: 'delivery' }, { kind: 'wake', webhookId: 'wh_none' }], 'deliveries')
  expect(result).toEqual({ acked: [1], retried: [0] })
})
