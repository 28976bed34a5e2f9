/**
 * `npm run receiver`: a small webhook endpoint for trying out webhooks. It answers the challenge, verifies signatures with
 * the Standard Webhooks library, and prints each delivery.
 *
 * PORT is its port (9000). SECRET is the secret of the endpoint, or several separated by commas. Without it the receiver
 * does not verify signatures, and prints that. With `--fail` it starts broken: it answers 500. Enter, or `POST /break` and
 * `POST /mend`, breaks and repairs it.
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
/** The ids of received webhooks. The same webhook can arrive more than once. */
const seen = new Set<string>()

const print = (...words: string[]) => console.log(new Date().toISOString().slice(11, 23), ...words)

function setBroken(broken: boolean): void {
  isBroken = broken
  print(isBroken ? 'broken: answers 500' : 'repaired: answers 204')
}

/** Returns why the signature is not accepted, or undefined. */
function signatureProblem(body: string, headers: Record<string, string>): string | undefined {
  if (secrets.length === 0) return 'not verified: set SECRET'
  const problems = secrets.flatMap((secret) => {
    try {
      new Webhook(secret).verify(body, headers)
      return []
    } catch (error) {
      return [error instanceof Error ? error.message : String(error)]
    }
  })
  return problems.length < secrets.length ? undefined : problems[0]
}

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = ''
  for await (const chunk of request.setEncoding('utf8')) body += chunk as string
  if (request.url === '/break' || request.url === '/mend') {
    setBroken(request.url === '/break')
    return void response.writeHead(204).end()
  }
  const message = JSON.parse(body) as { type?: string; challenge?: string; data?: unknown }
  const id = String(request.headers['webhook-id'])
  const problem = signatureProblem(body, request.headers as Record<string, string>) // the headers it reads have one value
  if (isBroken) {
    print('✗', message.type ?? '?', id, 'answered 500')
    return void response.writeHead(500).end('broken on purpose')
  }
  if (problem !== undefined && secrets.length > 0) {
    print('✗', message.type ?? '?', id, problem)
    return void response.writeHead(401).end(problem)
  }
  if (message.type === 'endpoint.challenge') {
    print('✓ challenge answered', problem ?? '(signature verified)')
    const answer = JSON.stringify({ challenge: message.challenge })
    return void response.writeHead(200, { 'Content-Type': 'application/json' }).end(answer)
  }
  const again = seen.has(id) ? ' (again)' : ''
  seen.add(id)
  print('✓', message.type ?? '?', id + again, problem ?? '(signature verified)')
  print(' ', JSON.stringify(message.data))
  response.writeHead(204).end()
}

const server = createServer((request, response) => {
  receive(request, response).catch((error: unknown) => {
    print('✗ invalid request:', error instanceof Error ? error.message : String(error))
    response.writeHead(400).end()
  })
})
server.on('error', (error) => {
  console.error(`Port ${port} cannot be used: ${error.message}. Choose another with PORT=…`)
  process.exit(1)
})
server.listen(port, '127.0.0.1', () => {
  print(
    `listening on http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    secrets.length > 0 ? '' : '(SECRET is not set)',
    isBroken ? '(broken)' : '',
  )
})
createInterface({ input: process.stdin }).on('line', () => setBroken(!isBroken))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(0))
