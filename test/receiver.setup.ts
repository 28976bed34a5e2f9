import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TestProject } from 'vitest/node'
import type { Plan, Received } from './webhooks/receiver.ts'

/**
 * Starts an HTTP server whose paths are the webhook endpoints of the tests. `PUT /_<path>` sets the answers to the next
 * requests of a path; the last answer repeats. `GET /_<path>` returns the requests it received. It answers a challenge
 * unless the plan says otherwise.
 */
export default async function setup(project: TestProject) {
  const plans = new Map<string, Plan[]>()
  const received = new Map<string, Received[]>()

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks).toString()
    const path = request.url ?? ''
    if (path.startsWith('/_')) {
      const name = path.slice(2)
      if (request.method === 'PUT') plans.set(name, JSON.parse(body) as Plan[])
      response.setHeader('Content-Type', 'application/json').end(JSON.stringify(received.get(name) ?? []))
      return
    }
    const queue = plans.get(path) ?? []
    const plan = (queue.length > 1 ? queue.shift() : queue[0]) ?? {}
    const isChallenge = body.includes('endpoint.challenge')
    const all = received.get(path) ?? []
    all.push({ at: Date.now(), method: request.method ?? '', headers: request.headers as Record<string, string>, body })
    received.set(path, all)
    if (plan.isHanging) return
    if (plan.delayMs) await sleep(plan.delayMs)
    while (plan.isHeld && plans.get(path) === queue) await sleep(10)
    if (plan.isDropping) return void request.socket.destroy()
    response.writeHead(plan.status ?? 200, plan.headers)
    if (isChallenge && plan.body === undefined) {
      const { challenge } = JSON.parse(body) as { challenge: string }
      return void response.end(JSON.stringify({ challenge }))
    }
    if (plan.isDripping) {
      response.flushHeaders()
      const dripping = setInterval(() => response.write('x'), 1_000)
      return void response.once('close', () => clearInterval(dripping))
    }
    if (plan.isEndless) {
      const write = () => {
        while (!response.destroyed && response.write('x'.repeat(65_536)));
        if (!response.destroyed) response.once('drain', write)
      }
      return write()
    }
    response.end(plan.body ?? 'thanks')
  }

  const server = createServer(
    (request, response) => void answer(request, response).catch(() => request.socket.destroy()),
  )
  server.keepAliveTimeout = 0 // else a request meets the end of its connection, after a pause of five seconds
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  project.provide('receiverUrl', `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  return () => {
    server.closeAllConnections()
    server.close()
  }
}

declare module 'vitest' {
  interface ProvidedContext {
    receiverUrl: string
  }
}
