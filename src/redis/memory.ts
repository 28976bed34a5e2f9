import { createBoundedMap } from './bounded-map.ts'

/** A cached value, as memory and Redis keep it. Times are Unix ms. Names are short to save bytes. */
export interface CacheEntry<T> {
  /** Version; 0 for `null` and for kinds without versions. It comes first: scripts match it without parsing JSON. */
  v: number
  /** Fresh until. */
  f: number
  /** When its load, or its write-through, began. */
  l: number
  /** Generation it was loaded under; 0 for kinds without generations. */
  g: number
  /** The value; `null` means that it does not exist. */
  d: T | null
}

/** The start of a read: it orders what the read returns against later marks and reads. */
export interface ReadStart {
  sequence: number
  /** Unix ms. */
  at: number
}

/** Says that older entries of a key are out of date. */
interface KeyMark {
  sequence: number
  /** Unix ms. Entries without a version that were loaded earlier are out of date. */
  at: number
  /** Entries with a lower version are out of date; 0 if the new version is unknown. */
  version: number
}

/** What memory knows of one key: an entry, a mark, or both. */
export interface Slot<T> {
  entry: CacheEntry<T> | undefined
  /** Sequence of the read that returned the entry. */
  sequence: number
  /** Memory may answer without Redis from `since` until `until` (Unix ms). Two bounds: a clock may be set back. */
  since: number
  until: number
  mark: KeyMark | undefined
}

/** What an isolate remembers between requests. */
export type Memory = ReturnType<typeof createMemory>

/** How far the clocks of two isolates may differ. A time further in the future means that a clock was set back. */
export const CLOCK_SKEW_MS = 5_000

/** Whether `entry` is older than `other`: by version, or by load time where one has no version. */
function isOlder(entry: CacheEntry<unknown>, other: CacheEntry<unknown>, now: number): boolean {
  if (entry.v > 0 && other.v > 0) return entry.v < other.v
  return entry.l < other.l && other.l <= now + CLOCK_SKEW_MS
}

/**
 * Entries of all caches of one isolate, by Redis key, in at most `maxBytes` (estimated). It evicts the least recently
 * used. It keeps old values from returning:
 *
 * - A write or an invalidation marks its keys. A read that began before the mark may have seen the old value, so memory
 *   does not accept its result. The order is that of a counter, not of a clock.
 * - Memory never replaces an entry with an older one.
 * - `isOutdated` compares an entry that Redis still has with the mark and with the entry here.
 *
 * Marks count in bytes like entries and may be evicted. A read that began before an evicted mark is then accepted for
 * no key. So the bound holds however long a read takes.
 */
export function createMemory(maxBytes: number) {
  let sequence = 0
  /** The highest sequence of an evicted mark. */
  let evictedSequence = 0

  const slots = createBoundedMap<Slot<unknown>>(
    maxBytes,
    ({ entry }, key) => 2 * ((entry ? JSON.stringify(entry).length : 0) + key.length) + 200, // UTF-16
    ({ mark }) => {
      if (mark) evictedSequence = Math.max(evictedSequence, mark.sequence)
    },
  )

  const isMarked = (key: string, read: ReadStart) =>
    read.sequence < Math.max(evictedSequence, slots.get(key)?.mark?.sequence ?? 0)

  function clear(key: string, mark: KeyMark | undefined): void {
    if (mark) slots.set(key, { entry: undefined, sequence: 0, since: 0, until: 0, mark })
    else slots.delete(key)
  }

  return {
    /** What memory knows of `key`. */
    get: (key: string): Slot<unknown> | undefined => slots.get(key),

    /** Begins a read. Call it before the first request to Redis or the loader. */
    begin: (now: number): ReadStart => ({ sequence: (sequence += 1), at: now }),

    /** Whether `key` was marked after `read` began. True also if memory can no longer tell. */
    isMarked,

    /** Remembers what `read` returned until `until` (Unix ms), unless memory has something newer. */
    remember(key: string, entry: CacheEntry<unknown>, read: ReadStart, until: number, now: number): void {
      if (isMarked(key, read)) return
      const slot = slots.get(key)
      if (slot?.entry && isOlder(entry, slot.entry, now)) return
      slots.set(key, { entry, sequence: read.sequence, since: read.at, until, mark: slot?.mark })
    },

    /** Whether memory knows of something newer than `entry`, which Redis returned. */
    isOutdated(key: string, entry: CacheEntry<unknown>, now: number): boolean {
      const slot = slots.get(key)
      if (!slot) return false
      const { mark } = slot
      if (mark) {
        const isBeforeMark =
          entry.v > 0 && mark.version > 0 ? entry.v < mark.version : entry.l < mark.at && mark.at <= now
        if (isBeforeMark) return true
      }
      return slot.entry !== undefined && isOlder(entry, slot.entry, now)
    },

    /**
     * Marks `keys`: what was read before is out of date. Removes their entries, except those of `version` (that of a
     * write; 0 for an invalidation) or later.
     */
    mark(keys: string[], now: number, version = 0): void {
      sequence += 1
      for (const key of keys) {
        const slot = slots.get(key)
        const mark = { sequence, at: now, version: version && Math.max(version, slot?.mark?.version ?? 0) }
        if (slot?.entry && version > 0 && slot.entry.v >= version) slots.set(key, { ...slot, mark })
        else clear(key, mark)
      }
    },

    /** Removes the entry of `key`; with `read`, only an entry that an earlier read returned. Its mark stays. */
    forget(key: string, read?: ReadStart): void {
      const slot = slots.get(key)
      if (slot?.entry && (!read || slot.sequence < read.sequence)) clear(key, slot.mark)
    },

    keys: () => slots.keys(),
    /** Bytes in use, estimated. */
    size: () => slots.size(),
  }
}
