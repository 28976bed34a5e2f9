import { env } from 'cloudflare:workers'
import { eq } from 'drizzle-orm'
import { Webhook as Verifier } from 'standardwebhooks'
import { beforeAll, expect, test } from 'vitest'
import { webhooks } from '../../src/db/schema.ts'
import { createVault } from '../../src/webhooks/vault.ts'
import { migrate } from '../edge.ts'
import { db } from '../rows.ts'
import {
  addWebhook,
  ask,
  deliverAll,
  newDevEdge,
  publish,
  readDeliveries,
  receiver,
  type Webhook,
} from './endpoints.ts'

beforeAll(migrate)

const rowOf = async (id: string) => (await db.select().from(webhooks).where(eq(webhooks.id, id)))[0]
const prefixOf = (key: string) => createVault([key]).prefix
const [first, second] = ['the first key of webhooks', 'the second key of webhooks']

/** Whether a delivery arrives with the header and a signature by each of these secrets. */
async function expectSigned(
  edge: ReturnType<typeof newDevEdge>,
  to: ReturnType<typeof receiver>,
  channel: string,
  secrets: string[],
) {
  await publish(edge, channel)
  await deliverAll(edge)
  const sent = (await to.events()).at(-1)
  expect(sent?.headers['authorization']).toBe('Bearer theirs')
  expect(sent?.headers['webhook-signature']?.split(' ')).toHaveLength(secrets.length)
  for (const secret of secrets) new Verifier(secret).verify(sent?.body ?? '', sent?.headers ?? {})
}

test('D1 holds no secret and no header value in plain text, whatever is written', async () => {
  const edge = newDevEdge({ WEBHOOK_KEY: first })
  const to = receiver()
  const { id, secret, channel } = await addWebhook(edge, to, { headers: { Authorization: 'Bearer theirs' } })
  const rotated = await (await ask(edge, 'POST', `/v1/webhooks/${id}/rotate`)).json<Webhook>()
  await ask(edge, 'PATCH', `/v1/webhooks/${id}`, { headers: { Authorization: 'Bearer theirs', 'X-Tenant': 'seven' } })
  const stored = JSON.stringify(await rowOf(id))
  for (const plain of ['whsec_', secret.slice(6), rotated.secret.slice(6), 'theirs', 'seven']) {
    expect(stored).not.toContain(plain)
  }
  await expectSigned(edge, to, channel, [rotated.secret, secret])
})

test('keys are rotated: the first encrypts, all decrypt, and the cron encrypts anew what older keys have', async () => {
  const keyless = newDevEdge() // the service token is the key
  const to = receiver()
  const { id, secret, channel } = await addWebhook(keyless, to, { headers: { Authorization: 'Bearer theirs' } })
  const { secret: latest } = await (await ask(keyless, 'POST', `/v1/webhooks/${id}/rotate`)).json<Webhook>()
  expect((await rowOf(id))?.secret.startsWith(prefixOf(env.SERVICE_TOKEN))).toBe(true)

  for (const keys of [first, `${second}, ${first}`, second]) {
    const edge = newDevEdge({ WEBHOOK_KEY: keys })
    await expectSigned(edge, to, channel, [latest, secret])
    await edge.cron()
    const row = await rowOf(id)
    const values = [row?.secret, ...(row?.previousSecret?.split(' ') ?? []), ...Object.values(row?.headers ?? {})]
    expect(values).toHaveLength(3)
    const prefix = prefixOf(keys.split(',')[0] ?? '')
    expect(values.filter((value) => value?.startsWith(prefix))).toHaveLength(3)
    await expectSigned(edge, to, channel, [latest, secret])
  }
})

test('a key that nobody knows is replaced, and nothing needs the service token any more', async () => {
  const to = receiver()
  const { id, secret, channel } = await addWebhook(newDevEdge(), to, { headers: { Authorization: 'Bearer theirs' } })
  for (const keys of [
    { WEBHOOK_KEY: first },
    { WEBHOOK_KEY: first, WEBHOOK_KEY_NEXT: second },
    { WEBHOOK_KEY: second, WEBHOOK_KEY_NEXT: second },
  ]) {
    const edge = newDevEdge(keys)
    await expectSigned(edge, to, channel, [secret])
    await edge.cron()
  }
  const row = await rowOf(id)
  const vault = createVault([second]) // without the service token
  const opened = [row?.secret, row?.headers['Authorization']].map((value) => vault.open(value ?? '', id))
  expect(opened).toEqual([secret, 'Bearer theirs'])
})

test.each(['the cron', 'a rotation'])('rows in plain text still work, and are encrypted by %s', async (by) => {
  const edge = newDevEdge({ WEBHOOK_KEY: first })
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  const [secret, previousSecret] = [`whsec_${btoa('s'.repeat(32))}`, `whsec_${btoa('p'.repeat(32))}`]
  const plain = {
    secret,
    previousSecret,
    previousSecretUntil: Date.now() + 60_000,
    headers: { Authorization: 'Bearer theirs' },
  }
  await db.update(webhooks).set(plain).where(eq(webhooks.id, id))
  await expectSigned(edge, to, channel, [secret, previousSecret])

  const secrets = [secret, previousSecret]
  if (by === 'the cron') await edge.cron()
  else secrets.unshift((await (await ask(edge, 'POST', `/v1/webhooks/${id}/rotate`)).json<Webhook>()).secret)
  const { secret: stored, previousSecret: previous } = (await rowOf(id)) ?? {}
  expect(`${stored} ${previous}`).not.toContain('whsec_')
  await edge.cron()
  expect(JSON.stringify(await rowOf(id))).not.toContain('theirs')
  await expectSigned(edge, to, channel, secrets)
})

test('without its key an endpoint is sent nothing, the attempt says why, and the row is left as it is', async () => {
  const edge = newDevEdge({ WEBHOOK_KEY: first })
  const to = receiver()
  const { id, channel } = await addWebhook(edge, to)
  const before = await rowOf(id)
  const other = newDevEdge({ WEBHOOK_KEY: second, DELIVERIES: edge.deliveries })
  await publish(edge, channel)
  await other.deliver(edge.deliveries.take(), 'deliveries')
  await other.cron()
  expect(await to.events()).toEqual([])
  expect(await readDeliveries(edge, id)).toMatchObject([
    {
      status: 'pending',
      attempts: [{ error: expect.stringMatching(/^not sent: WEBHOOK_KEY has no key [0-9a-f]{8}$/) }],
    },
  ])
  expect((await rowOf(id))?.secret).toBe(before?.secret)
})

test.each(['short', 'long enough to be a key,short', ','])('the key %j is refused', async (key) => {
  const error = await newDevEdge({ WEBHOOK_KEY: key }).fetch('/v1/webhooks')
  expect(error.status).toBe(503)
  expect(JSON.stringify(await error.json())).toContain('WEBHOOK_KEY')
})
