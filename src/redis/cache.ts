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
  /** Of every hit, and of nothing else: how long the value is still fresh (ms); negative when stale. */
  ttlMs?: number
  /** For hits in memory: how long memory may go on to answer without Redis (ms). 0: not at all. */
  memoryMs?: number
}

export interface CacheDependencies {
  /** Every command sent here may run twice. Called when memory has no answer. */
  redis: () => Redis
  memory: Memory
  /** Runs work after the answer. */
  defer: (work: () => Promise<unknown>) => void
  onEvent: (event: CacheEvent) => void
  /** The soft timeout here, by that of the policy. Absent: that of the policy. */
  softMs?: (shortestMs: number) => number
  now?: () => number
  random?: () => number
}

/** All times in ms. Redis keeps an entry for `freshMs + max(staleMs, staleIfErrorMs)`. */
export interface CachePolicy {
  freshMs: number
  /** A reader refreshes a value that is fresh for less than this, after its answer. Absent: only stale values. */
  eagerMs?: number
  /** Stale-while-revalidate: how long past fresh a value is served while one reader refreshes it. */
  staleMs: number
  /** Stale-if-error: how long past fresh a value is served when the loader fails. */
  staleIfErrorMs: number
  /** How long `null` is fresh. It is never served stale. */
  negativeMs: number
  /**
   * How long memory answers without Redis, from the start of the read: the longest delay before a reader sees another
   * isolate's write.
   */
  memoryMs: number
  /**
   * After this wait for Redis, a value in memory that is fresh or stale is served instead. Longer where Redis is far
   * away.
   */
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
  /** Whether a value is current. One that is not counts as missing. Absent: always. */
  isCurrent?: (value: T) => boolean
  /** Key of a number: raising it expires every entry of the kind at once. */
  generationKey?: string
}

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

/**
 * An invalidation writes this in place of the entry, for `TOMBSTONE_MS`: a miss that no write-through may replace. The
 * version of the value may follow. Then no load that returns an older one, from a replica that lags say, is stored.
 */
const TOMBSTONE = 'x'
const TOMBSTONE_MS = 10_000

/** The version in the tombstone of a value that was deleted: higher than any other. */
const GONE = Number.MAX_SAFE_INTEGER

/**
 * Redis remembers at most so many ids of one load as absent. More are probably guesses, which nobody repeats: each would
 * cost a command. Only memory remembers them.
 */
const MAX_STORED_ABSENCES = 10

/**
 * Stores entries. KEYS: entry, lease, entry, lease … ARGV, four for each: nonce, version, entry, TTL (ms).
 * With a nonce this is a fill: only the holder of the lease may store. Without one it is a write-through: it ends any
 * load in flight. A write-through that meets a negative entry cannot know which of the two is newer: it leaves a
 * tombstone, so that the next reader loads the value. A fill that meets a tombstone with a version stores no older value,
 * and `null` only if the value is gone.
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
    local tombstone = current and string.match(current, '^${TOMBSTONE}(%d*)$')
    if tombstone and nonce ~= '' then
      local known = tonumber(tombstone) or 0
      isOlder = version < known and not (version == 0 and known == ${GONE})
    end
    if isOlder or (nonce == '' and tombstone) then
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

const hasEntry = <T>(slot: Slot<T> | undefined): slot is Slot<T> & { entry: CacheEntry<T> } => slot?.entry !== undefined

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
export const createCache = <T>(dependencies: CacheDependencies, kind: CacheKind<T>) => new Cache(dependencies, kind)

/** A class, because every invocation creates caches: methods cost it nothing until they are used. */
export class Cache<T> {
  readonly #dependencies: CacheDependencies
  readonly #kind: CacheKind<T>
  /** How long Redis keeps an entry. */
  readonly #keepMs: number
  readonly #memory: Memory
  readonly #defer: CacheDependencies['defer']
  /**
   * Loads of this invocation that Redis does not have yet, by key: a second read joins them, and does not wait for
   * their leases.
   */
  readonly #pendingLoads = new Map<string, PendingLoad<T>>()

  constructor(dependencies: CacheDependencies, kind: CacheKind<T>) {
    this.#dependencies = dependencies
    this.#kind = kind
    this.#memory = dependencies.memory
    this.#defer = dependencies.defer
    this.#keepMs = kind.freshMs + Math.max(kind.staleMs, kind.staleIfErrorMs)
  }

  get #redis(): Redis {
    return this.#dependencies.redis()
  }

  #now(): number {
    return this.#dependencies.now?.() ?? Date.now()
  }

  #random(): number {
    return this.#dependencies.random?.() ?? Math.random()
  }

  #emit(layer: CacheEvent['layer'], outcome: CacheEvent['outcome']): void {
    this.#dependencies.onEvent({ cache: this.#kind.name, layer, outcome })
  }

  readonly #emitError = () => this.#emit('redis', 'error')

  // An entry loaded in the future is from before the clock was set back: how long it is fresh is not known.
  #isFresh(entry: CacheEntry<T>, time = this.#now()): boolean {
    return time < entry.f && entry.l <= time + CLOCK_SKEW_MS
  }

  /** Whether a reader should refresh an entry that Redis returned. */
  #isDue(entry: CacheEntry<T>): boolean {
    const time = this.#now()
    return entry.d !== null && (!this.#isFresh(entry, time) || entry.f - time < (this.#kind.eagerMs ?? 0))
  }

  #isCurrent(value: T): boolean {
    return this.#kind.isCurrent?.(value) ?? true
  }

  #isServable(entry: CacheEntry<T>, time = this.#now()): boolean {
    return entry.d === null
      ? this.#isFresh(entry, time)
      : time < entry.f + this.#kind.staleMs && this.#isCurrent(entry.d)
  }

  #isServableOnError(entry: CacheEntry<T>): boolean {
    return entry.d !== null && this.#now() < entry.f + this.#kind.staleIfErrorMs && this.#isCurrent(entry.d)
  }

  /** `memoryUntil`: until when memory may answer with this entry, without Redis. */
  #serve(layer: 'memory' | 'redis', entry: CacheEntry<T>, memoryUntil = 0): T | null {
    const now = this.#now()
    const ttlMs = entry.f - now
    const outcome = ttlMs <= 0 ? 'stale' : entry.d === null ? 'negative' : 'hit'
    const cache = this.#kind.name
    this.#dependencies.onEvent(
      layer === 'redis'
        ? { cache, layer, outcome, ttlMs }
        : { cache, layer, outcome, ttlMs, memoryMs: Math.max(0, memoryUntil - now) },
    )
    return entry.d
  }

  #newEntry(value: T | null, generation: number, loadedAt: number): CacheEntry<T> {
    const freshMs = value === null ? this.#kind.negativeMs : this.#kind.freshMs * (0.9 + 0.2 * this.#random()) // jitter: ±10 %
    const version = value === null ? 0 : this.#kind.versionOf(value)
    return { v: version, f: this.#now() + Math.round(freshMs), l: loadedAt, g: generation, d: value }
  }

  // Only `remember` writes our keys to memory, so its entries are of our type.
  #slotOf(key: string): Slot<T> | undefined {
    return this.#memory.get(key) as Slot<T> | undefined
  }

  /** Remembers what `read` returned. `confirmedAt`: when the last request began that returned it. */
  #remember(key: string, entry: CacheEntry<T>, read: ReadStart, confirmedAt = read.at): void {
    const { generationKey } = this.#kind
    if (generationKey !== undefined && this.#memory.isMarked(generationKey, read)) return
    const time = this.#now()
    // A stale entry is kept for a second, so that not every reader of this isolate refreshes it.
    const until = Math.min(
      confirmedAt + this.#kind.memoryMs,
      this.#isFresh(entry, time) ? entry.f : confirmedAt + 1_000,
    )
    this.#memory.remember(key, entry, { sequence: read.sequence, at: confirmedAt }, until, time)
  }

  /** What memory may answer without Redis. */
  #fromMemory(key: string): (Slot<T> & { entry: CacheEntry<T> }) | undefined {
    const slot = this.#slotOf(key)
    if (!hasEntry(slot)) return undefined
    const time = this.#now()
    return slot.since <= time && time < slot.until && this.#isServable(slot.entry, time) ? slot : undefined
  }

  #isMarked(key: string, read: ReadStart): boolean {
    const { generationKey } = this.#kind
    if (this.#memory.isMarked(key, read)) return true
    return generationKey !== undefined && this.#memory.isMarked(generationKey, read)
  }

  #isOutdated(key: string, entry: CacheEntry<T>): boolean {
    const { generationKey } = this.#kind
    if (this.#memory.isOutdated(key, entry, this.#now())) return true
    return generationKey !== undefined && this.#memory.isOutdated(generationKey, entry, this.#now())
  }

  /**
   * Adds to `values` what other loads of this invocation return, unless such a load fails, began `memoryMs` ago or
   * earlier, or is out of date.
   */
  async #join(ids: string[], values: Values<T>): Promise<void> {
    for (const id of ids) {
      const key = this.#kind.key(id)
      const pending = this.#pendingLoads.get(key)
      if (!pending || this.#now() - pending.read.at >= this.#kind.memoryMs || this.#isMarked(key, pending.read))
        continue
      const entry = (await pending.entries.catch(() => undefined))?.get(key)
      if (entry) values.set(id, this.#serve('memory', entry))
    }
  }

  #withGeneration(keys: string[]): string[] {
    const { generationKey } = this.#kind
    return generationKey === undefined ? keys : [...keys, generationKey]
  }

  #parse(keys: string[], replies: unknown[], read: ReadStart): Lookup<T> {
    const generation = this.#kind.generationKey === undefined ? 0 : Number(replies[keys.length] ?? 0)
    const entries = new Map<string, CacheEntry<T>>()
    for (const [i, key] of keys.entries()) {
      // The SDK has parsed the JSON. Only STORE and `invalidate` write these keys: anything but an object is a tombstone.
      const entry = replies[i] as CacheEntry<T> | string | null
      if (typeof entry !== 'object' || entry?.g !== generation) {
        this.#memory.forget(key, read) // it may have been invalidated: then memory must not serve it on errors either
      } else if (!this.#isOutdated(key, entry)) {
        entries.set(key, entry)
      }
    }
    return { entries, generation }
  }

  async #look(keys: string[], read: ReadStart): Promise<Lookup<T>> {
    return this.#parse(keys, await this.#redis.mget<unknown[]>(...this.#withGeneration(keys)), read)
  }

  /**
   * Claims the leases of those of `keys` that are `free`, and looks at all again: another reader may have filled since the
   * first look. `MGET` says which leases are ours: the reply to a `SET` that was repeated does not. It also says which are
   * free now. A command for each claim, and one.
   */
  async #claim(
    keys: string[],
    nonce: string,
    isFree: (key: string) => boolean = () => true,
  ): Promise<Lookup<T> & { read: ReadStart; claimed: Set<string>; free: Set<string> }> {
    const read = this.#memory.begin(this.#now())
    const pipeline = this.#redis.pipeline()
    for (const key of keys.filter(isFree)) {
      pipeline.set(leaseOf(key), nonce, { nx: true, px: this.#kind.leaseMs })
    }
    const looked = this.#withGeneration(keys)
    pipeline.mget(...looked, ...keys.map(leaseOf))
    const replies = await pipeline.exec<unknown[]>()
    const values = replies.at(-1) as unknown[] // MGET returns a list
    const keysOfLease = (lease: string | null) => new Set(keys.filter((_, i) => values[looked.length + i] === lease))
    return { ...this.#parse(keys, values, read), read, claimed: keysOfLease(nonce), free: keysOfLease(null) }
  }

  #release(keys: string[], nonce: string): void {
    if (keys.length > 0) this.#defer(() => this.#redis.eval(RELEASE, keys.map(leaseOf), [nonce]).catch(this.#emitError))
  }

  /**
   * Writes entries to Redis: with a nonce as a fill under that lease, with '' as a write-through. Returns the keys
   * stored.
   */
  async #store(entries: Map<string, CacheEntry<T>>, nonce: string): Promise<Set<string>> {
    if (entries.size === 0) return new Set()
    const replies = await this.#redis.eval<string[], number[]>(
      STORE,
      [...entries.keys()].flatMap((key) => [key, leaseOf(key)]),
      [...entries.values()].flatMap((entry) => [
        nonce,
        String(entry.v),
        JSON.stringify(entry),
        String(entry.d === null ? this.#kind.negativeMs : this.#keepMs),
      ]),
    )
    for (const reply of replies) this.#emit('redis', reply === 1 ? 'store' : 'lost')
    return new Set([...entries.keys()].filter((_, i) => replies[i] === 1))
  }

  #isTooLarge(entry: CacheEntry<T>): boolean {
    const isLarge = new TextEncoder().encode(JSON.stringify(entry)).byteLength > this.#kind.maxValueBytes
    if (isLarge) this.#emit('redis', 'refused')
    return isLarge
  }

  /** Runs the loader and remembers its result at once. Under a lease, Redis gets it after the answer. */
  async #fill(ids: string[], load: Load<T>, lease?: { nonce: string; generation: number }): Promise<Values<T>> {
    const read = this.#memory.begin(this.#now())
    const keys = ids.map(this.#kind.key)
    const loadEntries = async () => {
      const values = await load(ids)
      return new Map(keys.map((key, i) => [key, this.#newEntry(values[i] ?? null, lease?.generation ?? 0, read.at)]))
    }
    this.#emit('loader', 'load')
    const pending = { read, entries: loadEntries() }
    for (const key of keys) if (lease || !this.#pendingLoads.has(key)) this.#pendingLoads.set(key, pending)
    const settle = () => {
      for (const key of keys) if (this.#pendingLoads.get(key) === pending) this.#pendingLoads.delete(key)
    }

    let loaded
    try {
      loaded = await pending.entries
    } catch (error) {
      this.#emit('loader', 'error')
      settle()
      if (lease) this.#release(keys, lease.nonce)
      throw error
    }
    const values = new Map(ids.map((id) => [id, loaded.get(this.#kind.key(id))?.d ?? null]))
    const tooLarge = keys.filter((key) => {
      const entry = loaded.get(key)
      return entry && this.#isTooLarge(entry)
    })
    const storable = new Map(loaded)
    for (const key of tooLarge) storable.delete(key)
    for (const [key, entry] of storable) this.#remember(key, entry, read)
    if (!lease) {
      settle()
      return values
    }
    const absent = keys.filter((key) => loaded.get(key)?.d === null)
    const forgotten = absent.length > MAX_STORED_ABSENCES ? absent : []
    for (const key of forgotten) storable.delete(key)
    this.#release([...tooLarge, ...forgotten], lease.nonce)
    this.#defer(async () => {
      const startedAt = this.#now()
      try {
        const stored = await this.#store(storable, lease.nonce)
        for (const [key, entry] of storable) {
          if (stored.has(key)) this.#remember(key, entry, read, startedAt)
          else this.#memory.forget(key) // another isolate wrote or invalidated it
        }
      } catch {
        this.#emitError()
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
  async #loadUnderLease(ids: string[], load: Load<T>): Promise<Values<T>> {
    const values: Values<T> = new Map()
    const nonce = crypto.randomUUID()
    const startedAt = this.#now()
    let waiting = ids
    let isFree = (_key: string) => true
    /** Takes what this isolate got meanwhile. */
    const share = async () => {
      for (const id of waiting) {
        const slot = this.#fromMemory(this.#kind.key(id))
        if (slot) values.set(id, this.#serve('memory', slot.entry, slot.until))
      }
      waiting = waiting.filter((id) => !values.has(id))
      await this.#join(waiting, values)
      waiting = waiting.filter((id) => !values.has(id))
    }
    await share()
    for (let pauseMs = 20; waiting.length > 0; pauseMs = Math.min(pauseMs * 2, 200)) {
      let lookup
      try {
        lookup = await this.#claim(waiting.map(this.#kind.key), nonce, isFree)
      } catch {
        this.#emitError()
        this.#release(waiting.map(this.#kind.key), nonce) // Redis may have executed the claim
        break
      }
      const { entries, claimed, free, generation, read } = lookup
      isFree = (key) => free.has(key)
      const due = []
      const unneeded = []
      for (const id of waiting) {
        const entry = entries.get(this.#kind.key(id))
        if (entry && this.#isServable(entry)) {
          this.#remember(this.#kind.key(id), entry, read)
          values.set(id, this.#serve('redis', entry))
          if (claimed.has(this.#kind.key(id))) unneeded.push(this.#kind.key(id))
        } else if (claimed.has(this.#kind.key(id))) {
          due.push(id)
        }
      }
      this.#release(unneeded, nonce)
      if (due.length > 0) {
        for (const [id, value] of await this.#fill(due, load, { nonce, generation })) values.set(id, value)
      }
      waiting = waiting.filter((id) => !values.has(id))
      await share()
      const waitedMs = this.#now() - startedAt
      if (waiting.every((id) => this.#pendingLoads.has(this.#kind.key(id)))) break // we hold those leases ourselves
      if (waitedMs >= this.#kind.waitMs || waitedMs < 0) break
      if (waiting.some((id) => isFree(this.#kind.key(id)))) continue
      await new Promise((resolve) => setTimeout(resolve, pauseMs * (0.5 + this.#random())))
      await share()
    }
    await share()
    if (waiting.length > 0) for (const [id, value] of await this.#fill(waiting, load)) values.set(id, value)
    return values
  }

  /** Reloads values that are due, except those that another reader is already refreshing. */
  async #refresh(ids: string[], load: Load<T>): Promise<void> {
    const nonce = crypto.randomUUID()
    const keys = ids.map(this.#kind.key)
    const lookup = await this.#claim(keys, nonce).catch(() => {
      this.#emitError()
      this.#release(keys, nonce) // Redis may have executed the claim
    })
    if (!lookup) return
    const { entries, claimed, generation } = lookup
    const ours = ids.filter((id) => claimed.has(this.#kind.key(id)))
    const isRefreshed = (id: string) => {
      const entry = entries.get(this.#kind.key(id))
      return entry !== undefined && !this.#isDue(entry)
    }
    this.#release(ours.filter(isRefreshed).map(this.#kind.key), nonce)
    const due = ours.filter((id) => !isRefreshed(id))
    if (due.length > 0) await this.#fill(due, load, { nonce, generation }).catch(() => {}) // its event reports the error
  }

  /** Asks Redis. With `canGiveUp`, returns undefined after the soft timeout, and remembers the reply when it comes. */
  async #lookWithSoftTimeout(keys: string[], canGiveUp: boolean): Promise<Lookup<T> | undefined> {
    const read = this.#memory.begin(this.#now())
    const rememberAll = ({ entries }: Lookup<T>) => {
      for (const [key, entry] of entries) if (this.#isServable(entry)) this.#remember(key, entry, read)
    }
    const looking = this.#look(keys, read)
    if (!canGiveUp) {
      const lookup = await looking
      rememberAll(lookup)
      return lookup
    }
    const { softMs } = this.#dependencies
    const { softTimeoutMs } = this.#kind
    const { promise: gaveUp, resolve: giveUp } = Promise.withResolvers<undefined>()
    const timer = setTimeout(() => giveUp(undefined), softMs?.(softTimeoutMs) ?? softTimeoutMs)
    const lookup = await Promise.race([looking, gaveUp]).finally(() => clearTimeout(timer))
    if (lookup) rememberAll(lookup)
    else this.#defer(() => looking.then(rememberAll, this.#emitError))
    return lookup
  }

  /** Adds to `values` the values of `ids`, which memory cannot answer without Redis. */
  async #readThrough(
    ids: string[],
    load: Load<T>,
    values: Values<T>,
    onMiss?: (missing: string[]) => void,
  ): Promise<void> {
    const read = this.#memory.begin(this.#now())
    const canGiveUp = ids.every((id) => {
      const entry = this.#slotOf(this.#kind.key(id))?.entry
      return entry && this.#isServable(entry)
    })
    let lookup: Lookup<T> | undefined
    try {
      lookup = await this.#lookWithSoftTimeout(ids.map(this.#kind.key), canGiveUp)
      if (!lookup) this.#emitError()
    } catch {
      this.#emitError()
    }

    const due: string[] = []
    for (const id of ids) {
      const key = this.#kind.key(id)
      const entry = lookup ? lookup.entries.get(key) : this.#slotOf(key)?.entry
      if (entry && this.#isServable(entry)) {
        if (lookup && this.#isDue(entry)) due.push(id)
        values.set(id, this.#serve(lookup ? 'redis' : 'memory', entry))
      } else if (lookup) {
        this.#emit('redis', 'miss')
      }
    }
    if (due.length > 0) this.#defer(() => this.#refresh(due, load))

    const missing = ids.filter((id) => !values.has(id))
    if (missing.length === 0) return
    onMiss?.(missing)
    try {
      const loaded = lookup ? await this.#loadUnderLease(missing, load) : await this.#fill(missing, load)
      for (const [id, value] of loaded) values.set(id, value)
    } catch (error) {
      for (const id of missing) {
        const key = this.#kind.key(id)
        const expired = this.#isMarked(key, read) ? undefined : lookup?.entries.get(key)
        const entry = expired ?? this.#slotOf(key)?.entry
        if (!entry || !this.#isServableOnError(entry)) throw error
        values.set(id, this.#serve(expired ? 'redis' : 'memory', entry))
      }
    }
  }

  /**
   * The values of `ids` in their order, `null` for what does not exist. `load` gets the ids that no layer has. A promise,
   * unless memory has all of them. `onMiss` gets the ids that Redis lacks, before this reader asks for the right to load them.
   */
  getMany(ids: string[], load: Load<T>, onMiss?: (missing: string[]) => void): Promise<(T | null)[]> | (T | null)[] {
    const values: Values<T> = new Map()
    const unanswered: string[] = []
    for (const id of new Set(ids)) {
      const slot = this.#fromMemory(this.#kind.key(id))
      if (slot) values.set(id, this.#serve('memory', slot.entry, slot.until))
      else unanswered.push(id)
    }
    const inOrder = () => ids.map((id) => values.get(id) ?? null)
    return unanswered.length === 0 ? inOrder() : this.#readUnanswered(unanswered, load, values, onMiss).then(inOrder)
  }

  /** Adds to `values` those of `ids`, which memory does not have. */
  async #readUnanswered(
    ids: string[],
    load: Load<T>,
    values: Values<T>,
    onMiss?: (missing: string[]) => void,
  ): Promise<void> {
    if (this.#pendingLoads.size > 0) await this.#join(ids, values)
    const missing = ids.filter((id) => !values.has(id))
    for (const _ of missing) this.#emit('memory', 'miss')
    if (missing.length > 0) await this.#readThrough(missing, load, values, onMiss)
  }

  /** Makes memory forget `keys`, now and when `request` has ended: reads in between may have seen the old values. */
  async #invalidating(keys: string[], request: () => Promise<unknown>): Promise<void> {
    this.#memory.mark(keys, this.#now())
    await request().finally(() => this.#memory.mark(keys, this.#now()))
  }

  /** The value of `id`, or `null`. */
  async get(id: string, load: () => Promise<T | null>): Promise<T | null> {
    const [value] = await this.getMany([id], async () => [await load()])
    return value ?? null
  }

  /**
   * Write-through, after the source of truth has the value: stored unless a newer version is there. A value without
   * a version, with a generation, or too large is invalidated instead. One round trip. Safe to repeat; after a lost
   * reply this isolate accepts no older value.
   */
  async put(id: string, value: T): Promise<void> {
    const key = this.#kind.key(id)
    const read = this.#memory.begin(this.#now())
    const entry = this.#newEntry(value, 0, read.at)
    if (this.#kind.generationKey !== undefined || entry.v === 0 || this.#isTooLarge(entry)) return this.invalidate([id])
    let isLatest = false
    try {
      const stored = await this.#store(new Map([[key, entry]]), '')
      isLatest = stored.has(key) && !this.#memory.isMarked(key, read)
    } finally {
      this.#memory.mark([key], this.#now(), entry.v) // also when Redis failed: older values are not accepted from it any more
    }
    if (isLatest) this.#remember(key, entry, this.#memory.begin(this.#now()), read.at)
  }

  /**
   * Removes `ids`, and ends any load of them in flight. `versions`, in the same order, are those at the source now:
   * `Infinity` for what was deleted, 0 or absent if unknown. One round trip. Safe to repeat.
   */
  async invalidate(ids: string[], versions: number[] = []): Promise<void> {
    if (ids.length === 0) return
    const keys = ids.map(this.#kind.key)
    await this.#invalidating(keys, () => {
      // The leases go first: a load that begins between the two commands has already seen the change.
      const pipeline = this.#redis.pipeline().del(...keys.map(leaseOf))
      for (const [i, key] of keys.entries()) {
        const version = Math.min(versions[i] ?? 0, GONE)
        pipeline.set(key, `${TOMBSTONE}${version || ''}`, { px: TOMBSTONE_MS })
      }
      return pipeline.exec()
    })
  }

  /**
   * Removes `ids` of a kind that is never `put`, and ends any load of them in flight. Without tombstones this is one
   * command, however many ids there are. Safe to repeat.
   */
  async drop(ids: string[]): Promise<void> {
    if (ids.length === 0) return
    const keys = ids.map(this.#kind.key)
    await this.#invalidating(keys, () => this.#redis.del(...keys.map(leaseOf), ...keys))
  }

  /** Expires every entry of a kind with a generation. One command, however many entries there are. Safe to repeat. */
  async expireAll(): Promise<void> {
    const { generationKey } = this.#kind
    if (generationKey === undefined) throw new Error(`The cache ${this.#kind.name} has no generation`)
    const forgetAll = () => {
      const keys = Array.from(this.#memory.keys()).filter((key) => key.startsWith(this.#kind.key('')))
      for (const key of keys) this.#memory.forget(key)
    }
    forgetAll()
    await this.#invalidating([generationKey], () => this.#redis.incr(generationKey)).finally(forgetAll)
  }

  /**
   * Removes the entries of `ids` that belong to an earlier generation; returns how many. One script. Safe to repeat.
   */
  async purge(ids: string[]): Promise<number> {
    if (this.#kind.generationKey === undefined || ids.length === 0) return 0
    return this.#redis.eval<string[], number>(PURGE, [this.#kind.generationKey, ...ids.map(this.#kind.key)], [])
  }
}
