import type { Redis } from '@upstash/redis/cloudflare'
import { service } from '../service.ts'
import type { InferOutput } from 'valibot'
import { keys, patternOf } from '../keys.ts'
import { shownKey } from './commands.ts'
import type * as schema from './schema.ts'

type Answer = InferOutput<typeof schema.Stats>

/** A key and its size. */
interface MeasuredKey {
  key: string
  type: string
  ttlSeconds: number | null
  sizeBytes: number | null
  length: number | null
  /** Unix ms. */
  seenAt: number
}

interface Weighed {
  key: string
  sizeBytes: number | null
  /** For comparison with other keys. */
  weight: number
}

/** The number of keys and their bytes, by pattern. */
type Patterns = Record<string, [keys: number, sizeBytes: number]>

interface Walk {
  /** The cursor of the next page. Null: the walk has read the last page. */
  cursor: string | null
  /** Keys of the last page that exceeded the budget. */
  rest: string[]
  startedAt: number
  scanned: number
  big: MeasuredKey[]
  patterns: Patterns
}

interface State {
  walk: Walk
  /** Whether the server has `MEMORY USAGE`. Null: unknown. */
  hasMemory: boolean | null
  /** The result of the last complete walk. */
  whole: { completedAt: number; big: MeasuredKey[]; patterns: Patterns } | null
  /** The most used keys with their sizes, by key. */
  looked: Record<string, MeasuredKey>
}

const KEEP_MS = 30 * 86_400_000
const BIG_KEYS = 20
const PATTERNS = 20
/** How many of the most used keys one tick measures, and for how long the result is valid. */
const LOOKED_UP = 5
const LOOKED_UP_MS = 600_000
/** `COUNT` of `SCAN`: one page takes well below a millisecond of the server. */
const PAGE = 100

/** The command that returns the length of a value: elements, or bytes of a string. */
const LENGTH: Record<string, string> = {
  string: 'STRLEN',
  list: 'LLEN',
  set: 'SCARD',
  zset: 'ZCARD',
  hash: 'HLEN',
  stream: 'XLEN',
}

/** The assumed bytes of an element, where the server has no `MEMORY USAGE`. */
const ELEMENT_BYTES = 64
const weightOf = ({ sizeBytes, length, type }: Pick<MeasuredKey, 'sizeBytes' | 'length' | 'type'>) =>
  sizeBytes ?? (length ?? 0) * (type === 'string' ? 1 : ELEMENT_BYTES)
const heaviest = (found: MeasuredKey[]) => found.sort((a, b) => weightOf(b) - weightOf(a)).slice(0, BIG_KEYS)

const toBigKey = (found: MeasuredKey): Answer['bigKeys'][number] => ({
  ...found,
  seenAt: new Date(found.seenAt).toISOString(),
})

const newWalk = (now: number): Walk => ({ cursor: '0', rest: [], startedAt: now, scanned: 0, big: [], patterns: {} })

/** How many commands `lookUp` sends per key. */
const LOOK_UP_COMMANDS = 3

export type Scan = ReturnType<typeof createScan>
export const scanService = service<Scan>('scan')

/**
 * Walks over all keys in small steps, for the cron. It never blocks the server, resumes where it stopped, and starts again
 * at the end. One tick costs at most `budget` commands: one per key (two without `MEMORY USAGE`), and three more for keys
 * among the largest.
 *
 * Redis type: a string of JSON. A walk visits every key that exists during the whole walk (`SCAN`). Sizes are those at the
 * visit. Redis errors are thrown.
 */
export function createScan(redis: Redis, budget: number) {
  // Not in a pipeline: an error of one command must not fail the others. They travel in one request anyway.
  const ask = <T>(...command: [string, ...string[]]) => redis.exec<T>(command)
  const askAll = <T>(names: string[], ...command: [string, ...string[]]) =>
    Promise.all(names.map((key) => ask<T>(...command, key)))

  const read = () => redis.get<State>(keys.statsScan)

  /** Types and lengths, two commands each. */
  async function lengthsOf(names: string[]): Promise<{ type: string; length: number | null }[]> {
    const types = await askAll<string>(names, 'TYPE')
    return Promise.all(
      names.map(async (key, i) => {
        const type = types[i] ?? 'none'
        const command = LENGTH[type]
        // The type may have changed since.
        const length = command === undefined ? null : await ask<number>(command, key).catch(() => null)
        return { type, length }
      }),
    )
  }

  const costOf = (state: State) => (state.hasMemory === null ? 3 : state.hasMemory ? 1 : 2)

  /** Measures keys. Omits keys that no longer exist. */
  async function weigh(state: State, names: string[]): Promise<Weighed[]> {
    if (names.length === 0) return []
    if (state.hasMemory !== false) {
      const sizes = await askAll<number | null>(names, 'MEMORY', 'USAGE').catch((error: unknown) => {
        if (!(error instanceof Error && error.name === 'UpstashError')) throw error
        return undefined // the server does not have the command
      })
      state.hasMemory = sizes !== undefined
      if (sizes) return names.flatMap((key, i) => (sizes[i] ? [{ key, sizeBytes: sizes[i], weight: sizes[i] }] : []))
    }
    const found = await lengthsOf(names)
    return names.flatMap((key, i) => {
      const { type = 'none', length = null } = found[i] ?? {}
      return type === 'none' ? [] : [{ key, sizeBytes: null, weight: weightOf({ type, length, sizeBytes: null }) }]
    })
  }

  async function lookUp(weighed: Weighed[], now: number): Promise<MeasuredKey[]> {
    const names = weighed.map(({ key }) => key)
    const [ttls, lengths] = await Promise.all([askAll<number>(names, 'PTTL'), lengthsOf(names)])
    return weighed.flatMap(({ key, sizeBytes }, i) => {
      const { type = 'none', length = null } = lengths[i] ?? {}
      const ttlMs = ttls[i] ?? -1
      const ttlSeconds = ttlMs < 0 ? null : Math.round(ttlMs / 1_000)
      return type === 'none' ? [] : [{ key, type, ttlSeconds, sizeBytes, length, seenAt: now }]
    })
  }

  /** Continues a walk, with at most `commands`. */
  async function continueWalk(state: State, commands: number, now: number): Promise<void> {
    const { walk } = state
    const perKey = costOf(state)
    const most = (left: number) => Math.max(0, Math.floor((left * 3) / 4 / perKey)) // the rest of the budget is for large keys
    let left = commands
    const names = walk.rest
    while (walk.cursor !== null && names.length < most(left - 1)) {
      const [cursor, page] = await redis.scan(walk.cursor, { count: PAGE })
      left -= 1
      walk.cursor = cursor === '0' ? null : cursor
      names.push(...page.map(String))
    }
    const share = names.slice(0, most(left))
    walk.rest = names.slice(share.length)
    const weighed = await weigh(state, share)
    left -= share.length * perKey
    walk.scanned += weighed.length
    for (const { key, sizeBytes } of weighed) {
      const sums = (walk.patterns[patternOf(key)] ??= [0, 0])
      sums[0] += 1
      sums[1] += sizeBytes ?? 0
    }

    const least = walk.big.length < BIG_KEYS ? 0 : Math.min(...walk.big.map(weightOf))
    const large = weighed
      .filter(({ key, weight }) => weight > least && shownKey(key) !== undefined)
      .sort((a, b) => b.weight - a.weight)
      .slice(0, Math.max(0, Math.floor(left / LOOK_UP_COMMANDS)))
    const found = await lookUp(large, now)
    for (const each of found) each.key = shownKey(each.key) ?? '' // the filter above requires one
    walk.big = heaviest([...walk.big, ...found])
    if (walk.cursor !== null || walk.rest.length > 0) return
    state.whole = { completedAt: now, big: walk.big, patterns: walk.patterns }
    state.walk = newWalk(now)
  }

  return {
    /** The state after the last tick. One command. */
    read,

    /** Does one step of the walk. Also measures `asked`, the most used keys. Safe to repeat: it does the next step. */
    async tick(asked: string[], now = Date.now()): Promise<void> {
      if (budget === 0) return
      const state = (await read()) ?? { walk: newWalk(now), hasMemory: null, whole: null, looked: {} }
      const perKey = costOf(state) + LOOK_UP_COMMANDS
      const isDue = (key: string) => !key.includes('*') && (state.looked[key]?.seenAt ?? -Infinity) < now - LOOKED_UP_MS
      const due = asked.filter(isDue).slice(0, Math.min(LOOKED_UP, Math.floor(budget / 4 / perKey)))
      const looked = await lookUp(await weigh(state, due), now)
      const kept = asked.flatMap((key) => state.looked[key] ?? [])
      state.looked = Object.fromEntries([...kept, ...looked].map((found) => [found.key, found]))
      await continueWalk(state, budget - 2 - due.length * perKey, now) // two commands: for the state
      await redis.set(keys.statsScan, state, { px: KEEP_MS })
    },

    /** The figures of a key that commands used `asked` times. */
    figuresOf(state: State | null | undefined, key: string, asked: number): Answer['topKeys'][number] {
      const { type = null, ttlSeconds = null, sizeBytes = null, length = null } = state?.looked[key] ?? {}
      return { key, type, ttlSeconds, sizeBytes, length, asked }
    },

    /** The largest keys of the last complete walk and of the current one. */
    bigKeys(state: State | null | undefined): Answer['bigKeys'] {
      const latest = new Map<string, MeasuredKey>()
      for (const found of [...(state?.whole?.big ?? []), ...(state?.walk.big ?? [])]) {
        const other = latest.get(found.key)
        if (!other || other.seenAt < found.seenAt) latest.set(found.key, found)
      }
      return heaviest([...latest.values()]).map(toBigKey)
    },

    progress({ walk, whole, hasMemory }: State): NonNullable<Answer['scan']> {
      const patterns = Object.entries(whole?.patterns ?? walk.patterns)
        .map(([pattern, [count, sizeBytes]]) => ({ pattern, keys: count, sizeBytes: hasMemory ? sizeBytes : null }))
        .sort((a, b) => b.keys - a.keys || (a.pattern < b.pattern ? -1 : 1))
        .slice(0, PATTERNS)
      return {
        scannedKeys: walk.scanned,
        startedAt: new Date(walk.startedAt).toISOString(),
        completedAt: whole ? new Date(whole.completedAt).toISOString() : null,
        patterns,
      }
    },
  }
}
