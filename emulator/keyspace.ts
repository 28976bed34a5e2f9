/**
 * A token's keyspace: one database of the engine, and what Redis shares between databases but Upstash does not between
 * customers: channels, the script cache, `FLUSHALL`.
 */
import { RedisServerState, Resp2Server, createRedisCommandExecutor } from 'js-redis-server/core'
import { availability, unavailable } from './commands.ts'
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
import { scanWithTypes, trimExactly } from './shims.ts'

export interface Engine {
  /** The keyspace at `database`; absent: the next that nobody has used, emptied. */
  open(database?: number): Promise<Keyspace>
  close(): Promise<void>
}

export type Keyspace = Awaited<ReturnType<typeof openKeyspace>>

/** What was found out about the engine. */
interface Abilities {
  /** The commands that write nothing, in lower case. */
  readOnly: ReadonlySet<string>
  readScript: (source: string) => Script
  /** Whether `XADD` takes `MAXLEN` and `MINID`. */
  trims: boolean
}

/** Of the embedded engine: about 3 KB each. */
const embeddedDatabases = 16_384

/**
 * How often the embedded engine looks for what has expired. It then walks over every key of every database, ten times a
 * second by default, which is most of its work; what is read or counted expires by itself, at the moment it should.
 */
const sweepMs = 60_000

async function startEmbedded(): Promise<{ port: number; close(): Promise<void> }> {
  const server = new Resp2Server({
    server: new RedisServerState({ databaseCount: embeddedDatabases, activeExpiryIntervalMs: sweepMs }),
    executor: createRedisCommandExecutor(),
  })
  // It writes each reply by itself, and Nagle's algorithm held the second of a pipeline back for 40 ms.
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
  let registry: Connection
  try {
    registry = await connect(address, 0)
  } catch (error) {
    await embedded?.close()
    throw error
  }
  const [config, commandTable, shebang, trimmed] = await registry.send([
    ['CONFIG', 'GET', 'databases'],
    ['COMMAND'],
    ['EVAL', '#!lua\nreturn 1', '0'],
    ['XADD', 'threads-edge:emulator:absent', 'NOMKSTREAM', 'MAXLEN', '=', '1', '*', 'field', 'value'],
  ])
  const databases = embedded ? embeddedDatabases : Array.isArray(config) ? Number(textOf(config[1])) : 16
  const abilities: Abilities = {
    readOnly: readOnlyCommands(commandTable ?? null),
    readScript: createScriptReader(!(shebang instanceof Failure)),
    trims: !(trimmed instanceof Failure),
  }
  const keyspaces: Keyspace[] = []
  let taken = 0

  const ranOut = (): Error =>
    new Error(`the engine has ${databases} databases and each token takes one; start Redis with --databases 4096`)

  /**
   * The number of a database nobody uses. The count is kept in database 0 and goes round, so that emulators that share a
   * Redis (parallel test files, one run after the other) stay out of each other's way.
   */
  async function nextDatabase(): Promise<number> {
    if (++taken >= databases) throw ranOut()
    const [count] = await registry.send([['INCR', 'threads-edge:emulator:databases']])
    if (typeof count !== 'number') throw new Error('the engine cannot count databases')
    return 1 + (count % (databases - 1))
  }

  return {
    async open(database) {
      const number = database ?? (await nextDatabase())
      if (number >= databases) throw ranOut()
      const keyspace = await openKeyspace(address, number, abilities)
      if (database === undefined) await keyspace.run([['FLUSHDB']])
      keyspaces.push(keyspace)
      return keyspace
    },
    async close() {
      for (const keyspace of keyspaces) keyspace.close()
      registry.close()
      await embedded?.close()
    },
  }
}

/** The names `COMMAND` flags as `readonly`, in lower case. */
function readOnlyCommands(table: Reply): Set<string> {
  const names = new Set<string>()
  for (const entry of Array.isArray(table) ? table : []) {
    if (!Array.isArray(entry)) continue
    const [name, , flags] = entry
    if (Array.isArray(flags) && flags.some((flag) => textOf(flag) === 'readonly')) names.add(textOf(name).toLowerCase())
  }
  return names
}

/** What to do with a command: send it, perhaps changed, and change the reply; or answer without the engine. */
type Plan = { send: Command; reply?: (reply: Reply) => Reply } | { answer: Reply }

const sendable = (plans: Plan[]): Command[] => plans.flatMap((step) => ('send' in step ? [step.send] : []))

async function openKeyspace(address: Address, database: number, { readOnly, readScript, trims }: Abilities) {
  let connection = await connect(address, database)
  let reconnecting: Promise<Connection> | undefined
  const subscribers = new Set<Connection>()
  /** How many subscribers each pattern has: `PUBSUB NUMPAT` counts those of the whole server. */
  const patterns = new Map<string, number>()
  /** From the SHA the client knows to the one the engine knows. */
  const scripts = new Map<string, string>()
  const monitors = new Set<(line: string) => void>()
  /** Redis has one set of channels for all databases. */
  const channelPrefix = `${database}:`
  const withoutPrefix = (channel: Reply): Reply =>
    Buffer.isBuffer(channel) ? channel.subarray(channelPrefix.length) : channel

  /** The open connection; a new one after the engine was away. */
  async function connected(): Promise<Connection> {
    if (!connection.closed) return connection
    reconnecting ??= connect(address, database).finally(() => (reconnecting = undefined))
    connection = await reconnecting
    return connection
  }

  function planScript(name: string, command: Command): Plan {
    const [, source = ''] = command
    const rest = command.slice(2)
    if (name.startsWith('EVALSHA')) {
      const engineSha = scripts.get(textOf(source).toLowerCase())
      if (engineSha === undefined) return { answer: new Failure('NOSCRIPT No matching script. Please use EVAL.') }
      return { send: [command[0], engineSha, ...rest] }
    }
    const script = readScript(textOf(source))
    scripts.set(script.sha, script.engineSha) // at once: an EVALSHA may follow in the same pipeline
    return {
      send: [command[0], script.source, ...rest],
      reply(reply) {
        if (reply instanceof Failure && reply.message.includes('compiling script')) scripts.delete(script.sha)
        return reply
      },
    }
  }

  function planScriptCache(command: Command): Plan {
    const [, subcommand, ...rest] = command
    switch (textOf(subcommand).toUpperCase()) {
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
      case 'FLUSH': // of this keyspace; the engine's cache is shared
        if (rest.length > 1 || (rest[0] !== undefined && !/^(a?sync)$/i.test(textOf(rest[0])))) return { send: command }
        scripts.clear()
        return { answer: new Status('OK') }
      default:
        return { send: command }
    }
  }

  function planPubSub(command: Command): Plan {
    const [name, subcommand, ...rest] = command
    switch (textOf(subcommand).toUpperCase()) {
      case 'CHANNELS':
        return {
          send: [name, 'CHANNELS', channelPrefix + (rest[0] === undefined ? '*' : textOf(rest[0]))],
          reply: (reply) => (Array.isArray(reply) ? reply.map(withoutPrefix) : reply),
        }
      case 'NUMSUB':
        return {
          send: [name, 'NUMSUB', ...rest.map((channel) => channelPrefix + textOf(channel))],
          reply: (reply) =>
            Array.isArray(reply) ? reply.map((item, i) => (i % 2 ? item : withoutPrefix(item))) : reply,
        }
      case 'NUMPAT':
        return { answer: patterns.size }
      default:
        return { send: command }
    }
  }

  function plan(command: Command): Plan {
    const name = textOf(command[0]).toUpperCase()
    const refused = availability(name, command)
    if (refused !== undefined) return { answer: new Failure(refused) }
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
      case 'FLUSHDB': // SYNC, as is the default: a user of Redis can be allowed these words, and scripts the bare one not
      case 'FLUSHALL':
        return { send: ['FLUSHDB', ...(command.length > 1 ? command.slice(1) : ['SYNC'])] }
      case 'ECHO': // the embedded engine has none
        return command.length === 2 ? { answer: Buffer.from(command[1] ?? '') } : { send: command }
      case 'SCAN':
        return { send: scanWithTypes(command) ?? command }
      case 'XADD':
      case 'XTRIM':
        return { send: (trims ? undefined : trimExactly(command)) ?? command }
      case 'CLIENT': // the SDK's `clientSetinfo`; a request has no connection to name
        return { answer: new Status('OK') }
      default:
        return { send: command }
    }
  }

  /** Upstash's words for a command the engine lacks. */
  function reworded(reply: Reply, command: Command): Reply {
    if (!(reply instanceof Failure) || !reply.message.startsWith('ERR unknown command')) return reply
    return new Failure(unavailable(textOf(command[0]).toUpperCase()))
  }

  /** One reply for each plan, out of the replies to those that were sent. */
  function finish(commands: readonly Command[], plans: Plan[], replies: Reply[]): Reply[] {
    let next = 0
    return plans.map((step, i) => {
      if ('answer' in step) return step.answer
      const reply = reworded(replies[next++] ?? null, commands[i] ?? step.send)
      return step.reply ? step.reply(reply) : reply
    })
  }

  function tellMonitors(commands: readonly Command[]): void {
    if (monitors.size === 0) return
    const now = (Date.now() / 1_000).toFixed(6)
    for (const command of commands) {
      const line = `${now} [0 0.0.0.0:0] ${command.map((argument) => JSON.stringify(textOf(argument))).join(' ')}`
      for (const monitor of monitors) monitor(line)
    }
  }

  return {
    /** Whether a token that may only read may run this. */
    isReadOnly: (name: string): boolean => readOnly.has(name.toLowerCase()),

    /** Runs commands in order, one reply each; other requests may come between them. */
    async run(commands: readonly Command[]): Promise<Reply[]> {
      const engine = connection.closed ? await connected() : connection
      tellMonitors(commands)
      const plans = commands.map(plan)
      const replies = await engine.send(sendable(plans))
      return finish(commands, plans, replies)
    },

    /** Runs commands as one transaction: one reply each, or one failure when none was run. */
    async transact(commands: readonly Command[]): Promise<Reply[] | Failure> {
      const engine = connection.closed ? await connected() : connection
      const refused = commands.map((command) => availability(textOf(command[0]).toUpperCase(), command)).find(Boolean)
      if (refused !== undefined) return new Failure(refused)
      tellMonitors(commands)
      const plans = commands.map(plan)
      const sent = sendable(plans)
      const executed = (await engine.send([['MULTI'], ...sent, ['EXEC']])).at(-1)
      if (executed instanceof Failure) return executed
      return finish(commands, plans, Array.isArray(executed) ? executed : [])
    },

    /** Listens to channels, or patterns; `onEvent` gets `['message', 'channel', payload]` and the like. */
    async subscribe(
      kind: 'subscribe' | 'psubscribe',
      names: string[],
      onEvent: (event: Reply[]) => void,
    ): Promise<() => void> {
      const subscriber = await connect(address, database, (push) => {
        if (!Array.isArray(push)) return
        const [type, ...rest] = push
        // a message's last part is its payload, a confirmation's the number of subscriptions
        onEvent([type ?? null, ...rest.slice(0, -1).map(withoutPrefix), rest.at(-1) ?? null])
      })
      subscribers.add(subscriber)
      const listened = kind === 'psubscribe' ? names : []
      for (const name of listened) patterns.set(name, (patterns.get(name) ?? 0) + 1)
      subscriber.post([kind, ...names.map((name) => channelPrefix + name)])
      return () => {
        if (!subscribers.delete(subscriber)) return
        subscriber.close()
        for (const name of listened) {
          const left = (patterns.get(name) ?? 1) - 1
          if (left > 0) patterns.set(name, left)
          else patterns.delete(name)
        }
      }
    },

    /** Tells every command as `MONITOR` words it, made here: the engine's own shows those of all keyspaces. */
    monitor(onLine: (line: string) => void): () => void {
      monitors.add(onLine)
      return () => monitors.delete(onLine)
    },

    close(): void {
      connection.close()
      for (const subscriber of subscribers) subscriber.close()
    },
  }
}
