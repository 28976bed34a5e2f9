import fc from 'fast-check'
import { Webhook } from 'standardwebhooks'
import { expect, expectTypeOf, test, vi } from 'vitest'
import { type ApiEvent, receiveWebhook, verifyWebhook, WebhookError } from '../../client/index.ts'

const SECRET = `whsec_${btoa('a secret of 24 characters')}`
const OTHER = `whsec_${btoa('another one of 24 letters')}`
const event = { id: 'ev_1', type: 'post_deleted', channel: 'post_events', data: { postId: 'p_1', authorId: 'u_1' } }
const body = JSON.stringify(event)

function sign(secret: string, payload = body, at = new Date(), id = 'ev_1') {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
    'webhook-signature': new Webhook(secret).sign(id, at, payload),
  }
}

const isAccepted = (check: () => unknown) =>
  Promise.resolve()
    .then(check)
    .then(
      () => true,
      () => false,
    )

test('it accepts and refuses what the library of Standard Webhooks accepts and refuses', async () => {
  const header = fc.oneof(
    { weight: 3, arbitrary: fc.constant('signed') },
    fc.constantFrom('', 'v1', 'v1,', 'v1,AAAA', 'v1a,AAAA', 'v1,%%%', 'v2,AAAA v1,AAAA', 'v1,é'),
  )
  const time = fc.oneof(
    { weight: 3, arbitrary: fc.constant(0) },
    fc.integer({ min: -900, max: 900 }).filter((seconds) => Math.abs(Math.abs(seconds) - 300) > 2),
  )
  const cases = fc.record({
    payload: fc.json(),
    seconds: time,
    header,
    secret: fc.constantFrom(SECRET, SECRET, OTHER),
    isTampered: fc.boolean(),
    isDouble: fc.boolean(),
    id: fc.constantFrom('ev_1', 'ev_2', ''),
    timestamp: fc.oneof({ weight: 5, arbitrary: fc.constant(undefined) }, fc.constantFrom('', 'soon', '-1', '1e9')),
  })
  let accepted = 0
  await fc.assert(
    fc.asyncProperty(cases, async ({ payload, seconds, header, secret, isTampered, isDouble, id, timestamp }) => {
      const headers = sign(secret, payload, new Date(Date.now() + seconds * 1_000), id || 'ev_1')
      if (id === '') headers['webhook-id'] = ''
      if (timestamp !== undefined) headers['webhook-timestamp'] = timestamp
      if (header !== 'signed') headers['webhook-signature'] = header
      if (isDouble) headers['webhook-signature'] = `v1,AAAA ${headers['webhook-signature']}`
      const received = isTampered ? `${payload} ` : payload
      const theirs = await isAccepted(() => new Webhook(SECRET).verify(received, headers))
      const ours = await isAccepted(() => verifyWebhook(SECRET, headers, received))
      expect(ours).toBe(theirs)
      accepted += Number(ours)
    }),
    { numRuns: 500 },
  )
  expect(accepted).toBeGreaterThan(20)
})

test('while a secret is rotated, either one is enough', async () => {
  for (const secret of [SECRET, OTHER]) {
    expect(await verifyWebhook([SECRET, OTHER], sign(secret), body)).toEqual(event)
  }
  await expect(verifyWebhook([], sign(SECRET), body)).rejects.toThrow(WebhookError)
})

test('the time may be given, and how far it may be off', async () => {
  const at = new Date('2026-01-01T00:00:00Z')
  const headers = sign(SECRET, body, at)
  const verify = (seconds: number, toleranceSeconds = 300) =>
    verifyWebhook(SECRET, headers, body, { now: at.getTime() + seconds * 1_000, toleranceSeconds })
  for (const seconds of [-300, 0, 300]) expect(await verify(seconds)).toEqual(event)
  for (const seconds of [-301, 301]) await expect(verify(seconds)).rejects.toThrow('too old')
  expect(await verify(3_000, 3_600)).toEqual(event)
})

test('a receiver answers the challenge, handles genuine events, and refuses others', async () => {
  const handle = vi.fn<(event: ApiEvent) => void>()
  const post = (headers: Record<string, string>, payload = body) =>
    receiveWebhook(new Request('https://me.test/hook', { method: 'POST', headers, body: payload }), SECRET, handle)

  const challenge = JSON.stringify({ type: 'endpoint.challenge', challenge: 'abc' })
  const answered = await post(sign(SECRET, challenge), challenge)
  expect([answered.status, await answered.json()]).toEqual([200, { challenge: 'abc' }])
  expect(handle).not.toHaveBeenCalled()

  expect((await post(sign(SECRET))).status).toBe(204)
  expect(handle).toHaveBeenCalledExactlyOnceWith(event)

  expect((await post(sign(OTHER))).status).toBe(401)
  expect((await post({})).status).toBe(401)
  expect(handle).toHaveBeenCalledTimes(1)

  handle.mockImplementation(() => {
    throw new Error('the database is down')
  })
  await expect(post(sign(SECRET))).rejects.toThrow('the database is down')
  expectTypeOf<Parameters<typeof handle>[0]['specversion']>().toEqualTypeOf<'1.0'>()
})
