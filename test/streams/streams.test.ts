import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { users } from '../../src/db/schema.ts'
import { formatSequence } from '../../src/events/catalog.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { keys } from '../../src/keys.ts'
import { createBreaker, newMeter, RedisUnavailable } from '../../src/redis/client.ts'
import { createSubscribe } from '../../src/redis/subscription.ts'
import { addFollow, addUser, db } from '../rows.ts'
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
      sequence: '0000000000000001',
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

test('a counter_update reaches open streams for one command, is not kept, and is published again for a minute', async () => {
  const edge = newEdge()
  const channels = 'channels=counter_events,custom_test'
  const stream = await open(edge, {}, channels)
  await publish(edge, custom('first'))
  const first = await stream.next()
  const likes = (value: number) => ({
    channel: 'counter_events',
    type: 'counter_update',
    data: { contentId: 'p_1', contentType: 'post', counterType: 'likes', value },
  })
  await edge.redis.reset()
  await publish(edge, likes(7))
  expect((await edge.redis.counts()).byCommand).toEqual({ publish: 1 })
  expect((await stream.event()).data).toEqual(likes(7).data)
  await stream.close()

  await publish(edge, likes(8))
  await publish(edge, custom('second'))
  const resumed = await open(edge, { 'Last-Event-ID': first?.id ?? '' }, channels)
  expect((await resumed.event()).type).toBe('second') // no reset, and no count of a moment ago
  const deliverHint = async (value: number, at: number) => {
    const hint = { id: `ev_${value}`, type: 'counter_update', data: likes(value).data, audience: 'everyone', at }
    return (await edge.deliver([{ kind: 'hints', hints: [hint] }], 'events')).retried.length
  }
  const now = Date.now()
  await edge.redis.fault({ kind: 'refuse', match: 'PUBLISH' })
  expect(await deliverHint(9, now)).toBe(1)
  expect(await deliverHint(10, now - 61_000)).toBe(0) // is lost, and nothing is to be done about it
  await edge.redis.clearFaults()
  await edge.cron()
  expect(await deliverHint(9, now)).toBe(0)
  expect((await resumed.event()).data).toEqual(likes(9).data)
  await resumed.close()
  await edge.settle()
})

test('opening is SUBSCRIBE and one round trip; appending a batch is two, and an open stream costs nothing more', async () => {
  const edge = newEdge()
  const as = await edge.signIn(await addUser())
  await edge.fetch('/v1/users/u_a', { headers: as })
  await publish(edge, custom('warm'))
  await edge.settle()

  const first = await open(edge, as) // its session is not known to Redis yet: D1 has it
  await first.close()
  await edge.settle()
  await edge.redis.reset()
  const stream = await open(edge, as)
  expect(roundTrips(stream.response)).toBe(2)
  expect(stream.response.headers.get('Server-Timing')).toContain('4 commands, 2 round trips')
  let counts = await edge.redis.counts()
  expect(counts.byCommand).toMatchObject({ mget: 1, xrevrange: 1, eval: 1 })
  const second = await open(edge, as) // the isolate is subscribed
  expect(second.response.headers.get('Server-Timing')).toContain('3 commands, 1 round trips')
  await second.close()
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
  expect((await edge.redis.counts()).byCommand).toMatchObject({ mget: 1, xrevrange: 1, xrange: 1, eval: 1 })
  await resumed.close()
  await edge.settle()
})

test('only viewers who may see an event receive it, live and on resuming', async () => {
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
    const facts = (expected[name] ?? []).filter((type) => type !== 'user_status_change') // hints are not kept
    expect([name, await typesOf(resumed)]).toEqual([name, [...facts, 'last']])
  }
  await edge.settle()
})

test('following and unfollowing change what a stream delivers from then on, for all channels', async () => {
  const edge = newEdge()
  const [ada, fan] = [await addUser(), await addUser()]
  const as = await edge.signIn(fan)
  const stream = await open(edge, as)
  const follow = async (method: 'PUT' | 'DELETE') => {
    expect((await edge.fetch(`/v1/users/${ada.id}/follow`, { method, headers: as })).status).toBe(200)
    await until(() => edge.events.sent.length > 0)
    await edge.dispatch()
  }
  const send = (type: string) => publish(edge, custom(type, { audience: 'followers', subject: ada.id }))
  await send('before')
  await follow('PUT')
  await send('while_following')
  expect((await stream.event()).type).toBe('while_following')
  await follow('DELETE')
  await send('after')
  await publish(edge, custom('mark'))
  expect((await stream.event()).type).toBe('mark')
  await stream.close()
  await edge.settle()
})

test('an unfollow whose event is lost is noticed by the next check', async () => {
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

test('hiding completes what each audience knows, and a client that resumes learns nothing of before', async () => {
  const edge = newEdge()
  const [ada, fan, stranger] = [await addUser(), await addUser(), await addUser()]
  await addFollow(fan.id, ada.id)
  const [asAda, asFan] = [await edge.signIn(ada), await edge.signIn(fan)]
  const headersOf = { nobody: {}, stranger: await edge.signIn(stranger), fan: asFan, ada: asAda, service: SERVICE }
  type Name = keyof typeof headersOf
  const names = Object.keys(headersOf) as Name[]
  const query = 'channels=user_events'

  /** Does something that Ada does, and delivers the hints of it. */
  async function act(method: string, path: string, body?: object) {
    const response = await edge.fetch(`/v1/presence${path}`, {
      method,
      headers: { ...asAda, ...(body ? { 'Content-Type': 'application/json' } : {}) },
      ...(body ? { body: JSON.stringify(body) } : {}),
    })
    expect(response.ok).toBe(true)
    await edge.cron() // after the answer, or by the cron
    await until(async () => (await edge.sdk.zcard(keys.presenceChanges(0))) === 0)
    await edge.dispatch()
  }
  const see = (visibility: string) => act('PATCH', '', { visibility })
  const profile = { username: 'ada', displayName: 'Ada', bio: '', version: 2 }
  const publishFact = () =>
    publish(edge, { channel: 'user_events', type: 'user_updated', data: { userId: ada.id, ...profile } })

  await publishFact()
  const streams = {} as Record<Name, Awaited<ReturnType<typeof open>>>
  for (const name of names) streams[name] = await open(edge, headersOf[name], query)
  interface Said {
    said: string
    sequence: string | undefined
    time: string
  }
  const read = async (stream: (typeof streams)[Name]): Promise<Said> => {
    const { type, data, ...event } = (await stream.event()) as Awaited<ReturnType<typeof stream.event>> & Said
    if (type === 'user_status_change') expect(data).toMatchObject({ userId: ada.id, at: event.time })
    const said = type === 'user_updated' ? 'fact' : String(data['status'])
    return { said, sequence: event.sequence, time: event.time }
  }
  await publishFact()
  const positions = {} as Record<Name, string>
  for (const name of names) {
    expect((await read(streams[name])).said).toBe('fact')
    positions[name] = streams[name].lastEventId()
  }

  await act('POST', '/heartbeat') // everyone: online
  await see('followers') // others: offline
  await act('DELETE', '') // followers: offline
  await act('POST', '/heartbeat') // followers: online
  await see('everyone') // others: online
  await see('nobody') // everyone: offline
  await publishFact()
  const expected = ['online', 'offline', 'online', 'offline', 'fact']
  const times = {} as Record<Name, string[]>
  for (const name of names) {
    const seen: Said[] = []
    for (const _ of expected) seen.push(await read(streams[name]))
    expect([name, seen.map(({ said }) => said)]).toEqual([name, expected])
    // Hints take no sequence from facts: there is no gap for anybody.
    expect([name, seen.map(({ sequence }) => sequence)]).toEqual([
      name,
      [undefined, undefined, undefined, undefined, '0000000000000003'],
    ])
    times[name] = seen.slice(0, 4).map(({ time }) => time)
    expect([name, times[name]]).toEqual([name, [...new Set(times[name])].sort()]) // each is newer than the one before
    await streams[name].close()
  }
  expect(times.nobody[1]).not.toBe(times.fan[1]) // the others learned of another change

  // Ada is hidden: a client that resumes from before learns nothing about her, only facts.
  for (const name of names) {
    const resumed = await open(edge, { ...headersOf[name], 'Last-Event-ID': positions[name] }, query)
    expect(await read(resumed)).toMatchObject({ said: 'fact', sequence: formatSequence(3) })
    await resumed.close()
  }
  await edge.settle()
}, 60_000)

test('a hint about presence that is late shows an open stream nothing that is hidden by then', async () => {
  const edge = newEdge()
  const [ada, fan] = [await addUser(), await addUser()]
  await addFollow(fan.id, ada.id)
  const asFan = await edge.signIn(fan)
  const [stream, follower, service] = [
    await open(edge, {}, 'channels=user_events,custom_test'),
    await open(edge, asFan, 'channels=user_events,custom_test'),
    await open(edge, SERVICE, 'channels=user_events,custom_test'),
  ]
  const LATE_MS = 61_000
  const send = async (status: 'online' | 'offline', audience: 'everyone' | 'followers' | 'others') => {
    const at = Date.now() - LATE_MS
    const data = { userId: ada.id, status, at: new Date(at).toISOString() }
    const hint = { id: `ev_${crypto.randomUUID()}`, type: 'user_status_change', data, audience, at }
    await edge.deliver([{ kind: 'hints', hints: [hint] }], 'events')
    await publish(edge, custom('mark'))
    return hint
  }
  const heard = async (reader: typeof stream) => {
    const events = []
    for (;;) {
      const next = await reader.event()
      if (next.type === 'mark') return events
      events.push(next)
    }
  }
  const statuses = async () => {
    const all = []
    for (const reader of [stream, follower, service]) all.push((await heard(reader)).map(({ data }) => data['status']))
    return all
  }
  const setVisibility = (visibility: 'everyone' | 'followers' | 'nobody') =>
    db.update(users).set({ presenceVisibility: visibility }).where(eq(users.id, ada.id))

  await send('online', 'everyone')
  expect(await statuses()).toEqual([['online'], ['online'], ['online']]) // late, and not hidden
  await setVisibility('followers')
  await send('online', 'everyone')
  expect(await statuses()).toEqual([[], ['online'], ['online']])
  await send('online', 'others')
  expect(await statuses()).toEqual([[], [], []])
  await send('offline', 'followers')
  expect(await statuses()).toEqual([[], ['offline'], ['offline']])
  await setVisibility('nobody')
  await send('online', 'everyone')
  expect(await statuses()).toEqual([[], [], []])
  // Who believes her online learns that she is not, and not since when.
  const { id, data } = await send('offline', 'everyone')
  for (const reader of [stream, follower, service]) {
    const [said, ...more] = await heard(reader)
    expect(more).toEqual([])
    expect(said?.id).not.toBe(id)
    expect(said?.data).toMatchObject({ userId: ada.id, status: 'offline' })
    expect(Date.parse(String(said?.data['at'])) - Date.parse(data.at)).toBeGreaterThanOrEqual(LATE_MS)
  }
  for (const reader of [stream, follower, service]) await reader.close()
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
  expect(await refused.json()).toMatchObject({ type: '/problems/not-signed-in' })
  await until(async () => (await listening(edge)) === 1)
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
  for (let i = 0; i < 100; i += 1) {
    await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body: JSON.stringify(custom('more')) })
  }
  await until(() => edge.events.sent.length === 100)
  await edge.dispatch()
  expect((await (await open(edge, nothing)).next())?.event).toBe('reset') // `one` is not kept
  await edge.settle()
})

test('the position to resume from also advances past events for others: with heartbeats, and at the end', async () => {
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

test('if events are no longer kept, or Redis lost them, the stream sends `reset` and continues', async () => {
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
  expect(await edge.sdk.zcard(keys.streamNames)).toBeGreaterThanOrEqual(100) // some appends trim it
  for (const key of [keys.streamLog, keys.streamNames]) expect(await edge.sdk.ttl(key)).toBeGreaterThan(86_000)

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

test('an event whose message was lost is delivered before the next event, or by the periodic check', async () => {
  const edge = newEdge({ REDIS_BREAKER_FAILURES: '1000' })
  const isolate = newEdge({ STREAM_CHECK_SECONDS: '0.1' }, edge.token)
  const [patient, looking, beside] = [await open(edge), await open(isolate), await open(isolate)]
  await edge.redis.fault({ kind: 'status', match: 'PUBLISH', times: 1 })
  await publish(edge, custom('unpublished'))
  for (const stream of [looking, beside]) expect((await stream.event()).type).toBe('unpublished')
  await publish(edge, custom('published'))
  for (const type of ['unpublished', 'published']) expect((await patient.event()).type).toBe(type)
  for (const stream of [looking, beside]) expect((await stream.event()).type).toBe('published')
  for (const stream of [patient, looking, beside]) await stream.close()
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

test('an event that the queue repeats appears once on the stream', async () => {
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

test('large events are appended in parts that Redis accepts', async () => {
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

test('a position on the empty log is not continued after a flush', async () => {
  const brief = newEdge({ STREAM_LIFE_SECONDS: '0.5' })
  const edge = newEdge({}, brief.token)
  const stream = await open(brief)
  expect(await stream.next()).toBeUndefined()
  expect(stream.lastEventId()).toMatch(/^0-[1-9]/)
  await edge.sdk.flushdb()
  for (const headers of [{ 'Last-Event-ID': stream.lastEventId() }, { 'Last-Event-ID': '0-0' }]) {
    const resumed = await open(edge, headers)
    expect((await resumed.next())?.event).toBe('reset')
    await resumed.close()
  }
  await publish(edge, custom('missed'))
  const resumed = await open(edge, { 'Last-Event-ID': stream.lastEventId() })
  expect((await resumed.next())?.event).toBe('reset')
  await resumed.close()
  await edge.settle()
})

test('an append whose reply is lost reaches open streams with the retry, not with the next check', async () => {
  const edge = newEdge({ REDIS_BREAKER_FAILURES: '1000' }) // the check is a minute away
  const stream = await open(edge)
  await edge.redis.fault({ kind: 'cut', match: 'EVAL', times: 1 })
  await publish(edge, custom('one'))
  expect((await stream.event()).type).toBe('one')
  await edge.redis.fault({ kind: 'cut', match: 'EVAL', times: 2 })
  await publish(edge, custom('two')) // appended, unknown to the listener: recorded as missed
  await edge.cron()
  expect((await stream.event()).type).toBe('two')
  await stream.close()
  await edge.settle()
})

const PATH = '/v1/events/stream?channels=custom_test'

test('a caller has a bounded number of open streams over all isolates, and closing one makes room', async () => {
  const settings = { STREAM_MAX_PER_CALLER: '3' }
  const edge = newEdge(settings)
  const edges = [edge, newEdge(settings, edge.token)]
  const [ada, bob] = [await addUser(), await addUser()]
  const from = (address: string) => ({ 'CF-Connecting-IP': address })
  const callers: [string, Record<string, string>[]][] = [
    [ada.id, [await edge.signIn(ada), { ...(await edge.signIn(ada)), ...from('192.0.2.9') }]],
    [bob.id, [await edge.signIn(bob)]],
    ['ip:192.0.2.9', [from('192.0.2.9')]],
    ['ip:2001:db8:0:0::/64', [from('2001:db8::1'), from('2001:db8::2')]],
    ['service:root', [SERVICE]],
  ]
  const open = (n: number, headers: Record<string, string>[]) =>
    edges[n % 2]?.fetch(PATH, { headers: headers[n % headers.length] ?? {} })
  const opened: (Response | undefined)[] = []
  for (const [caller, headers] of callers) {
    const held = () => edge.sdk.zcard(keys.openStreams(caller))
    const responses = []
    for (let n = 0; n < 5; n += 1) responses.push(await open(n, headers))
    expect([caller, responses.map((response) => response?.status)]).toEqual([caller, [200, 200, 200, 429, 429]])
    expect(responses[3]?.headers.get('Retry-After')).toBe('5')
    expect(await responses[3]?.json()).toMatchObject({ type: '/problems/rate-limited' })
    await responses[4]?.body?.cancel()
    expect([caller, await held()]).toEqual([caller, 3])
    await responses[0]?.body?.cancel()
    await until(async () => (await held()) === 2)
    const again = await open(0, headers)
    expect([caller, again?.status]).toEqual([caller, 200])
    opened.push(responses[1], responses[2], again)
  }
  await until(async () => (await listening(edge)) === edges.length) // one for each isolate
  for (const key of [keys.allOpenStreams, keys.openStreams(ada.id)])
    expect(await edge.sdk.ttl(key)).toBeGreaterThan(900)
  for (const response of opened) await response?.body?.cancel()
  for (const each of edges) await each.settle()
  expect(await edge.sdk.exists(keys.allOpenStreams, keys.openStreams(ada.id))).toBe(0)
})

test('a dead isolate frees its places, an open stream keeps its own, also after a flush', async () => {
  const edge = newEdge({ STREAM_MAX_PER_CALLER: '2', STREAM_CHECK_SECONDS: '0.2' })
  const key = keys.openStreams('ip:unknown')
  const now = Date.now()
  const later = now + 600_000
  await edge.sdk.zadd(key, { score: later, member: 'of the dead' }, { score: later, member: 'another' })
  const refused = await edge.fetch(PATH)
  expect(refused.status).toBe(429)
  await refused.body?.cancel()
  await edge.sdk.zadd(key, { score: now, member: 'of the dead' }) // as if its time had passed
  const stream = await open(edge)
  const [member] = await edge.sdk.zrange<string[]>(key, 0, 0)
  const scoreOf = async () => (await edge.sdk.zscore(key, member ?? '')) ?? 0
  const before = await scoreOf()
  await until(async () => (await scoreOf()) > before)
  await edge.sdk.flushdb()
  await until(async () => (await scoreOf()) > before)
  await stream.close()
  await edge.settle()
})

test.each([
  ['in total', { STREAM_MAX_TOTAL: '2' }],
  ['in one isolate', { STREAM_MAX_PER_ISOLATE: '2' }],
])('the number of open streams is bounded %s: 503, until one closes', async (_, settings) => {
  const edge = newEdge(settings)
  const opening = async (n: number) => edge.fetch(PATH, { headers: { 'CF-Connecting-IP': `192.0.2.${n}` } })
  const [first, second, third] = [await opening(1), await opening(2), await opening(3)]
  expect([first.status, second.status, third.status]).toEqual([200, 200, 503])
  expect(third.headers.get('Retry-After')).toBe('5')
  expect(await third.json()).toMatchObject({ type: '/problems/unavailable' })
  await first.body?.cancel()
  let again: Response | undefined
  await until(async () => {
    again = await opening(3)
    if (again.status !== 200) await again.body?.cancel()
    return again.status === 200
  })
  await second.body?.cancel()
  await again?.body?.cancel()
  await edge.settle()
})

test('a session that is over opens no stream, and takes no place of its user', async () => {
  const edge = newEdge({ STREAM_MAX_PER_CALLER: '2' })
  const ada = await addUser()
  const [over, live] = [await edge.signIn(ada), await edge.signIn(ada)]
  expect((await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers: over })).status).toBe(204)
  for (let i = 0; i < 5; i += 1) {
    const response = await edge.fetch(PATH, { headers: over })
    expect(response.status).toBe(401)
    await response.body?.cancel()
  }
  await edge.settle()
  const stream = await open(edge, live)
  expect(await edge.sdk.zcard(keys.openStreams(ada.id))).toBe(1)
  await stream.close()
  await edge.settle()
})

test('a client that does not read is disconnected, its buffer dropped; it can resume', async () => {
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

test('a client that disconnects leaves nothing behind; nor does a HEAD request', async () => {
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

test('a stream ends after its maximum time, and closes its subscription', async () => {
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
] as const)('when Redis %s, opening answers 503 with Retry-After', async (_, fault) => {
  const edge = newEdge({ REDIS_WRITE_TIMEOUT_MS: '300' })
  await edge.redis.fault(fault)
  const response = await edge.fetch('/v1/events/stream?channels=custom_test')
  expect([response.status, response.headers.get('Retry-After')]).toEqual([503, '5'])
  expect(await response.json()).toMatchObject({ type: '/problems/unavailable' })
  await edge.redis.clearFaults()
  await edge.settle()
  await until(async () => (await listening(edge)) === 0)
})

test('a subscription that Redis refuses does not open the breaker; one that fails does', async () => {
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

test('without any Redis, opening answers 503, and events are still dispatched', async () => {
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

test('a Last-Event-ID that we did not issue is refused', async () => {
  const headers = { 'Last-Event-ID': 'ev_1' }
  await expectRefused(newEdge().fetch('/v1/events/stream?channels=post_events', { headers }), 'header', 'Last-Event-ID')
})

test('opening a stream counts as a read, also while it is open', async () => {
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
