/** What Redis refuses, or accepts in any order, and the embedded engine does not. */
import { findOption, keyword } from './commands.ts'
import { type Command, Failure, textOf } from './resp.ts'

/** `proto-max-bulk-len`. */
const MAX_STRING_BYTES = 512 * 1_024 * 1_024

const CLAIM_OPTIONS = { JUSTID: 0 }
const READ_OPTIONS = { COUNT: 1, BLOCK: 1, NOACK: 0, CLAIM: 1 }

/** The command as the embedded engine can run it, or the failure of Redis where the engine would accept it. */
export function asRedisReads(command: Command): Command | Failure {
  switch (keyword(command, 0)) {
    case 'SETRANGE': {
      const bytes = Number(textOf(command[2])) + Buffer.byteLength(command[3] ?? '')
      if (!(bytes > MAX_STRING_BYTES) || command.length !== 4) return command
      return new Failure('ERR string exceeds maximum allowed size (proto-max-bulk-len)')
    }
    case 'XRANGE':
    case 'XREVRANGE': // an end of the stream cannot be excluded
      return [2, 3].some((index) => ['(-', '(+'].includes(textOf(command[index])))
        ? new Failure('ERR Invalid stream ID specified as stream command argument')
        : command
    case 'XAUTOCLAIM': {
      const index = findOption(command, 'COUNT', 6, CLAIM_OPTIONS)
      return index !== -1 && /^-?0*$|^-\d+$/.test(textOf(command[index + 1])) && index + 1 < command.length
        ? new Failure('ERR COUNT must be > 0')
        : command
    }
    case 'XREADGROUP': {
      // The engine wants GROUP first.
      const index = findOption(command, 'GROUP', 1, READ_OPTIONS)
      if (index <= 1 || index + 2 >= command.length) return command
      const [name, ...rest] = command
      return [name, ...command.slice(index, index + 3), ...rest.slice(0, index - 1), ...command.slice(index + 3)]
    }
    default:
      return command
  }
}
