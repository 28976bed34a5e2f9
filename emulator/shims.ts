/**
 * Commands that Upstash has and an engine lacks, built from commands the engine has. Each becomes one script: it stays
 * atomic. The scripts use `pcall`: an error of `call` would contain the script's name.
 */
import { findOption, keyword } from './commands.ts'
import { type Command, Failure, textOf } from './resp.ts'

const scanAndType = `local page = redis.pcall('SCAN', unpack(ARGV))
if page.err then return page end
local pairs = {}
for _, key in ipairs(page[2]) do
  pairs[#pairs + 1] = key
  pairs[#pairs + 1] = redis.call('TYPE', key).ok
end
return { page[1], pairs }`

/** `SCAN … WITHTYPE`: each key is followed by its type. Undefined without that option. */
export function scanWithTypes(command: Command): Command | undefined {
  const index = findOption(command, 'WITHTYPE', 2, { MATCH: 1, COUNT: 1, TYPE: 1 })
  if (index === -1) return undefined
  return ['EVAL', scanAndType, '0', ...command.slice(1, index), ...command.slice(index + 1)]
}

const addAndTrim = `local id = redis.pcall('XADD', KEYS[1], unpack(ARGV, 3))
if type(id) == 'string' then redis.call('XTRIM', KEYS[1], ARGV[1], ARGV[2]) end
return id`

/**
 * `XADD` and `XTRIM` for an engine whose `XADD` does not trim and whose `XTRIM` knows no `=` and ignores `~`. Trims
 * exactly. A failure if a trimming option is not valid, because the script must not write then. Undefined if the engine
 * can run the command.
 */
export function trimExactly(command: Command): Command | Failure | undefined {
  const isAdd = keyword(command, 0) === 'XADD'
  const [name, key] = command
  if (key === undefined || command.length < (isAdd ? 5 : 4)) return undefined // the engine reports it
  const options: string[] = []
  let trim: [strategy: string, threshold: string] | undefined
  let isApproximate = false
  let hasLimit = false
  let index = 2
  for (; index < command.length; index++) {
    const option = keyword(command, index)
    const hasValue = index + 1 < command.length
    if ((option === 'MAXLEN' || option === 'MINID') && hasValue) {
      if (trim) return syntaxError('MAXLEN and MINID options at the same time are not compatible')
      const operator = index + 2 < command.length ? textOf(command[index + 1]) : ''
      isApproximate = operator === '~'
      if (isApproximate || operator === '=') index++
      trim = [option, textOf(command[++index])]
      const invalid = option === 'MINID' ? streamIdError(trim[1]) : countError(option, trim[1])
      if (invalid) return invalid
    } else if (option === 'LIMIT' && hasValue) {
      const invalid = countError(option, textOf(command[++index]))
      if (invalid) return invalid
      hasLimit = true
    } else if (option === 'NOMKSTREAM' && isAdd) {
      options.push(option)
    } else {
      break
    }
  }
  if (!isAdd && index < command.length) return new Failure('ERR syntax error')
  if (hasLimit && !trim) return syntaxError('LIMIT cannot be used without specifying a trimming strategy')
  if (hasLimit && !isApproximate) return syntaxError('LIMIT cannot be used without the special ~ option')
  if (!trim) return undefined
  if (!isAdd) return [name, key, ...trim]
  return ['EVAL', addAndTrim, '1', key, ...trim, ...options, ...command.slice(index)]
}

const syntaxError = (detail: string): Failure => new Failure(`ERR syntax error, ${detail}`)

function countError(option: string, text: string): Failure | undefined {
  if (!/^(0|-?[1-9]\d*)$/.test(text) || BigInt.asIntN(64, BigInt(text)) !== BigInt(text))
    return new Failure('ERR value is not an integer or out of range')
  return text.startsWith('-') ? new Failure(`ERR The ${option} argument must be >= 0.`) : undefined
}

function streamIdError(text: string): Failure | undefined {
  const parts = /^(\d+)(?:-(\d+))?$/.exec(text)
  const isValid = parts
    ?.slice(1)
    .every((part) => part === undefined || BigInt.asUintN(64, BigInt(part)) === BigInt(part))
  return isValid ? undefined : new Failure('ERR Invalid stream ID specified as stream command argument')
}
