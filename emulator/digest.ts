/**
 * `DIGEST`, `SET … IFDEQ`/`IFDNE` and `DELEX … IFDEQ`/`IFDNE` of Redis 8.4, for engines that lack them. A digest is the XXH3
 * (64 bits) of a string's bytes, in hexadecimal. Lua has no 64-bit integers, so the emulator computes it: it reads the value,
 * compares, and writes by a script if the key still has that value. So each command is atomic, but not part of a transaction.
 */
import { createXXHash3 } from 'hash-wasm'
import { keyword } from './commands.ts'
import { type Argument, type Command, Failure, type Reply } from './resp.ts'

/** The digest of a value. */
export type Digest = (value: Buffer) => string

export async function createDigest(): Promise<Digest> {
  const hash = await createXXHash3()
  return (value) => hash.init().update(value).digest()
}

/** KEYS: key. ARGV: `1` and the value that it must have, or `0` and '' for no key; then the command to run. */
const WRITE_IF_HELD = `local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' and held.err then return held end
if (ARGV[1] == '1' and held ~= ARGV[2]) or (ARGV[1] == '0' and held) then return { 0 } end
return { 1, redis.pcall(unpack(ARGV, 3)) }`

/** How often a command looks again when the value changes under it. */
const MAX_ATTEMPTS = 1_000

/** A command that compares a digest. */
export interface DigestCondition {
  key: Argument
  isEqual: boolean
  digest: string
  /** The command without the condition. */
  write: Command
  /** Its reply when the condition does not hold. */
  otherwise: 'nothing' | 'value' | 'zero'
}

const CONDITIONS = new Set(['IFDEQ', 'IFDNE'])

/** The condition of `command`; a failure if it is not valid; undefined if it compares no digest. */
export function digestCondition(command: Command): DigestCondition | Failure | undefined {
  const name = keyword(command, 0)
  if (name !== 'SET' && name !== 'DELEX') return undefined
  const first = name === 'SET' ? 3 : 2
  const index = command.findIndex((_, i) => i >= first && CONDITIONS.has(keyword(command, i)))
  const [, key] = command
  if (index === -1 || key === undefined) return undefined
  const digest = keyword(command, index + 1).toLowerCase()
  const [before, after] = [command.slice(1, index), command.slice(index + 2)]
  if (digest === '' || (name === 'DELEX' && before.length + after.length !== 1)) return new Failure('ERR syntax error')
  if (!/^[\da-f]{16}$/.test(digest)) return new Failure('ERR digest must be exactly 16 hexadecimal characters')
  const hasGet = command.some((_, i) => i >= first && i !== index + 1 && keyword(command, i) === 'GET')
  return {
    key,
    isEqual: keyword(command, index) === 'IFDEQ',
    digest,
    write: [name === 'SET' ? 'SET' : 'DEL', ...before, ...after],
    otherwise: name === 'DELEX' ? 'zero' : hasGet ? 'value' : 'nothing',
  }
}

/** Runs a command with a condition. `send` runs one command of the engine. */
export async function writeIf(
  condition: DigestCondition,
  digestOf: Digest,
  send: (command: Command) => Promise<Reply>,
): Promise<Reply> {
  const { key, isEqual, digest, write, otherwise } = condition
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    const held = await send(['GET', key])
    if (held instanceof Failure) return held
    const value = Buffer.isBuffer(held) ? held : undefined
    // Without a key, IFDEQ does nothing; IFDNE sets the value, and deletes nothing.
    const holds = (value !== undefined && digestOf(value) === digest) === isEqual
    if (!holds) return otherwise === 'zero' ? 0 : otherwise === 'value' ? held : null
    const reply = await send(['EVAL', WRITE_IF_HELD, '1', key, value ? '1' : '0', value ?? '', ...write])
    if (!Array.isArray(reply)) return reply
    if (reply[0] === 1) return reply[1] ?? null
  }
  return new Failure('ERR the value changes too often to compare its digest')
}
