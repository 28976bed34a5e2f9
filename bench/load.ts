/**
 * The load generator: undici clients in a thread, in closed loops. Each connection sends a request, waits for the whole
 * answer, and sends the next. Latencies go into Node's HDR histogram.
 */
import { createHistogram } from 'node:perf_hooks'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { Client } from 'undici'
import type { Ask } from './town.ts'

export interface Load {
  /** Connections are spread over these. */
  origins: string[]
  /** Sent in a loop. Each connection starts at another position. */
  asks: Ask[]
  connections: number
  /** Requests on each connection before the measurement. */
  opening?: Ask
  /** Ends after this many ms, or after `requests` requests. */
  durationMs?: number
  requests?: number
}

/** Times in ms. */
export interface Measured {
  requests: number
  /** Answers that were not successful, by status. 0: no answer. */
  failures: Record<number, number>
  elapsedMs: number
  p50Ms: number
  p99Ms: number
  minMs: number
}

export type LoadGenerator = ReturnType<typeof startLoadGenerator>

export function startLoadGenerator() {
  const thread = new Worker(new URL(import.meta.url))
  return {
    run(load: Load): Promise<Measured> {
      return new Promise((resolve, reject) => {
        thread.once('error', reject)
        thread.once('message', (measured: Measured) => {
          thread.off('error', reject)
          resolve(measured)
        })
        thread.postMessage(load)
      })
    },
    close: () => thread.terminate(),
  }
}

if (!isMainThread) {
  parentPort?.on('message', (load: Load) => {
    void generate(load).then((measured) => parentPort?.postMessage(measured))
  })
}

async function generate({ origins, asks, connections, opening, durationMs = Infinity, requests = Infinity }: Load) {
  const histogram = createHistogram()
  const failures: Record<number, number> = {}
  let sent = 0
  let answered = 0
  /** The status of the complete answer. 0: no answer. */
  const send = (client: Client, ask: Ask) =>
    client
      .request(ask)
      .then(async ({ statusCode, body }) => {
        await body.dump({ limit: Infinity })
        return statusCode
      })
      .catch(() => 0)

  async function loop(client: Client, first: number, deadline: number): Promise<void> {
    for (let next = first; sent < requests; next += 1) {
      const askedAt = performance.now()
      if (askedAt >= deadline) return
      sent += 1
      const ask = asks[next % asks.length]
      if (ask === undefined) return
      const status = await send(client, ask)
      histogram.record(Math.max(1, Math.round((performance.now() - askedAt) * 1_000)))
      answered += 1
      if (status < 200 || status > 299) failures[status] = (failures[status] ?? 0) + 1
    }
  }

  const clients = Array.from({ length: connections }, (_, i) => new Client(origins[i % origins.length] ?? ''))
  if (opening) await Promise.all(clients.map((client) => send(client, opening)))
  const startedAt = performance.now()
  const firstOf = (i: number) => Math.floor((i * asks.length) / connections)
  await Promise.all(clients.map((client, i) => loop(client, firstOf(i), startedAt + durationMs)))
  const elapsedMs = performance.now() - startedAt
  await Promise.all(clients.map((client) => client.close()))
  return {
    requests: answered,
    failures,
    elapsedMs,
    p50Ms: histogram.percentile(50) / 1_000,
    p99Ms: histogram.percentile(99) / 1_000,
    minMs: histogram.min / 1_000,
  } satisfies Measured
}
