import type { Redis } from '@upstash/redis/cloudflare'

/** A Lua script with its keys and arguments. */
export interface Script {
  /** Begins with `#!lua flags=allow-key-locking`. `HELD` has the values of the first `reads` keys, false where missing. */
  text: string
  keys: string[]
  /** How many of the first keys are strings to read. Scripts that run together share one `MGET`. */
  reads: number
  args: string[]
}

/**
 * A script that decides whether others may run: it returns a list that begins with 1 (they may), 0 (they must not), or 2: it
 * lacks what decides. Then they run with `UNDECIDED`, and must change nothing but markers of loads.
 */
export type Guard = Script

/**
 * Runs a script together with what its caller adds to it, or calls `alone`, which runs it by itself. Throws when Redis
 * fails, or when a guard of the caller refuses. Where a guard is undecided, the reply is one that asks for a load; the next
 * call then waits for the decision.
 */
export type Evaluate = <T>(script: Script, alone: () => Promise<T>) => Promise<T>

/** Runs a script on `redis`: by `evaluate`, or else alone. */
export function run<T>(redis: Redis, script: Script, evaluate?: Evaluate): Promise<T> {
  const alone = async () => {
    const [reply] = await runAll(redis, [script])
    return reply as T // what the script returns
  }
  return evaluate ? evaluate(script, alone) : alone()
}

/**
 * Runs `guards` in order, and `script` if none refuses, as one script: one command, one round trip, atomic. Returns what
 * each of them returned; a refusal is the last.
 */
export const runGuarded = (redis: Redis, guards: Guard[], script: Script): Promise<unknown[]> =>
  runAll(redis, [...guards, script])

/** Runs scripts as one, until one refuses. Returns what each returned, null for nothing. */
function runAll(redis: Redis, scripts: Script[]): Promise<unknown[]> {
  const [keys, args] = [scripts.flatMap((script) => script.keys), scripts.flatMap((script) => script.args)]
  return redis.eval<string[], unknown[]>(compose(scripts), keys, args)
}

/** Each script becomes a function whose parameters hide the `KEYS` and `ARGV` of the whole. All but the last are guards. */
function compose(scripts: Script[]): string {
  const reads: number[] = []
  let [key, calls] = [0, 0]
  for (const { text, keys, reads: count } of scripts) {
    for (let i = 1; i <= count; i += 1) reads.push(key + i)
    key += keys.length
    calls += callsIn(text)
  }
  const runs = scripts.map(({ text, keys, reads: count, args }, i) => {
    const call = `run(function(KEYS, ARGV, HELD, UNDECIDED)${bodyOf(text)}\nend, ${keys.length}, ${count}, ${args.length})`
    return i < scripts.length - 1 ? `if refuses(${call}) then return replies end` : call
  })
  const isReading = reads.length > 0
  return `#!lua flags=allow-key-locking
-- usually calls ${calls + Number(isReading)}
local keys, args, key, read, arg, replies, undecided = KEYS, ARGV, 0, 0, 0, {}, false
local held = ${isReading ? `redis.call('MGET', ${reads.map((i) => `KEYS[${i}]`).join(', ')})` : '{}'}
local function run(script, keyCount, readCount, argCount)
  local reply = script(
    { unpack(keys, key + 1, key + keyCount) },
    { unpack(args, arg + 1, arg + argCount) },
    { unpack(held, read + 1, read + readCount) },
    undecided
  )
  key, read, arg = key + keyCount, read + readCount, arg + argCount
  replies[#replies + 1] = reply or false
  return reply
end
local function refuses(reply)
  undecided = undecided or reply[1] == 2
  return reply[1] == 0
end
${runs.join('\n')}
return replies`
}

const bodyOf = (text: string) => text.slice(text.indexOf('\n'))

/** The number of calls in each script, by its text. The program has a fixed number of scripts. */
const known = new Map<string, number>()

/**
 * How many commands a script calls: an estimate. Each call in its text counts once, in a loop or not. A script with many
 * branches states `usually calls N` itself.
 */
export function callsIn(text: string): number {
  let calls = known.get(text)
  if (calls === undefined) {
    const [, usually] = /^-- usually calls (\d+)$/m.exec(text) ?? []
    calls = usually === undefined ? text.split('redis.call(').length - 1 : Number(usually)
    known.set(text, calls)
  }
  return calls
}
