/** Which commands Upstash's REST API refuses, in its words. */
import type { Command } from './resp.ts'

/** Need a connection of their own, or have a path of their own. */
const connectionBound = new Set(
  `AUTH HELLO RESET QUIT SELECT MULTI EXEC DISCARD WATCH UNWATCH CLIENT MONITOR ASKING READONLY READWRITE
  SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE
  BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF`.split(/\s+/),
)

/** Not offered at all; several would reach beyond the token's keyspace. */
const absent = new Set(
  `CONFIG DEBUG SHUTDOWN SLOWLOG LATENCY OBJECT CLUSTER MODULE MOVE SWAPDB MIGRATE REPLICAOF SLAVEOF FAILOVER ROLE
  SYNC PSYNC REPLCONF SAVE BGSAVE BGREWRITEAOF LASTSAVE LOLWUT PFDEBUG PFSELFTEST SORT SORT_RO SPUBLISH ACL`.split(
    /\s+/,
  ),
)

export function unavailable(name: string): string {
  return `ERR Command is not available: '${name}'. See https://upstash.com/docs/redis/overall/rediscompatibility for details`
}

/** The argument of `command` at `index`, in capitals. */
const word = (command: Command, index: number): string => String(command[index] ?? '').toUpperCase()

/** The error with which a command is refused before the engine sees it; `name` is in capitals. */
export function availability(name: string, command: Command): string | undefined {
  const notOverRest = `ERR Command "${name}" is not allowed in REST or it has a special context path`
  if (name === 'CLIENT' && word(command, 1) === 'SETINFO') return undefined // of no use, but the SDK can send it
  if (connectionBound.has(name)) return notOverRest
  if (absent.has(name)) return unavailable(name)
  switch (name) {
    case 'MEMORY': // STATS, DOCTOR and the like tell of the whole server
      return word(command, 1) === 'USAGE' ? undefined : unavailable(`MEMORY ${word(command, 1)}`.trim())
    case 'PUBSUB':
      return word(command, 1).startsWith('SHARD') ? unavailable(`PUBSUB ${word(command, 1)}`) : undefined
    case 'SCRIPT':
      return ['DEBUG', 'KILL'].includes(word(command, 1)) ? unavailable(`SCRIPT ${word(command, 1)}`) : undefined
    case 'XREAD': // XREAD [COUNT n] [BLOCK ms] STREAMS …
      return word(command, 1) === 'BLOCK' || word(command, 3) === 'BLOCK' ? notOverRest : undefined
    case 'XREADGROUP': // XREADGROUP GROUP g consumer [COUNT n] [BLOCK ms] STREAMS …
      return word(command, 4) === 'BLOCK' || word(command, 6) === 'BLOCK' ? notOverRest : undefined
    case 'COPY': // … DB n reaches another token's keyspace
      return command.slice(3).some((_, i) => word(command, i + 3) === 'DB') ? 'ERR syntax error' : undefined
    default:
      return undefined
  }
}
