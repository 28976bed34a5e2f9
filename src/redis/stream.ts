import type { Redis } from '@upstash/redis/cloudflare'
import { isAfter } from './entry-id.ts'
import type { Join, Membership } from './shared-subscription.ts'
import { within } from './within.ts'

/** A value on the log. */
export interface Entry<T> {
  /** `<ms>-<number>`, given by Redis. */
  id: string
  value: T
}

/** An entry, and the position it continues. */
interface Link<T> extends Entry<T> {
  previous: string
}

/** A published message: new entries, and the position that the first of them continues; or values that are not on the log. */
export type Message<T> = { after: string; entries: Entry<T>[] } | { passing: T[] }

/** Where a reader begins. */
export interface Start<T> {
  position: string
  /** The first entries that the reader missed. */
  missed: Link<T>[]
  /** False: the log cannot continue the reader's position. The reader starts at the end of the log. */
  isComplete: boolean
}

/** What a follower receives next. */
export interface Batch<T> {
  entries: Entry<T>[]
  /** True: read from the log, and possibly old. False: published a moment ago. */
  isReplay: boolean
  /** True: entries before these are lost. */
  hasGap: boolean
}

export interface StreamDependencies<T> {
  redis: Redis
  /** The same Redis with a longer timeout, for appending. */
  writes: Redis
  /** Joins the subscription to `streamChannel`. */
  join: Join<Message<T>>
}

export interface StreamKeys {
  streamLog: string
  streamNames: string
  streamOrigin: string
  streamChannel: string
}

export interface StreamPolicy {
  maxEntries: number
  /** How long the log is kept after its last entry, less a `RENEWALS`th part at most. */
  ttlMs: number
}

/** The position before the first entry of a log that nobody read while it was empty. No reader has it. */
const UNREAD = '-'
/** Entries per read. */
const PAGE = 100
/** UTF-16 units per request, roughly. Redis accepts 1 MB on every plan. */
const MAX_REQUEST = 256_000

/** By then a message is with all followers, unless it was lost. */
const SETTLE_MS = 1_000

/** The expiry of a log that is in use is renewed so many times in its TTL. */
const RENEWALS = 24
/** Of so many appends, about one removes the names of entries that are not on the log any more. */
const APPENDS_PER_TRIM = 16

/**
 * KEYS: log, names, origin. ARGV: now, maximum entries, TTL (ms), then name and value of each item.
 * Answers the position that the first new entry continues, then an id per item, '' for an item that is on the log
 * already. Entry fields: `e` the value, `p` the position it continues.
 */
const APPEND = `#!lua flags=allow-key-locking
-- usually calls 4
local names = {}
for i = 4, #ARGV, 2 do names[#names + 1] = ARGV[i] end
local known = redis.call('ZMSCORE', KEYS[2], unpack(names))
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local position
if last then
  position = last[1]
else
  position = redis.call('GET', KEYS[3]) or '${UNREAD}'
  redis.call('DEL', KEYS[3])
end
local answer = { position }
local added = {}
for i, name in ipairs(names) do
  if known[i] then
    answer[i + 1] = ''
  else
    position = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'p', position, 'e', ARGV[3 + 2 * i])
    answer[i + 1] = position
    added[#added + 1] = ARGV[1]
    added[#added + 1] = name
  end
end
if #added == 0 then return answer end
redis.call('ZADD', KEYS[2], unpack(added))
local function ms(id) return tonumber(string.match(id, '^%d+')) end
if ms(position) % ${APPENDS_PER_TRIM} == 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[2]) end
local period = ARGV[3] / ${RENEWALS}
if not last or math.floor(ms(last[1]) / period) < math.floor(ms(position) / period) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return answer`

/** KEYS: log, origin. ARGV: a new position, TTL (ms). Answers the end of the log, which `origin` names while it is empty. */
const END = `#!lua flags=allow-key-locking
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then return last[1] end
redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return redis.call('GET', KEYS[2])`

/** Entries that one `forget` looks through. */
const SCANNED = 500

/** KEYS: log. ARGV: text, exempt, from, count. */
const FORGET = `#!lua flags=allow-key-locking
-- usually calls 1
local page = redis.call('XRANGE', KEYS[1], ARGV[3], '+', 'COUNT', ARGV[4])
for _, entry in ipairs(page) do
  for i = 1, #entry[2], 2 do
    local value = entry[2][i] == 'e' and entry[2][i + 1] or ''
    if string.find(value, ARGV[1], 1, true) and not string.find(value, ARGV[2], 1, true) then
      redis.call('XDEL', KEYS[1], entry[1])
    end
  end
end
if #page < tonumber(ARGV[4]) then return false end
return '(' .. page[#page][1]`

export type Stream<T> = ReturnType<typeof createStream<T>>

/**
 * A log that followers read live and resume: every entry reaches every follower once, in order, without a gap. Values
 * that are worthless when late pass by the log.
 *
 * Redis types: a stream, capped; a sorted set of the names on it, so that a name is appended once; a string, the origin:
 * the random position of an empty log, which its first entry consumes; a pub/sub channel.
 *
 * Each entry names the position it continues. So a reader's position is valid only if the next entry continues it, or if
 * it is the end of the log. A position that was trimmed, evicted or flushed, or that belongs to another log, is not. A
 * follower that receives entries that do not continue its position reads those in between from the log.
 *
 * Appending: two round trips, n + 5 commands for n entries with those inside the script, however many followers. It is
 * safe to repeat: a repetition adds nothing and publishes again, so that a lost reply delays no follower. Following:
 * no commands, except to fill gaps and for the periodic check of each isolate. Redis errors are thrown; `follow` ends with the
 * subscription.
 */
export function createStream<T>(
  { redis, writes, join }: StreamDependencies<T>,
  { streamLog, streamNames, streamOrigin, streamChannel }: StreamKeys,
  { maxEntries, ttlMs }: StreamPolicy,
) {
  async function after(position: string): Promise<Link<T>[]> {
    const found = await redis.xrange<{ e: T; p: string }>(streamLog, `(${position}`, '+', PAGE)
    return Object.entries(found).map(([id, { e, p }]) => ({ id, value: e, previous: p }))
  }

  async function appendPart(items: Item<T>[], now: number): Promise<void> {
    const [position = UNREAD, ...ids] = await writes.eval<string[], string[]>(
      APPEND,
      [streamLog, streamNames, streamOrigin],
      [now, maxEntries, ttlMs].map(String).concat(items.flatMap(({ name, json }) => [name, json])),
    )
    const entries = items.flatMap(({ value }, i) => (ids[i] ? [{ id: ids[i], value }] : []))
    // Also without new entries: an earlier attempt may have added them and died. Followers that lack them read them.
    const message: Message<T> = { after: position, entries }
    await writes.publish(streamChannel, JSON.stringify(message)) // inside the script nobody on the emulator hears it
  }

  return {
    /**
     * Appends those of `items` whose name is not on the log, in order, and publishes them. Safe to repeat until it
     * succeeds: a failure may leave a part appended and unpublished.
     */
    async append(items: { name: string; value: T }[], now = Date.now()): Promise<void> {
      const sized = items.map((item) => ({ ...item, json: JSON.stringify(item.value) }))
      for (const part of partsOf(sized, ({ json }) => json.length)) await appendPart(part, now)
    },

    /**
     * Deletes entries whose value contains `text` as JSON, but not `exempt`, among the next `SCANNED` after `from`. Returns
     * where to continue, null at the end. A reader that resumes across a deleted entry finds a gap. One command. Safe to
     * repeat.
     */
    forget: (text: string, exempt: string, from = '-'): Promise<string | null> =>
      writes.eval<string[], string | null>(FORGET, [streamLog], [text, exempt, from, String(SCANNED)]),

    /**
     * Publishes values that are not on the log: those who follow now receive them, once at most, and nobody later. One
     * command. Repeating it publishes them again.
     */
    async publish(values: T[]): Promise<void> {
      const message: Message<T> = { passing: values }
      await writes.publish(streamChannel, JSON.stringify(message))
    },

    /** Listens from now on, until `signal` aborts. Messages wait until `follow` takes them. */
    join,

    /**
     * Where a follower begins whose position is `seen`, or a new one. Call it after `join`. One round trip of one or
     * two commands; another while the log is empty. It writes only the origin; safe to repeat.
     */
    async read(seen: string | undefined): Promise<Start<T>> {
      const [latest, missed] = await Promise.all([
        redis.xrevrange(streamLog, '+', '-', 1),
        seen === undefined ? [] : after(seen),
      ])
      const [lastId] = Object.keys(latest)
      const origin = [`0-${1 + Math.floor(Math.random() * 9_999_999_998)}`, String(ttlMs)]
      const position = lastId ?? (await redis.eval<string[], string>(END, [streamLog, streamOrigin], origin))
      if (seen === undefined) return { position, missed: [], isComplete: true }
      const isComplete = missed[0] ? missed[0].previous === seen : seen === position
      return isComplete ? { position: seen, missed, isComplete } : { position, missed: [], isComplete }
    },

    /**
     * Yields the entries after `start`, in order, until the messages end. Every `everyMs` it calls `alongside`; false ends
     * it. In the same round trip, one follower of the isolate reads the log for entries whose message was lost (one
     * command), and the others follow it.
     */
    async *follow(
      start: Start<T>,
      { messages, claimCheck, pass }: Pick<Membership<Message<T>>, 'messages' | 'claimCheck' | 'pass'>,
      { everyMs, alongside }: { everyMs: number; alongside: () => Promise<boolean> },
    ): AsyncGenerator<Batch<T>, void> {
      let { position } = start
      /** Moves the position to the end of `links`. */
      function take(links: Link<T>[], isReplay: boolean): Batch<T> {
        const hasGap = links[0] !== undefined && links[0].previous !== position
        position = links.at(-1)?.id ?? position
        return { entries: links, isReplay, hasGap }
      }
      /** Everything on the log after the position, beginning with `page`, which was read already. */
      async function* replay(page: Link<T>[]) {
        for (let next = page; next.length > 0; next = next.length < PAGE ? [] : await after(position)) {
          yield take(next, true)
        }
      }

      yield* replay(start.missed)
      let checkAt = Date.now() + everyMs
      let next = messages.next()
      for (;;) {
        const waitMs = checkAt - Date.now()
        const isDue = waitMs <= 0 || waitMs > everyMs // also while messages never pause, or after the clock was set back
        const message = isDue ? undefined : await within(next, waitMs)
        if (message === undefined) {
          checkAt = Date.now() + everyMs
          const [page, isWanted] = await Promise.all([
            claimCheck(everyMs) ? after(position).catch(() => []) : [], // the next check repeats it
            alongside(),
          ])
          const found = page.at(-1)
          if (found) setTimeout(() => pass({ after: found.id, entries: [] }), SETTLE_MS)
          if (!isWanted) return
          yield* replay(page)
          continue
        }
        if (message.done) return
        next = messages.next()
        const published = message.value
        if (!published) {
          yield* replay(await after(position))
          continue
        }
        if ('passing' in published) {
          const entries = published.passing.map((value) => ({ id: position, value }))
          yield { entries, isReplay: false, hasGap: false }
          continue
        }
        const fresh = linksOf(published).filter(({ id }) => isAfter(id, position))
        if (fresh[0]?.previous === position) yield take(fresh, false)
        else if (fresh.length > 0 || isAfter(published.after, position)) yield* replay(await after(position))
      }
    },
  }
}

interface Item<T> {
  name: string
  value: T
  json: string
}

/** Each entry of a message with the position it continues. */
const linksOf = <T>({ after, entries }: { after: string; entries: Entry<T>[] }): Link<T>[] =>
  entries.map((entry, i) => ({ ...entry, previous: entries[i - 1]?.id ?? after }))

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
