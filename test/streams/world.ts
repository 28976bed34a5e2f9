import { env } from 'cloudflare:workers'
import { expect } from 'vitest'
import type { Edge } from '../edge.ts'
import { newReader } from './reader.ts'

export const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}`, 'Content-Type': 'application/json' }

/** Publishes an event, and dispatches it to the listeners. */
export async function publish(edge: Edge, event: object): Promise<string> {
  const response = await edge.fetch('/v1/events', { method: 'POST', headers: SERVICE, body: JSON.stringify(event) })
  expect(response.status).toBe(202)
  const { id } = await response.json<{ id: string }>()
  await until(() => edge.events.sent.length > 0) // after the answer
  expect(await edge.dispatch()).toBe(0)
  return id
}

/** An event on a channel of a back end. */
export const custom = (type: string, more: object = {}) => ({
  channel: 'custom_test',
  type,
  data: { text: type },
  audience: 'everyone',
  ...more,
})

export async function open(edge: Edge, headers: Record<string, string> = {}, query = 'channels=custom_test') {
  const response = await edge.fetch(`/v1/events/stream?${query}`, { headers })
  expect(response.status).toBe(200)
  return { response, ...newReader(response.body) }
}

/** Waits for what comes to be after an answer. */
export async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await condition()); await scheduler.wait(20)) {
    if (Date.now() > deadline) throw new Error('it never came to be')
  }
}
