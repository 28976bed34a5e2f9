import type { Redis } from '@upstash/redis/cloudflare'

/** The tags that were invalidated, as an isolate knows them. Positions rise with each invalidation. */
export interface KnownTags {
  /** By tag: the position of its last invalidation. */
  invalidated: Map<string, number>
  /** Of the last invalidation that this isolate knows. */
  position: number
  /** Values that were loaded at an earlier position are out of date. Null: Redis has no log. Undefined: not read yet. */
  floor: number | null | undefined
  /** The reads of the log that began, and the latest of those that have been applied. */
  began: number
  applied: number
}

export const newKnownTags = (): KnownTags => ({
  invalidated: new Map(),
  position: 0,
  floor: undefined,
  began: 0,
  applied: 0,
})

export type Tags = ReturnType<typeof createTags>

/**
 * KEYS: log. ARGV: how long values are kept (ms), maximum members, tags. Returns position and floor. The log is a sorted set by
 * position: `t` and the tag, and once `f` and the floor, at the last position. Positions are microseconds, so those of a log
 * that was lost are lower than those of the next one.
 */
const INVALIDATE = `#!lua flags=allow-key-locking
-- usually calls 9
local log = KEYS[1]
local function text(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local newest = redis.call('ZREVRANGE', log, 0, 0, 'WITHSCORES')[2]
local floor
for _, member in ipairs(newest and redis.call('ZRANGEBYSCORE', log, newest, newest) or {}) do
  floor = floor or string.match(member, '^f(%d+)$')
end
local position = text(math.max(now, (tonumber(newest) or 0) + 1))
if floor then
  redis.call('ZREM', log, 'f' .. floor)
else
  redis.call('DEL', log)
  floor = position
end
for i = 3, #ARGV do redis.call('ZADD', log, position, 't' .. ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', log, '-inf', text(now - ARGV[1] * 1000))
local excess = redis.call('ZCARD', log) - ARGV[2]
if excess > 0 then
  local removed = redis.call('ZPOPMIN', log, excess)
  floor = text(tonumber(removed[#removed]))
end
redis.call('ZADD', log, position, 'f' .. floor)
return { position, floor }`

/**
 * Which tags were invalidated, and when. Redis has the last `maxTags` of them in a sorted set; each isolate remembers them and
 * reads only what is new. A value is current if none of its tags was invalidated after the position at which its load began.
 *
 * `read` and `invalidate`: one command and one round trip each. Where Redis has lost the log, or forgotten more than
 * `maxTags`, every value from before is out of date: nothing is served that an invalidation might have meant.
 */
export function createTags(redis: Redis, key: string, known: KnownTags, keepMs: number, maxTags: number) {
  function learn(tag: string, position: number): void {
    known.invalidated.set(tag, Math.max(position, known.invalidated.get(tag) ?? 0))
    known.position = Math.max(known.position, position)
  }

  function setFloor(floor: number): void {
    known.floor = Math.max(floor, known.floor ?? 0)
    known.position = Math.max(known.position, floor)
    if (known.invalidated.size <= maxTags) return
    known.invalidated.clear()
    known.floor = known.position
  }

  return {
    /** Where a load begins. */
    position: (): number => (known.floor === null ? 0 : known.position),

    /** Whether a value with these tags, whose load began at `position`, is current, as far as this isolate knows. */
    isCurrent(tags: string[], position: number): boolean {
      if (known.floor === undefined) return true // the read that goes along decides
      if (known.floor === null) return position === 0
      return position >= known.floor && tags.every((tag) => (known.invalidated.get(tag) ?? 0) <= position)
    },

    /** Learns what was invalidated since the last read. */
    async read(): Promise<void> {
      const turn = (known.began += 1)
      const members = await redis.zrange<(string | number)[]>(key, known.position, '+inf', {
        byScore: true,
        withScores: true,
      })
      if (turn < known.applied) return // a later read has been answered
      known.applied = turn
      let floor: number | undefined
      for (let i = 0; i < members.length; i += 2) {
        const [member, position] = [String(members[i]), Number(members[i + 1])]
        if (member.startsWith('t')) learn(member.slice(1), position)
        else floor = Number(member.slice(1))
        known.position = Math.max(known.position, position)
      }
      if (floor !== undefined) return setFloor(floor)
      Object.assign(known, { ...newKnownTags(), floor: null, began: known.began, applied: turn })
    },

    /** Makes values with one of `tags` out of date: at once here, elsewhere with the next read. Safe to repeat. */
    async invalidate(tags: string[]): Promise<void> {
      if (tags.length === 0) return
      const reply = await redis.eval<string[], [number, number]>(
        INVALIDATE,
        [key],
        [String(keepMs), String(maxTags), ...tags],
      )
      const [position, floor] = reply.map(Number)
      for (const tag of tags) learn(tag, position ?? 0)
      setFloor(floor ?? 0)
    },
  }
}
