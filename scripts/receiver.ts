/**
 * `npm run receiver`: a small receiver of webhooks, to try them with. It answers the challenge, verifies signatures with
 * the library of Standard Webhooks, and prints what arrives.
 *
 * PORT is where it listens (9000). SECRET is that of the endpoint, or several separated by commas; without it signatures
 * are not verified, and it says so. `--fail` starts it broken: it answers 500. Enter, or `POST /break` and `POST /mend`,
 * breaks and mends it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { Webhook } from 'standardwebhooks'
import { readFlags } from './flags.ts'

const flags = readFlags({ fail: { type: 'boolean', default: false } })
const port = Number(process.env['PORT'] ?? 9_000)
const secrets = (process.env['SECRET'] ?? '').split(',').filter(Boolean)
let isBroken = flags.fail
/** What has arrived: a webhook may come more than once, under the same id. */
const seen = new Set<string>()

const say = (...words: string[]) => console.log(new Date().toISOString().slice(11, 23), ...words)

function setBroken(broken: boolean): void {
  isBroken = broken
  say(isBroken ? 'now broken: it answers 500' : 'mended: it answers 204')
}

/** What is the matter with the signature; undefined: nothing. */
function complaintOf(body: string, headers: Record<string, string>): string | undefined {
  if (secrets.length === 0) return 'not verified: set SECRET'
  const complaints = secrets.flatMap((secret) => {
    try {
      new Webhook(secret).verify(body, headers)
      return []
    } catch (error) {
      return [error instanceof Error ? error.message : String(error)]
    }
  })
  return complaints.length < secrets.length ? undefined : complaints[0]
}

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = ''
  for await (const chunk of request.setEncoding('utf8')) body += chunk as string
  if (request.url === '/break' || request.url === '/mend') {
    setBroken(request.url === '/break')
    return void response.writeHead(204).end()
  }
  const message = JSON.parse(body) as { type?: string; challenge?: string; sequence?: number; data?: unknown }
  const id = String(request.headers['webhook-id'])
  const complaint = complaintOf(body, request.headers as Record<string, string>) // those it reads are single
  if (isBroken) {
    say('✗', message.type ?? '?', id, 'answered 500')
    return void response.writeHead(500).end('broken on purpose')
  }
  if (complaint !== undefined && secrets.length > 0) {
    say('✗', message.type ?? '?', id, complaint)
    return void response.writeHead(401).end(complaint)
  }
  if (message.type === 'endpoint.challenge') {
    say('✓ challenge answered', complaint ?? '(signature verified)')
    const answer = JSON.stringify({ challenge: message.challenge })
    return void response.writeHead(200, { 'Content-Type': 'application/json' }).end(answer)
  }
  const again = seen.has(id) ? ' (again)' : ''
  seen.add(id)
  say('✓', message.type ?? '?', id + again, complaint ?? '(signature verified)')
  say(' ', JSON.stringify(message.data))
  response.writeHead(204).end()
}

const server = createServer((request, response) => {
  receive(request, response).catch((error: unknown) => {
    say('✗ not understood:', error instanceof Error ? error.message : String(error))
    response.writeHead(400).end()
  })
})
server.on('error', (error) => {
  console.error(`It cannot listen on port ${port}: ${error.message}. Choose another with PORT=…`)
  process.exit(1)
})
server.listen(port, '127.0.0.1', () => {
  say(
    `listening on http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    secrets.length > 0 ? '' : '(SECRET is not set)',
    isBroken ? '(broken)' : '',
  )
})
createInterface({ input: process.stdin }).on('line', () => setBroken(!isBroken))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(0))
