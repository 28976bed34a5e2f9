/**
 * The Upstash REST API over HTTP, in front of a RESP engine. Error texts are Upstash's.
 * @see https://upstash.com/docs/redis/features/restapi
 */
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ControlState, Counts, Fault } from './control.ts'
import { readFault, takeFault } from './faults.ts'
import { type Engine, type Keyspace, startEngine } from './keyspace.ts'
import { type Argument, type Command, Failure, type Reply, Status, encodeReply, textOf } from './resp.ts'

export interface EmulatorOptions {
  /** 0, the default, is any free port. */
  port?: number
  /** `127.0.0.1` if absent. */
  host?: string
  /** A Redis to use; absent: the embedded engine. */
  redisUrl?: string
  /** Each has its own keyspace. */
  tokens?: string[]
  /** From a token to the one of `tokens` whose keyspace it may read. */
  readOnlyTokens?: Record<string, string>
  /** Test mode: any other token is accepted too, with a keyspace of its own, empty at first. */
  openTokens?: boolean
}

export interface Emulator {
  url: string
  port: number
  /** Ends every connection, hanging ones too. */
  close(): Promise<void>
}

const maxBodyBytes = 10 * 1024 * 1024

/** What one token's requests share. */
interface Account {
  keyspace: Keyspace
  readOnly: boolean
  counts: Counts
  faults: Fault[]
  latencyMs: number
  /** Behind `upstash-sync-token`: grows with every request, as if it had written. */
  synced: number
}

/** Answered instead of the reply: a status and Upstash's `{ error }`. */
class Refusal extends Error {
  readonly status: number
  constructor(message: string, status = 400) {
    super(message)
    this.status = status
  }
}

/** How the client wants its replies. */
type Format = 'json' | 'base64' | 'resp2'

/** What an HTTP request asks for. */
type Call =
  | { kind: 'command'; commands: [Command] }
  | { kind: 'pipeline' | 'transaction'; commands: Command[] }
  | { kind: 'subscribe' | 'psubscribe'; channels: string[] }
  | { kind: 'monitor' }

export async function startEmulator(options: EmulatorOptions = {}): Promise<Emulator> {
  const { port = 0, host = '127.0.0.1', tokens = [], readOnlyTokens = {}, openTokens = false } = options
  const engine = await startEngine(options.redisUrl)
  const accountOf = createAccounts(engine, tokens, readOnlyTokens, openTokens)

  const server = http.createServer(
    { keepAliveTimeout: 60_000, requestTimeout: 0, noDelay: true },
    (request, response) => {
      handle(request, response, accountOf).catch((error: unknown) => {
        if (response.headersSent) return response.destroy()
        if (error instanceof Refusal)
          return answerJson(response, error.status, JSON.stringify({ error: error.message }))
        // the engine is away, or a mistake of ours: whoever sees the test fail wants to know which
        const message = error instanceof Error ? error.message : String(error)
        answerJson(response, 500, JSON.stringify({ error: `ERR emulator: ${message}` }))
      })
    },
  )
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ port, host, backlog: 4_096 }, resolve)
    })
  } catch (error) {
    await engine.close()
    throw error
  }
  const bound = (server.address() as AddressInfo).port // a string only for pipes

  return {
    url: `http://${host}:${bound}`,
    port: bound,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
      await engine.close()
    },
  }
}

/** Finds the account of a token, opening its keyspace at the first request. */
function createAccounts(engine: Engine, tokens: string[], readOnlyTokens: Record<string, string>, openTokens: boolean) {
  const accounts = new Map<string, Promise<Account>>()

  async function open(token: string): Promise<Account> {
    const owner = readOnlyTokens[token]
    const declared = tokens.indexOf(owner ?? token)
    if (declared === -1 && !openTokens) {
      throw new Refusal(
        'WRONGPASS invalid or missing auth token. See https://docs.upstash.com/redis/troubleshooting/http_unauthorized for details.',
        401,
      )
    }
    let keyspace: Keyspace
    if (owner !== undefined && owner !== token) keyspace = (await accountOf(owner)).keyspace
    // the data of declared tokens survives a restart; in test mode nothing is to be found there
    else keyspace = await engine.open(openTokens ? undefined : declared)
    return {
      keyspace,
      readOnly: owner !== undefined,
      counts: { commands: 0, requests: 0, byCommand: {} },
      faults: [],
      latencyMs: 0,
      synced: 0,
    }
  }

  function accountOf(token: string): Promise<Account> {
    let account = accounts.get(token)
    if (!account) {
      account = open(token)
      accounts.set(token, account)
      account.catch(() => accounts.delete(token)) // a wrong token, or an engine that was away
    }
    return account
  }
  return accountOf
}

const noQuery = new URLSearchParams()

async function handle(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  accountOf: (token: string) => Promise<Account>,
): Promise<void> {
  const method = request.method ?? 'GET'
  const target = request.url ?? '/'
  const question = target.indexOf('?')
  const path = question === -1 ? target : target.slice(0, question)
  const query = question === -1 ? noQuery : new URLSearchParams(target.slice(question + 1))

  const control = path === '/control' || path.startsWith('/control/')
  if (!control && !['GET', 'POST', 'PUT', 'HEAD'].includes(method)) {
    response.writeHead(405).end()
    return
  }
  const account = await accountOf(readToken(request, query))
  if (control) return answerControl(account, method, path, await readBody(request), response)

  account.counts.requests++
  const body = method === 'POST' || method === 'PUT' ? await readBody(request) : Buffer.alloc(0)
  if (account.latencyMs > 0) await sleep(account.latencyMs)
  const fault = account.faults.length > 0 ? takeFault(account.faults, path, body) : undefined
  if (fault) {
    if (fault.kind === 'refuse') return void request.socket.destroy()
    if (fault.kind === 'hang') return
    if (fault.kind === 'status')
      throw new Refusal(fault.message ?? 'ERR fault asked of the emulator', fault.status ?? 500)
    if (fault.kind === 'delay') await sleep(fault.delayMs ?? 0)
  }

  const format = readFormat(request)
  const call = readCall(method, path, query, body)
  if ('commands' in call) {
    const answer = await execute(account, call, format)
    if (fault?.kind === 'delay-after') await sleep(fault.delayMs ?? 0)
    if (fault?.kind === 'cut') return void request.socket.destroy()
    response.writeHead(answer.status, {
      'content-type': format === 'resp2' ? 'application/octet-stream' : 'application/json',
      'content-length': Buffer.byteLength(answer.body),
      'upstash-sync-token': (++account.synced).toString(32),
    })
    if (fault?.kind === 'cut-mid') {
      const half = Buffer.from(answer.body).subarray(0, Math.floor(answer.body.length / 2))
      response.write(half, () => request.socket.destroy())
      return
    }
    response.end(answer.body)
    return
  }
  await stream(account, call, response)
}

/** `?_token=` before `Authorization`, which may also hold the bare token. */
function readToken(request: http.IncomingMessage, query: URLSearchParams): string {
  const header = request.headers.authorization ?? ''
  return query.get('_token') || (/^bearer\s/i.test(header) ? header.slice(7) : header).trim()
}

/** By events: iterating over the request costs throughput that benchmarks would see. */
function readBody(request: http.IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    request.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxBodyBytes) chunks.push(chunk) // the rest is read and dropped, so that the client gets to see the answer
    })
    request.on('error', reject)
    request.on('end', () => {
      if (size <= maxBodyBytes) return resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks))
      const details = 'See https://upstash.com/docs/redis/troubleshooting/max_request_size_exceeded for details'
      reject(
        new Refusal(
          `ERR max request size exceeded. Limit: ${maxBodyBytes} bytes, Actual: ${size} bytes. ${details}`,
          413,
        ),
      )
    })
  })
}

function readFormat(request: http.IncomingMessage): Format {
  const encoding = request.headers['upstash-encoding']
  const format = request.headers['upstash-response-format'] ?? 'json'
  if (format !== 'json' && format !== 'resp2')
    throw new Refusal(`ERR invalid Upstash-Response-Format: ${String(format)}`)
  if (encoding !== undefined && encoding !== '' && encoding !== 'base64') {
    throw new Refusal(`ERR invalid Upstash-Encoding: ${String(encoding)}`)
  }
  if (format === 'json') return encoding === 'base64' ? 'base64' : 'json'
  if (encoding === 'base64')
    throw new Refusal('ERR Upstash-Encoding base64 is not permitted with Upstash-Response-Format resp2')
  return 'resp2'
}

function readCall(method: string, path: string, query: URLSearchParams, body: Buffer): Call {
  switch (path) {
    case '/':
      return { kind: 'command', commands: [readCommand(parseJson(body, 'ERR failed to parse command'))] }
    case '/pipeline':
      return { kind: 'pipeline', commands: readCommands(body, 'pipeline') }
    case '/multi-exec':
      return { kind: 'transaction', commands: readCommands(body, 'transaction') }
    case '/monitor':
      return { kind: 'monitor' }
    default: {
      const [name = '', ...rest] = path.slice(1).replace(/\/$/, '').split('/').map(decodeSegment)
      const kind = name.toString().toLowerCase()
      if (kind === 'subscribe' || kind === 'psubscribe') {
        if (rest.length === 0) throw new Refusal(`ERR wrong number of arguments for '${kind}' command`)
        return { kind, channels: rest.map(String) }
      }
      const command: [Argument, ...Argument[]] = [name, ...rest]
      if (body.length > 0 && method !== 'GET') command.push(body)
      for (const [option, value] of query) {
        if (option === '_token') continue
        command.push(option)
        if (value !== '') command.push(value) // `?NX` is an option without a value
      }
      return { kind: 'command', commands: [command] }
    }
  }
}

/** A percent-decoded part of the path; a buffer when it is not text. */
function decodeSegment(segment: string): Argument {
  try {
    return decodeURIComponent(segment)
  } catch {
    const latin = segment.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    return Buffer.from(latin, 'latin1')
  }
}

/** A number with more digits than a `number` holds, which `JSON.parse` alone would round. */
const longNumber = /[[,]\s*-?\d[\d.]{15,}/

function parseJson(body: Buffer, otherwise: string): unknown {
  const text = body.toString()
  if (text.trim() === '') throw new Refusal('EOF')
  try {
    if (!longNumber.test(text)) return JSON.parse(text)
    const asWritten = (_: string, value: unknown, context?: { source: string }): unknown =>
      typeof value === 'number' && context ? context.source : value
    return JSON.parse(text, asWritten)
  } catch (cause) {
    throw new Refusal(otherwise, cause instanceof SyntaxError ? 400 : 500)
  }
}

function readCommand(json: unknown): Command {
  if (!Array.isArray(json)) throw new Refusal('expected JSON array')
  const [name, ...rest] = json.map((value: unknown): string => {
    if (typeof value === 'string') return value
    if (typeof value === 'number' || typeof value === 'boolean') return String(value)
    if (value === null) throw new Refusal('ERR null args are not supported')
    throw new Refusal(`ERR unsupported arg type: "${Array.isArray(value) ? '[' : '{'}": json.Delim`)
  })
  if (name === undefined) throw new Refusal('ERR empty command')
  return [name, ...rest]
}

function readCommands(body: Buffer, what: 'pipeline' | 'transaction'): Command[] {
  const malformed = `ERR failed to parse ${what} request`
  const json = parseJson(body, malformed)
  if (!Array.isArray(json) || !json.every(Array.isArray)) throw new Refusal(malformed)
  if (json.length === 0) throw new Refusal(`ERR empty ${what} request`)
  return json.map(readCommand)
}

/** Runs what is asked and words the answer. */
async function execute(
  account: Account,
  call: Extract<Call, { commands: Command[] }>,
  format: Format,
): Promise<{ status: number; body: string | Buffer }> {
  const { counts, keyspace } = account
  const denied: (Failure | undefined)[] = []
  for (const command of call.commands) {
    const name = String(command[0]).toLowerCase()
    counts.commands++
    counts.byCommand[name] = (counts.byCommand[name] ?? 0) + 1
    if (account.readOnly) denied.push(whyDenied(keyspace, name))
  }
  if (call.kind === 'transaction') {
    const replies = denied.find(Boolean) ?? (await keyspace.transact(call.commands))
    if (replies instanceof Failure) throw new Refusal(replies.message)
    return { status: 200, body: wordItems(replies, format === 'base64') } // always JSON
  }
  const allowed = account.readOnly ? call.commands.filter((_, i) => !denied[i]) : call.commands
  const ran = await keyspace.run(allowed)
  let next = 0
  const replies = account.readOnly ? call.commands.map((_, i) => denied[i] ?? ran[next++] ?? null) : ran
  const [first = null] = replies
  const status = call.kind === 'command' && first instanceof Failure ? 400 : 200
  if (format === 'resp2') return { status, body: Buffer.concat(replies.map(encodeReply)) }
  if (call.kind === 'pipeline') return { status, body: wordItems(replies, format === 'base64') }
  return { status, body: wordItem(first, format === 'base64') }
}

/** Reads only, and of those not the ones that walk the whole keyspace. */
function whyDenied(keyspace: Keyspace, name: string): Failure | undefined {
  const allowed =
    ['ping', 'echo', 'time'].includes(name) || (keyspace.isReadOnly(name) && name !== 'scan' && name !== 'keys')
  if (allowed) return undefined
  return new Failure(`NOPERM this user has no permissions to run the '${name}' command or its subcommand`)
}

const wordItem = (reply: Reply, base64: boolean): string =>
  reply instanceof Failure ? `{"error":${JSON.stringify(reply.message)}}` : `{"result":${wordReply(reply, base64)}}`

const wordItems = (replies: Reply[], base64: boolean): string =>
  `[${replies.map((reply) => wordItem(reply, base64)).join(',')}]`

/** A reply as JSON; under base64 every string but the status OK is encoded, and integers keep their digits. */
function wordReply(reply: Reply, base64: boolean): string {
  if (reply === null) return 'null'
  if (Buffer.isBuffer(reply)) return base64 ? `"${reply.toString('base64')}"` : JSON.stringify(reply.toString())
  if (Array.isArray(reply)) return `[${reply.map((item) => wordReply(item, base64)).join(',')}]`
  if (reply instanceof Status) return wordText(reply.text, base64 && reply.text !== 'OK')
  if (reply instanceof Failure) return wordText(reply.message, base64)
  return String(reply)
}

const wordText = (text: string, base64: boolean): string =>
  JSON.stringify(base64 ? Buffer.from(text).toString('base64') : text)

/** Server-Sent Events until the client goes. */
async function stream(
  account: Account,
  call: Exclude<Call, { commands: Command[] }>,
  response: http.ServerResponse,
): Promise<void> {
  let gone = false
  let stop = (): void => {}
  response.on('close', () => {
    gone = true
    stop()
  })
  const send = (text: string): void => {
    // every line of a message needs its own `data:`
    if (!gone) response.write(`data: ${text.replaceAll('\n', '\ndata: ')}\n\n`)
  }
  const start = (): void => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    response.flushHeaders()
  }
  if (call.kind === 'monitor') {
    if (account.readOnly) throw new Refusal(whyDenied(account.keyspace, 'monitor')?.message ?? '')
    start()
    send('"OK"')
    stop = account.keyspace.monitor(send)
  } else {
    const listen = account.keyspace.subscribe(call.kind, call.channels, (event) => {
      if (!response.headersSent) start()
      send(event.map(textOf).join(','))
    })
    stop = await listen
  }
  if (gone) stop()
}

function answerJson(response: http.ServerResponse, status: number, body: string): void {
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

function answerControl(
  account: Account,
  method: string,
  path: string,
  body: Buffer,
  response: http.ServerResponse,
): void {
  const json = (): Record<string, unknown> => {
    try {
      return JSON.parse(body.toString()) as Record<string, unknown> // an object, or the checks below fail
    } catch {
      throw new Refusal('control: the body is not JSON')
    }
  }
  switch (`${method} ${path.replace(/\/$/, '')}`) {
    case 'GET /control':
      break
    case 'POST /control/reset':
      account.counts = { commands: 0, requests: 0, byCommand: {} }
      account.faults = []
      account.latencyMs = 0
      break
    case 'POST /control/faults': {
      const fault = readFault(json())
      if (!fault) throw new Refusal('control: a fault needs a kind that is known')
      account.faults.push(fault)
      break
    }
    case 'DELETE /control/faults':
      account.faults = []
      break
    case 'POST /control/latency': {
      const { ms } = json()
      if (typeof ms !== 'number' || !(ms >= 0)) throw new Refusal('control: latency needs { ms }')
      account.latencyMs = ms
      break
    }
    default:
      throw new Refusal(`control: there is no ${method} ${path}`, 404)
  }
  const { counts, faults, latencyMs } = account
  answerJson(response, 200, JSON.stringify({ ...counts, faults, latencyMs } satisfies ControlState))
}
