/**
 * Commands and options of Redis 8 that Upstash has and older engines lack. Like the shims, each is one script: atomic. They use
 * `pcall` where the engine may refuse: an error of `call` would contain the script's name.
 */
import { keyword, wrongArity } from './commands.ts'
import { type Argument, type Command, Failure, textOf } from './resp.ts'

/** Whether the engine has a command or a newer option: `XDELEX`, `SET IFEQ`, `BITOP ONE`. */
export type HasCommand = (name: string) => boolean

/** What the engine would say of these commands. */
export const flagsOfNewer: Record<string, string[]> = {
  delex: ['write'],
  digest: ['readonly'],
  hgetdel: ['write'],
  hgetex: ['write'],
  hsetex: ['write', 'denyoom'],
  xackdel: ['write'],
  xdelex: ['write'],
}

const syntaxError = new Failure('ERR syntax error')
/** A script cannot make fields expire: every other command that reads the hash would have to know. */
const noFieldsExpire = new Failure(
  'ERR emulator: fields of hashes expire from Redis 7.4 on, and with the embedded engine',
)
const wrongNumber = (name: string) => new Failure(wrongArity(name.toLowerCase()))
const evaluate = (script: string, keys: Argument[], ...args: Argument[]): Command => [
  'EVAL',
  script,
  String(keys.length),
  ...keys,
  ...args,
]

/** KEYS: key. ARGV: option, the value to compare, then the other arguments of `SET`. */
const SET_IF = `local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' and held.err then return held end
if (held == ARGV[2]) ~= (ARGV[1] == 'IFEQ') then
  for i = 4, #ARGV do if string.upper(ARGV[i]) == 'GET' then return held end end
  return false
end
return redis.pcall('SET', KEYS[1], unpack(ARGV, 3))`

/** KEYS: key. ARGV: option and the value to compare. */
const DELETE_IF = `local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' and held.err then return held end
if held == false or (held == ARGV[2]) ~= (ARGV[1] == 'IFEQ') then return 0 end
return redis.call('DEL', KEYS[1])`

/** KEYS: hash. ARGV: `HDEL`, or how to set the expiry, or ''; the expiry or ''; fields. */
const TAKE_FIELDS = `local fields = { unpack(ARGV, 3) }
local held = redis.pcall('HMGET', KEYS[1], unpack(fields))
if held.err or ARGV[1] == '' then return held end
local args = { KEYS[1] }
if ARGV[1] ~= 'HDEL' then
  if ARGV[2] ~= '' then args[2] = ARGV[2] end
  args[#args + 1] = 'FIELDS'
  args[#args + 1] = #fields
end
for _, field in ipairs(fields) do args[#args + 1] = field end
local done = redis.pcall(ARGV[1], unpack(args))
if type(done) == 'table' and done.err then return done end
return held`

/** KEYS: hash. ARGV: `FNX`, `FXX` or ''; how to set the expiry, or ''; the expiry or ''; fields with values. */
const SET_FIELDS = `local fields = {}
for i = 4, #ARGV, 2 do fields[#fields + 1] = ARGV[i] end
local held = redis.pcall('HMGET', KEYS[1], unpack(fields))
if held.err then return held end
for _, value in ipairs(held) do
  if (ARGV[1] == 'FNX' and value) or (ARGV[1] == 'FXX' and not value) then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
if ARGV[2] ~= '' then
  local args = { KEYS[1], ARGV[3], 'FIELDS', #fields }
  for _, field in ipairs(fields) do args[#args + 1] = field end
  local done = redis.pcall(ARGV[2], unpack(args))
  if type(done) == 'table' and done.err then return done end
end
return 1`

/** KEYS: stream. ARGV: group to acknowledge in, or ''; `KEEPREF`, `DELREF` or `ACKED`; ids. */
const DELETE_ENTRIES = `local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then groups = {} end
local replies = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local entry = redis.pcall('XRANGE', KEYS[1], id, id)
  if entry.err then return entry end
  local isAcknowledged = true
  if ARGV[1] ~= '' then isAcknowledged = redis.pcall('XACK', KEYS[1], ARGV[1], id) == 1 end
  local isHeld = false
  for _, group in ipairs(groups) do
    local name = group[2]
    if ARGV[2] == 'DELREF' then redis.call('XACK', KEYS[1], name, id) end
    if ARGV[2] == 'ACKED' then
      isHeld = isHeld or #redis.call('XPENDING', KEYS[1], name, id, id, 1) > 0
      for field = 1, #group, 2 do
        if group[field] == 'last-delivered-id' then
          local function after(a, b)
            local ams, an = string.match(a, '^(%d+)-(%d+)$')
            local bms, bn = string.match(b, '^(%d+)-(%d+)$')
            ams, bms = tonumber(ams), tonumber(bms)
            return ams > bms or (ams == bms and tonumber(an) > tonumber(bn))
          end
          if entry[1] and after(entry[1][1], group[field + 1]) then isHeld = true end
        end
      end
    end
  end
  if not isAcknowledged or #entry == 0 then
    replies[#replies + 1] = -1
  elseif isHeld then
    replies[#replies + 1] = 2
  else
    redis.call('XDEL', KEYS[1], id)
    replies[#replies + 1] = 1
  end
end
return replies`

/** KEYS: destination, X, Y … ARGV: `DIFF` (X without the Ys), `DIFF1` (the Ys without X), `ANDOR`, or `ONE`. */
const COMBINE_BITS = `local texts, longest = {}, 0
for i = 2, #KEYS do
  local text = redis.pcall('GET', KEYS[i])
  if type(text) == 'table' and text.err then return text end
  texts[i - 1] = text or ''
  longest = math.max(longest, #texts[i - 1])
end
local bytes = {}
for place = 1, longest do
  local first = string.byte(texts[1], place) or 0
  local any, many = 0, 0
  for i = ARGV[1] == 'ONE' and 1 or 2, #texts do
    local byte = string.byte(texts[i], place) or 0
    many = bit.bor(many, bit.band(any, byte))
    any = bit.bor(any, byte)
  end
  local byte
  if ARGV[1] == 'DIFF' then byte = bit.band(first, bit.bnot(any))
  elseif ARGV[1] == 'DIFF1' then byte = bit.band(any, bit.bnot(first))
  elseif ARGV[1] == 'ANDOR' then byte = bit.band(first, any)
  else byte = bit.band(any, bit.bnot(many)) end
  bytes[place] = string.char(bit.band(byte, 255))
end
if longest == 0 then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], table.concat(bytes)) end
return longest`

/** How each option of `HGETEX` and `HSETEX` sets the expiry of fields. */
const EXPIRIES = new Map([
  ['EX', 'HEXPIRE'],
  ['PX', 'HPEXPIRE'],
  ['EXAT', 'HEXPIREAT'],
  ['PXAT', 'HPEXPIREAT'],
])

/** The items of `… FIELDS n item …` from `index`, `perItem` arguments each. */
function itemsFrom(command: Command, index: number, word: string, perItem = 1): Argument[] | Failure {
  const count = Number(textOf(command[index + 1]))
  const items = command.slice(index + 2)
  if (keyword(command, index) !== word) return syntaxError
  if (!Number.isInteger(count) || count < 1) return new Failure('ERR value is not an integer or out of range')
  return items.length === count * perItem ? items : wrongNumber(textOf(command[0]))
}

/** The script that does what `command` does on a newer engine. Undefined: the engine has it. */
export function asScript(command: Command, has: HasCommand): Command | Failure | undefined {
  const name = keyword(command, 0)
  const [, key, ...rest] = command
  if (key === undefined) return name.toLowerCase() in flagsOfNewer && !has(name) ? wrongNumber(name) : undefined
  switch (name) {
    case 'SET': {
      const index = command.findIndex((_, i) => i > 2 && ['IFEQ', 'IFNE'].includes(keyword(command, i)))
      if (index === -1 || has('SET IFEQ')) return undefined
      const [option, compared] = command.slice(index, index + 2)
      if (option === undefined || compared === undefined) return syntaxError
      return evaluate(
        SET_IF,
        [key],
        keyword([option], 0),
        compared,
        ...command.slice(2, index),
        ...command.slice(index + 2),
      )
    }
    case 'DELEX': {
      if (has(name)) return undefined
      const [option, compared] = rest
      if (option === undefined) return ['DEL', key]
      if (compared === undefined || rest.length !== 2) return wrongNumber(name)
      const condition = keyword(command, 2)
      return condition === 'IFEQ' || condition === 'IFNE'
        ? evaluate(DELETE_IF, [key], condition, compared)
        : syntaxError
    }
    case 'HGETDEL': {
      if (has(name)) return undefined
      const fields = itemsFrom(command, 2, 'FIELDS')
      return fields instanceof Failure ? fields : evaluate(TAKE_FIELDS, [key], 'HDEL', '', ...fields)
    }
    case 'HGETEX': {
      if (has(name)) return undefined
      const option = keyword(command, 2)
      const expiry = EXPIRIES.get(option)
      if (expiry && !has(expiry)) return noFieldsExpire
      const fields = itemsFrom(command, expiry ? 4 : option === 'PERSIST' ? 3 : 2, 'FIELDS')
      if (fields instanceof Failure) return fields
      const how = expiry ?? (option === 'PERSIST' ? 'HPERSIST' : '')
      return evaluate(TAKE_FIELDS, [key], how, expiry ? textOf(command[3]) : '', ...fields)
    }
    case 'HSETEX': {
      if (has(name)) return undefined
      let index = 2
      const condition = ['FNX', 'FXX'].includes(keyword(command, index)) ? keyword(command, index++) : ''
      const expiry = EXPIRIES.get(keyword(command, index))
      if (expiry && !has(expiry)) return noFieldsExpire
      const at = expiry ? textOf(command[index + 1]) : ''
      if (expiry) index += 2
      else if (keyword(command, index) === 'KEEPTTL') index += 1
      const items = itemsFrom(command, index, 'FIELDS', 2)
      return items instanceof Failure ? items : evaluate(SET_FIELDS, [key], condition, expiry ?? '', at, ...items)
    }
    case 'XDELEX':
    case 'XACKDEL': {
      if (has(name)) return undefined
      let index = name === 'XACKDEL' ? 3 : 2
      const group = name === 'XACKDEL' ? textOf(command[2]) : ''
      const references = ['KEEPREF', 'DELREF', 'ACKED'].includes(keyword(command, index))
        ? keyword(command, index++)
        : 'KEEPREF'
      const ids = itemsFrom(command, index, 'IDS')
      return ids instanceof Failure ? ids : evaluate(DELETE_ENTRIES, [key], group, references, ...ids)
    }
    case 'BITOP': {
      const operation = keyword(command, 1)
      if (!['DIFF', 'DIFF1', 'ANDOR', 'ONE'].includes(operation) || has('BITOP ONE')) return undefined
      if (rest.length < (operation === 'ONE' ? 2 : 3)) return wrongNumber(name)
      return evaluate(COMBINE_BITS, rest, operation)
    }
    default:
      return undefined
  }
}
