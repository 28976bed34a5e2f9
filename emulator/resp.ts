/**
 * RESP2, the protocol between the emulator and its engine. Client libraries hide what the REST API shows: a status
 * reply is not a bulk string (base64, resp2), bulk strings are bytes, integers have 64 bits.
 */
import net from 'node:net'
import tls from 'node:tls'

/** A simple string, such as `OK`. */
export class Status {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

/** An error reply. It is a value: an array may contain it. */
export class Failure {
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

/** A reply of the engine. An integer is a `bigint` if a `number` would lose digits. */
export type Reply = Status | Failure | Buffer | number | bigint | null | Reply[]

export type Argument = string | Buffer
export type Command = readonly [Argument, ...Argument[]]

/** The text of a bulk string, status, error or integer; empty for null, an array and undefined. */
export function textOf(value: Reply | Argument | undefined): string {
  if (value instanceof Status) return value.text
  if (value instanceof Failure) return value.message
  return value === undefined || value === null || Array.isArray(value) ? '' : value.toString()
}

/** Encodes a command as RESP. Uses strings where possible: joining strings is cheaper than joining buffers. */
function encodeCommand(command: Command): (string | Buffer)[] {
  const parts: (string | Buffer)[] = []
  let text = `*${command.length}\r\n`
  for (const argument of command) {
    if (typeof argument === 'string') {
      text += `$${Buffer.byteLength(argument)}\r\n${argument}\r\n`
    } else {
      parts.push(`${text}$${argument.length}\r\n`, argument)
      text = '\r\n'
    }
  }
  parts.push(text)
  return parts
}

/** Encodes a reply as RESP2. An error is one line, as Redis makes it. */
export function encodeReply(reply: Reply): Buffer {
  if (reply === null) return Buffer.from('$-1\r\n')
  if (reply instanceof Status) return Buffer.from(`+${reply.text}\r\n`)
  if (reply instanceof Failure) return Buffer.from(`-${reply.message.replaceAll(/[\r\n]/g, ' ')}\r\n`)
  if (Buffer.isBuffer(reply)) return Buffer.concat([Buffer.from(`$${reply.length}\r\n`), reply, Buffer.from('\r\n')])
  if (Array.isArray(reply)) return Buffer.concat([Buffer.from(`*${reply.length}\r\n`), ...reply.map(encodeReply)])
  return Buffer.from(`:${reply}\r\n`)
}

const none = Buffer.alloc(0)

/** Parses replies out of chunks. It remembers its position in nested arrays, so it parses a large reply once. */
function createReader(onReply: (reply: Reply) => void): (chunk: Buffer) => void {
  let buffer: Buffer = none
  let at = 0
  let chunks: Buffer[] = []
  let received = 0
  /** How many bytes the next reply needs at least. */
  let needed = 0
  const open: { items: Reply[]; left: number }[] = []

  function emit(reply: Reply): void {
    let value = reply
    for (;;) {
      const parent = open.at(-1)
      if (!parent) return onReply(value)
      parent.items.push(value)
      if (--parent.left > 0) return
      open.pop()
      value = parent.items
    }
  }

  /** Reads one reply, or the head of an array. False if it needs more bytes. */
  function readOne(): boolean {
    const end = buffer.indexOf('\r\n', at)
    if (end === -1) {
      needed = buffer.length - at + 1
      return false
    }
    const type = buffer[at]
    const line = buffer.toString('utf8', at + 1, end)
    const next = end + 2
    switch (type) {
      case 0x2b: // +
        at = next
        emit(new Status(line))
        return true
      case 0x2d: // -
        at = next
        emit(new Failure(line))
        return true
      case 0x3a: {
        // :
        const integer = Number(line)
        at = next
        emit(Number.isSafeInteger(integer) ? integer : BigInt(line))
        return true
      }
      case 0x24: {
        // $
        const length = Number(line)
        if (length < 0) {
          at = next
          emit(null)
          return true
        }
        if (buffer.length < next + length + 2) {
          needed = next + length + 2 - at
          return false
        }
        const bulk = buffer.subarray(next, next + length)
        at = next + length + 2
        emit(bulk)
        return true
      }
      case 0x2a: {
        // *
        const length = Number(line)
        at = next
        if (length < 0) emit(null)
        else if (length === 0) emit([])
        else open.push({ items: [], left: length })
        return true
      }
      default:
        throw new Error(`the engine does not speak RESP2: ${JSON.stringify(line.slice(0, 40))}`)
    }
  }

  return (chunk) => {
    chunks.push(chunk)
    received += chunk.length
    if (received < needed) return
    buffer = chunks.length === 1 ? chunk : Buffer.concat(chunks)
    at = 0
    needed = 0
    while (at < buffer.length && readOne()) needed = 0
    const rest = buffer.subarray(at)
    chunks = rest.length > 0 ? [rest] : []
    received = rest.length
  }
}

/** The address and credentials of the engine. */
export interface Address {
  host: string
  port: number
  tls: boolean
  username: string
  password: string
}

/** Parses `redis://user:password@host:port` or `rediss://…`. */
export function parseRedisUrl(redisUrl: string): Address {
  const url = new URL(redisUrl)
  if (url.protocol !== 'redis:' && url.protocol !== 'rediss:')
    throw new Error('REDIS_URL must start with redis:// or rediss://')
  return {
    host: url.hostname || '127.0.0.1',
    port: Number(url.port || 6379),
    tls: url.protocol === 'rediss:',
    username: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
  }
}

export interface Connection {
  readonly closed: boolean
  /** Sends commands without any other command between them on this connection. Rejects if the connection ends. */
  send(commands: readonly Command[]): Promise<Reply[]>
  /** Sends a command whose replies go to `onPush` (`SUBSCRIBE`). */
  post(command: Command): void
  /** Ends the connection. `onEnd` gets `reason`. */
  close(reason?: Error): void
}

export interface ConnectionEvents {
  /** Gets replies that belong to no `send`. */
  onPush?: (reply: Reply) => void
  /** The open connection ended. Runs once, also after `close`. */
  onEnd?: (error: Error) => void
}

interface Pending {
  replies: Reply[]
  left: number
  resolve(replies: Reply[]): void
  reject(error: Error): void
}

/** Opens a connection, authenticates and selects `database`. */
export async function connect(
  address: Address,
  database: number,
  { onPush, onEnd }: ConnectionEvents = {},
): Promise<Connection> {
  const socket: net.Socket = address.tls
    ? tls.connect({ host: address.host, port: address.port, servername: address.host })
    : net.connect({ host: address.host, port: address.port })
  socket.setNoDelay(true)
  const waiting: Pending[] = []
  let head = 0 // index into `waiting`: cheaper than shifting a long queue
  let closed = false
  let opened = false
  let corked = false

  const read = createReader((reply) => {
    const pending = waiting[head]
    if (!pending) {
      onPush?.(reply)
      return
    }
    pending.replies.push(reply)
    if (--pending.left > 0) return
    head++
    if (head > 1_000 || head === waiting.length) {
      waiting.splice(0, head)
      head = 0
    }
    pending.resolve(pending.replies)
  })
  const end = (error: Error): void => {
    if (closed) return
    closed = true
    socket.destroy()
    for (const pending of waiting.splice(head)) pending.reject(error)
    if (opened) onEnd?.(error)
  }
  socket.on('data', (chunk: Buffer) => {
    try {
      read(chunk)
    } catch (error) {
      end(error as Error) // `createReader` throws nothing else
    }
  })
  socket.on('error', (cause) =>
    end(new Error(`the engine at ${address.host}:${address.port} failed: ${cause.message}`, { cause })),
  )
  socket.on('close', () => end(new Error(`the engine at ${address.host}:${address.port} closed the connection`)))

  /** Joins all writes of one turn of the event loop into one packet. */
  function write(command: Command): void {
    if (!corked) {
      corked = true
      socket.cork()
      process.nextTick(() => {
        corked = false
        socket.uncork()
      })
    }
    for (const part of encodeCommand(command)) socket.write(part)
  }

  const connection: Connection = {
    get closed() {
      return closed
    },
    send(commands) {
      return new Promise((resolve, reject) => {
        if (closed) return reject(new Error(`the connection to ${address.host}:${address.port} is closed`))
        if (commands.length === 0) return resolve([])
        waiting.push({ replies: [], left: commands.length, resolve, reject })
        for (const command of commands) write(command)
      })
    },
    post(command) {
      if (!closed) write(command)
    },
    close(reason = new Error('the connection was closed')) {
      end(reason)
    },
  }

  const hello: Command[] = []
  if (address.password)
    hello.push(address.username ? ['AUTH', address.username, address.password] : ['AUTH', address.password])
  if (database !== 0) hello.push(['SELECT', String(database)])
  if (hello.length === 0) hello.push(['PING']) // detects a failing connection here
  for (const reply of await connection.send(hello)) {
    if (reply instanceof Failure) {
      connection.close()
      throw new Error(`the engine at ${address.host}:${address.port} refused the connection: ${reply.message}`)
    }
  }
  opened = true
  return connection
}
