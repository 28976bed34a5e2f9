/** What Upstash has and an engine has not, made of what the engine has; each is one script, so it stays atomic. */
import type { Command } from './resp.ts'

const scanAndType = `local page = redis.call('SCAN', unpack(ARGV))
local pairs = {}
for _, key in ipairs(page[2]) do
  pairs[#pairs + 1] = key
  pairs[#pairs + 1] = redis.call('TYPE', key).ok
end
return { page[1], pairs }`

/** `SCAN … WITHTYPE`, which no Redis has: each key is followed by its type. Undefined without that option. */
export function scanWithTypes(command: Command): Command | undefined {
  const args = command.slice(1)
  const index = args.findIndex((argument) => String(argument).toUpperCase() === 'WITHTYPE')
  return index === -1 ? undefined : ['EVAL', scanAndType, '0', ...args.toSpliced(index, 1)]
}

const addAndTrim = `local id = redis.call('XADD', KEYS[1], unpack(ARGV, 3))
if id then redis.call('XTRIM', KEYS[1], ARGV[1], ARGV[2]) end
return id`

/**
 * `XADD` and `XTRIM` for an engine whose `XADD` does not trim and whose `XTRIM` takes neither `=` nor trims at `~`: what
 * is to be trimmed, is, exactly. Undefined for any other command, and for an `XADD` that does not trim.
 */
export function trimExactly(command: Command): Command | undefined {
  const [name, key, ...args] = command
  const word = (index: number): string => String(args[index] ?? '').toUpperCase()
  const start = word(0) === 'NOMKSTREAM' ? 1 : 0
  if (key === undefined || (word(start) !== 'MAXLEN' && word(start) !== 'MINID')) return undefined
  const threshold = ['=', '~'].includes(word(start + 1)) ? start + 2 : start + 1
  const end = threshold + (word(threshold + 1) === 'LIMIT' ? 3 : 1)
  const trim = [word(start), String(args[threshold] ?? '')]
  if (String(name).toUpperCase() === 'XTRIM') return [name, key, ...trim]
  return ['EVAL', addAndTrim, '1', key, ...trim, ...args.slice(0, start), ...args.slice(end)]
}
