import type { Redis } from '@upstash/redis/cloudflare'

/** Where the parts of one content's likes are. */
export interface LikeKeys {
  /** Integer: the count. */
  count: string
  /** Hash: when it was last changed here (`at`), and the newest revision set from the source (`likes`, `comments`). */
  meta: string
  /** Hash of a member: content id → `<1 or 0>:<since>:<changed at>`, the first of the times left out where they are one. */
  states: string
}

/** What one member thinks of one content. */
export interface LikeState {
  isLiked: boolean
  /** When they last said so: Unix ms, rises with every change of that content. */
  changedAt: number
  /** When they first said so. Null: at `changedAt`. */
  since: number | null
}

/** What the source of truth knows before a like: the member's state, and the count. */
export interface LoadedLike {
  state: LikeState
  count: number
}

/** The count of one content as the source of truth has it now. */
export interface Settlement {
  count: string
  meta: string
  /** Which count this is: each has revisions of its own. */
  field: 'likes' | 'comments'
  value: number
  /** Rises with every change of the content's counts at the source. */
  revision: number
  /** The newest change the source has seen; a count with a newer change is not touched: that one will settle it. */
  changedAt: number
}

/**
 * One member likes a content, or no longer. KEYS: states, count, meta. ARGV: content, 1 or 0, now, TTL (ms), loaded
 * state, loaded count ('' when not loaded). Answers nothing when something must be loaded, else the count, when this
 * was, and since when it is so. What changes nothing is noted as anew too: an older change may still be on its way to
 * the source.
 */
const LIKE = `#!lua flags=allow-key-locking
local state = redis.call('HGET', KEYS[1], ARGV[1]) or ARGV[5]
local count = redis.call('GET', KEYS[2]) or ARGV[6]
if state == '' or count == '' then return {} end
local liked, since = string.match(state, '^(%d):(%d+)')
local before = string.match(state, '%d+$')
local last = tonumber(redis.call('HGET', KEYS[3], 'at') or '0')
local changedAt = string.format('%.0f', math.max(tonumber(ARGV[3]), last + 1, tonumber(before) + 1))
if liked ~= ARGV[2] then
  count = tonumber(count) + (ARGV[2] == '1' and 1 or -1)
  since = changedAt
end
redis.call('HSET', KEYS[3], 'at', changedAt)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. (since == changedAt and '' or since .. ':') .. changedAt)
redis.call('SET', KEYS[2], count, 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {tonumber(count), changedAt, since}`

/** Sets a count from the source. KEYS: count, meta. ARGV: field, value, revision, changed at, TTL (ms). */
const SETTLE = `#!lua flags=allow-key-locking
local seen = redis.call('HMGET', KEYS[2], ARGV[1], 'at')
if tonumber(seen[1] or '-1') > tonumber(ARGV[3]) then return 0 end
if ARGV[1] == 'likes' and tonumber(seen[2] or '0') > tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[5])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1`

/** Corrects a member's state where an older one is held. KEYS: states. ARGV: content, state, changed at. */
const CORRECT = `#!lua flags=allow-key-locking
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and tonumber(string.match(held, ':(%d+)$')) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return 1`

/**
 * One viewer saw a post. KEYS: viewers, count, base, dirty. ARGV: viewer, post, TTL of the count, TTL of the viewers
 * (ms), loaded count ('' when not loaded). Answers the count, or -1 when it must be loaded.
 */
const SEE = `#!lua flags=allow-key-locking
-- usually calls 7
local base = redis.call('GET', KEYS[3])
if not base then
  local count = redis.call('GET', KEYS[2]) or ARGV[5]
  if count == '' then return -1 end
  base = math.max(0, tonumber(count) - redis.call('PFCOUNT', KEYS[1]))
end
local isNew = redis.call('PFADD', KEYS[1], ARGV[1])
local count = tonumber(base) + redis.call('PFCOUNT', KEYS[1])
redis.call('SET', KEYS[3], base, 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], count, 'PX', ARGV[3])
if isNew == 1 then redis.call('SADD', KEYS[4], ARGV[2]) end
return count`

/** How long Redis keeps who viewed a post after the last view; then its count goes on from what the source has. */
const VIEWERS_TTL_MS = 30 * 86_400_000

const written = ({ isLiked, changedAt, since }: LikeState) =>
  [isLiked ? 1 : 0, ...new Set([since ?? changedAt, changedAt])].join(':')

function read(text: string): LikeState {
  const [isLiked, since = 0, changedAt = since] = text.split(':').map(Number)
  return { isLiked: isLiked === 1, changedAt, since }
}

export type Counters = ReturnType<typeof createCounters>

/**
 * Counts that are exact at any moment, each an integer under its own key; the source of truth (D1) follows behind.
 *
 * A count that Redis lacks (evicted, flushed, never asked for) is loaded, never taken for 0. Every command here may
 * run twice: a like sets a state, and counts only where the state changes. Reading any number of counts is one
 * command; a like is one script, a view another: one round trip each, two when something must be loaded.
 *
 * When Redis fails, `read` and `states` answer what is loaded, a little behind; the others throw.
 */
export function createCounters(redis: Redis, ttlMs: number, defer: (work: () => Promise<unknown>) => void) {
  return {
    /**
     * The counts under `keys`, in their order. `load` answers those that Redis lacks, from the source of truth; they
     * are set after the answer unless a write came first.
     */
    async read(keys: string[], load: (missing: string[]) => Promise<Map<string, number>>): Promise<number[]> {
      if (keys.length === 0) return []
      let held: (number | null)[] | undefined
      try {
        held = await redis.mget<(number | null)[]>(...keys)
      } catch {
        // Redis is gone: the source knows the counts well enough to show.
      }
      const missing = keys.filter((_, i) => typeof held?.[i] !== 'number')
      const loaded = missing.length > 0 ? await load(missing) : new Map<string, number>()
      if (held && missing.length > 0) {
        const fill = redis.pipeline()
        for (const key of missing) {
          const count = loaded.get(key) // unknown to the source of truth: nothing to count
          if (count !== undefined) fill.set(key, count, { nx: true, px: ttlMs })
        }
        if (fill.length() > 0) defer(() => fill.exec().catch(() => {})) // the next reader loads them again
      }
      return keys.map((key, i) => {
        const count = held?.[i]
        return typeof count === 'number' ? count : (loaded.get(key) ?? 0)
      })
    },

    /** What the member of `statesKey` thinks of each of `ids`; `load` answers those that Redis lacks and that exist. */
    async states(
      statesKey: string,
      ids: string[],
      load: (missing: string[]) => Promise<Map<string, LikeState>>,
    ): Promise<LikeState[]> {
      if (ids.length === 0) return []
      let held: Record<string, string | null> | null | undefined
      try {
        held = await redis.hmget<Record<string, string | null>>(statesKey, ...ids)
      } catch {
        held = undefined
      }
      const missing = ids.filter((id) => typeof held?.[id] !== 'string')
      const loaded = missing.length > 0 ? await load(missing) : new Map<string, LikeState>()
      const stateOf = (id: string) => loaded.get(id) ?? { isLiked: false, changedAt: 0, since: null }
      if (held !== undefined && missing.length > 0) {
        const fill = redis.pipeline()
        for (const [id, state] of loaded) fill.hsetnx(statesKey, id, written(state)) // of what exists, no more
        fill.pexpire(statesKey, ttlMs)
        if (loaded.size > 0) defer(() => fill.exec().catch(() => {}))
      }
      return ids.map((id) => {
        const text = held?.[id]
        return typeof text === 'string' ? read(text) : stateOf(id)
      })
    },

    /** Every like state that Redis holds under each of `statesKeys`, by content id. One round trip. */
    async held(statesKeys: string[]): Promise<[contentId: string, state: LikeState][][]> {
      const pipeline = redis.pipeline()
      for (const key of statesKeys) pipeline.hgetall(key)
      const replies = await pipeline.exec<(Record<string, string> | null)[]>()
      return replies.map((states) => Object.entries(states ?? {}).map(([id, state]) => [id, read(state)]))
    },

    /**
     * Sets whether a member likes `contentId`, counted once however often it is asked. `load` is asked when Redis
     * lacks the state or the count; null from it (no such content) is answered as null.
     */
    async like(
      keys: LikeKeys,
      contentId: string,
      isLiked: boolean,
      load: () => Promise<LoadedLike | null>,
      now = Date.now(),
    ): Promise<{ count: number; changedAt: number; since: number } | null> {
      const attempt = (state: string, count: string) =>
        redis.eval<string[], [number, number, number] | []>(
          LIKE,
          [keys.states, keys.count, keys.meta],
          [contentId, isLiked ? '1' : '0', String(now), String(ttlMs), state, count],
        )
      let reply = await attempt('', '')
      if (reply.length === 0) {
        const loaded = await load()
        if (!loaded) return null
        reply = await attempt(written(loaded.state), String(loaded.count))
      }
      const [count = 0, changedAt = 0, since = 0] = reply
      return { count, changedAt, since }
    },

    /** Brings counts and states here to what the source has, where nothing newer is under way. One round trip. */
    async settle(
      counts: Settlement[],
      states: { key: string; contentId: string; state: LikeState }[] = [],
    ): Promise<void> {
      if (counts.length + states.length === 0) return
      const pipeline = redis.pipeline()
      for (const { count, meta, field, value, revision, changedAt } of counts) {
        const args = [field, value, revision, changedAt, ttlMs].map(String)
        pipeline.eval(SETTLE, [count, meta], args)
      }
      for (const { key, contentId, state } of states) {
        pipeline.eval(CORRECT, [key], [contentId, written(state), String(state.changedAt)])
      }
      await pipeline.exec()
    },

    /** Notes that `viewer` saw a post: the number of its viewers, within 1 % (HyperLogLog). Null: no such post. */
    async see(
      keys: { viewers: string; count: string; base: string; dirty: string },
      postId: string,
      viewer: string,
      load: () => Promise<number | null>,
    ): Promise<number | null> {
      const attempt = (loaded: string) =>
        redis.eval<string[], number>(
          SEE,
          [keys.viewers, keys.count, keys.base, keys.dirty],
          [viewer, postId, String(ttlMs), String(VIEWERS_TTL_MS), loaded],
        )
      const count = await attempt('')
      if (count >= 0) return count
      const loaded = await load()
      return loaded === null ? null : attempt(String(loaded))
    },

    /** Takes up to `most` ids from a set of what is to be written to the source, and the counts under `keyOf`. */
    async takeDirty(dirtyKey: string, most: number, keyOf: (id: string) => string): Promise<Map<string, number>> {
      const ids = (await redis.spop<string[]>(dirtyKey, most)) ?? []
      if (ids.length === 0) return new Map()
      const counts = await redis.mget<(number | null)[]>(...ids.map(keyOf))
      return new Map(ids.flatMap((id, i) => (typeof counts[i] === 'number' ? [[id, counts[i]]] : [])))
    },

    /** Puts back what could not be written. */
    async markDirty(dirtyKey: string, ids: string[]): Promise<void> {
      const [first, ...rest] = ids
      if (first !== undefined) await redis.sadd(dirtyKey, first, ...rest)
    },

    /** Forgets counts for good: what they counted is gone. */
    async forget(keys: string[]): Promise<void> {
      if (keys.length > 0) await redis.del(...keys)
    },
  }
}
