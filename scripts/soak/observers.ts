/** Who watches the events of the product: an endpoint of webhooks, and readers of streams. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SimpleFaker } from '@faker-js/faker'
import { EventSourceParserStream } from 'eventsource-parser/stream'
import { Webhook } from 'standardwebhooks'
import { type Product, SERVICE_TOKEN } from './product.ts'

/** An event as webhooks and streams carry it, with its sequence as a number. */
export interface Observed {
  id: string
  channel: string
  type: string
  subject: string
  /** Absent: a hint. */
  sequence?: number
  /** RFC 3339. */
  time: string
  data: Record<string, unknown>
}

/** What a hint is about: a count, or the status of a user. */
export const aboutOf = ({ type, subject, data }: Observed): string =>
  `${type} ${subject} ${typeof data['counterType'] === 'string' ? data['counterType'] : ''}`

export const CHANNEL = 'custom_soak'
export const CHANNELS = ['post_events', 'user_events', 'comment_events', 'counter_events', CHANNEL]

/** The event in a delivery or a message of a stream, or the challenge. */
function readEvent(text: string): Observed & { challenge?: string } {
  const { sequence, ...event } = JSON.parse(text) as Omit<Observed, 'sequence'> & {
    sequence?: string
    challenge?: string
  }
  return { ...event, ...(sequence === undefined ? {} : { sequence: Number(sequence) }) }
}

const SECRET = `whsec_${Buffer.from('a secret for the soak, ok').toString('base64')}`

export type Receiver = Awaited<ReturnType<typeof startReceiver>>

/**
 * An endpoint that fails a fifth of the deliveries: it answers 500, closes the connection, or fails after it stored the
 * event.
 */
export async function startReceiver(random: SimpleFaker) {
  const events = new Map<string, Observed>()
  const counts = { deliveries: 0, failures: 0, duplicates: 0, forgeries: 0 }
  let isReliable = false

  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk as string
    const message = readEvent(body)
    if (message.challenge !== undefined) return void response.end(JSON.stringify({ challenge: message.challenge }))
    counts.deliveries += 1
    try {
      new Webhook(SECRET).verify(body, request.headers as Record<string, string>) // the headers it reads have one value
    } catch {
      counts.forgeries += 1
    }
    const luck = isReliable ? 1 : random.number.float()
    if (luck < 0.2) counts.failures += 1
    if (luck < 0.07) return void response.writeHead(500).end()
    if (luck < 0.14) return void request.socket.destroy()
    if (events.has(message.id)) counts.duplicates += 1
    events.set(message.id, message)
    response.writeHead(luck < 0.2 ? 500 : 204).end()
  }

  const server = createServer((request, response) => {
    receive(request, response).catch(() => response.writeHead(400).end()) // the product died while it sent
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    events,
    counts,
    endpoint: {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, // a string only for pipes
      channels: CHANNELS,
      secret: SECRET,
    },
    /** From now on every delivery succeeds. */
    mend: () => void (isReliable = true),
    close(): void {
      server.closeAllConnections()
      server.close()
    },
  }
}

export type Reader = ReturnType<typeof followStream>

/**
 * Follows the stream of a service, or of a stranger, and resumes it whenever it ends. A `reset` says that the log no
 * longer has what this reader missed: events before it are not required any more. Hints are counted only.
 */
export function followStream(product: Product, viewer: 'service' | 'stranger') {
  const sequences = new Map<string, Set<number>>()
  /** The last sequence of each subject when the log was last reset. */
  let notRequired = new Map<string, number>()
  const counts = { events: 0, hints: 0, resets: 0, connections: 0 }
  const over = new AbortController()
  const opened = Promise.withResolvers<void>()
  let lastEventId = ''

  async function reset(): Promise<void> {
    counts.resets += 1
    const rows = await product.rows<{ channel: string; subject: string; sequence: number; publicSequence: number }>(
      'SELECT channel, subject, sequence, public_sequence AS publicSequence FROM event_sequences',
    )
    notRequired = new Map(
      rows.map((row) => [
        `${row.channel} ${row.subject}`,
        viewer === 'service' ? row.sequence : Math.max(row.sequence, row.publicSequence),
      ]),
    )
  }

  async function connect(): Promise<void> {
    const response = await fetch(`${product.url}/v1/events/stream?channels=${CHANNELS.join()}`, {
      headers: {
        ...(viewer === 'service' ? { Authorization: `Bearer ${SERVICE_TOKEN}` } : {}),
        ...(lastEventId === '' ? {} : { 'Last-Event-ID': lastEventId }),
      },
      signal: over.signal,
    })
    if (!response.ok || !response.body) return void (await response.text())
    counts.connections += 1
    opened.resolve()
    const parser = new EventSourceParserStream({ onId: (id) => void (lastEventId = id) })
    const messages = response.body
      .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>) // its type wants more than bytes
      .pipeThrough(parser)
    for await (const { event, data } of messages) {
      if (event === 'reset') {
        await reset()
        continue
      }
      const message = readEvent(data)
      const { channel, subject, sequence } = message
      if (sequence === undefined) {
        counts.hints += 1
        continue
      }
      const key = `${channel} ${subject}`
      const seen = sequences.get(key) ?? new Set()
      sequences.set(key, seen.add(sequence))
      counts.events += 1
    }
  }

  void (async () => {
    while (!over.signal.aborted) {
      await product.up()
      await connect().catch(() => {}) // it ends when Redis fails or the product dies
      await sleep(200)
    }
  })()

  return {
    viewer,
    counts,
    /** Resolves when the stream was opened for the first time. */
    opened: opened.promise,
    sequencesOf: (channel: string, subject: string): ReadonlySet<number> =>
      sequences.get(`${channel} ${subject}`) ?? new Set(),
    requiredAfter: (channel: string, subject: string) => notRequired.get(`${channel} ${subject}`) ?? 0,
    close: () => over.abort(),
  }
}
