/** Which commands the emulator refuses before the engine gets them, with Upstash's error texts. */
import { type Command, textOf } from './resp.ts'

/** These need a connection of their own, block it, or have a path of their own. */
const connectionBound = new Set(
  `AUTH HELLO RESET QUIT SELECT MULTI EXEC DISCARD WATCH UNWATCH CLIENT MONITOR ASKING READONLY READWRITE
  SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE
  BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF`.split(/\s+/),
)

/** Upstash does not offer these. Several would reach other keyspaces. */
const absent = new Set(
  `CONFIG DEBUG SHUTDOWN SLOWLOG LATENCY OBJECT CLUSTER MODULE MOVE SWAPDB MIGRATE REPLICAOF SLAVEOF FAILOVER ROLE
  SYNC PSYNC REPLCONF SAVE BGSAVE BGREWRITEAOF LASTSAVE LOLWUT PFDEBUG PFSELFTEST SORT SORT_RO SPUBLISH ACL
  RESTORE-ASKING`.split(/\s+/),
)

/** The error text for a command that does not exist. */
export function unavailable(name: string): string {
  return `ERR Command is not available: '${name}'. See https://upstash.com/docs/redis/overall/rediscompatibility for details`
}

/** The argument of `command` at `index` in upper case; empty if there is none. */
export const keyword = (command: Command, index: number): string => textOf(command[index]).toUpperCase()

/**
 * The index of the option `wanted`, or -1. Options begin at `start`; `values` states how many values follow each other
 * option. Any other word ends the options, so a key, pattern or group named like an option is not mistaken for it.
 */
export function findOption(command: Command, wanted: string, start: number, values: Record<string, number>): number {
  for (let index = start; index < command.length;) {
    const option = keyword(command, index)
    if (option === wanted) return index
    const count = values[option]
    if (count === undefined) return -1
    index += 1 + count
  }
  return -1
}

const readOptions = { GROUP: 2, COUNT: 1, NOACK: 0, CLAIM: 1 }

export const wrongArity = (name: string): string => `ERR wrong number of arguments for '${name}' command`

/** The error text with which the emulator refuses `command`, if it does. `name` is the command's name in upper case. */
export function commandError(name: string, command: Command): string | undefined {
  const notOverRest = `ERR Command "${name}" is not allowed in REST or it has a special context path`
  const subcommand = keyword(command, 1)
  if (name === 'CLIENT' && subcommand === 'SETINFO') {
    if (command.length !== 4) return wrongArity('client|setinfo')
    return ['LIB-NAME', 'LIB-VER'].includes(keyword(command, 2))
      ? undefined
      : `ERR Unrecognized option '${textOf(command[2])}'`
  }
  if (connectionBound.has(name)) return notOverRest
  if (absent.has(name)) return unavailable(name)
  switch (name) {
    case 'ECHO': // answered without the engine
      return command.length === 2 ? undefined : wrongArity('echo')
    case 'MEMORY': // STATS, DOCTOR and the like describe the whole engine
      return subcommand === 'USAGE' ? undefined : unavailable(`MEMORY ${subcommand}`.trim())
    case 'PUBSUB':
      return subcommand.startsWith('SHARD') ? unavailable(`PUBSUB ${subcommand}`) : undefined
    case 'SCRIPT':
      return ['DEBUG', 'KILL'].includes(subcommand) ? unavailable(`SCRIPT ${subcommand}`) : undefined
    case 'XREAD':
    case 'XREADGROUP':
      return findOption(command, 'BLOCK', 1, readOptions) === -1 ? undefined : notOverRest
    case 'COPY': {
      // another database would be another keyspace
      const index = findOption(command, 'DB', 3, { REPLACE: 0 })
      return index === -1 || textOf(command[index + 1]) === '0' ? undefined : 'ERR DB index is out of range'
    }
    default:
      return undefined
  }
}

/** `COPY` without `DB 0`. */
export function withoutDatabase(command: Command): Command {
  const index = findOption(command, 'DB', 3, { REPLACE: 0 })
  const [name, ...rest] = command
  return index === -1 ? command : [name, ...rest.slice(0, index - 1), ...rest.slice(index + 1)]
}
