import { isOwnKey, patternOf } from '../keys.ts'

/** Commands all of whose arguments are keys, and those that name none. */
const ALL_KEYS = new Set(['MGET', 'DEL', 'UNLINK', 'EXISTS', 'TOUCH', 'PFCOUNT'])
const NO_KEYS = new Set([
  'PING',
  'INFO',
  'DBSIZE',
  'SCAN',
  'SCRIPT',
  'PUBLISH',
  'MEMORY',
  'MULTI',
  'EXEC',
  'XREAD',
  'SUBSCRIBE',
])
const SCRIPTS = new Set(['EVAL', 'EVALSHA', 'EVAL_RO', 'EVALSHA_RO'])

const nameOf = (command: unknown[]) => String(command[0]).toUpperCase()

/** The keys a command names. */
export function keysOf(command: unknown[]): string[] {
  const name = nameOf(command)
  if (NO_KEYS.has(name)) return []
  if (SCRIPTS.has(name)) return command.slice(3, 3 + Number(command[2])).map(String)
  return command.slice(1, ALL_KEYS.has(name) ? undefined : 2).map(String)
}

const MOST_COMMANDS = 5
const MOST_PATTERNS = 4

/** Commands as they may be shown: their names and the patterns of their keys, no argument beyond. At most 5. */
export function patternsOf(commands: unknown[][]): string[] {
  const told = commands.map((command) => {
    const patterns = [...new Set(keysOf(command).map(patternOf))]
    return [nameOf(command), ...patterns.slice(0, MOST_PATTERNS)].join(' ')
  })
  return [...new Set(told)].slice(0, MOST_COMMANDS)
}

/** Keys that name an address, a session or what somebody typed are shown by their pattern alone. */
const PRIVATE = /^(limit|session|username|lock|fence|open-streams):/

/** A key as it may be shown; undefined for those of monitoring itself. */
export function shownKey(key: string): string | undefined {
  if (key.startsWith('stats:')) return undefined
  return PRIVATE.test(key) || !isOwnKey(key) ? patternOf(key) : key
}
