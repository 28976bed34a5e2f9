import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { keys } from '../../src/keys.ts'
import { createBreaker, newMeter, RedisUnavailable } from '../../src/redis/client.ts'
import { createSubscribe } from '../../src/redis/subscription.ts'
import { addFollow, addUser } from '../rows.ts'
import type { newReader } from './reader.ts'
import { custom, open, publish, SERVICE, until } from './world.ts'

beforeAll(migrate)

/** How many subscriptions Redis has. */
const listening = async (edge: Edge) =>
  (await edge.sdk.exec<[string, number]>(['PUBSUB', 'NUMSUB', keys.streamChannel]))[1]

test('an event reaches every stream on its channel as it happens, once, with its id, type and CloudEvent', async () => {
  const edge = newEdge()
  const [one, two, other] = [
    await open(edge),
    await open(edge),
    await open(edge, { 'Last-Event-ID': '' }, 'channels=post_events&lastEventId='),
  ]
  expect(one.response.headers.get('Content-Type')).toBe('text/event-stream; charset=utf-8')
  expect(one.response.headers.get('Cache-Control')).toBe('no-store, no-transform')
  expect(one.response.headers.get('X-Accel-Buffering')).toBe('no')
  expect(one.response.headers.get('ETag')).toBe(null)

  const id = await publish(edge, custom('said', { subject: 'room:1' }))
  const post = { postId: 'p_1', authorId: 'u_ada' }
  await publish(edge, { channel: 'post_events', type: 'post_deleted', data: post })
  await publish(edge, custom('ended'))
  for (const stream of [one, two]) {
    const message = await stream.next()
    expect(message?.event).toBe('said')
    expect(message?.id).toMatch(/^\d+-\d+$/)
    expect(JSON.parse(message?.data ?? '')).toEqual({
      specversion: '1.0',
      id,
      source: '/threads-edge',
      type: 'said',
      subject: 'room:1',
      time: expect.any(String),
      datacontenttype: 'application/json',
      channel: 'custom_test',
      sequence: 1,
      traceparent: expect.any(String),
      data: { text: 'said' },
    })
    expect((await stream.event()).type).toBe('ended')
    expect(stream.comments).toEqual(['open'])
    expect(stream.retries[0]).toBeGreaterThanOrEqual(2_000)
    await stream.close()
  }
  expect((await other.event()).data).toEqual(post)
  await other.close()
  await edge.settle()
})

test('opening is SUBSCRIBE and one round trip; appending a batch is two, and an open stream costs nothing more', async () => {
  const edge = newEdge()
  const as = await edge.signIn(await addUser())
  await edge.fetch('/v1/users/u_a', { headers: as })
  await edge.sdk.set('warm', 1)
  await edge.settle()

  const first = await open(edge, as) // its session is not known to Redis yet: D1 has it
  await first.close()
  await edge.settle()
  await edge.redis.reset()
  const stream = await open(edge, as)
  expect(roundTrips(stream.response)).toBe(2)
  expect(stream.response.headers.get('Server-Timing')).toContain('3 commands, 2 round trips')
  let counts = await edge.redis.counts()
  expect(counts.byCommand).toMatchObject({ mget: 1, xrevrange: 1 })
  expect(counts.byCommand['xrange']).toBeUndefined()

  for (const type of ['one', 'two', 'three']) {
    await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body: JSON.stringify(custom(type)) })
  }
  await until(() => edge.events.sent.length === 3)
  await edge.redis.reset()
  await edge.dispatch()
  for (const type of ['one', 'two', 'three']) expect((await stream.event()).type).toBe(type)
  counts = await edge.redis.counts()
  expect([counts.requests, counts.byCommand]).toEqual([2, { eval: 1, publish: 1 }])

  const seen = stream.lastEventId()
  await stream.close()
  await edge.redis.reset()
  const resumed = await open(edge, { ...as, 'Last-Event-ID': seen })
  expect(resumed.response.headers.get('Server-Timing')).toContain('5 commands, 2 round trips')
  expect((await edge.redis.counts()).byCommand).toMatchObject({ mget: 1, xrevrange: 1, xrange: 2 })
  await resumed.close()
  await edge.settle()
})

test('who may see an event sees it, and nobody else does: not as it happens, and not on resuming', async () => {
  const edge = newEdge()
  const [ada, fan, other] = [await addUser(), await addUser(), await addUser()]
  await addFollow(fan.id, ada.id)
  await addFollow(ada.id, other.id) // the other way round is no reason
  const [asAda, asFan, asOther] = [await edge.signIn(ada), await edge.signIn(fan), await edge.signIn(other)]
  const viewers = {
    nobody: {},
    ada: asAda,
    fan: asFan,
    other: asOther,
    service: SERVICE,
  }
  const query = 'channels=custom_test,user_events,webhook_events'
  const opened = []
  for (const [name, headers] of Object.entries(viewers))
    opened.push({ name, headers, ...(await open(edge, headers, query)) })
  await publish(edge, custom('first'))
  const start = await opened[0]?.next()

  await publish(edge, custom('for_all'))
  await publish(edge, custom('for_followers', { audience: 'followers', subject: ada.id }))
  await publish(edge, custom('for_some', { audience: [ada.id, other.id] }))
  await publish(edge, custom('for_services', { audience: 'services' }))
  const status = { userId: ada.id, status: 'online', at: new Date().toISOString() }
  await publish(edge, { channel: 'user_events', type: 'user_status_change', data: status, audience: 'followers' })
  await publish(edge, custom('last'))

  const followers = ['for_all', 'for_followers']
  const expected: Record<string, string[]> = {
    nobody: ['for_all'],
    forged: ['for_all'],
    ada: [...followers, 'for_some', 'user_status_change'],
    fan: [...followers, 'user_status_change'],
    other: ['for_all', 'for_some'],
    service: [...followers, 'for_some', 'for_services', 'user_status_change'],
  }
  const typesOf = async (stream: Pick<ReturnType<typeof newReader>, 'event' | 'close'>) => {
    const types = []
    for (let type = ''; type !== 'last'; types.push(type)) ({ type } = await stream.event())
    await stream.close()
    return types
  }
  for (const { name, headers, ...stream } of opened) {
    const first = name === 'nobody' ? [] : ['first']
    expect([name, await typesOf(stream)]).toEqual([name, [...first, ...(expected[name] ?? []), 'last']])
    const resumed = await open(edge, { ...headers, 'Last-Event-ID': start?.id ?? '' }, query)
    expect([name, await typesOf(resumed)]).toEqual([name, [...(expected[name] ?? []), 'last']])
  }
  await edge.settle()
})

test('following and unfollowing change what is seen from then on, whatever the channels', async () => {
  const edge = newEdge()
  const [ada, fan] = [await addUser(), await addUser()]
  const as = await edge.signIn(fan)
  const stream = await open(edge, as)
  const follow = async (method: 'PUT' | 'DELETE') => {
    expect((await edge.fetch(`/v1/users/${ada.id}/follow`, { method, headers: as })).status).toBe(200)
    await until(() => edge.events.sent.length > 0)
    await edge.dispatch()
  }
  const tell = (type: string) => publish(edge, custom(type, { audience: 'followers', subject: ada.id }))
  await tell('before')
  await follow('PUT')
  await tell('while_following')
  expect((await stream.event()).type).toBe('while_following')
  await follow('DELETE')
  await tell('after')
  await publish(edge, custom('mark'))
  expect((await stream.event()).type).toBe('mark')
  await stream.close()
  await edge.settle()
})

test('an unfollow of which no event came is noticed all the same', async () => {
  const edge = newEdge({ STREAM_CHECK_SECONDS: '0.05' })
  const [ada, fan] = [await addUser(), await addUser()]
  await addFollow(fan.id, ada.id)
  const stream = await open(edge, await edge.signIn(fan))
  await publish(edge, custom('before', { audience: 'followers', subject: ada.id }))
  expect((await stream.event()).type).toBe('before')
  await env.DB.prepare('DELETE FROM follows WHERE follower_id = ?').bind(fan.id).run()
  await scheduler.wait(60)
  await publish(edge, custom('after', { audience: 'followers', subject: ada.id }))
  await publish(edge, custom('mark'))
  expect((await stream.event()).type).toBe('mark')
  await stream.close()
  await edge.settle()
})

test('a stream ends with its session, and that session opens no other', async () => {
  const edge = newEdge({ STREAM_CHECK_SECONDS: '0.1' })
  const ada = await addUser()
  const as = await edge.signIn(ada)
  const [stream, anybody] = [await open(edge, as), await open(edge)]
  await publish(edge, custom('before', { audience: [ada.id] }))
  expect((await stream.event()).type).toBe('before')
  expect((await edge.fetch('/v1/sessions', { method: 'DELETE', headers: as })).status).toBe(204)
  expect(await stream.next()).toBeUndefined()

  const headers = { ...as, 'Last-Event-ID': stream.lastEventId() }
  const refused = await edge.fetch('/v1/events/stream?channels=custom_test', { headers })
  expect(refused.status).toBe(401)
  expect(await refused.json()).toMatchObject({ type: 'https://edge.test/problems/not-signed-in' })
  await publish(edge, custom('after', { audience: [ada.id] }))
  await publish(edge, custom('mark'))
  expect((await anybody.event()).type).toBe('mark')
  await anybody.close()
  await edge.settle()
})

test('a stream is resumed where it was: what came meanwhile, then what comes, nothing twice and nothing missing', async () => {
  const edge = newEdge()
  const first = await open(edge)
  await publish(edge, custom('n0'))
  const seen = (await first.next())?.id ?? ''
  await first.close()
  const names = Array.from({ length: 230 }, (_, i) => `n${i + 1}`) // more than two pages
  for (const type of names.slice(0, -1)) {
    await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body: JSON.stringify(custom(type)) })
  }
  await until(() => edge.events.sent.length === names.length - 1)
  await edge.dispatch()
  const byHeader = await open(edge, { 'Last-Event-ID': seen })
  const byQuery = await open(edge, {}, `channels=custom_test&lastEventId=${seen}`)
  await publish(edge, custom(names.at(-1) ?? ''))
  for (const stream of [byHeader, byQuery]) {
    for (const name of names) expect((await stream.event()).type).toBe(name)
    await stream.close()
  }
  await edge.settle()
})

test('a stream that ended before anything happened is resumed too', async () => {
  const edge = newEdge({ STREAM_EVENTS: '100', STREAM_LIFE_SECONDS: '0.5' })
  const stream = await open(edge)
  expect(await stream.next()).toBeUndefined()
  const nothing = { 'Last-Event-ID': stream.lastEventId() }
  await publish(edge, custom('one'))
  expect((await (await open(edge, nothing)).event()).type).toBe('one')
  for (let i = 0; i < 99; i += 1) {
    await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body: JSON.stringify(custom('more')) })
  }
  await until(() => edge.events.sent.length === 99)
  await edge.dispatch()
  expect((await (await open(edge, nothing)).next())?.event).toBe('reset') // there may have been others
  await edge.settle()
})

test('the place to resume moves on with what is not for the viewer: with the heartbeat, and at the end', async () => {
  const edge = newEdge({ STREAM_HEARTBEAT_SECONDS: '0.1', STREAM_LIFE_SECONDS: '2' })
  const stream = await open(edge)
  await publish(edge, custom('secret', { audience: 'services' }))
  const reading = stream.next()
  await until(() => /^\d{9,}-/.test(stream.lastEventId()))
  expect(stream.comments).toContain('still here')
  expect(await reading).toBeUndefined()
  expect(stream.comments.at(-1)).toBe('over')
  await edge.settle()
})

test('what is no longer kept, or was lost with Redis, is said to be missed: `reset`, and then what comes', async () => {
  const edge = newEdge({ STREAM_EVENTS: '100' })
  const stream = await open(edge)
  await publish(edge, custom('seen'))
  const seen = (await stream.next())?.id ?? ''
  await stream.close()
  for (let i = 0; i < 101; i += 1) {
    await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body: JSON.stringify(custom('missed')) })
  }
  await until(() => edge.events.sent.length === 101)
  await edge.dispatch()
  expect(await edge.sdk.xlen(keys.streamLog)).toBe(100)
  expect(await edge.sdk.zcard(keys.streamTold)).toBe(100)
  for (const key of [keys.streamLog, keys.streamTold]) expect(await edge.sdk.ttl(key)).toBeGreaterThan(86_000)

  for (const loss of ['trimmed', 'flushed']) {
    if (loss === 'flushed') await edge.sdk.flushdb()
    const resumed = await open(edge, { 'Last-Event-ID': seen })
    const notice = await resumed.next()
    expect([loss, notice?.event, notice?.data]).toEqual([loss, 'reset', JSON.stringify({ seen })])
    await publish(edge, custom('next'))
    expect([loss, (await resumed.event()).type]).toEqual([loss, 'next'])
    await resumed.close()
  }
  await edge.settle()
})

test('what was appended and not told is found: before what comes next, or by a look now and then', async () => {
  const edge = newEdge({ REDIS_BREAKER_FAILURES: '1000' })
  const [patient, looking] = [await open(edge), await open(newEdge({ STREAM_CHECK_SECONDS: '0.1' }, edge.token))]
  await edge.redis.fault({ kind: 'status', match: 'PUBLISH', times: 1 })
  await publish(edge, custom('untold'))
  expect((await looking.event()).type).toBe('untold')
  await publish(edge, custom('told'))
  for (const type of ['untold', 'told']) expect((await patient.event()).type).toBe(type)
  expect((await looking.event()).type).toBe('told')
  await patient.close()
  await looking.close()
})

test('messages that overtake each other arrive in order', async () => {
  const edge = newEdge()
  const stream = await open(edge)
  await edge.redis.fault({ kind: 'delay', delayMs: 300, match: 'PUBLISH', times: 1 })
  const slow = publish(edge, custom('one'))
  await until(async () => (await edge.sdk.xlen(keys.streamLog)) === 1)
  await publish(edge, custom('two'))
  await slow
  await publish(edge, custom('three'))
  for (const type of ['one', 'two', 'three']) expect((await stream.event()).type).toBe(type)
  await stream.close()
  await edge.settle()
})

test('an event that the queue brings again is on the stream once', async () => {
  const edge = newEdge()
  const stream = await open(edge)
  const id = await publish(edge, custom('one'))
  await env.DB.prepare('UPDATE events SET due_at = 0 WHERE id = ?').bind(id).run()
  expect(await edge.deliver([{ kind: 'event', id }], 'events')).toEqual({ acked: [0], retried: [] })
  await publish(edge, custom('two'))
  for (const type of ['one', 'two']) expect((await stream.event()).type).toBe(type)
  await stream.close()
  await edge.settle()
})

test('large events go in parts that Redis takes', async () => {
  const edge = newEdge()
  const stream = await open(edge)
  for (let i = 0; i < 20; i += 1) {
    const body = JSON.stringify(custom(`n${i}`, { data: { text: 'x'.repeat(32_000) } }))
    expect((await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body })).status).toBe(202)
  }
  await until(() => edge.events.sent.length === 20)
  await edge.redis.reset()
  await edge.dispatch()
  for (let i = 0; i < 20; i += 1) expect((await stream.event()).type).toBe(`n${i}`)
  expect((await edge.redis.counts()).byCommand['publish']).toBe(3)
  await stream.close()
  await edge.settle()
})

test('a reader that does not read is dropped, with what waited for it; it resumes', async () => {
  const edge = newEdge({ STREAM_QUEUED_BYTES: '1000', STREAM_STALL_SECONDS: '0.1' })
  const response = await edge.fetch('/v1/events/stream?channels=custom_test')
  const quick = await open(newEdge({}, edge.token))
  expect(await listening(edge)).toBe(2)
  for (let i = 0; i < 8; i += 1) await publish(edge, custom(`n${i}`, { data: { text: 'x'.repeat(300) } }))
  await until(async () => (await listening(edge)) === 1)
  await expect(response.text()).rejects.toThrow('took nothing')
  for (let i = 0; i < 8; i += 1) expect((await quick.event()).type).toBe(`n${i}`)
  await quick.close()
  await edge.settle()
})

test('a client that leaves leaves nothing behind; nor does one that only asks for the headers', async () => {
  const edge = newEdge()
  const head = await edge.fetch('/v1/events/stream?channels=custom_test', { method: 'HEAD' })
  expect([head.status, head.headers.get('Content-Type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
  await edge.settle()
  expect(await listening(edge)).toBe(0)

  const stream = await open(edge)
  expect(await listening(edge)).toBe(1)
  await stream.close()
  await until(async () => (await listening(edge)) === 0)
  const aborting = new AbortController()
  const response = await edge.fetch('/v1/events/stream?channels=custom_test', { signal: aborting.signal })
  expect(await listening(edge)).toBe(1)
  aborting.abort()
  await until(async () => (await listening(edge)) === 0)
  await response.body?.cancel().catch(() => {})
  await edge.settle()
})

test('a stream ends by itself after its time, and lets go of Redis', async () => {
  const edge = newEdge({ STREAM_LIFE_SECONDS: '0.5' })
  const stream = await open(edge)
  expect(await stream.next()).toBeUndefined()
  await edge.settle()
  await until(async () => (await listening(edge)) === 0)
})

test.each([
  ['refuses', { kind: 'refuse' }],
  ['refuses to subscribe', { kind: 'status', match: 'subscribe' }],
  ['does not answer', { kind: 'hang', match: 'subscribe' }],
  ['subscribes, and does not answer', { kind: 'refuse', match: 'XREVRANGE' }],
] as const)('when Redis %s, opening is 503, to be tried again', async (_, fault) => {
  const edge = newEdge({ REDIS_WRITE_TIMEOUT_MS: '300' })
  await edge.redis.fault(fault)
  const response = await edge.fetch('/v1/events/stream?channels=custom_test')
  expect([response.status, response.headers.get('Retry-After')]).toEqual([503, '5'])
  expect(await response.json()).toMatchObject({ type: 'https://edge.test/problems/unavailable' })
  await edge.redis.clearFaults()
  await edge.settle()
  await until(async () => (await listening(edge)) === 0)
})

test('a subscription that Redis refuses opens no breaker: for anything else it is there; one that fails does', async () => {
  const edge = newEdge()
  const server = { url: env.UPSTASH_REDIS_REST_URL, token: edge.token }
  for (const [status, state] of [
    [429, 'closed'],
    [500, 'open'],
  ] as const) {
    await edge.redis.clearFaults()
    await edge.redis.fault({ kind: 'status', status, match: 'subscribe' })
    const breaker = createBreaker(3, 60_000)
    const subscribe = createSubscribe(server, breaker, newMeter(), 5_000)
    for (let time = 0; time < 3; time += 1) {
      await expect(subscribe('channel', new AbortController().signal)).rejects.toThrow(RedisUnavailable)
    }
    expect(breaker.state(Date.now())).toBe(state)
  }
})

test('with nothing where Redis should be, opening is 503, and events are dispatched all the same', async () => {
  const edge = newEdge({ UPSTASH_REDIS_REST_URL: 'http://127.0.0.1:9' })
  const response = await edge.fetch('/v1/events/stream?channels=custom_test')
  expect(response.status).toBe(503)
  await response.body?.cancel()
  const id = await publish(edge, custom('unheard'))
  const row = await env.DB.prepare('SELECT due_at FROM events WHERE id = ?').bind(id).first()
  expect(row).toEqual({ due_at: null })
})

test.each([
  ['', 'query', 'channels'],
  ['channels=', 'query', 'channels.0'],
  ['channels=post_events,nothing', 'query', 'channels.1'],
  [`channels=${Array.from({ length: 21 }, (_, i) => `custom_${i}`).join()}`, 'query', 'channels'],
  ['channels=post_events&lastEventId=x', 'query', 'lastEventId'],
])('the query "%s" is refused, naming the field', async (query, where, field) => {
  await expectRefused(newEdge().fetch(`/v1/events/stream?${query}`), where, field)
})

test('a Last-Event-ID that is none of ours is refused', async () => {
  const headers = { 'Last-Event-ID': 'ev_1' }
  await expectRefused(newEdge().fetch('/v1/events/stream?channels=post_events', { headers }), 'header', 'Last-Event-ID')
})

test('opening counts as a read, also while the stream is open', async () => {
  const edge = newEdge({ LIMIT_READS: '1' })
  const stream = await open(edge)
  expect(stream.response.headers.get('RateLimit-Policy')).toBe('"reads";q=1;w=60')
  await until(async () => (await edge.redis.counts()).byCommand['evalsha'] !== undefined)
  let status = 0
  for (; status !== 429;) {
    const response = await edge.fetch('/v1/events/stream?channels=custom_test')
    status = response.status
    await response.body?.cancel()
  }
  await stream.close()
  await edge.settle()
})
