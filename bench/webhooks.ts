/**
 * `npm run bench:webhooks`: publishes many events to webhooks, in workerd with real D1 and queues, over HTTP. Endpoints
 * fail at random: they answer 500, close the connection, or fail after they stored the event, as if the reply was lost.
 * Every event must reach every endpoint. Duplicates are counted. The exit code is 1 if an event is missing when the
 * time is over.
 *
 *   --events 10000  --endpoints 20  --failing 0.2  --minutes 30
 *   --dead 1        how many endpoints never answer: events to them do not count, and they must not delay others
 *   --rate 20       events per second; 0: as fast as possible
 *
 * Waiting is shorter than in production: retries after 1 to 4 s, and a cron every two seconds.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { Webhook } from 'standardwebhooks'
import { bundle, migrate, platform, startEmulator } from './workers.ts'
import { readFlags, readNumber } from '../scripts/flags.ts'

const flags = readFlags({
  events: { type: 'string', default: '10000' },
  endpoints: { type: 'string', default: '20' },
  failing: { type: 'string', default: '0.2' },
  dead: { type: 'string', default: '0' },
  rate: { type: 'string', default: '0' },
  minutes: { type: 'string', default: '30' },
})
const events = readNumber('events', flags.events)
const endpoints = readNumber('endpoints', flags.endpoints, { min: 1 })
const failing = readNumber('failing', flags.failing, { max: 1, isWhole: false })
const dead = readNumber('dead', flags.dead, { max: endpoints })
const rate = readNumber('rate', flags.rate, { isWhole: false })
const minutes = readNumber('minutes', flags.minutes, { isWhole: false })
const SERVICE_TOKEN = 'a-service-token-for-the-bench'
const SECRET = `whsec_${Buffer.from('a secret for the bench, ok').toString('base64')}`
const CHANNEL = 'custom_bench'
/** One signature in this many is verified. Verifying costs as much as everything else here. */
const VERIFY_EVERY = 20

/** For each endpoint: how often it received each event. */
const taken = Array.from({ length: endpoints }, () => new Map<string, number>())
const publishedAt = new Map<string, number>()
const latencies: number[] = []
const counts = { requests: 0, refused: 0, cut: 0, answersLost: 0, verified: 0, challenges: 0 }
const isDead = (endpoint: number) => endpoint < dead

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = ''
  for await (const chunk of request.setEncoding('utf8')) body += chunk as string
  const endpoint = Number(request.url?.slice(1))
  const headers = request.headers as Record<string, string> // the headers it reads have one value
  if (body.includes('endpoint.challenge')) {
    counts.challenges += 1
    const { challenge } = JSON.parse(body) as { challenge: string }
    return void response.end(JSON.stringify({ challenge }))
  }
  counts.requests += 1
  if (isDead(endpoint)) return // never answers
  const id = headers['webhook-id'] ?? ''
  if (counts.requests % VERIFY_EVERY === 0) {
    new Webhook(SECRET).verify(body, headers)
    counts.verified += 1
  }
  const luck = Math.random() / failing // below 1: the delivery fails
  if (luck < 0.6) {
    counts.refused += 1
    return void response.writeHead(500).end('bad luck')
  }
  if (luck < 0.8) {
    counts.cut += 1
    return void request.socket.destroy()
  }
  const times = taken[endpoint]?.get(id) ?? 0
  taken[endpoint]?.set(id, times + 1)
  const { n } = (JSON.parse(body) as { data: { n: string } }).data
  if (times === 0) latencies.push(Date.now() - (publishedAt.get(n) ?? 0))
  if (luck < 1) {
    counts.answersLost += 1
    return void response.writeHead(500).end('stored, but the answer is lost')
  }
  response.writeHead(204).end()
}

const receiver = createServer((request, response) => {
  receive(request, response).catch((error: unknown) => {
    console.error(error)
    process.exitCode = 1
    response.writeHead(400).end()
  })
})
await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve))
const receiverUrl = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`

const startedAt = Date.now()
const print = (words: string) => console.log(`${((Date.now() - startedAt) / 1_000).toFixed(0).padStart(5)} s  ${words}`)

print('bundling …')
const { code } = await bundle('ours')
const emulator = await startEmulator()
const folder = await mkdtemp(join(tmpdir(), 'threads-edge-webhooks-'))
const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    resourcePersistencePath: folder,
    workers: [
      {
        name: 'bench',
        modules: [{ type: 'ESModule', path: 'index.js', contents: code }],
        ...platform(),
        bindings: {
          SERVICE_TOKEN,
          UPSTASH_REDIS_REST_URL: emulator.url,
          UPSTASH_REDIS_REST_TOKEN: `bench-${crypto.randomUUID()}`,
          ALLOW_PRIVATE_WEBHOOKS: 'true',
          WEBHOOK_RETRY_SECONDS: '1,1,2,2,2,4,4',
          WEBHOOK_CIRCUIT_SECONDS: dead > 0 ? '30' : '1',
          LOG_REQUESTS: 'failed',
          REDIS_READ_TIMEOUT_MS: '10000',
          REDIS_WRITE_TIMEOUT_MS: '10000',
        },
        unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }],
      },
    ],
  }),
)
await miniflare.ready
const { origin } = await miniflare.unsafeGetDirectURL('bench')
await migrate(await miniflare.getD1Database('DB'))
// A Fetcher. Its declared type differs.
const worker = (await miniflare.getWorker('bench')) as unknown as {
  scheduled(options: { cron: string }): Promise<unknown>
}

async function ask(method: string, path: string, body?: unknown) {
  const response = await fetch(origin + path, {
    method,
    headers: { Authorization: `Bearer ${SERVICE_TOKEN}`, 'Content-Type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
  return response
}

const webhooks: string[] = []
for (let i = 0; i < endpoints; i += 1) {
  const hook = { url: `${receiverUrl}/${i}`, channels: [CHANNEL], secret: SECRET }
  const { id, status } = (await (await ask('POST', '/v1/webhooks', hook)).json()) as { id: string; status: string }
  if (status !== 'enabled') throw new Error(`endpoint ${i} is ${status}`)
  webhooks.push(id)
}
print(
  `${endpoints} endpoints, ${dead > 0 ? `${dead} of them dead, ` : ''}failing ${failing * 100} % of the deliveries; ${events} events`,
)

const over = new AbortController()
const crons = (async () => {
  while (!over.signal.aborted) {
    await worker.scheduled({ cron: '* * * * *' }).catch((error: unknown) => print(`cron: ${String(error)}`))
    await sleep(2_000)
  }
})()

let next = 0
async function publish(): Promise<void> {
  while (next < events) {
    const i = next++
    const n = `ev_bench_${i}`
    if (rate > 0) await sleep(Math.max(0, begunAt + (i * 1_000) / rate - Date.now()))
    publishedAt.set(n, Date.now())
    await ask('POST', '/v1/events', { id: n, channel: CHANNEL, type: 'benched', subject: `s_${i % 100}`, data: { n } })
  }
}
const begunAt = Date.now()
const publishing = Promise.all(Array.from({ length: 8 }, publish)).then(() => print('all events are published'))

const wanted = events * (endpoints - dead)
const arrived = () => taken.reduce((total, of) => total + of.size, 0)
const deadline = startedAt + minutes * 60_000
let lastAt = Date.now()
let last = 0
let replays = 0
while (arrived() < wanted && Date.now() < deadline) {
  await sleep(1_000)
  if (arrived() > last) {
    if (Math.floor(arrived() / 20_000) > Math.floor(last / 20_000)) print(`${arrived()} of ${wanted} arrived`)
    last = arrived()
    lastAt = Date.now()
  } else if (next >= events && Date.now() - lastAt > 20_000) {
    // Replay deliveries that failed all eight attempts.
    replays += 1
    for (const id of webhooks.slice(dead)) {
      await ask('POST', `/v1/webhooks/${id}/replay`, { since: new Date(startedAt).toISOString() })
    }
    lastAt = Date.now()
  }
}
await publishing
over.abort()
await crons

const again = taken.reduce((total, of) => total + [...of.values()].reduce((sum, times) => sum + times - 1, 0), 0)
const missing = wanted - arrived()
latencies.sort((a, b) => a - b)
const quantile = (q: number) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * q))] ?? NaN
const seconds = (Date.now() - begunAt) / 1_000
print(`done: ${arrived()} of ${wanted} arrived, in ${seconds.toFixed(0)} s (${Math.round(arrived() / seconds)}/s)`)
console.log(`
  missing      ${missing}
  duplicates   ${again} (${((again / Math.max(1, arrived())) * 100).toFixed(2)} %), after ${counts.answersLost} lost answers
  requests     ${counts.requests}: ${counts.refused} refused, ${counts.cut} cut, ${counts.verified} signatures verified
  replays      ${replays} rounds, for deliveries that failed eight attempts
  latency      p50 ${quantile(0.5)} ms, p95 ${quantile(0.95)} ms, p99 ${quantile(0.99)} ms from publishing to first arrival
`)
if (missing > 0) process.exitCode = 1
receiver.closeAllConnections()
receiver.close()
await miniflare.dispose()
await emulator[Symbol.asyncDispose]()
await rm(folder, { recursive: true, force: true })
process.exit() // closes the connections of dead endpoints
