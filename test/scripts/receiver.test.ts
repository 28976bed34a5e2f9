import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Webhook } from 'standardwebhooks'
import { expect, onTestFinished, test } from 'vitest'

const SECRET = `whsec_${Buffer.from('a secret for the receiver').toString('base64')}`
const OTHER = `whsec_${Buffer.from('another secret altogether').toString('base64')}`

/** Starts the receiver on a free port. `lines` is what it printed. */
async function startReceiver(...flags: string[]) {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../scripts/receiver.ts'), ...flags], {
    env: { ...process.env, PORT: '0', SECRET },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill())
  const lines: string[] = []
  const url = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      lines.push(line)
      const [found] = /http:\S+/.exec(line) ?? []
      if (found) resolve(found)
    })
    child.once('close', () => reject(new Error('the receiver did not start')))
  })
  const post = (body: string, secret = SECRET, id = 'ev_1') =>
    fetch(url, {
      method: 'POST',
      body,
      headers: {
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(Date.now() / 1_000)),
        'webhook-signature': new Webhook(secret).sign(id, new Date(), body),
      },
    })
  return { url, lines, post }
}

test('the receiver answers the challenge, verifies signatures, and prints deliveries and duplicates', async () => {
  const { lines, post } = await startReceiver()
  const challenged = await post('{"type":"endpoint.challenge","challenge":"abc"}')
  expect([challenged.status, await challenged.json()]).toEqual([200, { challenge: 'abc' }])
  const event = '{"type":"order.paid","data":{"total":7}}'
  expect((await post(event)).status).toBe(204)
  expect((await post(event)).status).toBe(204)
  expect((await post(event, OTHER)).status).toBe(401)
  expect((await post('not JSON')).status).toBe(400)
  const printed = lines.join('\n')
  expect(printed).toContain('✓ order.paid ev_1 (signature verified)')
  expect(printed).toContain('{"total":7}')
  expect(printed).toContain('✓ order.paid ev_1 (again)')
  expect(printed).toContain('✗ order.paid ev_1 No matching signature found')
})

test('the receiver breaks and repairs on request', async () => {
  const { url, post } = await startReceiver('--fail')
  const event = '{"type":"order.paid","data":{}}'
  expect((await post(event)).status).toBe(500)
  await fetch(`${url}mend`, { method: 'POST' })
  expect((await post(event)).status).toBe(204)
  await fetch(`${url}break`, { method: 'POST' })
  expect((await post(event)).status).toBe(500)
})
