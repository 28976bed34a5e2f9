import type { Redis } from '@upstash/redis/cloudflare'
import { type Evaluate, run } from './script.ts'

/** What is counted of a content. */
export type Counter = 'likes' | 'comments' | 'views'

/** The Redis keys of the counters. */
export interface CounterKeys {
  /** String holding an integer: a count, as readers see it. */
  count: (counter: Counter, contentId: string) => string
  /**
   * JSON string: the count again, with what orders or derives it. Of likes and comments
   * `"<count>:<changed at>:<revision>"`, of views `"<count>:<views that the HyperLogLog does not include>"`.
   */
  tally: (counter: Counter, contentId: string) => string
  /**
   * Hash of one user: content id → like state, `"<1 or 0>:<since>:<changed at>"`, or `"<1 or 0>:<both>"`: a JSON string.
   * Its field `:from` is the lowest content id from which on it has every state: where none is, the user has never liked.
   */
  likedBy: (userId: string) => string
  /** Sorted set: likes that the source has not confirmed. */
  likesUnwritten: string
  /** HyperLogLog: the viewers of a content. */
  viewers: (contentId: string) => string
  /**
   * Sorted set: content id, by the count of views that the source has not confirmed. One more member, with score 0, shows
   * whether the set is complete (`:complete`), or how far a walk has restored it (`:from:<cursor>`).
   */
  viewsUnwritten: string
  /** String: who wrote a content, ids separated by spaces. Beside its counts wherever `load` says it. */
  authors: (contentId: string) => string
}

/** Whether a user likes a content, and since when. Times are Unix ms. */
export interface LikeState {
  isLiked: boolean
  /** When the user last said so, by the clock of Redis. Of two states of one user and content, the higher is newer. */
  changedAt: number
  /** When this state began. Null: at `changedAt`. */
  stateSince: number | null
}

/** The counts of a content, as the source of truth has them. */
export type KnownCounts = Partial<Record<Counter, number>>

/** The same, with what orders them. */
export interface LoadedCounts extends KnownCounts {
  /** The newest `changedAt` among the likes that the source has. */
  changedAt: number
  /** Rises with every change of the counts at the source. */
  revision: number
  /** Who wrote the content, ids separated by spaces, for guards of scripts. They never change. */
  authors?: string
}

/** Counts of views at the source, by content. */
export type KnownViews = Map<string, number>

/**
 * Loads counts from the source. Redis stores those of contents that `claim` was called with before they were loaded: it
 * takes one round trip. The others are loaded again, after the answer: then there is no `claim`, and all must be read now.
 */
export type LoadCounts = (
  contentIds: string[],
  claim?: (contentIds: string[]) => Promise<void>,
) => Promise<Map<string, LoadedCounts>>

/** Ids are compared byte by byte. */
export interface NewestStates {
  states: Map<string, LikeState>
  from: string
}

/** The like states of one user at the source. A content that the user never liked is absent. */
export interface LoadStates {
  of: (contentIds: string[]) => Promise<Map<string, LikeState>>
  /** Also those of the contents with the highest ids, and the lowest id from which on these are all. */
  newest: (contentIds: string[]) => Promise<NewestStates>
}

/** One count. */
interface CountOf {
  counter: Counter
  contentId: string
}

/** What the source of truth has for a like: the user's state and the count, read together. */
export interface LoadedLike {
  state: LikeState
  count: number
  changedAt: number
  revision: number
  /** As in `LoadedCounts`. */
  authors?: string
}

/** What the source of truth has for a view. */
export type LoadedViews = Pick<LoadedCounts, 'authors'> & { views: number }

/** A count at the source, for Redis to adopt. */
export interface Settlement {
  counter: 'likes' | 'comments'
  contentId: string
  count: number
  revision: number
  /** The newest like that this count includes. A tally with a newer one stays: that like settles it. */
  changedAt: number
}

/** A like that Redis has counted and the source has not confirmed. */
export interface UnwrittenLike {
  contentId: string
  userId: string
  isLiked: boolean
  changedAt: number
}

/** A like that the source has processed, and the user's state there since. Null: the content or the user is gone. */
export interface WrittenLike extends UnwrittenLike {
  state: LikeState | null
}

/**
 * A marker, `?<random>`, in place of a value means that somebody is loading the value. Every change of a value replaces
 * or removes the marker, and so does a deletion, an eviction or a flush. So a value that was loaded after its marker was
 * set, and is stored only where that marker still is, can never replace a newer one.
 */
const newMarker = () => `?${crypto.randomUUID()}`

/** How long a marker stays when its loader dies. */
const MARKER_MS = 10_000

/** The state of a content that the user never liked. */
const NEVER_LIKED: LikeState = { isLiked: false, changedAt: 0, stateSince: null }

/**
 * The newest states of a user are stored together with the unwritten ones, which are found among all unwritten likes. Where
 * there are more than this, no states are stored.
 */
const MAX_UNWRITTEN = 5_000

/** A load is repeated at most so often when the counts change meanwhile. */
const MAX_ATTEMPTS = 5

/** How long Redis keeps the viewers of a content after the last new one. After that, its count continues from the source. */
const VIEWERS_TTL_MS = 30 * 86_400_000

/**
 * How long Redis keeps the authors of a content after a load. Longer than a count, which a load brings together with them:
 * changes of a count do not refresh them, because that would cost each one a command.
 */
const AUTHORS_TTL_MS = 30 * 86_400_000

/** Stores the authors of a content, if they were loaded. KEYS: authors at the end. ARGV: authors or '' at the end. */
const KEEP_AUTHORS = `
if ARGV[#ARGV] ~= '' then redis.call('SET', KEYS[#KEYS], ARGV[#ARGV], 'PX', ${AUTHORS_TTL_MS}) end`

/**
 * Sets whether a user likes a content. KEYS: tally, count, states, unwritten, authors. ARGV: content, user, 1 or 0, TTL (ms),
 * new marker, then what was loaded, or '' each: marker, state, count, changed at, revision, authors.
 * Returns the count, when this was, and since when the state holds; or the marker under which to load ('' for none), which
 * it does wherever a guard is `UNDECIDED`.
 *
 * The count comes from the tally, else from the published count, else from the load. The user's state comes from the
 * states; where they have none, there is none if they have every state of such contents, else it comes from the unwritten
 * likes, else from the load. Only where both counts are lost, count and state come from one load: the unwritten like of
 * this user is in neither. A state that changes nothing is recorded as newer too: an older change may still be in the
 * queue.
 */
const LIKE = `#!lua flags=allow-key-locking
-- usually calls 6
local held, from = unpack(redis.call('HMGET', KEYS[3], ARGV[1], ':from'))
if held and not string.match(held, '^"[01]:') then held = false end
local lowest = string.match(from or '', '^"(.*)"$')
local tally = HELD[1]
local count, at, revision = string.match(tally or '', '^"(%d+):(%d+):(%d+)"$')
local state = held
if not count then
  count, at, revision = string.match(HELD[2] or '', '^%d+$'), '0', '0'
end
local member = ARGV[1] .. ':' .. ARGV[2] .. ':'
if not count then
  if ARGV[6] == '' or tally ~= ARGV[6] then
    if not tally then
      tally = ARGV[5]
      redis.call('SET', KEYS[1], tally, 'PX', ${MARKER_MS})
    end
    return {tally}
  end
  count, at, revision, state = ARGV[8], ARGV[9], ARGV[10], ARGV[7]
elseif UNDECIDED then
  return {''}
elseif not state and lowest and lowest <= ARGV[1] then
  state = '"0:0"'
elseif not state then
  local liked = tonumber(redis.call('ZSCORE', KEYS[4], member .. '1') or '-1')
  local unliked = tonumber(redis.call('ZSCORE', KEYS[4], member .. '0') or '-1')
  if liked > unliked then state = string.format('"1:%.0f"', liked)
  elseif unliked > liked then state = string.format('"0:%.0f"', unliked)
  elseif ARGV[7] == '' then return {''}
  else state = ARGV[7] end
end
local liked, since = string.match(state, '^"(%d):(%d+)')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(string.match(held or state, '(%d+)"$'))
local changedAt = string.format('%.0f', math.max(now, tonumber(at) + 1, last + 1))
if liked ~= ARGV[3] then
  count = string.format('%.0f', math.max(0, count + (ARGV[3] == '1' and 1 or -1)))
  since = changedAt
end
redis.call('SET', KEYS[1], '"' .. count .. ':' .. changedAt .. ':' .. revision .. '"', 'PX', ARGV[4])
if HELD[2] ~= count then redis.call('SET', KEYS[2], count, 'PX', ARGV[4]) end
local times = since == changedAt and changedAt or since .. ':' .. changedAt
local isNew = redis.call('HSET', KEYS[3], ARGV[1], '"' .. ARGV[3] .. ':' .. times .. '"')
if isNew == 1 and not from then redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
redis.call('ZADD', KEYS[4], changedAt, member .. ARGV[3])
${KEEP_AUTHORS}
return {tonumber(count), changedAt, since}`

/**
 * Stores loaded counts where their marker still is. KEYS: counts, then their tallies, then the authors of their contents.
 * ARGV: marker, TTL (ms), then for each count its value ('' removes the marker), its tally and authors ('' for none). A
 * count whose tally is still there is taken from the tally, which includes what the source has not confirmed.
 */
const FILL_COUNTS = `#!lua flags=allow-key-locking
local counts, gone = #KEYS / 3, {}
local held = redis.call('MGET', unpack(KEYS, 1, 2 * counts))
for i = 1, counts do
  local value, tally, authors = ARGV[i * 3], ARGV[i * 3 + 1], ARGV[i * 3 + 2]
  if held[i] == ARGV[1] then
    if value == '' then
      gone[#gone + 1] = KEYS[i]
    else
      local kept = string.match(held[counts + i] or '', '^"(%d+)')
      redis.call('SET', KEYS[i], kept or value, 'PX', ARGV[2])
      if tally ~= '' and not kept then redis.call('SET', KEYS[counts + i], tally, 'PX', ARGV[2]) end
      if authors ~= '' then redis.call('SET', KEYS[2 * counts + i], authors, 'PX', ${AUTHORS_TTL_MS}) end
    end
  end
end
if #gone > 0 then redis.call('DEL', unpack(gone)) end
return 1`

/**
 * Reads the states of a user. KEYS: states, unwritten. ARGV: user, marker, TTL (ms), contents. Returns the states, false
 * for those to load; then what is unwritten before the load, as members and scores; then 1 if the newest states are to be
 * loaded too: then the marker is in place of `:from`. A like that is not among the unwritten has reached the source, or
 * will change the states, or remove the marker.
 */
const READ_STATES = `#!lua flags=allow-key-locking
-- usually calls 1
local held = redis.call('HMGET', KEYS[1], ':from', unpack(ARGV, 4))
local from = string.match(table.remove(held, 1) or '', '^"(.*)"$')
local members = {}
for i, state in ipairs(held) do
  local content = ARGV[i + 3]
  if not string.match(state or '', '^"[01]:') then
    held[i] = from and from <= content and '"0:0"' or false
    if not held[i] then
      members[#members + 1] = content .. ':' .. ARGV[1] .. ':1'
      members[#members + 1] = content .. ':' .. ARGV[1] .. ':0'
    end
  end
end
if #members == 0 then return {held, {}, 0} end
local unwritten = {}
if from or redis.call('ZCARD', KEYS[2]) > ${MAX_UNWRITTEN} then
  for i, score in ipairs(redis.call('ZMSCORE', KEYS[2], unpack(members))) do
    if score then
      unwritten[#unwritten + 1] = members[i]
      unwritten[#unwritten + 1] = score
    end
  end
  return {held, unwritten, 0}
end
local all, owner = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'), ':' .. ARGV[1] .. ':'
for i = 1, #all, 2 do
  if string.sub(all[i], -#owner - 1, -2) == owner then
    unwritten[#unwritten + 1] = all[i]
    unwritten[#unwritten + 1] = all[i + 1]
  end
end
redis.call('HSET', KEYS[1], ':from', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {held, unwritten, 1}`

/**
 * Stores the newest states of a user, if the marker is still there, and leaves out older ones. KEYS: states. ARGV: marker,
 * TTL (ms), `:from`, content, state … A state that is there stays: it is newer, or the same.
 */
const FILL_STATES = `#!lua flags=allow-key-locking
if redis.call('HGET', KEYS[1], ':from') ~= ARGV[1] then return 0 end
local from, contents, states, fills = string.match(ARGV[3], '^"(.*)"$'), {}, {}, {':from', ARGV[3]}
for i = 4, #ARGV, 2 do
  if ARGV[i] >= from then
    contents[#contents + 1] = ARGV[i]
    states[#states + 1] = ARGV[i + 1]
  end
end
local held = #contents > 0 and redis.call('HMGET', KEYS[1], unpack(contents))
for i, content in ipairs(contents) do
  if not string.match(held[i] or '', '^"[01]:') then
    fills[#fills + 1] = content
    fills[#fills + 1] = states[i]
  end
end
redis.call('HSET', KEYS[1], unpack(fills))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1`

/**
 * Brings Redis to what the source has of counts and likes. KEYS: unwritten, then tally and count of each count, then the
 * states of each like's user. ARGV: how many counts, TTL (ms), then of each count its value, revision and changed at, then
 * of each like its content, member of unwritten, changed at, the state at the source ('' when there is none), and 1 if
 * that state is this like.
 *
 * Creates no key: the content may be gone. A count without a tally cannot be compared: it is removed, to be loaded, and
 * so is a marker. Corrects older states, and removes the likes from unwritten, unless they were repeated since. Where the
 * states are to have every state and lack this one, adds it; where they are being loaded without it, ends the load. A like
 * that was unwritten until now needs neither: it is in the states already, and in those being loaded.
 */
const SETTLE = `#!lua flags=allow-key-locking
-- usually calls 4
local counts, ttl = tonumber(ARGV[1]), ARGV[2]
if counts > 0 then
  local held, gone = redis.call('MGET', unpack(KEYS, 2, 1 + 2 * counts)), {}
  for i = 1, counts do
    local value, revision, at = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
    local counted, lastAt, lastRevision = string.match(held[2 * i - 1] or '', '^"(%d+):(%d+):(%d+)"$')
    if not counted then
      gone[#gone + 1] = KEYS[2 * i]
      gone[#gone + 1] = KEYS[2 * i + 1]
    elseif tonumber(lastRevision) <= tonumber(revision) and tonumber(lastAt) <= tonumber(at) then
      redis.call('SET', KEYS[2 * i], '"' .. value .. ':' .. at .. ':' .. revision .. '"', 'PX', ttl)
      if held[2 * i] ~= value then redis.call('SET', KEYS[2 * i + 1], value, 'PX', ttl) end
    end
  end
  if #gone > 0 then redis.call('DEL', unpack(gone)) end
end
local members, written = {}, {}
for i = 3 + 3 * counts, #ARGV, 5 do members[#members + 1] = ARGV[i + 1] end
if #members == 0 then return 0 end
local scores = redis.call('ZMSCORE', KEYS[1], unpack(members))
for i, member in ipairs(members) do
  local first, states = 3 * counts + 5 * i - 2, KEYS[1 + 2 * counts + i]
  local content, changedAt, state = ARGV[first], tonumber(ARGV[first + 2]), ARGV[first + 3]
  local recordedAt = tonumber(scores[i] or '-1')
  if scores[i] and recordedAt <= changedAt then written[#written + 1] = member end
  if ARGV[first + 4] ~= '1' or recordedAt ~= changedAt then
    local held, from = unpack(redis.call('HMGET', states, content, ':from'))
    local lowest, heldAt = string.match(from or '', '^"(.*)"$'), string.match(held or '', '^"[01]:.-(%d+)"$')
    if held and state == '' then
      redis.call('HDEL', states, content)
    elseif state ~= '' and (heldAt and tonumber(heldAt) < tonumber(string.match(state, '(%d+)"$'))
        or not heldAt and lowest and lowest <= content) then
      redis.call('HSET', states, content, state)
    elseif not heldAt and not lowest and (held or from) then
      redis.call('HDEL', states, content, ':from')
    end
  end
end
if #written > 0 then redis.call('ZREM', KEYS[1], unpack(written)) end
return #written`

/**
 * Recovers a like whose reply was lost. KEYS: states, unwritten, tally, count. ARGV: content, 1 or 0, member of unwritten.
 * Where the states have it, it becomes unwritten again. Where they do not, they may have lost it while the counts have not:
 * these are removed, to be loaded.
 */
const RECOVER = `#!lua flags=allow-key-locking
local liked, at = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^"(%d):.-(%d+)"$')
if liked == ARGV[2] then
  redis.call('ZADD', KEYS[2], at, ARGV[3])
else
  redis.call('DEL', KEYS[3], KEYS[4])
end
return 1`

/**
 * Adds a viewer. KEYS: tally, count, viewers, unwritten, authors. ARGV: viewer, content, TTL of the count, TTL of the viewers
 * (ms), new marker, then what was loaded, or '' each: count, marker, authors. Returns the count, or the marker under which to
 * load ('' for none), which it does wherever a guard is `UNDECIDED`.
 *
 * The count goes up as the HyperLogLog does. It continues from the published count or the tally, else from the load or
 * from what is unwritten: it falls only where Redis lost all of them.
 */
const VIEW = `#!lua flags=allow-key-locking
-- usually calls 7
local count, base = string.match(HELD[1] or '', '^"(%d+):(%d+)"$')
local isIntact = count and redis.call('EXISTS', KEYS[3]) == 1
if not count then
  local held = HELD[2]
  count = string.match(held or '', '^%d+$')
  if not count then
    if ARGV[7] == '' or held ~= ARGV[7] then
      if not held then
        held = ARGV[5]
        redis.call('SET', KEYS[2], held, 'PX', ${MARKER_MS})
      end
      return held
    end
    count = math.max(tonumber(ARGV[6]), tonumber(redis.call('ZSCORE', KEYS[4], ARGV[2]) or '0'))
  end
end
if UNDECIDED then return '' end
${KEEP_AUTHORS}
count = tonumber(count)
if not isIntact then
  local before = redis.call('PFCOUNT', KEYS[3])
  count = math.max(count, before)
  base = count - before
end
local isNew = redis.call('PFADD', KEYS[3], ARGV[1]) == 1
if isNew then
  count = math.max(count, base + redis.call('PFCOUNT', KEYS[3]))
  redis.call('ZADD', KEYS[4], count, ARGV[2])
elseif isIntact then
  return count
end
redis.call('SET', KEYS[1], '"' .. count .. ':' .. base .. '"', 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('SET', KEYS[2], count, 'PX', ARGV[3])
return count`

/**
 * The source has written counts of views. KEYS: unwritten, then count and tally of each content. ARGV: content, count …
 * Removes from the unwritten those that did not rise since. A load that began before the source had the count must not
 * store an older one: it is ended, and a lower count that it has stored is removed.
 */
const CONFIRM_VIEWS = `#!lua flags=allow-key-locking
-- usually calls 3
local contents, written, outdated = {}, {}, {}
for i = 1, #ARGV, 2 do contents[#contents + 1] = ARGV[i] end
local scores = redis.call('ZMSCORE', KEYS[1], unpack(contents))
local held = redis.call('MGET', unpack(KEYS, 2))
for i, content in ipairs(contents) do
  local count = tonumber(ARGV[i * 2])
  if scores[i] and tonumber(scores[i]) <= count then written[#written + 1] = content end
  local shown = held[2 * i - 1]
  if shown and (tonumber(shown) or -1) < count then
    outdated[#outdated + 1] = KEYS[2 * i]
    outdated[#outdated + 1] = KEYS[2 * i + 1]
  end
end
if #written > 0 then redis.call('ZREM', KEYS[1], unpack(written)) end
if #outdated > 0 then redis.call('DEL', unpack(outdated)) end
return #written`

/** The member of the unwritten views that shows that none is missing. An eviction of the set removes it. */
const COMPLETE = ':complete'
/** The member that shows how far a walk has come: this, and the cursor of its next page. */
const WALKED = ':from:'
/** `COUNT` of `SCAN`. */
const PAGE = 1_000

/** Removes a marker where it still is. KEYS: its key. ARGV: marker. */
const RELEASE = `#!lua flags=allow-key-locking
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1`

const written = ({ isLiked, changedAt, stateSince }: LikeState) =>
  `"${[isLiked ? 1 : 0, ...new Set([stateSince ?? changedAt, changedAt])].join(':')}"`

/** The count in a tally that the SDK has parsed. Undefined for what is no tally: nothing, or a marker. */
function countIn(tally: unknown): number | undefined {
  const [count] = (typeof tally === 'string' && /^\d+(?=:)/.exec(tally)) || []
  return count === undefined ? undefined : Number(count)
}

const contentsOf = (counts: CountOf[]) => [...new Set(counts.map(({ contentId }) => contentId))]

/** Likes in a sorted set, as `ZRANGE` returns members and scores. */
const likesIn = (flat: readonly (string | number)[]): UnwrittenLike[] =>
  Array.from({ length: flat.length / 2 }, (_, i) => {
    const [contentId = '', userId = '', isLiked] = String(flat[i * 2]).split(':')
    return { contentId, userId, isLiked: isLiked === '1', changedAt: Number(flat[i * 2 + 1]) }
  })

/** The state in a value that the SDK has parsed. Undefined for what is no state: nothing, or a marker. */
function readState(text: unknown): LikeState | undefined {
  if (typeof text !== 'string' || !/^[01]:/.test(text)) return undefined
  const [isLiked, stateSince = 0, changedAt = stateSince] = text.split(':').map(Number)
  return { isLiked: isLiked === 1, changedAt, stateSince }
}

const memberOf = ({ contentId, userId, isLiked }: Omit<UnwrittenLike, 'changedAt'>) =>
  `${contentId}:${userId}:${isLiked ? 1 : 0}`

export type Counters = ReturnType<typeof createCounters>

/**
 * Counts in Redis that a source of truth (D1) follows: likes exactly, views approximately, comments as a cache.
 *
 * Redis types: see `CounterKeys`. Counts and tallies expire `ttlMs` after their last change, and states after they were
 * loaded; what is unwritten stays until the source confirms it.
 *
 * Redis may lose any of these keys at any time. A missing count is loaded, never taken for 0. A like is exact while its
 * tally or its published count is there, and the user's state or the unwritten likes. Where Redis loses more, likes
 * that are on their way to the source are missing from the count until they arrive there. Loads are ordered by markers.
 *
 * One round trip each, two when something must be loaded first. Every command is safe to repeat. Times come from the
 * clock of Redis, one for all isolates. When Redis fails, `read` and `states` answer from the source; the others throw.
 */
export function createCounters(
  redis: Redis,
  keys: CounterKeys,
  ttlMs: number,
  defer: (work: () => Promise<unknown>) => void,
) {
  const countKey = ({ counter, contentId }: CountOf) => keys.count(counter, contentId)
  const tallyKey = ({ counter, contentId }: CountOf) => keys.tally(counter, contentId)

  /** The content whose count or tally of views the key `name` holds. */
  function viewedIn(name: string): string[] {
    return [keys.count, keys.tally].flatMap((key) => {
      const [before = '', after = ''] = key('views', '*').split('*')
      return name.startsWith(before) && name.endsWith(after)
        ? name.slice(before.length, name.length - after.length)
        : []
    })
  }

  /** Sets markers where counts are missing; returns those that have this one. One round trip. */
  async function claimCounts(missing: CountOf[], marker: string): Promise<CountOf[]> {
    if (missing.length === 0) return []
    const claims = redis.pipeline()
    for (const count of missing) claims.set(countKey(count), marker, { nx: true, px: MARKER_MS })
    const replies = await claims.exec<unknown[]>()
    return missing.filter((_, i) => replies[i] === 'OK')
  }

  /** Stores counts that were loaded after they were claimed, unless they changed meanwhile. One round trip. */
  async function storeCounts(claimed: CountOf[], marker: string, loaded: Map<string, LoadedCounts>): Promise<void> {
    const contents = new Set<string>()
    const args = claimed.flatMap(({ counter, contentId }) => {
      const isFirst = contents.size < contents.add(contentId).size
      const { [counter]: count, authors = '', ...order } = loaded.get(contentId) ?? { changedAt: 0, revision: 0 }
      if (count === undefined) return ['', '', '']
      // Views have no revision. Comments reach the source first: their revision alone orders them.
      const tally = `"${count}:${counter === 'likes' ? order.changedAt : 0}:${order.revision}"`
      return [String(count), counter === 'views' ? '' : tally, isFirst ? authors : '']
    })
    const owners = claimed.map(({ contentId }) => keys.authors(contentId))
    const places = [...claimed.map(countKey), ...claimed.map(tallyKey), ...owners]
    await redis.eval(FILL_COUNTS, places, [marker, String(ttlMs), ...args])
  }

  /** Loads counts again, and stores them. Two round trips. */
  async function fillCounts(missing: CountOf[], load: LoadCounts): Promise<void> {
    const marker = newMarker()
    const claimed = await claimCounts(missing, marker)
    if (claimed.length > 0) await storeCounts(claimed, marker, await load(contentsOf(claimed)))
  }

  return {
    /**
     * The counts `counters` of each of `contentIds`, in their order. `load` is asked for contents of which Redis lacks
     * a count, unless the caller has just read them: `known`. Redis is filled after the answer.
     */
    async read(
      counters: Counter[],
      contentIds: string[],
      load: LoadCounts,
      known?: Map<string, KnownCounts>,
    ): Promise<number[][]> {
      if (contentIds.length === 0) return []
      const wanted = contentIds.flatMap((contentId) => counters.map((counter) => ({ counter, contentId })))
      // The tallies cost no further command, and still have counts that were evicted.
      const held = await redis.mget<unknown[]>(...wanted.map(countKey), ...wanted.map(tallyKey)).catch(() => undefined)
      const counts = wanted.map((_, i) => (typeof held?.[i] === 'number' ? held[i] : undefined))
      const missing = wanted.filter((_, i) => counts[i] === undefined)
      if (missing.length > 0) {
        const marker = newMarker()
        const asked = new Set<string>()
        let claimed: CountOf[] = []
        const claim = async (ids: string[]) => {
          for (const id of held ? ids : []) asked.add(id)
          claimed = await claimCounts(
            missing.filter(({ contentId }) => asked.has(contentId)),
            marker,
          ).catch(() => [])
        }
        const loaded = known ? new Map<string, never>() : await load(contentsOf(missing), claim)
        const atSource: Map<string, KnownCounts> = known ?? loaded
        for (const [i, { counter, contentId }] of wanted.entries()) {
          // Of a content that the source does not know, there is nothing to count.
          counts[i] ??= countIn(held?.[wanted.length + i]) ?? atSource.get(contentId)?.[counter] ?? 0
        }
        const existing = held ? missing.filter(({ contentId }) => atSource.has(contentId)) : []
        const again = existing.filter(({ contentId }) => !asked.has(contentId))
        // If a fill fails, the next reader repeats it, and the markers expire.
        if (claimed.length > 0) defer(() => storeCounts(claimed, marker, loaded).catch(() => {}))
        if (again.length > 0) defer(() => fillCounts(again, load).catch(() => {}))
      }
      return contentIds.map((_, i) => counts.slice(i * counters.length, (i + 1) * counters.length).map((n) => n ?? 0))
    },

    /**
     * The states of a user for each of `contentIds`, in their order. Redis keeps the newest states of the source: the first
     * read loads them all, and stores them after the answer, unless one changes meanwhile. Later reads load only the states of
     * older contents, which are not stored. One round trip.
     */
    async states(userId: string, contentIds: string[], load: LoadStates): Promise<LikeState[]> {
      if (contentIds.length === 0) return []
      const key = keys.likedBy(userId)
      const ids = [...new Set(contentIds)]
      const marker = newMarker()
      const [held, unwritten, isNewest] = await redis
        .eval<string[], [held: unknown[], unwritten: (string | number)[], isNewest: number]>(
          READ_STATES,
          [key, keys.likesUnwritten],
          [userId, marker, String(ttlMs), ...ids],
        )
        .catch(() => [[], [], 0] as const)
      const states = new Map(ids.map((id, i) => [id, readState(held[i])]))
      const missing = ids.filter((id) => states.get(id) === undefined)
      const newest = isNewest === 1 ? await load.newest(missing) : undefined
      const loaded = newest?.states ?? (missing.length > 0 ? await load.of(missing) : new Map<string, never>())
      // The source lacks these yet. Of one that it has too, the later state is the newer one.
      for (const { contentId, isLiked, changedAt } of likesIn(unwritten)) {
        if (changedAt > (loaded.get(contentId)?.changedAt ?? 0)) {
          loaded.set(contentId, { isLiked, changedAt, stateSince: null })
        }
      }
      if (newest) {
        const fills = [...loaded].flatMap(([id, state]) => [id, written(state)])
        const args = [marker, String(ttlMs), JSON.stringify(newest.from), ...fills]
        defer(() => redis.eval(FILL_STATES, [key], args).catch(() => {})) // if this fails, the next reader fills them
      }
      return contentIds.map((id) => states.get(id) ?? loaded.get(id) ?? NEVER_LIKED)
    },

    /**
     * Sets whether a user likes a content, counted once however often it is called. `load` is asked when Redis lacks the
     * count or the state; null from it (no such content) is returned as null.
     * Recorded, then completed: in the same script the like becomes one of `unwrittenLikes`, so a like whose reply is
     * lost still reaches the source. `evaluate` may refuse to run the script: then nothing is counted. Where its guard is
     * undecided, `load` is asked while it decides.
     */
    async like(
      contentId: string,
      userId: string,
      isLiked: boolean,
      load: () => Promise<LoadedLike | null>,
      evaluate?: Evaluate,
    ): Promise<{ count: number; changedAt: number; stateSince: number } | null> {
      const tally = keys.tally('likes', contentId)
      const places = [
        tally,
        keys.count('likes', contentId),
        keys.likedBy(userId),
        keys.likesUnwritten,
        keys.authors(contentId),
      ]
      let loaded = ['', '', '', '', '', '']
      for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
        const asked = [contentId, userId, isLiked ? '1' : '0', String(ttlMs), newMarker()]
        const script = { text: LIKE, keys: places, reads: 2, args: [...asked, ...loaded] }
        const reply = await run<(string | number)[]>(redis, script, evaluate)
        if (reply.length > 1) {
          const [count = 0, changedAt = 0, stateSince = 0] = reply.map(Number)
          return { count, changedAt, stateSince }
        }
        const marker = String(reply[0])
        const source = await load()
        if (!source) {
          if (marker !== '') defer(() => redis.eval(RELEASE, [tally], [marker]).catch(() => {})) // it expires
          return null
        }
        const { state, count, changedAt, revision, authors = '' } = source
        loaded = [marker, written(state), ...[count, changedAt, revision].map(String), authors]
      }
      throw new Error(`The likes of ${contentId} changed during ${MAX_ATTEMPTS} loads`)
    },

    /**
     * Of likes whose reply was lost, makes those unwritten again that happened. Call it some seconds after the request, which
     * may reach Redis late. One round trip. Safe to repeat.
     */
    async recover(likes: Omit<UnwrittenLike, 'changedAt'>[]): Promise<void> {
      await Promise.all(
        likes.map((like) =>
          redis.eval(
            RECOVER,
            [
              keys.likedBy(like.userId),
              keys.likesUnwritten,
              keys.tally('likes', like.contentId),
              keys.count('likes', like.contentId),
            ],
            [like.contentId, like.isLiked ? '1' : '0', memberOf(like)],
          ),
        ),
      )
    },

    /** Up to `most` likes that the source has not confirmed, the oldest first. One command. */
    async unwrittenLikes(most: number): Promise<UnwrittenLike[]> {
      return likesIn(await redis.zrange<(string | number)[]>(keys.likesUnwritten, 0, most - 1, { withScores: true }))
    },

    /**
     * Brings counts and states to what the source has, unless Redis has newer ones; `likes` are written there. Creates
     * no key. Safe to repeat, and in any order. One round trip.
     */
    async settle(settlements: Settlement[], likes: WrittenLike[] = []): Promise<void> {
      if (settlements.length + likes.length === 0) return
      const counts = settlements.map((of) => [of.count, of.revision, of.changedAt].map(String))
      const states = likes.map((like) => {
        const { state } = like
        const isIt = state?.changedAt === like.changedAt && state.isLiked === like.isLiked
        return [like.contentId, memberOf(like), String(like.changedAt), state ? written(state) : '', isIt ? '1' : '0']
      })
      await redis.eval(
        SETTLE,
        [
          keys.likesUnwritten,
          ...settlements.flatMap((of) => [tallyKey(of), countKey(of)]),
          ...likes.map(({ userId }) => keys.likedBy(userId)),
        ],
        [String(settlements.length), String(ttlMs), ...counts.flat(), ...states.flat()],
      )
    },

    /** Those of `settlements` that Redis contradicts. One command. */
    async differing(settlements: Settlement[]): Promise<Settlement[]> {
      if (settlements.length === 0) return []
      const held = await redis.mget<unknown[]>(...settlements.map(countKey), ...settlements.map(tallyKey))
      return settlements.filter(({ count }, i) => {
        const [published, tally] = [held[i] ?? count, held[settlements.length + i]]
        return published !== count || (countIn(tally) ?? count) !== count
      })
    },

    /**
     * Adds `viewer` to the viewers of a content; returns how many there are, within 1 % (HyperLogLog). Null: `load` knows
     * no such content. Safe to repeat.
     */
    async view(
      contentId: string,
      viewer: string,
      load: () => Promise<LoadedViews | null>,
      evaluate?: Evaluate,
    ): Promise<number | null> {
      const count = keys.count('views', contentId)
      const places = [
        keys.tally('views', contentId),
        count,
        keys.viewers(contentId),
        keys.viewsUnwritten,
        keys.authors(contentId),
      ]
      let loaded = ['', '', '']
      for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
        const asked = [viewer, contentId, String(ttlMs), String(VIEWERS_TTL_MS), newMarker()]
        const script = { text: VIEW, keys: places, reads: 2, args: [...asked, ...loaded] }
        const reply = await run<string | number>(redis, script, evaluate)
        if (typeof reply === 'number') return reply
        const source = await load()
        if (source === null) {
          defer(() => redis.eval(RELEASE, [count], [reply]).catch(() => {})) // it expires
          return null
        }
        loaded = [String(source.views), reply, source.authors ?? '']
      }
      throw new Error(`The views of ${contentId} changed during ${MAX_ATTEMPTS} loads`)
    },

    /** How many likes, or contents with views, the source has not confirmed. One command. */
    unwritten: (counter: 'likes' | 'views'): Promise<number> =>
      redis.zcount(counter === 'likes' ? keys.likesUnwritten : keys.viewsUnwritten, 1, '+inf'),

    /** Up to `most` counts of views that the source has not confirmed, by content. One command. */
    async unwrittenViews(most: number): Promise<Map<string, number>> {
      const flat = await redis.zrange<(string | number)[]>(keys.viewsUnwritten, 1, '+inf', {
        byScore: true,
        offset: 0,
        count: most,
        withScores: true,
      })
      return new Map(Array.from({ length: flat.length / 2 }, (_, i) => [String(flat[i * 2]), Number(flat[i * 2 + 1])]))
    },

    /**
     * Restores the unwritten views where Redis evicted the set: walks over all keys, and adds each count that is higher
     * than that of the source, as `load` reads it. Returns whether the set is complete; else call it again, to walk
     * `most` pages of a thousand keys more. One command if nothing was evicted, up to four for a page. Safe to repeat.
     */
    async restoreUnwrittenViews(load: (contentIds: string[]) => Promise<KnownViews>, most: number): Promise<boolean> {
      const [state = ''] = await redis.zrange<string[]>(keys.viewsUnwritten, 0, 0, { byScore: true })
      if (state === COMPLETE) return true
      let cursor = state.startsWith(WALKED) ? state.slice(WALKED.length) : '0'
      for (let page = 0; page < most; page += 1) {
        const [next, names] = await redis.scan(cursor, { count: PAGE })
        const ids = [...new Set(names.map(String).flatMap(viewedIn))] // the SDK makes numbers of names
        if (ids.length > 0) {
          const places = ids.map((contentId) => ({ counter: 'views' as const, contentId }))
          const held = await redis.mget<unknown[]>(...places.map(countKey), ...places.map(tallyKey))
          const written = await load(ids)
          const missing = ids.flatMap((member, i) => {
            const score = Math.max(Number(held[i]) || 0, countIn(held[ids.length + i]) ?? 0)
            return score > (written.get(member) ?? Infinity) ? [{ score, member }] : []
          })
          const [first, ...others] = missing
          if (first) await redis.zadd(keys.viewsUnwritten, { gt: true }, first, ...others)
        }
        cursor = next
        if (cursor === '0') break
      }
      const isComplete = cursor === '0'
      await redis
        .multi()
        .zremrangebyscore(keys.viewsUnwritten, 0, 0)
        .zadd(keys.viewsUnwritten, { score: 0, member: isComplete ? COMPLETE : WALKED + cursor })
        .exec()
      return isComplete
    },

    /** The source has these counts of views; returns how many of them did not rise since. Safe to repeat. */
    async confirmViews(views: Map<string, number>): Promise<number> {
      if (views.size === 0) return 0
      const places = [...views.keys()].flatMap((id) => [keys.count('views', id), keys.tally('views', id)])
      return redis.eval<string[], number>(
        CONFIRM_VIEWS,
        [keys.viewsUnwritten, ...places],
        [...views].flat().map(String),
      )
    },

    /** Removes the like states of a user who is gone. One command. Safe to repeat. */
    async forgetStates(userId: string): Promise<void> {
      await redis.del(keys.likedBy(userId))
    },

    /**
     * Removes the counts `counters` of contents that are gone, with their authors, and ends every load of them. One command.
     * Safe to repeat.
     */
    async evict(counters: Counter[], contentIds: string[]): Promise<void> {
      const evicted = contentIds.flatMap((contentId) =>
        counters.flatMap((counter) => [
          keys.count(counter, contentId),
          keys.tally(counter, contentId),
          ...(counter === 'views' ? [keys.viewers(contentId)] : []),
          ...(counter === 'likes' ? [keys.authors(contentId)] : []),
        ]),
      )
      if (evicted.length > 0) await redis.del(...evicted)
    },
  }
}
