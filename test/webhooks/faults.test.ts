import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { migrate, newQueue } from '../edge.ts'
import { addWebhook, ask, deliverAll, newDevEdge, publish, readDeliveries, receiver } from './endpoints.ts'

beforeAll(migrate)

const MINUTE = 60_000

/** D1, of which the `nth` call (a statement, or a batch) that `isMeant` fails, before or after it was done. */
function dying(isMeant: (sql: string) => boolean, when: 'before' | 'after') {
  let isDead = false
  const sqlOf = new WeakMap<object, string>()
  const guard = async <T>(sql: string, work: () => Promise<T>): Promise<T> => {
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
  }
  const wrap = (statement: D1PreparedStatement, sql: string): D1PreparedStatement => {
    sqlOf.set(statement, sql)
    return new Proxy(statement, {
      get(target, name) {
        if (name === 'bind') return (...values: unknown[]) => wrap(target.bind(...values), sql)
        if (name === ORIGINAL) return target
        const member: unknown = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        return (...given: unknown[]) => guard(sql, () => Reflect.apply(member, target, given) as Promise<unknown>)
      },
    })
  }
  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') return (sql: string) => wrap(target.prepare(sql), sql)
      if (name === 'batch') {
        return (statements: D1PreparedStatement[]) => {
          const originals = statements.map((statement) => Reflect.get(statement, ORIGINAL) as D1PreparedStatement)
          const sql = originals.map((original) => sqlOf.get(original) ?? '').join(';\n')
          return guard(sql, () => target.batch(originals))
        }
      }
      const member: unknown = Reflect.get(target, name)
      return typeof member === 'function' ? member.bind(target) : member
    },
  })
  return { DB, hasDied: () => isDead }
}
const ORIGINAL = Symbol('the statement itself')

/** A queue that takes nothing. */
const refusing = () => ({
  ...newQueue(),
  send: () => Promise.reject(new Error('the queue is down')),
  sendBatch: () => Promise.reject(new Error('the queue is down')),
})

/** The crons of the next minutes, with all that the queues bring: what is left undone by then is lost. */
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

/** What goes wrong, in the invocation of which step. */
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
    'the Worker dies after the answer, before it is noted': {
      deliver: () => dying(isUpdateOf('deliveries', /fate/), 'before'),
      mayRepeat: true,
    },
    'the Worker dies after the answer is noted': { deliver: () => dying(isUpdateOf('deliveries', /fate/), 'after') },
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
      // The platform would bring the message again: here it is lost too, and only D1 knows.
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

test('messages that come twice, at once, late or for a turn that is over send nothing twice', async () => {
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

test('an event that is told twice is stored once', async () => {
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

test('a message that is none of ours is retried alone', async () => {
  const edge = newDevEdge()
  const result = await edge.deliver([{ kind: 'delivery' }, { kind: 'wake', webhookId: 'wh_none' }], 'deliveries')
  expect(result).toEqual({ acked: [1], retried: [0] })
})
