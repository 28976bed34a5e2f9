/**
 * The keyspace of a token: one database of the engine. It also separates what Redis shares between databases and Upstash
 * does not: channels, the script cache, `FLUSHALL`.
 */
import { createHash, randomInt } from 'node:crypto'
import { RedisServerState, Resp2Server, createRedisCommandExecutor } from 'js-redis-server/core'
import { commandError, keyword, unavailable, withoutDatabase, wrongArity } from './commands.ts'
import type { Eviction } from './control.ts'
import { createDigest, type Digest, digestCondition, writeIf } from './digest.ts'
import {
  type Address,
  type Command,
  type Connection,
  Failure,
  type Reply,
  Status,
  connect,
  parseRedisUrl,
  textOf,
} from './resp.ts'
import { type Script, createScriptReader } from './script.ts'
import { asScript, flagsOfNewer, type HasCommand } from './newer.ts'
import { scanWithTypes, trimExactly } from './shims.ts'
import { asRedisReads } from './strict.ts'

export interface Engine {
  /** Opens the keyspace at `database`; if absent, at the next unused database, which it empties. */
  open(database?: number): Promise<Keyspace>
  /** Closes every connection to the engine, and stops the embedded engine. */
  close(): Promise<void>
}

export type Keyspace = Awaited<ReturnType<typeof openKeyspace>>

/** What differs between engines. */
interface Abilities {
  flagsOf: (command: Command) => ReadonlySet<string>
  readScript: (source: string) => Script
  /** Whether `XADD` takes `MAXLEN` and `MINID`. */
  trims: boolean
  has: HasCommand
  digestOf: Digest
}

type Dial = (database: number, events?: Parameters<typeof connect>[2]) => Promise<Connection>

/** Of the embedded engine: about 3 KB each. */
const embeddedDatabases = 16_384

/**
 * How often the embedded engine removes expired keys. It walks over every key of every database, by default ten times a
 * second, which would be most of its work. A key that is read or counted expires on time without it.
 */
const sweepMs = 60_000

/** Starts the embedded engine: a Redis that speaks RESP on a port of 127.0.0.1. */
export async function startEmbedded(): Promise<{ port: number; close(): Promise<void> }> {
  const server = new Resp2Server({
    server: new RedisServerState({ databaseCount: embeddedDatabases, activeExpiryIntervalMs: sweepMs }),
    executor: createRedisCommandExecutor(),
  })
  // The engine writes replies one by one: Nagle's algorithm delayed the second reply of a pipeline by 40 ms.
  server.server.on('connection', (socket) => socket.setNoDelay(true))
  await server.listen(0)
  return { port: server.getPort(), close: () => server.close() }
}

/** Starts the embedded engine, or connects to the Redis at `redisUrl`. */
export async function startEngine(redisUrl: string | undefined): Promise<Engine> {
  const embedded = redisUrl === undefined ? await startEmbedded() : undefined
  const address: Address = embedded
    ? { host: '127.0.0.1', port: embedded.port, tls: false, username: '', password: '' }
    : parseRedisUrl(redisUrl ?? '')
  const connections = new Set<Connection>()
  let isClosed = false

  const dial: Dial = async (database, events = {}) => {
    const connection = await connect(address, database, {
      ...events,
      onEnd(error) {
        connections.delete(connection)
        events.onEnd?.(error)
      },
    })
    connections.add(connection)
    if (isClosed) connection.close()
    return connection
  }

  async function close(): Promise<void> {
    isClosed = true
    for (const connection of connections) connection.close()
    await embedded?.close()
  }

  let registry: () => Promise<Connection>
  try {
    registry = await keepConnected(() => dial(0))
  } catch (error) {
    await close()
    throw error
  }
  const absent = 'threads-edge:emulator:absent'
  const [config, commandTable, shebang, trimmed, compared, combined] = await (
    await registry()
  ).send([
    ['CONFIG', 'GET', 'databases'],
    ['COMMAND'],
    ['EVAL', '#!lua\nreturn 1', '0'],
    ['XADD', absent, 'NOMKSTREAM', 'MAXLEN', '=', '1', '*', 'field', 'value'],
    ['SET', absent, 'value', 'IFEQ', 'another'],
    ['BITOP', 'ONE', absent, absent],
  ])
  const databases = embedded ? embeddedDatabases : Array.isArray(config) ? Number(textOf(config[1])) : 16
  const abilities: Abilities = {
    ...readCommandTable(commandTable ?? null, [
      ...(compared instanceof Failure ? [] : ['SET IFEQ']),
      ...(combined instanceof Failure ? [] : ['BITOP ONE']),
    ]),
    readScript: createScriptReader(!(shebang instanceof Failure), !(trimmed instanceof Failure)),
    trims: !(trimmed instanceof Failure),
    digestOf: await createDigest(),
  }
  let opened = 0

  const noDatabaseLeft = (): Error =>
    new Error(`the engine has ${databases} databases and each token takes one; start Redis with --databases 4096`)

  /**
   * The number of an unused database. The count is kept in database 0 and wraps around, so emulators that share a Redis
   * (parallel test files, consecutive runs) use different databases.
   */
  async function nextDatabase(): Promise<number> {
    if (++opened >= databases) throw noDatabaseLeft()
    const [count] = await (await registry()).send([['INCR', 'threads-edge:emulator:databases']])
    if (typeof count !== 'number') throw new Error(`the engine cannot count databases: ${textOf(count)}`)
    return 1 + (count % (databases - 1))
  }

  return {
    async open(database) {
      const number = database ?? (await nextDatabase())
      if (number >= databases) throw noDatabaseLeft()
      const keyspace = await openKeyspace(dial, number, abilities)
      if (database === undefined) await keyspace.flush()
      return keyspace
    },
    close,
  }
}

/** Returns a function that returns the open connection, or a new one after the engine ended it. */
async function keepConnected(dial: () => Promise<Connection>): Promise<() => Promise<Connection>> {
  let connection = await dial()
  let dialing: Promise<Connection> | undefined
  return async () => {
    if (!connection.closed) return connection
    dialing ??= dial().finally(() => (dialing = undefined))
    connection = await dialing
    return connection
  }
}

const noFlags: ReadonlySet<string> = new Set()

/** Commands that need memory, but that the embedded engine does not flag as `denyoom`. */
const unflagged = new Set(
  'copy decr decrby hincrby hincrbyfloat incr incrby incrbyfloat lset xsetid zincrby zrangestore'.split(' '),
)

/** Reads the reply of `COMMAND`: the flags of each command, and of each subcommand where Redis reports subcommands. */
function readCommandTable(table: Reply, options: string[]): Pick<Abilities, 'flagsOf' | 'has'> {
  const flagsByName = new Map<string, ReadonlySet<string>>()
  function add(entries: Reply | undefined): void {
    for (const entry of Array.isArray(entries) ? entries : []) {
      if (!Array.isArray(entry)) continue
      const name = textOf(entry[0]).toLowerCase()
      const flags = new Set(Array.isArray(entry[2]) ? entry[2].map(textOf) : [])
      if (unflagged.has(name)) flags.add('denyoom')
      flagsByName.set(name, flags)
      add(entry[9])
    }
  }
  add(table)
  const own = new Set([...flagsByName.keys()].map((name) => name.toUpperCase()).concat(options))
  for (const [name, flags] of Object.entries(flagsOfNewer)) {
    if (!flagsByName.has(name)) flagsByName.set(name, new Set(flags))
  }
  return {
    has: (name) => own.has(name),
    flagsOf(command) {
      const name = textOf(command[0]).toLowerCase()
      return flagsByName.get(`${name}|${textOf(command[1]).toLowerCase()}`) ?? flagsByName.get(name) ?? noFlags
    },
  }
}

/** Either sends a command, perhaps rewritten, and may rewrite the reply; or answers without the engine. */
type Plan = { send: Command; reply?: (reply: Reply) => Reply } | { answer: Reply }

const sendable = (plans: Plan[]): Command[] => plans.flatMap((step) => ('send' in step ? [step.send] : []))

/** Receives what a stream sends. */
export interface Listener<Event> {
  onEvent: (event: Event) => void
  /** The engine ended the stream. The listener gets no more events. */
  onEnd: (error: Error) => void
}

async function openKeyspace(dial: Dial, database: number, abilities: Abilities) {
  const { flagsOf, readScript, trims, has, digestOf } = abilities
  /** How many subscribers each pattern has. The engine's `PUBSUB NUMPAT` counts the patterns of all keyspaces. */
  const patterns = new Map<string, number>()
  /** From the SHA the client knows to the SHA the engine knows. */
  const scripts = new Map<string, string>()
  const monitors = new Set<Listener<string>>()
  /** Redis has one set of channels for all databases. */
  const channelPrefix = `${database}:`
  const withoutPrefix = (channel: Reply): Reply =>
    Buffer.isBuffer(channel) ? channel.subarray(channelPrefix.length) : channel

  const connected = await keepConnected(() =>
    dial(database, {
      onEnd(error) {
        scripts.clear() // a restarted engine has none
        for (const monitor of monitors) monitor.onEnd(error)
        monitors.clear()
      },
    }),
  )

  function planScript(name: string, command: Command): Plan {
    const [, given = ''] = command
    const rest = command.slice(2)
    const isSha = name.startsWith('EVALSHA')
    const script = isSha ? undefined : readScript(textOf(given))
    const sha = script?.sha ?? textOf(given).toLowerCase()
    const engineSha = script?.engineSha ?? scripts.get(sha)
    if (engineSha === undefined) return { answer: new Failure('NOSCRIPT No matching script. Please use EVAL.') }
    scripts.set(sha, engineSha) // before the reply: an EVALSHA may follow in the same pipeline
    return {
      send: [command[0], script?.source ?? engineSha, ...rest],
      reply(reply) {
        if (!(reply instanceof Failure)) return reply
        if (reply.message.includes('compiling script')) scripts.delete(sha)
        return new Failure(reply.message.replaceAll(engineSha, sha))
      },
    }
  }

  function planScriptCache(command: Command): Plan {
    const rest = command.slice(2)
    switch (keyword(command, 1)) {
      case 'LOAD': {
        if (rest.length !== 1) return { send: command }
        const script = readScript(textOf(rest[0]))
        scripts.set(script.sha, script.engineSha)
        return {
          send: ['SCRIPT', 'LOAD', script.source],
          reply(reply) {
            if (!(reply instanceof Failure)) return Buffer.from(script.sha)
            scripts.delete(script.sha)
            return reply
          },
        }
      }
      case 'EXISTS':
        if (rest.length === 0) return { send: command }
        return { answer: rest.map((sha) => (scripts.has(textOf(sha).toLowerCase()) ? 1 : 0)) }
      case 'FLUSH': // only of this keyspace: the engine shares its cache
        if (rest.length > 1 || (rest[0] !== undefined && !/^(a?sync)$/i.test(textOf(rest[0])))) return { send: command }
        scripts.clear()
        return { answer: new Status('OK') }
      default:
        return { send: command }
    }
  }

  function planPubSub(command: Command): Plan {
    const [name, , ...rest] = command
    switch (keyword(command, 1)) {
      case 'CHANNELS': {
        const [pattern = '*', ...excess] = rest // the engine refuses the excess
        return {
          send: [name, 'CHANNELS', channelPrefix + textOf(pattern), ...excess],
          reply: (reply) => (Array.isArray(reply) ? reply.map(withoutPrefix) : reply),
        }
      }
      case 'NUMSUB':
        return {
          send: [name, 'NUMSUB', ...rest.map((channel) => channelPrefix + textOf(channel))],
          reply: (reply) =>
            Array.isArray(reply) ? reply.map((item, i) => (i % 2 ? item : withoutPrefix(item))) : reply,
        }
      case 'NUMPAT':
        return rest.length > 0 ? { send: command } : { answer: patterns.size }
      default:
        return { send: command }
    }
  }

  /** The condition of a command that compares a digest, where the engine cannot. */
  const conditionOf = (command: Command) => (has('DIGEST') ? undefined : digestCondition(command))

  function planTrim(command: Command): Plan {
    const shim = trims ? undefined : trimExactly(command)
    return shim instanceof Failure ? { answer: shim } : { send: shim ?? command }
  }

  function plan(given: Command): Plan {
    const name = keyword(given, 0)
    const error = commandError(name, given)
    if (error !== undefined) return { answer: new Failure(error) }
    const command = trims ? given : asRedisReads(given)
    if (command instanceof Failure) return { answer: command }
    switch (name) {
      case 'EVAL':
      case 'EVAL_RO':
      case 'EVALSHA':
      case 'EVALSHA_RO':
        return command.length < 3 ? { send: command } : planScript(name, command)
      case 'SCRIPT':
        return planScriptCache(command)
      case 'PUBLISH': {
        const [, channel, ...rest] = command
        return { send: channel === undefined ? command : [command[0], channelPrefix + textOf(channel), ...rest] }
      }
      case 'PUBSUB':
        return planPubSub(command)
      case 'FLUSHDB': // SYNC is the default. The rules of a Redis user can allow FLUSHDB SYNC and nothing else.
      case 'FLUSHALL':
        return { send: ['FLUSHDB', ...(command.length > 1 ? command.slice(1) : ['SYNC'])] }
      case 'ECHO': // the embedded engine has none
        return { answer: Buffer.from(command[1] ?? '') }
      case 'SCAN':
        return { send: scanWithTypes(command) ?? command }
      case 'XADD':
      case 'XTRIM':
        return planTrim(command)
      case 'CLIENT': // SETINFO names a connection, and a request has none
        return { answer: new Status('OK') }
      case 'DIGEST':
        if (has(name)) return { send: command }
        if (command.length !== 2) return { answer: new Failure(wrongArity('digest')) }
        return {
          send: ['GET', command[1] ?? ''],
          reply: (value) => (Buffer.isBuffer(value) ? Buffer.from(digestOf(value)) : value),
        }
      case 'COPY': // each keyspace is the only database of its token
        return { send: withoutDatabase(command) }
      default: {
        const script = asScript(command, has)
        return script instanceof Failure ? { answer: script } : { send: script ?? command }
      }
    }
  }

  /** Replaces the engine's error for a command it lacks by Upstash's. */
  function withUpstashError(reply: Reply, command: Command): Reply {
    if (!(reply instanceof Failure) || !reply.message.startsWith('ERR unknown command')) return reply
    return new Failure(unavailable(keyword(command, 0)))
  }

  /** One reply for each plan, from the replies to the commands that were sent. */
  function finish(commands: readonly Command[], plans: Plan[], replies: Reply[]): Reply[] {
    let next = 0
    return plans.map((step, i) => {
      if ('answer' in step) return step.answer
      const reply = withUpstashError(replies[next++] ?? null, commands[i] ?? step.send)
      return step.reply ? step.reply(reply) : reply
    })
  }

  function notifyMonitors(commands: readonly Command[]): void {
    if (monitors.size === 0) return
    const now = (Date.now() / 1_000).toFixed(6)
    for (const command of commands) {
      const line = `${now} [0 0.0.0.0:0] ${command.map((argument) => JSON.stringify(textOf(argument))).join(' ')}`
      for (const monitor of monitors) monitor.onEvent(line)
    }
  }

  /** Every key of this keyspace. */
  async function scanKeys(): Promise<Buffer[]> {
    const keys = new Map<string, Buffer>() // SCAN may return a key twice
    let cursor = '0'
    do {
      const [reply] = await (await connected()).send([['SCAN', cursor, 'COUNT', '1000']])
      if (!Array.isArray(reply)) throw new Error(`SCAN failed: ${textOf(reply)}`)
      const [next, page] = reply
      for (const key of Array.isArray(page) ? page : []) if (Buffer.isBuffer(key)) keys.set(key.toString('latin1'), key)
      cursor = textOf(next)
    } while (cursor !== '0')
    return [...keys.values()]
  }

  return {
    /** The flags that `COMMAND` reports for a command, such as `readonly`, `write` and `denyoom`. */
    flagsOf,

    /** Runs commands in order, one reply each. Commands of other requests may run between them. */
    async run(commands: readonly Command[]): Promise<Reply[]> {
      const engine = await connected()
      notifyMonitors(commands)
      const runAll = async (some: readonly Command[]) => {
        const plans = some.map(plan)
        return finish(some, plans, await engine.send(sendable(plans)))
      }
      const conditions = commands.map(conditionOf)
      if (!conditions.some(Boolean)) return runAll(commands)
      const replies: Reply[] = []
      for (const [i, command] of commands.entries()) {
        const condition = conditions[i]
        const send = async (one: Command) => (await engine.send([one]))[0] ?? null
        if (condition instanceof Failure) replies.push(condition)
        else if (condition) replies.push(await writeIf(condition, digestOf, send))
        else replies.push(...(await runAll([command])))
      }
      return replies
    },

    /** Runs commands as one transaction: one reply each, or one failure if none ran. */
    async transact(commands: readonly Command[]): Promise<Reply[] | Failure> {
      const engine = await connected()
      const error = commands.map((command) => commandError(keyword(command, 0), command)).find(Boolean)
      if (error !== undefined) return new Failure(error)
      if (commands.some(conditionOf)) return new Failure('ERR emulator: IFDEQ and IFDNE do not work in a transaction')
      notifyMonitors(commands)
      const plans = commands.map(plan)
      const executed = (await engine.send([['MULTI'], ...sendable(plans), ['EXEC']])).at(-1)
      if (executed instanceof Failure) return executed
      return finish(commands, plans, Array.isArray(executed) ? executed : [])
    },

    /** Deletes all keys. */
    async flush(): Promise<void> {
      const [reply] = await (await connected()).send([['FLUSHDB', 'SYNC']])
      if (reply instanceof Failure) throw new Error(`FLUSHDB failed: ${reply.message}`)
    },

    /** Deletes these keys, or this many random keys. Returns the keys that existed. */
    async evict(eviction: Eviction): Promise<string[]> {
      const keys = 'keys' in eviction ? eviction.keys : takeRandom(await scanKeys(), eviction)
      const replies = await (await connected()).send(keys.map((key): Command => ['DEL', key]))
      return keys.filter((_, i) => replies[i] === 1).map(textOf)
    },

    /**
     * Subscribes to channels or patterns. The listener gets `['message', 'channel', payload]` and the like.
     * Returns a function that ends the subscription.
     */
    async subscribe(
      kind: 'subscribe' | 'psubscribe',
      names: string[],
      { onEvent, onEnd }: Listener<Reply[]>,
    ): Promise<() => void> {
      const listened = kind === 'psubscribe' ? [...new Set(names)] : []
      const subscriber = await dial(database, {
        onPush(push) {
          if (push instanceof Failure) return subscriber.close(new Error(push.message)) // SUBSCRIBE failed
          if (!Array.isArray(push)) return
          const [type, ...rest] = push
          // the last part of a message is its payload, that of a confirmation the number of subscriptions
          onEvent([type ?? null, ...rest.slice(0, -1).map(withoutPrefix), rest.at(-1) ?? null])
        },
        onEnd(error) {
          for (const name of listened) {
            const left = (patterns.get(name) ?? 1) - 1
            if (left > 0) patterns.set(name, left)
            else patterns.delete(name)
          }
          onEnd(error)
        },
      })
      for (const name of listened) patterns.set(name, (patterns.get(name) ?? 0) + 1)
      subscriber.post([kind, ...names.map((name) => channelPrefix + name)])
      return () => subscriber.close()
    },

    /**
     * Sends every command to the listener, in the format of `MONITOR`. The engine's own would show all keyspaces.
     * Returns a function that ends this.
     */
    monitor(listener: Listener<string>): () => void {
      monitors.add(listener)
      return () => monitors.delete(listener)
    },
  }
}

/** `count` random keys, or all. `seed` decides which places of the sorted keys. */
function takeRandom(keys: Buffer[], { count, seed = randomInt(2 ** 32) }: { count: number; seed?: number }): Buffer[] {
  const drawn = keys
    .toSorted((a, b) => a.compare(b))
    .map((key, place) => ({ key, draw: createHash('sha256').update(`${seed} ${place}`).digest('hex') }))
  return drawn
    .toSorted((a, b) => (a.draw < b.draw ? -1 : 1))
    .slice(0, count)
    .map(({ key }) => key)
}
