import { env } from 'cloudflare:workers'
import { beforeAll, expect, expectTypeOf, test } from 'vitest'
import {
  type ApiEvent,
  type CloudEvent,
  createClient,
  type EventOf,
  type EventStream,
  Problem,
  type Reset,
} from '../../client/index.ts'
import type * as catalog from '../../src/events/catalog.ts'
import { keys } from '../../src/keys.ts'
import { migrate, newEdge } from '../edge.ts'
import { custom, publish, until } from '../streams/world.ts'
import { clientOf, fetchOf, newMember, serviceOf } from './world.ts'

beforeAll(migrate)

/** Streams that end soon, and clients that return soon. */
const BRIEF = { STREAM_LIFE_SECONDS: '0.5', STREAM_RETRY_SECONDS: '0.1' }

/** Collects what a stream yields until it is stopped. */
function collect(stream: EventStream<CloudEvent | Reset>) {
  const types: string[] = []
  const ended = (async () => {
    for await (const { type } of stream) types.push(type)
  })()
  return { types, ended }
}

test('a stream yields events as they happen, continues when it ends, and misses and repeats nothing', async () => {
  const edge = newEdge(BRIEF)
  const stop = new AbortController()
  const states: string[] = []
  const stream = clientOf(edge).events(['custom_test'], {
    signal: stop.signal,
    onState: (state) => states.push(state),
  })
  const { types, ended } = collect(stream)
  await until(() => states.length === 1)
  const said: string[] = []
  for (let i = 0; states.length < 6; i += 1) {
    said.push(`event_${i}`)
    await publish(edge, custom(`event_${i}`))
  }
  await until(() => types.length >= said.length)
  stop.abort()
  await ended
  expect(types).toEqual(said)
  expect(states.slice(0, 5)).toEqual(['open', 'waiting', 'open', 'waiting', 'open'])

  // another client continues where this one stopped
  await publish(edge, custom('later'))
  const { lastEventId } = stream
  for await (const event of clientOf(edge).events(['custom_test'], { lastEventId })) {
    expect(event.type).toBe('later')
    break
  }
  await edge.settle()
})

test('without Redis the stream waits, and continues when Redis is back; what it missed is a reset', async () => {
  const edge = newEdge(BRIEF)
  await publish(edge, custom('first'))
  const stop = new AbortController()
  const { types, ended } = collect(
    clientOf(edge, {
      fetch: async (url, init) => {
        const response = await fetchOf(edge)(url, init)
        if (response.status !== 503) return response
        await response.body?.cancel()
        // Not as long as the API says: 5 s.
        return Response.json({ type: '/problems/unavailable', retryAfter: 0 }, { status: 503 })
      },
    }).events(['custom_test'], { signal: stop.signal, lastEventId: '1-0' }), // older than the log,
  )
  await until(() => types.includes('reset'))
  await edge.redis.fault({ kind: 'refuse' })
  const refused = async () => (await edge.fetch('/v1/events/stream?channels=custom_test')).status === 503
  await until(refused)
  await edge.redis.clearFaults()
  await until(async () => !(await refused()))
  await publish(edge, custom('second'))
  await until(() => types.includes('second'))
  stop.abort()
  await ended
  expect(types.at(-1)).toBe('second')
  await edge.settle()
})

test('a member sees what is addressed to them, a service sees all, and a session that ends ends the stream', async () => {
  const edge = newEdge({ ...BRIEF, STREAM_CHECK_SECONDS: '0.1' })
  const { client, user } = await newMember(edge)
  const stop = new AbortController()
  const states: string[] = []
  const options = { signal: stop.signal, onState: (state: string) => states.push(state) }
  const mine = collect(client.events(['custom_test'], options))
  const all = collect(serviceOf(edge).events(['custom_test'], options))
  await until(() => states.length >= 2)
  await publish(edge, custom('for_me', { audience: [user.id] }))
  await publish(edge, custom('for_nobody', { audience: 'services' }))
  await publish(edge, custom('for_all'))
  await until(() => mine.types.length >= 2 && all.types.length >= 3)
  expect(mine.types).toEqual(['for_me', 'for_all'])
  expect(all.types).toEqual(['for_me', 'for_nobody', 'for_all'])

  const { session } = client
  await clientOf(edge, { session }).signOut()
  const error: unknown = await mine.ended.catch((error: unknown) => error)
  expect(error).toBeInstanceOf(Problem)
  expect(error).toMatchObject({ type: 'not-signed-in', status: 401 })
  expect(client.session).toBe(undefined)
  stop.abort()
  await all.ended
  await edge.settle()
})

test('a loop that ends closes its stream, and a refused stream throws', async () => {
  const edge = newEdge()
  const listening = async () => (await edge.sdk.exec<[string, number]>(['PUBSUB', 'NUMSUB', keys.streamChannel]))[1]
  const client = clientOf(edge)
  let isOpen = false
  const reading = (async () => {
    for await (const event of client.events(['custom_test'], { onState: () => (isOpen = true) })) return event
    return undefined
  })()
  await until(() => isOpen)
  await publish(edge, custom('only'))
  expect(await reading).toMatchObject({ type: 'only', channel: 'custom_test', data: { text: 'only' } })
  await until(async () => (await listening()) === 0)

  const refused = collect(client.events(['custom_UPPER']))
  await expect(refused.ended).rejects.toMatchObject({ type: 'invalid-request', status: 400 })
  await edge.settle()
})

test('a connection that falls silent is replaced', async () => {
  const connections: AbortSignal[] = []
  const client = createClient({
    url: 'https://api.test',
    fetch: async (_, init) => {
      if (init.signal) connections.push(init.signal)
      const isSilent = connections.length === 1
      const event = JSON.stringify({ type: 'said' })
      const text = isSilent ? 'retry: 1\nid: 7-0\n\n' : `id: 8-0\nevent: said\ndata: ${event}\n\n`
      return new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue(new TextEncoder().encode(text))
            init.signal?.addEventListener('abort', () => controller.error(new Error('aborted')))
          },
        }),
      )
    },
  })
  const stream = client.events(['custom_test'], { silenceMs: 50 })
  for await (const { type } of stream) {
    expect(type).toBe('said')
    break
  }
  expect(connections.map(({ aborted }) => aborted)).toEqual([true, true])
  expect(stream.lastEventId).toBe('8-0')
})

test('the types of events are those of the catalog', () => {
  type Likes = EventOf<'counter_events'>
  expectTypeOf<Likes['type']>().toEqualTypeOf<'counter_update'>()
  expectTypeOf<Likes['data']['value']>().toEqualTypeOf<number>()
  expectTypeOf<EventOf<'custom_test'>['channel']>().toEqualTypeOf<'custom_test'>()
  expectTypeOf<ApiEvent['type']>().toEqualTypeOf<catalog.EventType>()
  expectTypeOf<CloudEvent>().toEqualTypeOf<catalog.CloudEvent>()
  const textOf = (event: EventOf<'post_events'>) =>
    event.type === 'post_deleted' ? event.data.postId : (event.data.text ?? '')
  expectTypeOf(textOf).returns.toEqualTypeOf<string>()
  expect(env.SERVICE_TOKEN).not.toBe('')
})
