import { env } from 'cloudflare:workers'
import { expect } from 'vitest'
import { type Edge, newEdge } from '../edge.ts'
import { newReceiver, type Receiver } from './receiver.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      RECEIVER_URL: string
    }
  }
}

export const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}`, 'Content-Type': 'application/json' }

/** An edge that allows endpoints on loopback. */
export const newDevEdge = (bindings: Record<string, unknown> = {}) =>
  newEdge({ ALLOW_PRIVATE_WEBHOOKS: 'true', ...bindings })

export const receiver = () => newReceiver(env.RECEIVER_URL)

/** Sends a request to a service route. */
export async function ask(edge: Edge, method: string, path: string, body?: unknown) {
  const response = await edge.fetch(path, {
    method,
    headers: SERVICE,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  await edge.settle()
  return response
}

export interface Webhook {
  id: string
  url: string
  status: string
  disabledReason: string | null
  failingSince: string | null
  secret: string
  headerNames: string[]
  challenge: { status: number | null; error: string | null; answer: string | null; durationMs: number }
}

/** Adds an endpoint that subscribes to a new `custom_` channel, unless `more` has channels. */
export async function addWebhook(edge: Edge, to: Receiver, more: Record<string, unknown> = {}) {
  const channel = `custom_${crypto.randomUUID().replaceAll('-', '')}`
  const response = await ask(edge, 'POST', '/v1/webhooks', { url: to.url, channels: [channel], ...more })
  expect(response.status).toBe(201)
  return { ...(await response.json<Webhook>()), channel }
}

export const readWebhook = async (edge: Edge, id: string) =>
  (await ask(edge, 'GET', `/v1/webhooks/${id}`)).json<Webhook>()

/** Publishes an event and notifies the listeners: its deliveries are in the queue then. */
export async function publish(edge: Edge, channel: string, data: Record<string, unknown> = {}) {
  const response = await ask(edge, 'POST', '/v1/events', { channel, type: 'thing.happened', subject: 'thing', data })
  expect(response.status).toBe(202)
  await edge.dispatch()
  return (await response.json<{ id: string }>()).id
}

export interface Delivery {
  id: string
  eventId: string
  status: string
  attempts: { status: number | null; error: string | null; answer: string | null; durationMs: number }[]
}

/** The deliveries of an endpoint, the oldest first. */
export async function readDeliveries(edge: Edge, id: string, query = ''): Promise<Delivery[]> {
  const response = await ask(edge, 'GET', `/v1/webhooks/${id}/deliveries?limit=100${query}`)
  return (await response.json<{ items: Delivery[] }>()).items.toReversed()
}

/**
 * Delivers the messages of the queue `deliveries`, delayed or not, and returns their delays in seconds. The messages that
 * this enqueues stay in the queue.
 */
export async function deliverOnce(edge: Edge): Promise<number[]> {
  const due = edge.deliveries.sent.splice(0)
  for (let done = 0; done < due.length; done += 20) {
    const bodies = due.slice(done, done + 20).map(({ body }) => body)
    expect((await edge.deliver(bodies, 'deliveries')).retried).toEqual([])
  }
  return due.map(({ delaySeconds }) => delaySeconds)
}

/** Delivers until the queue is empty, or all that is left is delayed. */
export async function deliverAll(edge: Edge): Promise<void> {
  for (;;) {
    const later = edge.deliveries.sent.filter(({ delaySeconds }) => delaySeconds > 1)
    const now = edge.deliveries.sent.splice(0).filter(({ delaySeconds }) => delaySeconds <= 1)
    edge.deliveries.sent.push(...now)
    if (now.length > 0) await deliverOnce(edge)
    edge.deliveries.sent.push(...later)
    if (now.length === 0) return
  }
}
