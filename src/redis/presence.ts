import type { Redis } from '@upstash/redis/cloudflare'

/** Who may see whether a user is online. */
export type Visibility = 'everyone' | 'followers' | 'nobody'

/** A user and when last seen (Unix ms). */
export interface Seen {
  userId: string
  at: number
}

/** A user who went offline. Until `confirm`ed, it is handed out again once the claim on it has lapsed. */
export interface Gone extends Seen {
  shard: number
}

/** One sign of life. */
export interface Beat {
  userId: string
  deviceId: string
  /** Unique to this beat: tells a repetition (of a lost reply) from another beat. */
  beatId: string
}

/**
 * What a beat met: `joined` they were offline until now · `online` they were online already · `hidden` nobody may see
 * them, and nothing was written · `unknown` Redis does not know who may see them, and nothing was written.
 */
export type BeatOutcome = 'joined' | 'online' | 'hidden' | 'unknown'

export interface OnlinePolicy {
  /** A user is online until this long after the last beat. */
  windowMs: number
  shards: number
  /** What one key holds at most: one more, and whoever was silent for longest is taken offline. */
  shardUsers: number
  /** At most so many devices of one user are told apart; the longest silent is forgotten first. */
  maxDevices: number
}

export interface OnlineKeys {
  presence: (shard: number) => string
  presenceLeaving: (shard: number) => string
  presenceDevices: (userId: string) => string
  presenceVisibility: (userId: string) => string
  presenceJoin: (userId: string) => string
}

/** How long a reply may be lost and its command repeated. */
const REPEAT_MS = 60_000
/** How long whoever took departures has for telling about them, before others may take them. */
export const CLAIM_MS = 60_000
const VISIBLE_MS = 86_400_000
/** A shard that is no longer swept (there are fewer of them now) goes by itself. */
const SHARD_MS = 86_400_000

/**
 * KEYS: shard, leaving, devices, visibility, join.
 * ARGV: user, device, beat id, now, TTL of devices, devices at most, users at most, visibility if known, its TTL.
 * Most beats end at the first command: it raises the score of who is there and does nothing for who is not.
 */
const BEAT = `#!lua flags=allow-key-locking
-- usually calls 3
local user, device, beat, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local function note()
  if redis.call('ZADD', KEYS[3], 'GT', now, device) == 1 then
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - ARGV[6])
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
if redis.call('ZADD', KEYS[1], 'XX', 'GT', 'CH', now, user) == 1 then
  note()
  return 'online'
end
local visibility = redis.call('GET', KEYS[4])
if not visibility then
  if ARGV[8] == '' then return 'unknown' end
  visibility = ARGV[8]
  redis.call('SET', KEYS[4], visibility, 'PX', ARGV[9])
end
if visibility == 'nobody' then return 'hidden' end
note()
if redis.call('ZADD', KEYS[1], 'NX', now, user) == 0 then
  return redis.call('GET', KEYS[5]) == beat and 'joined' or 'online'
end
redis.call('SET', KEYS[5], beat, 'PX', ${REPEAT_MS})
if redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[7]) then
  local displaced = redis.call('ZPOPMIN', KEYS[1])
  redis.call('ZADD', KEYS[2], 0, displaced[2] .. ':' .. displaced[1])
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[7])
end
return 'joined'`

/**
 * KEYS: shard, leaving, devices, visibility. ARGV: user, device or '' for all, now, silent at, claim until, hide.
 * Answers when they were last seen, if with this the user went offline.
 */
const LEAVE = `#!lua flags=allow-key-locking
local user, device, now = ARGV[1], ARGV[2], ARGV[3]
if ARGV[6] == '1' then redis.call('SET', KEYS[4], 'nobody', 'PX', ARGV[7]) end
if device ~= '' then
  redis.call('ZREM', KEYS[3], device)
  if redis.call('ZCOUNT', KEYS[3], '(' .. ARGV[4], '+inf') > 0 then return false end
end
redis.call('DEL', KEYS[3])
if redis.call('ZREM', KEYS[1], user) == 0 then return false end
redis.call('ZADD', KEYS[2], ARGV[5], now .. ':' .. user)
return tonumber(now)`

/**
 * KEYS: shard, leaving. ARGV: now, silent at, how many, claim until.
 * Takes departures whose claim has lapsed, then moves the silent from the shard to the departures.
 */
const TAKE_SILENT = `#!lua flags=allow-key-locking
local taken = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local room = tonumber(ARGV[3]) - #taken
local silent = room > 0 and redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, room) or {}
for i = 1, #silent, 2 do
  redis.call('ZREM', KEYS[1], silent[i])
  taken[#taken + 1] = silent[i + 1] .. ':' .. silent[i]
end
for i = 1, #taken do redis.call('ZADD', KEYS[2], ARGV[4], taken[i]) end
redis.call('PEXPIRE', KEYS[1], ${SHARD_MS})
redis.call('PEXPIRE', KEYS[2], ${SHARD_MS})
return taken`

export type Online = ReturnType<typeof createOnline>

/**
 * Who is online, on several devices, known to have come and gone exactly once.
 *
 * Redis types. `presence`: a sorted set per shard, member = user, score = last seen; whoever is in it has been told
 * about as online. `presenceLeaving`: a sorted set per shard, member = `<last seen>:<user>`, score = claimed until:
 * departures still to be told about. `presenceDevices`: a sorted set per user, expiring soon after the window.
 * `presenceVisibility` and `presenceJoin`: strings per user, expiring. A user's shard is a hash of the id; a shard
 * holds at most `shardUsers`, and so do its departures: no key grows without bound.
 *
 * One round trip each. A steady beat is 3 commands inside one script, a join 9, or 12 when the shard is full.
 *
 * Coming: of any number of beats at once exactly one is told `joined`, and told so again if its reply was lost and
 * the beat is repeated within a minute. Going: exactly one caller of `leave`, `hide` or `takeSilent` is handed a
 * departure, and has `CLAIM_MS` to tell about it and `confirm`; if it dies before, or its reply was lost, a later
 * `takeSilent` hands it out again. So a departure is never lost, and is told twice only if its teller stalled or died
 * between telling and confirming. Who falls silent and is back before the sweep has never been told to be gone.
 *
 * Every command is safe twice. Redis errors are thrown. `now` (Unix ms) is a parameter: tests own the clock.
 */
export function createOnline(redis: Redis, keys: OnlineKeys, policy: OnlinePolicy) {
  const { windowMs, shards } = policy
  const shardOf = (userId: string) => hash(userId) % shards
  const allShards = Array.from({ length: shards }, (_, shard) => shard)
  const memberOf = ({ userId, at }: Seen) => `${at}:${userId}`

  /** Visible is remembered for long, `nobody` briefly: taking it back must not depend on one delivery. */
  const visibilityMs = (visibility: Visibility | undefined) => (visibility === 'nobody' ? windowMs : VISIBLE_MS)

  async function depart(userId: string, deviceId: string, isHiding: boolean, now: number): Promise<Gone | undefined> {
    const shard = shardOf(userId)
    const at = await redis.eval<string[], number | null>(
      LEAVE,
      [
        keys.presence(shard),
        keys.presenceLeaving(shard),
        keys.presenceDevices(userId),
        keys.presenceVisibility(userId),
      ],
      [userId, deviceId, now, now - windowMs, now + CLAIM_MS, isHiding ? 1 : 0, visibilityMs('nobody')].map(String),
    )
    return at === null ? undefined : { userId, at, shard }
  }

  return {
    /** Notes a sign of life. `visibility` is what the source of truth says, after an `unknown`. */
    beat({ userId, deviceId, beatId }: Beat, now: number, visibility?: Visibility): Promise<BeatOutcome> {
      const shard = shardOf(userId)
      return redis.eval<string[], BeatOutcome>(
        BEAT,
        [
          keys.presence(shard),
          keys.presenceLeaving(shard),
          keys.presenceDevices(userId),
          keys.presenceVisibility(userId),
          keys.presenceJoin(userId),
        ],
        [
          userId,
          deviceId,
          beatId,
          // Older ones are not counted anyway; the slack is for clocks that differ.
          ...[now, windowMs + REPEAT_MS, policy.maxDevices, policy.shardUsers].map(String),
          visibility ?? '',
          String(visibilityMs(visibility)),
        ],
      )
    },

    /** One device leaves; the user goes offline with the last one. */
    leave: (userId: string, deviceId: string, now: number) => depart(userId, deviceId, false, now),

    /** Takes a user offline on all devices, and refuses their beats. */
    hide: (userId: string, now: number) => depart(userId, '', true, now),

    /** Lets beats of a user in again, or changes who sees them. */
    async show(userId: string, visibility: Exclude<Visibility, 'nobody'>): Promise<void> {
      await redis.set(keys.presenceVisibility(userId), visibility, { px: visibilityMs(visibility) })
    },

    /** When each of `userIds` was last seen, in their order; null for whom Redis does not know. Offline may be among them. */
    async lastSeen(userIds: string[]): Promise<(number | null)[]> {
      const byShard = Map.groupBy(new Set(userIds), shardOf)
      if (byShard.size === 0) return []
      const pipeline = redis.pipeline()
      for (const [shard, members] of byShard) pipeline.zmscore(keys.presence(shard), members)
      const scores = await pipeline.exec<((number | null)[] | null)[]>()
      const seen = new Map<string, number | null>()
      for (const [i, members] of [...byShard.values()].entries()) {
        for (const [j, userId] of members.entries()) seen.set(userId, scores[i]?.[j] ?? null)
      }
      return userIds.map((userId) => seen.get(userId) ?? null)
    },

    /** Those online, latest first: at most `count`, seen no later than `until`. */
    async latest(count: number, now: number, until = Infinity): Promise<Seen[]> {
      const pipeline = redis.pipeline()
      const max = until === Infinity ? '+inf' : until
      const options = { byScore: true, rev: true, offset: 0, count, withScores: true } as const
      for (const shard of allShards) pipeline.zrange(keys.presence(shard), max, `(${now - windowMs}`, options)
      const perShard = await pipeline.exec<(string | number)[][]>()
      const seen = new Map<string, number>()
      for (const flat of perShard) {
        for (let i = 0; i < flat.length; i += 2) {
          const userId = String(flat[i])
          seen.set(userId, Math.max(Number(flat[i + 1]), seen.get(userId) ?? 0)) // in two shards while their number changes
        }
      }
      return [...seen]
        .map(([userId, at]) => ({ userId, at }))
        .sort((a, b) => b.at - a.at || (a.userId < b.userId ? -1 : 1))
        .slice(0, count)
    },

    /** How many are online. */
    async count(now: number): Promise<number> {
      const pipeline = redis.pipeline()
      for (const shard of allShards) pipeline.zcount(keys.presence(shard), `(${now - windowMs}`, '+inf')
      const perShard = await pipeline.exec<number[]>()
      return perShard.reduce((sum, count) => sum + count, 0)
    },

    isOnline: (at: number | null, now: number): at is number => at !== null && at > now - windowMs,

    /**
     * Takes those who fell silent out of presence, about `count` at most, an equal share of each shard; and departures
     * whose taker never confirmed. `hasMore` when there may be others.
     */
    async takeSilent(count: number, now: number): Promise<{ gone: Gone[]; hasMore: boolean }> {
      const perShard = Math.ceil(count / shards)
      const pipeline = redis.pipeline()
      const args = [now, now - windowMs, perShard, now + CLAIM_MS].map(String)
      for (const shard of allShards) {
        pipeline.eval(TAKE_SILENT, [keys.presence(shard), keys.presenceLeaving(shard)], args)
      }
      const perShardTaken = await pipeline.exec<string[][]>()
      const gone = perShardTaken.flatMap((members, shard) =>
        members.map((member) => {
          const colon = member.indexOf(':')
          return { userId: member.slice(colon + 1), at: Number(member.slice(0, colon)), shard }
        }),
      )
      return { gone, hasMore: perShardTaken.some((members) => members.length === perShard) }
    },

    /** Departures have been told about: they are not handed out again. */
    async confirm(gone: Gone[]): Promise<void> {
      if (gone.length === 0) return
      const pipeline = redis.pipeline()
      for (const [shard, those] of Map.groupBy(gone, ({ shard }) => shard)) {
        pipeline.zrem(keys.presenceLeaving(shard), ...those.map(memberOf))
      }
      await pipeline.exec()
    },

    /** Whether a departure is of a user who lives on in another shard, their number having changed. */
    isMisplaced: ({ userId, shard }: Gone) => shardOf(userId) !== shard,
  }
}

/** FNV-1a, 32 bits (draft-eastlake-fnv). */
function hash(text: string): number {
  let sum = 0x81_1c_9d_c5
  for (let i = 0; i < text.length; i += 1) sum = Math.imul(sum ^ text.charCodeAt(i), 0x01_00_01_93)
  return sum >>> 0
}
