import type { Redis } from '@upstash/redis/cloudflare'
import { type CacheEntry, CLOCK_SKEW_MS, type Memory, type ReadStart, type Slot } from './memory.ts'

/** Something that happened in a cache, for statistics and `Cache-Status`. */
export interface CacheEvent {
  /** Name of the kind, e.g. `user`. */
  cache: string
  layer: 'memory' | 'redis' | 'loader'
  /**
   * `hit` fresh · `stale` served past its fresh time · `negative` does not exist · `miss` · `error` the layer failed ·
   * `load` the loader ran · `store` written to Redis · `lost` not written: invalidated or replaced meanwhile ·
   * `refused` too large to store.
   */
  outcome: 'hit' | 'stale' | 'negative' | 'miss' | 'error' | 'load' | 'store' | 'lost' | 'refused'
  /** For hits: how long the value is still fresh (ms); negative when stale. */
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
  /** Stale-while-revalidate: how long past fresh a value is served while one reader refreshes it. */
  staleMs: number
  /** Stale-if-error: how long past fresh a value is served when the loader fails. */
  staleIfErrorMs: number
  /** How long `null` is fresh. It is never served stale. */
  negativeMs: number
  /** How long memory answers without Redis, from the start of the read: the longest delay before a reader sees another isolate's write. */
  memoryMs: number
  /** After this wait for Redis, a value in memory that is fresh or stale is served instead. */
  softTimeoutMs: number
  /** How long a reader owns the right to load a key. A load that takes longer is not stored. */
  leaseMs: number
  /** How long a reader waits for the load of another before it loads the value itself. */
  waitMs: number
  /** Larger values are not stored. */
  maxValueBytes: number
}

export interface CacheKind<T> extends CachePolicy {
  /** For events, e.g. `user`. */
  name: string
  key: (id: string) => string
  /** A positive number that rises with every change of the value. A kind without versions returns 0. */
  versionOf: (value: T) => number
  /** Key of a number: raising it expires every entry of the kind at once. */
  generationKey?: string
}

export type Cache<T> = ReturnType<typeof createCache<T>>

/** Returns the values of `ids` in their order, `null` for what does not exist. */
export type Load<T> = (ids: string[]) => Promise<(T | null)[]>

/** By id. */
type Values<T> = Map<string, T | null>

/** What Redis has for some keys. */
interface Lookup<T> {
  /** By key. A key is absent if Redis has no entry, one of another generation, or one that memory knows is out of date. */
  entries: Map<string, CacheEntry<T>>
  generation: number
}

/** A load that Redis does not have yet. */
interface PendingLoad<T> {
  read: ReadStart
  /** By key. */
  entries: Promise<Map<string, CacheEntry<T>>>
}

/** An invalidation writes this in place of the entry, for `TOMBSTONE_MS`: a miss that no write-through may replace. */
const TOMBSTONE = 'x'
const TOMBSTONE_MS = 10_000

/**
 * Redis remembers at most so many ids of one load as absent. More are probably guesses, which nobody repeats: each would
 * cost a command. Only memory remembers them.
 */
const MAX_STORED_ABSENCES = 10

/**
 * Stores entries. KEYS: entry, lease, entry, lease … ARGV, four for each: nonce, version, entry, TTL (ms).
 * With a nonce this is a fill: only the holder of the lease may store. Without one it is a write-through: it ends any
 * load in flight. A write-through that meets a negative entry cannot know which of the two is newer: it leaves a
 * tombstone, so that the next reader loads the value.
 */
const STORE = `#!lua flags=allow-key-locking
local held = redis.call('MGET', unpack(KEYS))
local stored, ended = {}, {}
for i = 1, #KEYS, 2 do
  local a = i * 2 - 1
  local nonce, version, value, ttl = ARGV[a], tonumber(ARGV[a + 1]), ARGV[a + 2], ARGV[a + 3]
  local current, lease = held[i], held[i + 1]
  local allowed = nonce == '' or lease == nonce
  if allowed then
    local currentVersion = current and tonumber(string.match(current, '^{"v":(%d+)'))
    local isOlder = currentVersion and version > 0 and version < currentVersion
    if isOlder or (nonce == '' and current == '${TOMBSTONE}') then
      allowed = false
    else
      if nonce == '' and currentVersion == 0 then
        allowed, value, ttl = false, '${TOMBSTONE}', '${TOMBSTONE_MS}'
      end
      redis.call('SET', KEYS[i], value, 'PX', ttl)
    end
    if lease then ended[#ended + 1] = KEYS[i + 1] end
  end
  stored[#stored + 1] = allowed and 1 or 0
end
if #ended > 0 then redis.call('DEL', unpack(ended)) end
return stored`

/** Releases the leases that are still ours. KEYS: leases. ARGV: nonce. */
const RELEASE = `#!lua flags=allow-key-locking
local held, ours = redis.call('MGET', unpack(KEYS)), {}
for i = 1, #KEYS do
  if held[i] == ARGV[1] then ours[#ours + 1] = KEYS[i] end
end
if #ours > 0 then redis.call('DEL', unpack(ours)) end
return #ours`

/** Removes entries of earlier generations. KEYS: generation, entry, entry … Returns how many. */
const PURGE = `#!lua flags=allow-key-locking
local current = redis.call('GET', KEYS[1]) or '0'
local purged = 0
for i = 2, #KEYS do
  local entry = redis.call('GET', KEYS[i])
  local generation = entry and string.match(entry, '^{"v":%d+,"f":%d+,"l":%d+,"g":(%d+)')
  if generation and generation ~= current then purged = purged + redis.call('DEL', KEYS[i]) end
end
return purged`

const leaseOf = (key: string) => `${key}:lease`

/**
 * Cache-aside in three layers: isolate memory, then Redis, then the loader (D1).
 *
 * Redis types: a JSON string per entry, a string per lease (`SET … NX PX`), an integer per generation.
 *
 * | case | sequential round trips |
 * | --- | --- |
 * | fresh in memory | 0 |
 * | in Redis, fresh or stale (refreshed after the answer) | 1, however many ids (one `MGET`) |
 * | miss | 2 (`MGET`; then leases and a second look in one pipeline), then the load; the fill comes after the answer |
 *
 * A miss of n ids: 2 n + 5 commands; n + 5 if more than ten do not exist. A reader that waits: one command per look.
 *
 * Per key, one reader at a time loads: it holds a lease, and the others wait for it or use a stale value. A fill is a
 * compare-and-set on that lease. A write-through or an invalidation removes the lease, so a value loaded before it is
 * never stored after it (Nishtala et al., Scaling Memcache at Facebook, NSDI 2013, §3.2.1). `Memory` does the same for
 * what this isolate remembers. So after a write returns, no later read in this isolate returns an older value; other
 * isolates return the new one after at most `memoryMs`. A loaded value is shared at once: with the same invocation, and
 * through memory with the isolate.
 *
 * When Redis fails, reads use memory (fresh or stale), then the loader; they never throw because of Redis. `put`,
 * `invalidate`, `drop` and `expireAll` throw, and the caller decides: the isolate that wrote no longer accepts the old
 * value from Redis, others do. All four are safe to repeat. When the loader fails, a value within `staleIfErrorMs` is
 * served unless it was invalidated; otherwise the error is thrown. Errors are never cached.
 */
export function createCache<T>(dependencies: CacheDependencies, kind: CacheKind<T>) {
  const { redis, memory, defer, onEvent, now = Date.now, random = Math.random } = dependencies
  const { key: keyOf, generationKey } = kind
  const keepMs = kind.freshMs + Math.max(kind.staleMs, kind.staleIfErrorMs)

  /** Loads of this invocation that Redis does not have yet, by key: a second read joins them, and does not wait for their leases. */
  const pendingLoads = new Map<string, PendingLoad<T>>()

  const emit = (layer: CacheEvent['layer'], outcome: CacheEvent['outcome'], ttlMs?: number) =>
    onEvent({ cache: kind.name, layer, outcome, ...(ttlMs === undefined ? {} : { ttlMs }) })
  const emitError = () => emit('redis', 'error')

  // An entry loaded in the future is from before the clock was set back: how long it is fresh is not known.
  const isFresh = (entry: CacheEntry<T>, time = now()) => time < entry.f && entry.l <= time + CLOCK_SKEW_MS
  const isServable = (entry: CacheEntry<T>, time = now()) =>
    entry.d === null ? isFresh(entry, time) : time < entry.f + kind.staleMs
  const isServableOnError = (entry: CacheEntry<T>) => entry.d !== null && now() < entry.f + kind.staleIfErrorMs

  function serve(layer: 'memory' | 'redis', entry: CacheEntry<T>): T | null {
    const ttlMs = entry.f - now()
    emit(layer, ttlMs <= 0 ? 'stale' : entry.d === null ? 'negative' : 'hit', ttlMs)
    return entry.d
  }

  function newEntry(value: T | null, generation: number, loadedAt: number): CacheEntry<T> {
    const freshMs = value === null ? kind.negativeMs : kind.freshMs * (0.9 + 0.2 * random()) // jitter: ±10 %
    const version = value === null ? 0 : kind.versionOf(value)
    return { v: version, f: now() + Math.round(freshMs), l: loadedAt, g: generation, d: value }
  }

  // Only `remember` writes our keys to memory, so its entries are of our type.
  const slotOf = (key: string) => memory.get(key) as Slot<T> | undefined

  /** Remembers what `read` returned. `confirmedAt`: when the last request began that returned it. */
  function remember(key: string, entry: CacheEntry<T>, read: ReadStart, confirmedAt = read.at): void {
    if (generationKey !== undefined && memory.isMarked(generationKey, read)) return
    const time = now()
    // A stale entry is kept for a second, so that not every reader of this isolate refreshes it.
    const until = Math.min(confirmedAt + kind.memoryMs, isFresh(entry, time) ? entry.f : confirmedAt + 1_000)
    memory.remember(key, entry, { sequence: read.sequence, at: confirmedAt }, until, time)
  }

  /** What memory may answer without Redis. */
  function fromMemory(key: string): CacheEntry<T> | undefined {
    const slot = slotOf(key)
    if (!slot?.entry) return undefined
    const time = now()
    return slot.since <= time && time < slot.until && isServable(slot.entry, time) ? slot.entry : undefined
  }

  const isMarked = (key: string, read: ReadStart) =>
    memory.isMarked(key, read) || (generationKey !== undefined && memory.isMarked(generationKey, read))

  const isOutdated = (key: string, entry: CacheEntry<T>) =>
    memory.isOutdated(key, entry, now()) ||
    (generationKey !== undefined && memory.isOutdated(generationKey, entry, now()))

  /**
   * Adds to `values` what other loads of this invocation return, unless such a load fails, began `memoryMs` ago or
   * earlier, or is out of date.
   */
  async function join(ids: string[], values: Values<T>): Promise<void> {
    for (const id of ids) {
      const key = keyOf(id)
      const pending = pendingLoads.get(key)
      if (!pending || now() - pending.read.at >= kind.memoryMs || isMarked(key, pending.read)) continue
      const entry = (await pending.entries.catch(() => undefined))?.get(key)
      if (entry) values.set(id, serve('memory', entry))
    }
  }

  const withGeneration = (keys: string[]) => (generationKey === undefined ? keys : [...keys, generationKey])

  function parse(keys: string[], replies: unknown[], read: ReadStart): Lookup<T> {
    const generation = generationKey === undefined ? 0 : Number(replies[keys.length] ?? 0)
    const entries = new Map<string, CacheEntry<T>>()
    for (const [i, key] of keys.entries()) {
      // The SDK has parsed the JSON. Only STORE and `invalidate` write these keys: anything but an object is a tombstone.
      const entry = replies[i] as CacheEntry<T> | string | null
      if (typeof entry !== 'object' || entry?.g !== generation) {
        memory.forget(key, read) // it may have been invalidated: then memory must not serve it on errors either
      } else if (!isOutdated(key, entry)) {
        entries.set(key, entry)
      }
    }
    return { entries, generation }
  }

  const look = async (keys: string[], read: ReadStart) =>
    parse(keys, await redis.mget<unknown[]>(...withGeneration(keys)), read)

  /**
   * Claims the leases of those of `keys` that are `free`, and looks at all again: another reader may have filled since the
   * first look. `MGET` says which leases are ours: the reply to a `SET` that was repeated does not. It also says which are
   * free now. A command for each claim, and one.
   */
  async function claim(
    keys: string[],
    nonce: string,
    isFree: (key: string) => boolean = () => true,
  ): Promise<Lookup<T> & { read: ReadStart; claimed: Set<string>; free: Set<string> }> {
    const read = memory.begin(now())
    const pipeline = redis.pipeline()
    for (const key of keys.filter(isFree)) pipeline.set(leaseOf(key), nonce, { nx: true, px: kind.leaseMs })
    const looked = withGeneration(keys)
    pipeline.mget(...looked, ...keys.map(leaseOf))
    const replies = await pipeline.exec<unknown[]>()
    const values = replies.at(-1) as unknown[] // MGET returns a list
    const keysOfLease = (lease: string | null) => new Set(keys.filter((_, i) => values[looked.length + i] === lease))
    return { ...parse(keys, values, read), read, claimed: keysOfLease(nonce), free: keysOfLease(null) }
  }

  function release(keys: string[], nonce: string): void {
    if (keys.length > 0) defer(() => redis.eval(RELEASE, keys.map(leaseOf), [nonce]).catch(emitError))
  }

  /** Writes entries to Redis: with a nonce as a fill under that lease, with '' as a write-through. Returns the keys stored. */
  async function store(entries: Map<string, CacheEntry<T>>, nonce: string): Promise<Set<string>> {
    if (entries.size === 0) return new Set()
    const replies = await redis.eval<string[], number[]>(
      STORE,
      [...entries.keys()].flatMap((key) => [key, leaseOf(key)]),
      [...entries.values()].flatMap((entry) => [
        nonce,
        String(entry.v),
        JSON.stringify(entry),
        String(entry.d === null ? kind.negativeMs : keepMs),
      ]),
    )
    for (const reply of replies) emit('redis', reply === 1 ? 'store' : 'lost')
    return new Set([...entries.keys()].filter((_, i) => replies[i] === 1))
  }

  function isTooLarge(entry: CacheEntry<T>): boolean {
    const isLarge = new TextEncoder().encode(JSON.stringify(entry)).byteLength > kind.maxValueBytes
    if (isLarge) emit('redis', 'refused')
    return isLarge
  }

  /** Runs the loader and remembers its result at once. Under a lease, Redis gets it after the answer. */
  async function fill(ids: string[], load: Load<T>, lease?: { nonce: string; generation: number }): Promise<Values<T>> {
    const read = memory.begin(now())
    const keys = ids.map(keyOf)
    const loadEntries = async () => {
      const values = await load(ids)
      return new Map(keys.map((key, i) => [key, newEntry(values[i] ?? null, lease?.generation ?? 0, read.at)]))
    }
    emit('loader', 'load')
    const pending = { read, entries: loadEntries() }
    for (const key of keys) if (lease || !pendingLoads.has(key)) pendingLoads.set(key, pending)
    const settle = () => {
      for (const key of keys) if (pendingLoads.get(key) === pending) pendingLoads.delete(key)
    }

    let loaded
    try {
      loaded = await pending.entries
    } catch (error) {
      emit('loader', 'error')
      settle()
      if (lease) release(keys, lease.nonce)
      throw error
    }
    const values = new Map(ids.map((id) => [id, loaded.get(keyOf(id))?.d ?? null]))
    const tooLarge = keys.filter((key) => {
      const entry = loaded.get(key)
      return entry && isTooLarge(entry)
    })
    const storable = new Map(loaded)
    for (const key of tooLarge) storable.delete(key)
    for (const [key, entry] of storable) remember(key, entry, read)
    if (!lease) {
      settle()
      return values
    }
    const absent = keys.filter((key) => loaded.get(key)?.d === null)
    const forgotten = absent.length > MAX_STORED_ABSENCES ? absent : []
    for (const key of forgotten) storable.delete(key)
    release([...tooLarge, ...forgotten], lease.nonce)
    defer(async () => {
      const startedAt = now()
      try {
        const stored = await store(storable, lease.nonce)
        for (const [key, entry] of storable) {
          if (stored.has(key)) remember(key, entry, read, startedAt)
          else memory.forget(key) // another isolate wrote or invalidated it
        }
      } catch {
        emitError()
      } finally {
        settle()
      }
    })
    return values
  }

  /**
   * Loads what no layer has. What another reader is loading is awaited for up to `waitMs`, then loaded here and not
   * stored.
   */
  async function loadUnderLease(ids: string[], load: Load<T>): Promise<Values<T>> {
    const values: Values<T> = new Map()
    const nonce = crypto.randomUUID()
    const startedAt = now()
    let waiting = ids
    let isFree = (_key: string) => true
    /** Takes what this isolate got meanwhile. */
    const share = async () => {
      for (const id of waiting) {
        const entry = fromMemory(keyOf(id))
        if (entry) values.set(id, serve('memory', entry))
      }
      waiting = waiting.filter((id) => !values.has(id))
      await join(waiting, values)
      waiting = waiting.filter((id) => !values.has(id))
    }
    await share()
    for (let pauseMs = 20; waiting.length > 0; pauseMs = Math.min(pauseMs * 2, 200)) {
      let lookup
      try {
        lookup = await claim(waiting.map(keyOf), nonce, isFree)
      } catch {
        emitError()
        release(waiting.map(keyOf), nonce) // Redis may have executed the claim
        break
      }
      const { entries, claimed, free, generation, read } = lookup
      isFree = (key) => free.has(key)
      const due = []
      const unneeded = []
      for (const id of waiting) {
        const entry = entries.get(keyOf(id))
        if (entry && isServable(entry)) {
          remember(keyOf(id), entry, read)
          values.set(id, serve('redis', entry))
          if (claimed.has(keyOf(id))) unneeded.push(keyOf(id))
        } else if (claimed.has(keyOf(id))) {
          due.push(id)
        }
      }
      release(unneeded, nonce)
      if (due.length > 0) {
        for (const [id, value] of await fill(due, load, { nonce, generation })) values.set(id, value)
      }
      waiting = waiting.filter((id) => !values.has(id))
      await share()
      const waitedMs = now() - startedAt
      if (waiting.every((id) => pendingLoads.has(keyOf(id)))) break // we hold those leases ourselves
      if (waitedMs >= kind.waitMs || waitedMs < 0) break
      if (waiting.some((id) => isFree(keyOf(id)))) continue
      await new Promise((resolve) => setTimeout(resolve, pauseMs * (0.5 + random())))
      await share()
    }
    await share()
    if (waiting.length > 0) for (const [id, value] of await fill(waiting, load)) values.set(id, value)
    return values
  }

  /** Reloads stale values, except those that another reader is already refreshing. */
  async function refresh(ids: string[], load: Load<T>): Promise<void> {
    const nonce = crypto.randomUUID()
    const keys = ids.map(keyOf)
    const lookup = await claim(keys, nonce).catch(() => {
      emitError()
      release(keys, nonce) // Redis may have executed the claim
    })
    if (!lookup) return
    const { entries, claimed, generation } = lookup
    const ours = ids.filter((id) => claimed.has(keyOf(id)))
    const isRefreshed = (id: string) => {
      const entry = entries.get(keyOf(id))
      return entry !== undefined && isFresh(entry)
    }
    release(ours.filter(isRefreshed).map(keyOf), nonce)
    const due = ours.filter((id) => !isRefreshed(id))
    if (due.length > 0) await fill(due, load, { nonce, generation }).catch(() => {}) // its event reports the error
  }

  /** Asks Redis. With `canGiveUp`, returns undefined after the soft timeout, and remembers the reply when it comes. */
  async function lookWithSoftTimeout(keys: string[], canGiveUp: boolean): Promise<Lookup<T> | undefined> {
    const read = memory.begin(now())
    const rememberAll = ({ entries }: Lookup<T>) => {
      for (const [key, entry] of entries) if (isServable(entry)) remember(key, entry, read)
    }
    const looking = look(keys, read)
    if (!canGiveUp) {
      const lookup = await looking
      rememberAll(lookup)
      return lookup
    }
    const { promise: gaveUp, resolve: giveUp } = Promise.withResolvers<undefined>()
    const timer = setTimeout(giveUp, kind.softTimeoutMs)
    const lookup = await Promise.race([looking, gaveUp]).finally(() => clearTimeout(timer))
    if (lookup) rememberAll(lookup)
    else defer(() => looking.then(rememberAll, emitError))
    return lookup
  }

  /** Adds to `values` the values of `ids`, which memory cannot answer without Redis. */
  async function readThrough(ids: string[], load: Load<T>, values: Values<T>): Promise<void> {
    const read = memory.begin(now())
    const canGiveUp = ids.every((id) => {
      const entry = slotOf(keyOf(id))?.entry
      return entry && isServable(entry)
    })
    let lookup: Lookup<T> | undefined
    try {
      lookup = await lookWithSoftTimeout(ids.map(keyOf), canGiveUp)
      if (!lookup) emitError()
    } catch {
      emitError()
    }

    const stale: string[] = []
    for (const id of ids) {
      const key = keyOf(id)
      const entry = lookup ? lookup.entries.get(key) : slotOf(key)?.entry
      if (entry && isServable(entry)) {
        if (lookup && !isFresh(entry)) stale.push(id)
        values.set(id, serve(lookup ? 'redis' : 'memory', entry))
      } else if (lookup) {
        emit('redis', 'miss')
      }
    }
    if (stale.length > 0) defer(() => refresh(stale, load))

    const missing = ids.filter((id) => !values.has(id))
    if (missing.length === 0) return
    try {
      const loaded = lookup ? await loadUnderLease(missing, load) : await fill(missing, load)
      for (const [id, value] of loaded) values.set(id, value)
    } catch (error) {
      for (const id of missing) {
        const key = keyOf(id)
        const expired = isMarked(key, read) ? undefined : lookup?.entries.get(key)
        const entry = expired ?? slotOf(key)?.entry
        if (!entry || !isServableOnError(entry)) throw error
        values.set(id, serve(expired ? 'redis' : 'memory', entry))
      }
    }
  }

  async function getMany(ids: string[], load: Load<T>): Promise<(T | null)[]> {
    const values: Values<T> = new Map()
    const unanswered: string[] = []
    for (const id of new Set(ids)) {
      const entry = fromMemory(keyOf(id))
      if (entry) values.set(id, serve('memory', entry))
      else unanswered.push(id)
    }
    if (unanswered.length > 0) {
      if (pendingLoads.size > 0) await join(unanswered, values)
      const missing = unanswered.filter((id) => !values.has(id))
      for (const _ of missing) emit('memory', 'miss')
      if (missing.length > 0) await readThrough(missing, load, values)
    }
    return ids.map((id) => values.get(id) ?? null)
  }

  /** Makes memory forget `keys`, now and when `request` has ended: reads in between may have seen the old values. */
  async function invalidating(keys: string[], request: () => Promise<unknown>): Promise<void> {
    memory.mark(keys, now())
    await request().finally(() => memory.mark(keys, now()))
  }

  return {
    /** The values of `ids` in their order, `null` for what does not exist. `load` gets the ids that no layer has. */
    getMany,

    /** The value of `id`, or `null`. */
    async get(id: string, load: () => Promise<T | null>): Promise<T | null> {
      const [value] = await getMany([id], async () => [await load()])
      return value ?? null
    },

    /**
     * Write-through, after the source of truth has the value: stored unless a newer version is there. A value without
     * a version, with a generation, or too large is invalidated instead. One round trip.
     */
    async put(id: string, value: T): Promise<void> {
      const key = keyOf(id)
      const read = memory.begin(now())
      const entry = newEntry(value, 0, read.at)
      if (generationKey !== undefined || entry.v === 0 || isTooLarge(entry)) return this.invalidate([id])
      let isLatest = false
      try {
        const stored = await store(new Map([[key, entry]]), '')
        isLatest = stored.has(key) && !memory.isMarked(key, read)
      } finally {
        memory.mark([key], now(), entry.v) // also when Redis failed: older values are not accepted from it any more
      }
      if (isLatest) remember(key, entry, memory.begin(now()), read.at)
    },

    /** Removes `ids`, and ends any load of them in flight. One round trip. */
    async invalidate(ids: string[]): Promise<void> {
      if (ids.length === 0) return
      const keys = ids.map(keyOf)
      await invalidating(keys, () => {
        // The leases go first: a load that begins between the two commands has already seen the change.
        const pipeline = redis.pipeline().del(...keys.map(leaseOf))
        for (const key of keys) pipeline.set(key, TOMBSTONE, { px: TOMBSTONE_MS })
        return pipeline.exec()
      })
    },

    /**
     * Removes `ids` of a kind that is never `put`, and ends any load of them in flight. Without tombstones this is one
     * command, however many ids there are.
     */
    async drop(ids: string[]): Promise<void> {
      if (ids.length === 0) return
      const keys = ids.map(keyOf)
      await invalidating(keys, () => redis.del(...keys.map(leaseOf), ...keys))
    },

    /** Expires every entry of a kind with a generation. One command, however many entries there are. */
    async expireAll(): Promise<void> {
      if (generationKey === undefined) throw new Error(`The cache ${kind.name} has no generation`)
      const forgetAll = () => {
        const keys = Array.from(memory.keys()).filter((key) => key.startsWith(keyOf('')))
        for (const key of keys) memory.forget(key)
      }
      forgetAll()
      await invalidating([generationKey], () => redis.incr(generationKey)).finally(forgetAll)
    },

    /** Removes the entries of `ids` that belong to an earlier generation; returns how many. One script. */
    async purge(ids: string[]): Promise<number> {
      if (generationKey === undefined || ids.length === 0) return 0
      return redis.eval<string[], number>(PURGE, [generationKey, ...ids.map(keyOf)], [])
    },
  }
}
