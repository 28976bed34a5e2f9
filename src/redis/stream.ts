import type { Redis } from '@upstash/redis/cloudflare'
import type { Subscribe } from './subscription.ts'

/** What was appended, under the id that Redis gave it: `<ms>-<number>`. */
export interface Entry<T> {
  id: string
  value: T
}

/** What is published of an append: the entries, and the id of the one before them. */
interface Told<T> {
  after: string
  entries: Entry<T>[]
}

/** Where a reader begins. */
export interface Start<T> {
  /** The last entry there was, or that the reader has. `0-0`: there was none. */
  position: string
  /** The first that it missed. */
  missed: Entry<T>[]
  /** False: it missed some that are not kept any more, and begins anew. */
  isComplete: boolean
}

export interface StreamDependencies {
  redis: Redis
  /** The same, more patient: for what is appended. */
  writes: Redis
  subscribe: Subscribe
}

export interface StreamKeys {
  streamLog: string
  streamTold: string
  streamChannel: string
}

export interface StreamPolicy {
  /** How many entries are kept. */
  maxEntries: number
  /** How long after the last. */
  ttlMs: number
}

/** Before every entry. */
const BEGINNING = '0-0'
/** How many entries are read at once. */
const PAGE = 100
/** About how many UTF-16 units go to Redis in one request, which takes 1 MB on every plan. */
const MAX_REQUEST = 256_000

/**
 * KEYS: log, told. ARGV: now, entries at most, TTL (ms), then name and value of each. Answers the id of the last entry
 * before, then of each its id, or '' for what is known already. Redis does not run two at once: they are neighbours.
 */
const APPEND = `#!lua flags=allow-key-locking
local names = {}
for i = 4, #ARGV, 2 do names[#names + 1] = ARGV[i] end
local known = redis.call('ZMSCORE', KEYS[2], unpack(names))
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local answer = { last and last[1] or '${BEGINNING}' }
local added = {}
for i, name in ipairs(names) do
  if known[i] then
    answer[i + 1] = ''
  else
    answer[i + 1] = redis.call('XADD', KEYS[1], '*', 'e', ARGV[3 + 2 * i])
    added[#added + 1] = ARGV[1]
    added[#added + 1] = name
  end
end
if #added == 0 then return answer end
redis.call('ZADD', KEYS[2], unpack(added))
redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return answer`

export type Stream<T> = ReturnType<typeof createStream<T>>

/**
 * A log that is kept for a while and can be followed: what is appended reaches every follower once, in the same order,
 * without a gap.
 *
 * Redis types: a Stream, capped; a sorted set of the names of what is in it, so that a name is appended once; a pub/sub
 * channel. What is published says which entry came before it: a follower that has not seen that one, because messages
 * overtook each other or were lost, reads what lies between.
 *
 * Appending: two round trips, n + 9 commands for n entries (those of the script included), however many follow. Following: nothing, but for gaps and a
 * look now and then. Redis errors are thrown; `follow` ends with the subscription.
 */
export function createStream<T>(
  { redis, writes, subscribe }: StreamDependencies,
  { streamLog, streamTold, streamChannel }: StreamKeys,
  { maxEntries, ttlMs }: StreamPolicy,
) {
  async function range(from: string, to: string, count: number): Promise<Entry<T>[]> {
    const found = await redis.xrange<{ e: T }>(streamLog, from, to, count)
    return Object.entries(found).map(([id, { e }]) => ({ id, value: e }))
  }

  const after = (id: string, to = '+') => range(`(${id}`, to, PAGE)

  async function appendPart(items: Item<T>[], now: number): Promise<void> {
    const [previous = BEGINNING, ...ids] = await writes.eval<string[], string[]>(
      APPEND,
      [streamLog, streamTold],
      [now, maxEntries, ttlMs].map(String).concat(items.flatMap(({ name, json }) => [name, json])),
    )
    const entries = items.flatMap(({ value }, i) => (ids[i] ? [{ id: ids[i], value }] : []))
    if (entries.length === 0) return
    const told: Told<T> = { after: previous, entries }
    await writes.publish(streamChannel, JSON.stringify(told)) // of a script's own nobody on the emulator would hear
  }

  return {
    /** Appends each of `items` that is not there yet by its name, in order, and tells those who follow. Safe twice. */
    async append(items: { name: string; value: T }[], now = Date.now()): Promise<void> {
      const sized = items.map((item) => ({ ...item, json: JSON.stringify(item.value) }))
      for (const part of partsOf(sized, ({ json }) => json.length)) await appendPart(part, now)
    },

    /** Listens, from now on. What is published waits until `follow` takes it. */
    subscribe: (signal: AbortSignal) => subscribe(streamChannel, signal),

    /**
     * Where a follower begins who has seen `seen` last, or nothing yet. To be asked once it listens. One round trip, of
     * one command, or three or four.
     */
    async read(seen: string | undefined): Promise<Start<T>> {
      const [latest, oldest, missed, length] = await Promise.all([
        redis.xrevrange(streamLog, '+', '-', 1),
        seen === undefined ? [] : range('-', '+', 1),
        seen === undefined ? [] : after(seen),
        seen === BEGINNING ? redis.xlen(streamLog) : 0,
      ])
      const position = Object.keys(latest)[0] ?? BEGINNING
      if (seen === undefined) return { position, missed: [], isComplete: true }
      const [first] = oldest
      const isComplete =
        seen === BEGINNING
          ? length < maxEntries // nothing was trimmed
          : first !== undefined && !isAfter(first.id, seen) && !isAfter(seen, position)
      return isComplete ? { position: seen, missed, isComplete } : { position, missed: [], isComplete }
    },

    /**
     * What comes after `start`, in order, until `told` is over. Every `everyMs` it looks for what it was not told of: one
     * command; `alongside` is asked in the same round trip, and ends it by answering false.
     */
    async *follow(
      start: Start<T>,
      told: AsyncIterator<string, void>,
      { everyMs, alongside }: { everyMs: number; alongside: () => Promise<boolean> },
    ): AsyncGenerator<Entry<T>[], void> {
      let { position } = start
      /** Takes those of `page` that are new. */
      function take(page: Entry<T>[]): Entry<T>[] {
        const fresh = page.filter(({ id }) => isAfter(id, position))
        position = fresh.at(-1)?.id ?? position
        return fresh
      }
      /** What there is after the position, after `page` of it, which was read already. */
      async function* missed(page: Entry<T>[], until = '+') {
        for (let next = page; next.length > 0; next = next.length < PAGE ? [] : await after(position, until)) {
          yield take(next)
        }
      }

      yield* missed(start.missed)
      let lookAt = Date.now() + everyMs
      let next = told.next()
      for (;;) {
        const isDue = Date.now() >= lookAt // also when there is always a message
        const message = isDue ? undefined : await within(next, lookAt - Date.now())
        if (message === undefined) {
          lookAt = Date.now() + everyMs
          const [page, isWanted] = await Promise.all([
            after(position).catch(() => []), // it is only a look: the next does as well
            alongside(),
          ])
          if (!isWanted) return
          yield* missed(page)
          continue
        }
        if (message.done) return
        next = told.next()
        const { after: previous, entries } = JSON.parse(message.value) as Told<T> // we published it
        if (isAfter(previous, position)) yield* missed(await after(position, previous), previous)
        yield take(entries)
      }
    },
  }
}

interface Item<T> {
  name: string
  value: T
  json: string
}

/** Cuts `items` into parts of about `MAX_REQUEST` and at most `PAGE` items. */
function* partsOf<I>(items: I[], sizeOf: (item: I) => number): Generator<I[]> {
  let part: I[] = []
  let size = 0
  for (const item of items) {
    if (part.length > 0 && (size + sizeOf(item) > MAX_REQUEST || part.length === PAGE)) {
      yield part
      part = []
      size = 0
    }
    part.push(item)
    size += sizeOf(item)
  }
  if (part.length > 0) yield part
}

/** Whether an entry comes after another, by their ids. */
function isAfter(id: string, other: string): boolean {
  const [ms = 0, number = 0] = id.split('-').map(Number)
  const [otherMs = 0, otherNumber = 0] = other.split('-').map(Number)
  return ms > otherMs || (ms === otherMs && number > otherNumber)
}

/** What `promise` becomes within `ms`, or undefined. */
async function within<R>(promise: Promise<R>, ms: number): Promise<R | undefined> {
  let timer
  const over = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.max(0, ms))
  })
  try {
    return await Promise.race([promise, over])
  } finally {
    clearTimeout(timer)
  }
}
