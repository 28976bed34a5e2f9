/**
 * The Upstash REST API over HTTP, in front of a RESP engine, with Upstash's error texts.
 * @see https://upstash.com/docs/redis/features/restapi
 */
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import * as v from 'valibot'
import type { ControlState, Counts, Fault } from './control.ts'
import { type Target, commandErrors, effects, parseFault, takeFault, wrongToken } from './faults.ts'
import { type Engine, type Keyspace, type Listener, startEngine } from './keyspace.ts'
import { type Argument, type Command, Failure, type Reply, Status, encodeReply, textOf } from './resp.ts'

export interface EmulatorOptions {
  /** Default: 0, any free port. */
  port?: number
  /** Default: `127.0.0.1`. */
  host?: string
  /** The Redis to use. Absent: the embedded engine. */
  redisUrl?: string
  /** Each token has its own keyspace. */
  tokens?: string[]
  /** Maps a read-only token to the one of `tokens` whose keyspace it reads. */
  readOnlyTokens?: Record<string, string>
  /** Test mode: accepts any token. Each gets its own keyspace, which is empty at first. */
  openTokens?: boolean
}

export interface Emulator {
  url: string
  port: number
  /** Ends every connection, also hanging requests and streams. */
  close(): Promise<void>
}

const maxBodyBytes = 10 * 1024 * 1024

/** What all requests of one token share. */
interface Account {
  keyspace: Keyspace
  readOnly: boolean
  counts: Counts
  faults: Fault[]
  /** Resolves when the faults are cleared. */
  cleared: PromiseWithResolvers<void>
  latencyMs: number
  /** Sent as `upstash-sync-token`. Grows with every request, as if each one wrote. */
  syncToken: number
}

/** A failed request: its HTTP status and the text of Upstash's `{ error }`. */
class RequestError extends Error {
  readonly status: number
  constructor(message: string, status = 400) {
    super(message)
    this.status = status
  }
}

/** The format of the replies. */
type Format = 'json' | 'base64' | 'resp2'

/** A parsed HTTP request. */
type Call =
  | { kind: 'command'; commands: [Command] }
  | { kind: 'pipeline' | 'transaction'; commands: Command[] }
  | { kind: 'subscribe' | 'psubscribe'; channels: string[] }
  | { kind: 'monitor' }

/** Starts the emulator and its engine. */
export async function startEmulator(options: EmulatorOptions = {}): Promise<Emulator> {
  const { port = 0, host = '127.0.0.1', tokens = [], readOnlyTokens = {}, openTokens = false } = options
  const engine = await startEngine(options.redisUrl)
  const accountOf = createAccounts(engine, tokens, readOnlyTokens, openTokens)

  const server = http.createServer(
    { keepAliveTimeout: 60_000, requestTimeout: 0, noDelay: true },
    (request, response) => {
      handle(request, response, accountOf).catch((error: unknown) => {
        if (response.headersSent) return response.destroy()
        if (error instanceof RequestError) return sendJson(response, error.status, { error: error.message })
        // The engine failed, or the emulator has a bug: the message shows which.
        const message = error instanceof Error ? error.message : String(error)
        sendJson(response, 500, { error: `ERR emulator: ${message}` })
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

/** Creates a function that finds the account of a token. The first request of a token opens its keyspace. */
function createAccounts(engine: Engine, tokens: string[], readOnlyTokens: Record<string, string>, openTokens: boolean) {
  const accounts = new Map<string, Promise<Account>>()

  async function open(token: string): Promise<Account> {
    const owner = Object.hasOwn(readOnlyTokens, token) ? readOnlyTokens[token] : undefined
    const declared = tokens.indexOf(owner ?? token)
    if (declared === -1 && !openTokens) throw new RequestError(wrongToken, 401)
    let keyspace: Keyspace
    if (owner !== undefined && owner !== token) keyspace = (await accountOf(owner)).keyspace
    // the data of declared tokens survives a restart; in test mode a keyspace starts empty
    else keyspace = await engine.open(openTokens ? undefined : declared)
    return {
      keyspace,
      readOnly: owner !== undefined,
      counts: { commands: 0, requests: 0, byCommand: {} },
      faults: [],
      cleared: Promise.withResolvers(),
      latencyMs: 0,
      syncToken: 0,
    }
  }

  function accountOf(token: string): Promise<Account> {
    let account = accounts.get(token)
    if (!account) {
      account = open(token)
      accounts.set(token, account)
      account.catch(() => accounts.delete(token)) // a wrong token, or the engine failed
    }
    return account
  }
  return accountOf
}

const noQuery = new URLSearchParams()

function splitUrl(url: string): [path: string, search: string] {
  const question = url.indexOf('?')
  return question === -1 ? [url, ''] : [url.slice(0, question), url.slice(question + 1)]
}

async function handle(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  accountOf: (token: string) => Promise<Account>,
): Promise<void> {
  const method = request.method ?? 'GET'
  const [path, search] = splitUrl(request.url ?? '/')
  const query = search === '' ? noQuery : new URLSearchParams(search)

  const isControl = path === '/control' || path.startsWith('/control/')
  if (!isControl && !['GET', 'POST', 'PUT', 'HEAD'].includes(method)) {
    response.writeHead(405).end()
    return
  }
  const account = await accountOf(readToken(request, query))
  if (isControl) {
    const body = await readBody(request)
    return sendJson(response, 200, await control(account, method, path.replace(/\/$/, ''), body))
  }

  account.counts.requests++
  const body = method === 'POST' || method === 'PUT' ? await readBody(request) : Buffer.alloc(0)
  if (account.latencyMs > 0) await sleep(account.latencyMs)
  const format = readFormat(request)
  const call = parseCall(method, path, query, body)

  const isStream = !('commands' in call)
  const target: Target = {
    path,
    commands: isStream ? [[call.kind]] : call.commands,
    isStream,
    flagsOf: account.keyspace.flagsOf,
  }
  const fault = account.faults.length > 0 ? takeFault(account.faults, target) : undefined
  const effect = fault ? effects[fault.kind] : {}
  const { promise: cleared } = account.cleared
  const wait = () => (fault?.delayMs === undefined ? cleared : sleep(fault.delayMs))
  if (effect.instead === 'reset') return void request.socket.resetAndDestroy()
  if (effect.instead === 'close') return void request.socket.destroy()
  if (effect.instead === 'hang') return
  if (effect.answer) {
    const { status, type, body: bodyOf } = effect.answer
    return sendBody(response, fault?.status ?? status, type, bodyOf(fault?.message))
  }
  if (effect.waits === 'before') await wait()
  const errors = commandErrors(fault, target)

  if (isStream) {
    if (errors[0]) throw new RequestError(errors[0].message)
    return stream(account, call, response)
  }
  const answer = await execute(account, call, format, errors, effect.discardsTransaction ?? false)
  if (effect.waits === 'after') await wait()
  if (effect.sends === 'nothing') return void request.socket.destroy()
  response.setHeader('upstash-sync-token', (++account.syncToken).toString(32))
  const type = format === 'resp2' ? 'application/octet-stream' : 'application/json'
  if (effect.sends === 'half') {
    response.writeHead(answer.status, { 'content-type': type, 'content-length': Buffer.byteLength(answer.body) })
    const half = Buffer.from(answer.body).subarray(0, Math.floor(answer.body.length / 2))
    response.write(half, () => request.socket.destroy())
    return
  }
  sendBody(response, answer.status, type, answer.body)
}

/** Also ends the delays that last until then. */
function clearFaults(account: Account): void {
  account.faults = []
  account.cleared.resolve()
  account.cleared = Promise.withResolvers()
}

/** Reads the token from `?_token=`, otherwise from `Authorization`, with or without `Bearer`. */
function readToken(request: http.IncomingMessage, query: URLSearchParams): string {
  const header = request.headers.authorization ?? ''
  return query.get('_token') || (/^bearer\s/i.test(header) ? header.slice(7) : header).trim()
}

/** Reads the body by events: an async iterator costs throughput that benchmarks would notice. */
function readBody(request: http.IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    request.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxBodyBytes) chunks.push(chunk) // the rest is dropped, but read: the client must get the answer
    })
    request.on('error', reject)
    request.on('end', () => {
      if (size <= maxBodyBytes) return resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks))
      const details = 'See https://upstash.com/docs/redis/troubleshooting/max_request_size_exceeded for details'
      reject(
        new RequestError(
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
    throw new RequestError(`ERR invalid Upstash-Response-Format: ${String(format)}`)
  if (encoding !== undefined && encoding !== '' && encoding !== 'base64') {
    throw new RequestError(`ERR invalid Upstash-Encoding: ${String(encoding)}`)
  }
  if (format === 'json') return encoding === 'base64' ? 'base64' : 'json'
  if (encoding === 'base64')
    throw new RequestError('ERR Upstash-Encoding base64 is not permitted with Upstash-Response-Format resp2')
  return 'resp2'
}

function parseCall(method: string, path: string, query: URLSearchParams, body: Buffer): Call {
  switch (path) {
    case '/':
      return { kind: 'command', commands: [parseCommand(parseJson(body, 'ERR failed to parse command'))] }
    case '/pipeline':
      return { kind: 'pipeline', commands: parseCommands(body, 'pipeline') }
    case '/multi-exec':
      return { kind: 'transaction', commands: parseCommands(body, 'transaction') }
    case '/monitor':
      return { kind: 'monitor' }
    default: {
      const [name = '', ...rest] = path.slice(1).replace(/\/$/, '').split('/').map(decodeSegment)
      const kind = name.toString().toLowerCase()
      if (kind === 'subscribe' || kind === 'psubscribe') {
        if (rest.length === 0) throw new RequestError(`ERR wrong number of arguments for '${kind}' command`)
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

/** A percent-decoded part of the path; a buffer if it is not UTF-8. */
function decodeSegment(segment: string): Argument {
  try {
    return decodeURIComponent(segment)
  } catch {
    const latin = segment.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    return Buffer.from(latin, 'latin1')
  }
}

/**
 * A number that may not survive `JSON.parse`, which rounds long integers and turns `1e400` into Infinity, `1.0` into `1`
 * and `-0` into `0`. A match inside a string only costs time.
 */
const inexactNumber = /[[,]\s*(?:-0|-?\d+[.eE]|-?\d{16})/

/** Parses JSON. A number that `JSON.parse` would change becomes a string, exactly as written. */
function parseJson(body: Buffer, malformed: string): unknown {
  const text = body.toString()
  if (text.trim() === '') throw new RequestError('EOF')
  try {
    if (!inexactNumber.test(text)) return JSON.parse(text)
    const asWritten = (_: string, value: unknown, context?: { source: string }): unknown =>
      typeof value === 'number' && context ? context.source : value
    return JSON.parse(text, asWritten)
  } catch (cause) {
    throw new RequestError(malformed, cause instanceof SyntaxError ? 400 : 500)
  }
}

function parseCommand(json: unknown): Command {
  if (!Array.isArray(json)) throw new RequestError('expected JSON array')
  const [name, ...rest] = json.map((value: unknown): string => {
    if (typeof value === 'string') return value
    if (typeof value === 'number' || typeof value === 'boolean') return String(value)
    if (value === null) throw new RequestError('ERR null args are not supported')
    throw new RequestError(`ERR unsupported arg type: "${Array.isArray(value) ? '[' : '{'}": json.Delim`)
  })
  if (name === undefined) throw new RequestError('ERR empty command')
  return [name, ...rest]
}

function parseCommands(body: Buffer, what: 'pipeline' | 'transaction'): Command[] {
  const malformed = `ERR failed to parse ${what} request`
  const json = parseJson(body, malformed)
  if (!Array.isArray(json) || !json.every(Array.isArray)) throw new RequestError(malformed)
  if (json.length === 0) throw new RequestError(`ERR empty ${what} request`)
  return json.map(parseCommand)
}

/** Runs the commands that have no error in `errors`, and encodes the replies. */
async function execute(
  account: Account,
  call: Extract<Call, { commands: Command[] }>,
  format: Format,
  errors: (Failure | undefined)[],
  discardsTransaction: boolean,
): Promise<{ status: number; body: string | Buffer }> {
  const { counts, keyspace, readOnly } = account
  const { commands, kind } = call
  for (const command of commands) {
    const name = String(command[0]).toLowerCase()
    counts.commands++
    counts.byCommand[name] = (counts.byCommand[name] ?? 0) + 1
  }
  const denied = readOnly ? commands.map((command) => permissionError(keyspace, command)) : []
  if (kind === 'transaction') {
    const denial = denied.find(Boolean)
    if (denial) throw new RequestError(denial.message)
    const error = discardsTransaction ? errors.find(Boolean) : undefined
    if (error) throw new RequestError(`EXECABORT Transaction discarded because of: ${error.message}`)
  }
  const errorAt = (index: number): Failure | undefined => denied[index] ?? errors[index]
  const allowed = readOnly || errors.length > 0 ? commands.filter((_, i) => !errorAt(i)) : commands
  const executed = await (kind === 'transaction' ? keyspace.transact(allowed) : keyspace.run(allowed))
  if (executed instanceof Failure) throw new RequestError(executed.message)
  let next = 0
  const replies = allowed === commands ? executed : commands.map((_, i) => errorAt(i) ?? executed[next++] ?? null)

  const isBase64 = format === 'base64'
  if (kind === 'transaction') return { status: 200, body: itemsToJson(replies, isBase64) } // JSON in every format
  const [first = null] = replies
  const status = kind === 'command' && first instanceof Failure ? 400 : 200
  if (format === 'resp2') return { status, body: Buffer.concat(replies.map(encodeReply)) }
  return { status, body: kind === 'pipeline' ? itemsToJson(replies, isBase64) : itemToJson(first, isBase64) }
}

/** A read-only token may run the engine's read commands, except those that walk over the whole keyspace. */
function permissionError(keyspace: Keyspace, command: Command): Failure | undefined {
  const name = String(command[0]).toLowerCase()
  const isAllowed = keyspace.flagsOf(command).has('readonly') && name !== 'scan' && name !== 'keys'
  if (isAllowed || ['ping', 'echo', 'time'].includes(name)) return undefined
  return new Failure(`NOPERM this user has no permissions to run the '${name}' command or its subcommand`)
}

const itemToJson = (reply: Reply, isBase64: boolean): string =>
  reply instanceof Failure ? `{"error":${JSON.stringify(reply.message)}}` : `{"result":${toJson(reply, isBase64)}}`

const itemsToJson = (replies: Reply[], isBase64: boolean): string =>
  `[${replies.map((reply) => itemToJson(reply, isBase64)).join(',')}]`

/** Encodes a reply as JSON. Base64 applies to every string except the status OK. Integers keep their digits. */
function toJson(reply: Reply, isBase64: boolean): string {
  if (reply === null) return 'null'
  if (Buffer.isBuffer(reply)) return isBase64 ? `"${reply.toString('base64')}"` : JSON.stringify(reply.toString())
  if (Array.isArray(reply)) return `[${reply.map((item) => toJson(item, isBase64)).join(',')}]`
  if (reply instanceof Status) return textToJson(reply.text, isBase64 && reply.text !== 'OK')
  if (reply instanceof Failure) return textToJson(reply.message, isBase64)
  return String(reply)
}

const textToJson = (text: string, isBase64: boolean): string =>
  JSON.stringify(isBase64 ? Buffer.from(text).toString('base64') : text)

/** Sends Server-Sent Events until the client or the engine ends the stream. */
async function stream(
  account: Account,
  call: Exclude<Call, { commands: Command[] }>,
  response: http.ServerResponse,
): Promise<void> {
  const { keyspace, readOnly } = account
  const send = (text: string): void => {
    if (response.destroyed) return
    if (!response.headersSent) {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    }
    response.write(`data: ${text.replaceAll('\n', '\ndata: ')}\n\n`) // each line needs its own `data:`
  }
  const onEnd = (error: Error): void => {
    if (response.headersSent) response.destroy()
    else sendJson(response, 400, { error: error.message })
  }
  let stop: () => void
  if (call.kind === 'monitor') {
    const error = readOnly ? permissionError(keyspace, ['monitor']) : undefined
    if (error) throw new RequestError(error.message)
    stop = keyspace.monitor({ onEvent: send, onEnd })
    send('"OK"')
  } else {
    const listener: Listener<Reply[]> = { onEvent: (event) => send(event.map(textOf).join(',')), onEnd }
    stop = await keyspace.subscribe(call.kind, call.channels, listener)
  }
  if (response.destroyed) stop()
  else response.on('close', stop)
}

function sendBody(response: http.ServerResponse, status: number, type: string, body: string | Buffer): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

const sendJson = (response: http.ServerResponse, status: number, body: object): void =>
  sendBody(response, status, 'application/json', JSON.stringify(body))

const LatencySchema = v.strictObject({ ms: v.pipe(v.number(), v.minValue(0)) })

const EvictionSchema = v.union([
  v.strictObject({ keys: v.array(v.string()) }),
  v.strictObject({
    count: v.pipe(v.number(), v.integer(), v.minValue(0)),
    seed: v.exactOptional(v.pipe(v.number(), v.integer())),
  }),
])

/** Runs a control request, and returns the JSON of its answer. */
async function control(account: Account, method: string, path: string, body: Buffer): Promise<object> {
  const parse = <T>(parser: (json: unknown) => T): T => {
    try {
      return parser(JSON.parse(body.toString()))
    } catch (cause) {
      const detail = v.isValiError(cause) ? v.summarize(cause.issues) : 'the body is not JSON'
      throw new RequestError(`control: ${detail}`)
    }
  }
  switch (`${method} ${path}`) {
    case 'GET /control':
      break
    case 'POST /control/reset':
      account.counts = { commands: 0, requests: 0, byCommand: {} }
      clearFaults(account)
      account.latencyMs = 0
      break
    case 'POST /control/faults':
      account.faults.push(parse(parseFault))
      break
    case 'DELETE /control/faults':
      clearFaults(account)
      break
    case 'POST /control/latency':
      account.latencyMs = parse(v.parser(LatencySchema)).ms
      break
    case 'POST /control/flush':
      await account.keyspace.flush()
      break
    case 'POST /control/evict':
      return { evicted: await account.keyspace.evict(parse(v.parser(EvictionSchema))) }
    default:
      throw new RequestError(`control: unknown request ${method} ${path}`, 404)
  }
  const { counts, faults, latencyMs } = account
  return { ...counts, faults, latencyMs } satisfies ControlState
}
