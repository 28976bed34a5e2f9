// @ts-check
/**
 * Receives webhooks of threads-edge, with Node. SECRET is the secret of the endpoint, or several separated by commas while you
 * rotate it.
 *
 *     PORT=9000 SECRET=whsec_… node receiver.js
 */
import { createServer } from 'node:http'
import { verifyWebhook, WebhookError } from 'threads-edge/client'

/** @import { IncomingMessage, ServerResponse } from 'node:http' */

const secrets = (process.env['SECRET'] ?? '').split(',').filter(Boolean)
const port = Number(process.env['PORT'] ?? 9_000)

/** The same event may arrive twice. A real receiver stores the id with what it does, in one transaction. */
const seen = new Set()

/** @param {IncomingMessage} request @param {ServerResponse} response */
async function receive(request, response) {
  let body = ''
  for await (const chunk of request.setEncoding('utf8')) body += chunk
  const event = await verifyWebhook(secrets, request.headers, body)
  if ('challenge' in event) {
    response.writeHead(200, { 'Content-Type': 'application/json' })
    response.end(JSON.stringify({ challenge: event.challenge }))
    return
  }
  if (!seen.has(event.id)) console.log(event.type, JSON.stringify(event.data))
  seen.add(event.id)
  response.writeHead(204).end()
}

createServer((request, response) => {
  receive(request, response).catch((/** @type {unknown} */ error) => {
    const isForged = error instanceof WebhookError
    if (!isForged) console.error(error)
    response.writeHead(isForged ? 401 : 500).end() // after a 500 the API delivers the event again
  })
}).listen(port, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${port}`))
