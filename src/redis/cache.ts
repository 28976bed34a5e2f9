import type { Redis } from '@upstash/redis/cloudflare'
import { type BoundedMap, createBoundedMap } from './bounded-map.ts'

/** One cached value. `d` is `null` for what is known not to exist. Times are Unix ms; names are short to save bytes. */
interface Entry<T> {
  /** Version of the value. It comes first, so that the script below can read it without parsing the rest. */
  v: number
  /** Fresh until. */
  f: number
  /** Loaded at. */
  l: number
  /** Generation it was loaded under; 0 where the kind has none. */
  g: number
  d: T | null
}

/** What an isolate remembers between requests: entries, with the moment Redis must be asked again. */
export type Memory = BoundedMap<{ entry: Entry<unknown>; until: number }>

export const createMemory = (maxBytes: number): Memory =>
  createBoundedMap(maxBytes, ({ entry }, key) => 2 * (JSON.stringify(entry).length + key.length) + 200) // UTF-16

/** Something that happened in a cache, for statistics and `Cache-Status`. */
export interface CacheEvent {
  /** Name of the kind, e.g. `user`. */
  cache: string
  layer: 'memory' | 'redis' | 'loader'
  /**
   * `hit` fresh · `stale` served past its time · `negative` known not to exist · `miss` · `error` the layer
   * failed · `load` the loader ran · `store` written · `lost` not written: invalidated or overtaken meanwhile ·
   * `refused` too large to store.
   */
  outcome: 'hit' | 'stale' | 'negative' | 'miss' | 'error' | 'load' | 'store' | 'lost' | 'refused'
  /** How long the value is still fresh (ms, negative when stale); for hits. */
  ttlMs?: number
}

export interface CacheDependencies {
  /** Every command sent here may run twice. */
  redis: Redis
  memory: Memory
  /** Runs work after the answer. */
  defer: (work: () => Promise<unknown>) => void
  onEvent: (event: CacheEvent) => void
  now?: () => number
  random?: () => number
}

/** All times in ms. Redis keeps an entry for `freshMs + max(staleMs, staleIfErrorMs)`. */
export interface CachePolicy {
  freshMs: number
  /** Stale-while-revalidate: how long past fresh a value is served while one caller refreshes it. */
  staleMs: number
  /** Stale-if-error: how long past fresh a value is served when the loader fails. */
  staleIfErrorMs: number
  /** How long `null` is fresh. It is never served stale. */
  negativeMs: number
  /** How long memory answers without asking Redis: how late another isolate's write may be seen. */
  memoryMs: number
  /** Past this, a value in memory that is still servable is served instead of waiting for Redis. */
  softTimeoutMs: number
  /** How long a filler owns the right to fill; a load that takes longer is not stored. */
  leaseMs: number
  /** How long a reader waits for somebody else's load before it loads by itself. */
  waitMs: number
  /** Larger values are not stored. */
  maxValueBytes: number
}

export interface CacheKind<T> extends CachePolicy {
  /** For events, e.g. `user`. */
  name: string
  key: (id: string) => string
  /** Rises with every change of the value. A kind without versions answers 0. */
  versionOf: (value: T) => number
  /** Key of a number: raising it expires every entry of the kind at once. */
  generationKey?: string
}

export type Cache<T> = ReturnType<typeof createCache<T>>

/** Answers the values of `ids` in their order, `null` for what does not exist. */
export type Load<T> = (ids: string[]) => Promise<(T | null)[]>

/** What an invalidation leaves behind for `TOMBSTONE_MS`: a miss that no write-through may replace. */
const TOMBSTONE = 'x'
const TOMBSTONE_MS = 10_000

/**
 * Stores one or more entries. KEYS: entry, lease, entry, lease … ARGV, four for each: nonce, version, entry, TTL (ms).
 * With a nonce it is a fill: only the holder of the lease may. Without, a write-through: it ends any load in flight.
 */
const STORE = `#!lua flags=allow-key-locking
local stored = {}
for i = 1, #KEYS, 2 do
  local a = i * 2 - 1
  local nonce, version = ARGV[a], tonumber(ARGV[a + 1])
  local allowed = nonce == '' or redis.call('GET', KEYS[i + 1]) == nonce
  if allowed then
    local held = redis.call('GET', KEYS[i])
    local heldVersion = held and tonumber(string.match(held, '^{"v":(%d+)'))
    local isOlder = heldVersion and version > 0 and version < heldVersion
    if isOlder or (nonce == '' and held == '${TOMBSTONE}') then
      allowed = false
    else
      redis.call('SET', KEYS[i], ARGV[a + 2], 'PX', ARGV[a + 3])
    end
    redis.call('DEL', KEYS[i + 1])
  end
  stored[#stored + 1] = allowed and 1 or 0
end
return stored`

/** Gives leases back, where they are still ours: after a load that failed or was not needed. */
const RELEASE = `#!lua flags=allow-key-locking
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[1] then redis.call('DEL', KEYS[i]) end
end
return 1`

/** Removes entries of a generation that is over. KEYS: generation, entry, entry … Answers how many. */
const PURGE = `#!lua flags=allow-key-locking
local current = redis.call('GET', KEYS[1]) or '0'
local purged = 0
for i = 2, #KEYS do
  local held = redis.call('GET', KEYS[i])
  local generation = held and string.match(held, '^{"v":%d+,"f":%d+,"l":%d+,"g":(%d+)')
  if generation and generation ~= current then purged = purged + redis.call('DEL', KEYS[i]) end
end
return purged`

const leaseOf = (key: string) => `${key}:lease`

/**
 * Cache-aside in three layers: isolate memory, then Redis, then the loader (D1).
 *
 * Redis types: a string of JSON per entry, a string per lease (`SET … NX PX`), an integer per generation.
 *
 * | case | sequential round trips |
 * | --- | --- |
 * | fresh in memory | 0 |
 * | in Redis, fresh or stale (refreshed after the answer) | 1, however many ids (one `MGET`) |
 * | miss | 2 (`MGET`; lease and a second look in one pipeline), then the load; the fill comes after the answer |
 *
 * One load at a time per key across the world: the filler holds a lease, the others wait for it or take a stale
 * value. A fill is a compare-and-set on that lease, and an invalidation takes the lease away, so a value read
 * before an invalidation is never stored after it (Nishtala et al., Scaling Memcache at Facebook, NSDI 2013, §3.2.1).
 *
 * When Redis fails, a read is answered by memory while that is fresh or stale, then by the loader, and never
 * throws for it; `put`, `invalidate` and `expireAll` throw, for the caller to decide. When the loader fails, a
 * value within `staleIfErrorMs` is served, else its error is thrown; it is never cached.
 */
export function createCache<T>(dependencies: CacheDependencies, kind: CacheKind<T>) {
  const { redis, memory, defer, onEvent, now = Date.now, random = Math.random } = dependencies
  const { key: keyOf, generationKey } = kind
  const keepMs = kind.freshMs + Math.max(kind.staleMs, kind.staleIfErrorMs)

  const emit = (layer: CacheEvent['layer'], outcome: CacheEvent['outcome'], ttlMs?: number) =>
    onEvent({ cache: kind.name, layer, outcome, ...(ttlMs === undefined ? {} : { ttlMs }) })
  const emitError = () => emit('redis', 'error')

  const isFresh = (entry: Entry<T>) => now() < entry.f
  const isServable = (entry: Entry<T>) => now() < entry.f + (entry.d === null ? 0 : kind.staleMs)
  const isServableOnError = (entry: Entry<T>) => entry.d !== null && now() < entry.f + kind.staleIfErrorMs

  function serve(layer: 'memory' | 'redis', entry: Entry<T>): T | null {
    const ttlMs = entry.f - now()
    emit(layer, ttlMs <= 0 ? 'stale' : entry.d === null ? 'negative' : 'hit', ttlMs)
    return entry.d
  }

  function newEntry(value: T | null, generation: number): Entry<T> {
    const freshMs = value === null ? kind.negativeMs : kind.freshMs * (0.9 + 0.2 * random()) // jitter: ±10 %
    const version = value === null ? 0 : kind.versionOf(value)
    return { v: version, f: now() + Math.round(freshMs), l: now(), g: generation, d: value }
  }

  // Only `remember` writes our keys in memory, so what is there is of our type.
  const recall = (key: string) => memory.get(key) as { entry: Entry<T>; until: number } | undefined

  function remember(key: string, entry: Entry<T>): void {
    // A stale one is kept for a second, so that not every reader of this isolate tries to refresh it.
    const until = now() + Math.min(kind.memoryMs, isFresh(entry) ? entry.f - now() : 1_000)
    memory.set(key, { entry, until })
  }

  /** What memory may answer by itself. */
  function known(key: string): Entry<T> | undefined {
    const held = recall(key)
    return held && now() < held.until && isServable(held.entry) ? held.entry : undefined
  }

  const withGeneration = (keys: string[]) => (generationKey === undefined ? keys : [...keys, generationKey])

  function parse(keys: string[], replies: unknown[]): Found<T> {
    const generation = generationKey === undefined ? 0 : Number(replies[keys.length] ?? 0)
    const entries = new Map<string, Entry<T>>()
    for (const [i, key] of keys.entries()) {
      // The SDK has parsed the JSON. Only STORE writes these keys: what is no object is a tombstone.
      const entry = replies[i] as Entry<T> | string | null
      if (typeof entry === 'object' && entry?.g === generation) entries.set(key, entry)
    }
    return { entries, generation }
  }

  const look = async (keys: string[]) => parse(keys, await redis.mget<unknown[]>(...withGeneration(keys)))

  /** Tries for the leases of `keys`, and looks again: another may have filled since we looked. */
  async function claim(keys: string[], nonce: string): Promise<Found<T> & { ours: Set<string> }> {
    const pipeline = redis.pipeline()
    for (const key of keys) pipeline.set(leaseOf(key), nonce, { nx: true, px: kind.leaseMs })
    pipeline.mget(...withGeneration(keys))
    const replies = await pipeline.exec<unknown[]>()
    const values = replies[keys.length] as unknown[] // MGET answers a list
    return { ...parse(keys, values), ours: new Set(keys.filter((_, i) => replies[i] === 'OK')) }
  }

  function release(keys: string[], nonce: string): void {
    if (keys.length > 0) defer(() => redis.eval(RELEASE, keys.map(leaseOf), [nonce]).catch(emitError))
  }

  /** Writes entries to Redis: with a nonce as a fill under that lease, with '' as a write-through. */
  async function store(entries: Map<string, Entry<T>>, nonce: string): Promise<void> {
    if (entries.size === 0) return
    const stored = await redis.eval<string[], number[]>(
      STORE,
      [...entries.keys()].flatMap((key) => [key, leaseOf(key)]),
      [...entries.values()].flatMap((entry) => [
        nonce,
        String(entry.v),
        JSON.stringify(entry),
        String(entry.d === null ? kind.negativeMs : keepMs),
      ]),
    )
    for (const [i, [key, entry]] of [...entries].entries()) {
      // Only what Redis took is remembered: what was invalidated or overtaken must not live on here.
      if (stored[i] === 1) remember(key, entry)
      else memory.delete(key)
      emit('redis', stored[i] === 1 ? 'store' : 'lost')
    }
  }

  function isTooLarge(entry: Entry<T>): boolean {
    const isLarge = new TextEncoder().encode(JSON.stringify(entry)).byteLength > kind.maxValueBytes
    if (isLarge) emit('redis', 'refused')
    return isLarge
  }

  /** Runs the loader, and keeps what it answers: under a lease in Redis and memory, after the answer; else in memory. */
  async function fill(ids: string[], load: Load<T>, lease?: { nonce: string; generation: number }): Promise<Values<T>> {
    let values: (T | null)[]
    emit('loader', 'load')
    try {
      values = await load(ids)
    } catch (error) {
      emit('loader', 'error')
      if (lease) release(ids.map(keyOf), lease.nonce)
      throw error
    }
    const entries = new Map(ids.map((id, i) => [keyOf(id), newEntry(values[i] ?? null, lease?.generation ?? 0)]))
    const tooLarge = [...entries].filter(([, entry]) => isTooLarge(entry)).map(([key]) => key)
    for (const key of tooLarge) entries.delete(key)
    if (lease) {
      release(tooLarge, lease.nonce)
      defer(() => store(entries, lease.nonce).catch(emitError))
    } else {
      for (const [key, entry] of entries) remember(key, entry)
    }
    return new Map(ids.map((id, i) => [id, values[i] ?? null]))
  }

  /** Loads what nobody has. What another is loading is waited for up to `waitMs`, then loaded here and not stored. */
  async function loadUnderLease(ids: string[], load: Load<T>): Promise<Values<T>> {
    const values: Values<T> = new Map()
    const nonce = crypto.randomUUID()
    const deadline = now() + kind.waitMs
    let waiting = ids
    /** Takes from memory what another reader of this isolate has got meanwhile. */
    const share = () => {
      for (const id of waiting) {
        const entry = known(keyOf(id))
        if (entry) values.set(id, serve('memory', entry))
      }
      waiting = waiting.filter((id) => !values.has(id))
    }
    for (let pauseMs = 20; waiting.length > 0; pauseMs = Math.min(pauseMs * 2, 200)) {
      let found
      try {
        found = await claim(waiting.map(keyOf), nonce)
      } catch {
        emitError()
        break
      }
      const { entries, ours, generation } = found
      const due = []
      const spared = []
      for (const id of waiting) {
        const entry = entries.get(keyOf(id))
        if (entry && isServable(entry)) {
          remember(keyOf(id), entry)
          values.set(id, serve('redis', entry))
          if (ours.has(keyOf(id))) spared.push(keyOf(id))
        } else if (ours.has(keyOf(id))) {
          due.push(id)
        }
      }
      release(spared, nonce)
      if (due.length > 0) {
        for (const [id, value] of await fill(due, load, { nonce, generation })) values.set(id, value)
      }
      waiting = waiting.filter((id) => !values.has(id))
      if (waiting.length === 0 || now() >= deadline) break
      await new Promise((resolve) => setTimeout(resolve, pauseMs * (0.5 + random())))
      share()
    }
    share()
    if (waiting.length > 0) for (const [id, value] of await fill(waiting, load)) values.set(id, value)
    return values
  }

  /** Loads what is stale again; what another is already refreshing is left to it. */
  async function refresh(ids: string[], load: Load<T>): Promise<void> {
    const nonce = crypto.randomUUID()
    const found = await claim(ids.map(keyOf), nonce).catch(emitError)
    if (!found) return
    const { entries, ours, generation } = found
    const claimed = ids.filter((id) => ours.has(keyOf(id)))
    const isRefreshed = (id: string) => {
      const entry = entries.get(keyOf(id))
      return entry !== undefined && isFresh(entry)
    }
    release(claimed.filter(isRefreshed).map(keyOf), nonce)
    const due = claimed.filter((id) => !isRefreshed(id))
    if (due.length > 0) await fill(due, load, { nonce, generation }).catch(() => {}) // told by its event
  }

  /** Asks Redis. With `canGiveUp`, answers undefined after the soft timeout, and keeps the answer when it comes. */
  async function lookSoon(keys: string[], canGiveUp: boolean): Promise<Found<T> | undefined> {
    const asked = look(keys)
    if (!canGiveUp) return asked
    const { promise: gaveUp, resolve: giveUp } = Promise.withResolvers<undefined>()
    const timer = setTimeout(giveUp, kind.softTimeoutMs)
    const found = await Promise.race([asked, gaveUp]).finally(() => clearTimeout(timer))
    if (!found) defer(() => asked.then(({ entries }) => entries.forEach((e, key) => remember(key, e)), emitError))
    return found
  }

  async function getMany(ids: string[], load: Load<T>): Promise<(T | null)[]> {
    const values: Values<T> = new Map()
    const unsure = new Map<string, Entry<T> | undefined>() // with what is left of it, in memory or expired in Redis
    for (const id of new Set(ids)) {
      const entry = known(keyOf(id))
      if (entry) {
        values.set(id, serve('memory', entry))
      } else {
        emit('memory', 'miss')
        unsure.set(id, recall(keyOf(id))?.entry)
      }
    }

    if (unsure.size > 0) {
      const canGiveUp = [...unsure.values()].every((entry) => entry !== undefined && isServable(entry))
      let found: Found<T> | undefined
      try {
        found = await lookSoon([...unsure.keys()].map(keyOf), canGiveUp)
        if (!found) emitError()
      } catch {
        emitError()
      }

      const stale: string[] = []
      for (const [id, held] of unsure) {
        const entry = found ? found.entries.get(keyOf(id)) : held
        if (entry && isServable(entry)) {
          if (found) remember(keyOf(id), entry)
          if (found && !isFresh(entry)) stale.push(id)
          values.set(id, serve(found ? 'redis' : 'memory', entry))
        } else {
          if (found) emit('redis', 'miss')
          unsure.set(id, entry ?? held)
        }
      }
      if (stale.length > 0) defer(() => refresh(stale, load))

      const missing = [...unsure.keys()].filter((id) => !values.has(id))
      if (missing.length > 0) {
        try {
          const loaded = found ? await loadUnderLease(missing, load) : await fill(missing, load)
          for (const [id, value] of loaded) values.set(id, value)
        } catch (error) {
          for (const id of missing) {
            const spare = unsure.get(id)
            if (!spare || !isServableOnError(spare)) throw error
            values.set(id, serve(found ? 'redis' : 'memory', spare))
          }
        }
      }
    }
    return ids.map((id) => values.get(id) ?? null)
  }

  return {
    /** The values of `ids` in their order, `null` for what does not exist. `load` is asked for what no layer has. */
    getMany,

    /** The value of `id`, or `null`. */
    async get(id: string, load: () => Promise<T | null>): Promise<T | null> {
      const [value] = await getMany([id], async () => [await load()])
      return value ?? null
    },

    /** Write-through, after the source of truth has it: kept unless a newer version is there. One round trip. */
    async put(id: string, value: T): Promise<void> {
      const entry = newEntry(value, 0)
      if (generationKey !== undefined || isTooLarge(entry)) return this.invalidate([id])
      await store(new Map([[keyOf(id), entry]]), '')
    },

    /** Forgets `ids`, and any load of them in flight. One round trip. */
    async invalidate(ids: string[]): Promise<void> {
      if (ids.length === 0) return
      const keys = ids.map(keyOf)
      const forget = () => keys.forEach((key) => memory.delete(key))
      forget()
      // The lease goes first: a load that begins between the two commands has already seen the change.
      const pipeline = redis.pipeline().del(...keys.map(leaseOf))
      for (const key of keys) pipeline.set(key, TOMBSTONE, { px: TOMBSTONE_MS })
      await pipeline.exec().finally(forget) // again: a store that Redis had taken before may have been remembered
    },

    /**
     * Forgets `ids` of a kind that is never `put`, and any load of them in flight: without a tombstone that is one
     * command, however many they are.
     */
    async drop(ids: string[]): Promise<void> {
      if (ids.length === 0) return
      const keys = ids.map(keyOf)
      const forget = () => keys.forEach((key) => memory.delete(key))
      forget()
      await redis.del(...keys.map(leaseOf), ...keys).finally(forget)
    },

    /** Expires every entry of a kind with a generation. One command, whatever their number. */
    async expireAll(): Promise<void> {
      if (generationKey === undefined) throw new Error(`The cache ${kind.name} has no generation`)
      const held = Array.from(memory.keys()).filter((key) => key.startsWith(keyOf('')))
      for (const key of held) memory.delete(key)
      await redis.incr(generationKey)
    },

    /** Removes those of `ids` that belong to a generation that is over; answers how many. One script. */
    async purge(ids: string[]): Promise<number> {
      if (generationKey === undefined || ids.length === 0) return 0
      return redis.eval<string[], number>(PURGE, [generationKey, ...ids.map(keyOf)], [])
    },
  }
}

interface Found<T> {
  /** By key; absent where there is none, or one of another generation. */
  entries: Map<string, Entry<T>>
  generation: number
}

/** By id. */
type Values<T> = Map<string, T | null>
