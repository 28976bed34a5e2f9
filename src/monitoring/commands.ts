import { isOwnKey, patternOf } from '../keys.ts'

/** Commands whose arguments are all keys, and commands without keys. */
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

/** The keys of a command. */
export function keysOf(command: unknown[]): string[] {
  const name = nameOf(command)
  if (NO_KEYS.has(name)) return []
  if (SCRIPTS.has(name)) return command.slice(3, 3 + Number(command[2])).map(String)
  return command.slice(1, ALL_KEYS.has(name) ? undefined : 2).map(String)
}

const MAX_COMMANDS = 5
const MAX_PATTERNS = 4

/** Commands as the dashboard shows them: names and key patterns, no other arguments. At most 5. */
export function patternsOf(commands: unknown[][]): string[] {
  const shown = commands.map((command) => {
    const patterns = [...new Set(keysOf(command).map(patternOf))]
    return [nameOf(command), ...patterns.slice(0, MAX_PATTERNS)].join(' ')
  })
  return [...new Set(shown)].slice(0, MAX_COMMANDS)
}

/** Keys that contain an address, a session or user input. The dashboard shows only their pattern. */
const PRIVATE = /^(limit|session|username|lock|fence|open-streams):/

/** A key as the dashboard shows it. Undefined for keys of monitoring. */
export function shownKey(key: string): string | undefined {
  if (key.startsWith('stats:')) return undefined
  return PRIVATE.test(key) || !isOwnKey(key) ? patternOf(key) : key
}
