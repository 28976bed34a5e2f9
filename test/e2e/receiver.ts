import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** A webhook endpoint on this machine. It answers challenges with 200 and everything else with the current `status`. */
export async function startReceiver() {
  const receiver = {
    host: '',
    status: 500,
    /** The `webhook-id` of each delivery. */
    received: [] as unknown[],
    close: () => new Promise((resolve) => server.close(resolve)),
  }
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const { challenge } = JSON.parse(Buffer.concat(chunks).toString()) as { challenge?: string }
    if (challenge !== undefined) return void response.end(JSON.stringify({ challenge }))
    receiver.received.push(request.headers['webhook-id'])
    response.writeHead(receiver.status).end(receiver.status === 200 ? '' : 'no room')
  }
  const server = createServer((request, response) => void answer(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo // a string only for pipes
  receiver.host = `127.0.0.1:${port}`
  return receiver
}
