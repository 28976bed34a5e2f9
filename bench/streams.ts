/**
 * `npm run bench:streams`: opens many event streams in workerd, publishes events, and prints what Redis, its traffic and
 * the CPU cost per month. Every stream must receive every event once, while streams end and resume. The exit
 * code is 1 if one did not. Commands include those of scripts if there is a `redis-server` on the PATH.
 *
 *   --viewers 100  --isolates 1  --rate 100  --seconds 20
 *   --churn 1   streams that end per second, the oldest first, and are resumed by `Last-Event-ID`
 */
import { createServer, connect, type AddressInfo } from 'node:net'
import { readFile } from 'node:fs/promises'
import { Agent, get, type ClientRequest } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { readFlags, readNumber } from '../scripts/flags.ts'
import { hasRedisServer, startBilledEmulator } from './redis.ts'
import { SERVICE_TOKEN } from './town.ts'
import { bundle, createDatabase, startEmulator, startWorkers } from './workers.ts'

const flags = readFlags({
  viewers: { type: 'string', default: '100' },
  isolates: { type: 'string', default: '1' },
  rate: { type: 'string', default: '100' },
  seconds: { type: 'string', default: '20' },
  churn: { type: 'string', default: '1' },
})
const viewers = readNumber('viewers', flags.viewers, { min: 1 })
const isolates = readNumber('isolates', flags.isolates, { min: 1 })
const rate = readNumber('rate', flags.rate, { min: 1 })
const seconds = readNumber('seconds', flags.seconds, { min: 1 })
const churn = readNumber('churn', flags.churn, { isWhole: false })

const MONTH_SECONDS = 30 * 86_400
const DOLLARS_PER_COMMAND = 0.2 / 100_000
/** The traffic of Upstash, beyond what is free each month. */
const DOLLARS_PER_GB = 0.03
const FREE_GB = 200
const HEADERS = { Authorization: `Bearer ${SERVICE_TOKEN}`, 'Content-Type': 'application/json' }

/** Counts the bytes between the Worker and the emulator, and the subscriptions. */
async function startMeter(target: URL) {
  let bytes = 0
  let subscriptions = 0
  const count = (chunk: Buffer) => void (bytes += chunk.byteLength)
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname)
    client.on('data', (chunk: Buffer) => {
      if (chunk.includes('POST /subscribe/')) subscriptions += 1
    })
    client.on('data', count).pipe(upstream).on('data', count).pipe(client)
    for (const socket of [client, upstream]) {
      socket.on('error', () => {})
      socket.on('close', () => (client.destroy(), upstream.destroy()))
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    bytes: () => bytes,
    subscriptions: () => subscriptions,
    close: () => server.close(),
  }
}

const faults = { missing: 0, repeated: 0, resets: 0, ended: 0 }

/** One client: it follows from the first event, and resumes when its stream ends. */
class Viewer {
  readonly seen = new Set<number>()
  #lastEventId = ''
  #request: ClientRequest | undefined
  #isOver = false
  readonly #url: string
  readonly #agent = new Agent({ keepAlive: false })
  constructor(url: string) {
    this.#url = `${url}/v1/events/stream?channels=custom_bench`
  }

  open(): Promise<void> {
    const headers = { ...HEADERS, ...(this.#lastEventId ? { 'Last-Event-ID': this.#lastEventId } : {}) }
    return new Promise((resolve, reject) => {
      const request = (this.#request = get(this.#url, { headers, agent: this.#agent }, (response) => {
        if (response.statusCode !== 200) return reject(new Error(`A stream was refused: ${response.statusCode}`))
        resolve()
        let rest = ''
        response.setEncoding('utf8').on('data', (text: string) => {
          const blocks = (rest + text).split('\n\n')
          rest = blocks.pop() ?? ''
          for (const block of blocks) this.#take(block)
        })
        response.on('error', () => {})
        response.on('close', () => {
          if (this.#isOver || this.#request !== request) return
          faults.ended += 1
          void this.open()
        })
      }))
      request.on('error', (error) => (this.#request === request ? reject(error) : undefined))
    })
  }

  #take(block: string): void {
    // Cheap, because the machine has to do this for every event and viewer.
    const id = block.startsWith('id: ') ? 0 : block.indexOf('\nid: ') + 1
    if (block.startsWith('id: ', id)) this.#lastEventId = block.slice(id + 4, (block + '\n').indexOf('\n', id))
    if (block.startsWith('event: reset')) faults.resets += 1
    const at = block.indexOf('"n":')
    if (at < 0) return
    const n = Number.parseInt(block.slice(at + 4, at + 12), 10)
    if (this.seen.has(n)) faults.repeated += 1
    this.seen.add(n)
  }

  close(): void {
    const request = this.#request
    this.#request = undefined
    request?.destroy()
  }

  async resume(): Promise<void> {
    this.close()
    await this.open()
  }

  end(): void {
    this.#isOver = true
    this.close()
  }
}

const cpuMs = async (pid: number) => {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) * 10 // user and system time, in ticks of 10 ms
}

const billedEmulator = (await hasRedisServer()) ? await startBilledEmulator() : undefined
await using emulator = billedEmulator ?? (await startEmulator())
const billed = async () => billedEmulator?.billed() ?? (await workers.control.counts()).commands
const meter = await startMeter(new URL(emulator.url))
await using database = await createDatabase()
const workers = await startWorkers(await bundle('ours'), meter, database.folder, isolates, {
  STREAM_MAX_PER_CALLER: '100000',
  STREAM_MAX_PER_ISOLATE: '100000',
  LOG_REQUESTS: 'failed',
})

const all = Array.from({ length: viewers }, (_, i) => new Viewer(workers.urls[i % isolates] ?? workers.url))
const before = { billed: await billed(), bytes: meter.bytes() }
for (const viewer of all) await viewer.open()
const opened = { billed: await billed(), bytes: meter.bytes() }

async function publish(n: number): Promise<void> {
  const body = JSON.stringify({
    id: `ev_bench_${n}`,
    channel: 'custom_bench',
    type: 'said',
    subject: 'bench',
    data: { n, text: 'x'.repeat(100) },
    audience: 'everyone',
  })
  const response = await fetch(`${workers.url}/v1/events`, { method: 'POST', headers: HEADERS, body })
  if (!response.ok) throw new Error(`publishing: ${response.status}`)
  await response.text()
}

const begunAt = Date.now()
const cpuBefore = await cpuMs(workers.pid)
let published = 0
let churned = 0
const isRunning = () => Date.now() - begunAt < seconds * 1_000
async function keepPublishing(): Promise<void> {
  while (isRunning()) {
    if (published < ((Date.now() - begunAt) / 1_000) * rate) await publish((published += 1))
    else await sleep(5)
  }
}
const publishing = Promise.all(Array.from({ length: 16 }, keepPublishing))
const churning = (async () => {
  if (churn === 0) return
  while (isRunning()) {
    await all[churned % viewers]?.resume() // the oldest: sooner or later the reader
    churned += 1
    await sleep(1_000 / churn)
  }
})()
await Promise.all([publishing, churning])
const isBehind = () => all.some(({ seen }) => seen.size < published)
for (const deadline = Date.now() + 30_000; isBehind() && Date.now() < deadline; await sleep(50));
const took = (Date.now() - begunAt) / 1_000
const after = { billed: await billed(), bytes: meter.bytes() }
const cpu = (await cpuMs(workers.pid)) - cpuBefore
for (const { seen } of all) faults.missing += published - seen.size
for (const viewer of all) viewer.end()

const commands = (after.billed - opened.billed) / published
const bytes = (after.bytes - opened.bytes) / published
const events = rate * MONTH_SECONDS
const dollars = {
  commands: commands * events * DOLLARS_PER_COMMAND,
  traffic: Math.max(0, (bytes * events) / 1e9 - FREE_GB) * DOLLARS_PER_GB,
}
console.log(`
  viewers      ${viewers} in ${isolates} isolates; ${published} events in ${took.toFixed(1)} s; ${churned} resumed
  missing      ${faults.missing}, repeated ${faults.repeated}, resets ${faults.resets}, ended by the Worker ${faults.ended}
  subscribed   ${meter.subscriptions()} times
  opening      ${((opened.billed - before.billed) / viewers).toFixed(1)} commands per viewer
  an event     ${commands.toFixed(2)} commands, ${(bytes / 1_000).toFixed(2)} KB to and from Redis
  a month      of ${rate} events/s: $${dollars.commands.toFixed(0)} for commands, $${dollars.traffic.toFixed(0)} for traffic
  CPU          ${((cpu / published / viewers) * 1_000).toFixed(1)} µs per event and viewer, of workerd with D1 and queues
`)
meter.close()
await workers.close()
process.exitCode = faults.missing + faults.repeated + faults.resets + faults.ended > 0 ? 1 : 0
setTimeout(() => process.exit(), 1_000).unref()
