import type { Redis } from '@upstash/redis/cloudflare'
import { type Evaluate, run } from './script.ts'

/** Who may see whether a user is online. */
export type Visibility = 'everyone' | 'followers' | 'nobody'

/** A user and when they were last seen (Unix ms). */
export interface Seen {
  userId: string
  at: number
}

/** An arrival or departure. Until it is confirmed, `takeChanges` returns it again once its claim has lapsed. */
export interface Change extends Seen {
  isOnline: boolean
  shard: number
  /** An arrival of a user about whom Redis remembers nothing: after a flush, say. */
  isFirst?: boolean
}

/** One heartbeat. */
export interface Beat {
  userId: string
  deviceId: string
  /** Unique to this beat: distinguishes a repetition from another beat. */
  beatId: string
}

/**
 * What a beat found: a change, the user was offline until now · `online` the user was online already · `hidden` nobody
 * may see them, and nothing was written · `unknown` Redis does not know who may see them: repeat the beat with the
 * visibility · `left` the device left before that.
 */
export type BeatOutcome = Change | 'online' | 'hidden' | 'unknown' | 'left'

interface Leaving {
  deviceId?: string
  hasTabs?: boolean
  until?: number
  isHiding?: boolean
}

export interface OnlinePolicy {
  /** A user is online until this long after the last beat. */
  windowMs: number
  shards: number
  /** Users per shard. One more takes the user who was silent for longest offline. */
  shardUsers: number
  /** Devices per user. One more forgets the device that was silent for longest. */
  maxDevices: number
}

export interface OnlineKeys {
  presence: (shard: number) => string
  presenceChanges: (shard: number) => string
  presenceDevices: (userId: string) => string
  presenceVisibility: (userId: string) => string
  presenceLoss: string
  presenceLast: (userId: string) => string
}

/** How long a command may be repeated after a lost reply. */
const REPEAT_MS = 60_000
/** How long the caller that took changes has to announce them before others may take them. */
export const CLAIM_MS = 5_000
const VISIBLE_MS = 86_400_000
/** How many shards a list reads, and for how long the same ones. */
const LISTED_SHARDS = 4
const SAMPLED_MS = 60_000
/** A shard that is no longer swept, because there are fewer of them now, expires. */
const SHARD_MS = 86_400_000

/** Redis' own time as `at`, where the caller does not give one: the clocks of isolates differ. */
const CLOCK = `
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local function text(ms) return string.format('%.0f', ms) end`

/**
 * KEYS: shard, changes, devices, visibility, last.
 * ARGV: user, device, beat id, now, time or '' for that of Redis, TTL of devices, maximum devices, maximum users,
 * visibility if known, its TTL.
 * Most beats end at the first command: it raises the score of a user who is online and does nothing for others. Where the
 * visibility is missing, the beat only notes its device. It is repeated with the visibility, unless the device left meanwhile.
 * An arrival is later than the last departure, and its time becomes the score: so a departure is never before it.
 */
const BEAT = `#!lua flags=allow-key-locking
-- usually calls 3
${CLOCK}
local user, device, beat, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local function note()
  if redis.call('ZADD', KEYS[3], 'GT', now, device) == 1 then
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - ARGV[7])
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
if ARGV[9] ~= '' and not redis.call('ZSCORE', KEYS[3], device) then return '"left"' end
if redis.call('ZADD', KEYS[1], 'XX', 'GT', 'CH', now, user) == 1 then
  note()
  return '"online"'
end
local visibility = redis.call('GET', KEYS[4])
if not visibility then
  if ARGV[9] == '' then
    note()
    return '"unknown"'
  end
  visibility = ARGV[9]
  redis.call('SET', KEYS[4], visibility, 'PX', ARGV[10])
end
if visibility == 'nobody' then
  if ARGV[9] ~= '' then redis.call('ZREM', KEYS[3], device) end
  return '"hidden"'
end
note()
local last = redis.call('GET', KEYS[5])
local lastAt = last and string.match(last, '^%d+')
local at = math.max(clock(ARGV[5]), lastAt and tonumber(lastAt) + 1 or 0)
if redis.call('ZADD', KEYS[1], 'NX', text(at), user) == 0 then
  if lastAt and last == lastAt .. ':' .. beat then return { lastAt, 0 } end
  return '"online"'
end
redis.call('ZADD', KEYS[2], 0, '+' .. text(at) .. ':' .. user)
redis.call('SET', KEYS[5], text(at) .. ':' .. beat, 'PX', ARGV[6])
if redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[8]) then
  local displaced = redis.call('ZPOPMIN', KEYS[1])
  redis.call('ZADD', KEYS[2], 0, '-' .. displaced[2] .. ':' .. displaced[1])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[8])
return { text(at), last and 0 or 1 }`

/**
 * KEYS: shard, changes, devices, visibility, last.
 * ARGV: user, device or '' for all, time or '', silent at, claim for, hide, TTL of that, TTL of last, until or '', with tabs.
 * Answers when the user was last seen, if this took the user offline.
 */
const LEAVE = `#!lua flags=allow-key-locking
-- usually calls 7
${CLOCK}
local user, device = ARGV[1], ARGV[2]
if ARGV[6] == '1' then redis.call('SET', KEYS[4], 'nobody', 'PX', ARGV[7]) end
if device ~= '' or ARGV[9] ~= '' then
  if device == '' then redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[9])
  else redis.call('ZREM', KEYS[3], device) end
  for _, tab in ipairs(ARGV[10] == '1' and redis.call('ZRANGE', KEYS[3], 0, -1) or {}) do
    if string.sub(tab, 1, #device + 1) == device .. ':' then redis.call('ZREM', KEYS[3], tab) end
  end
  if redis.call('ZCOUNT', KEYS[3], '(' .. ARGV[4], '+inf') > 0 then return false end
end
redis.call('DEL', KEYS[3])
local seen = redis.call('ZSCORE', KEYS[1], user)
if not seen then return false end
redis.call('ZREM', KEYS[1], user)
local at = math.max(clock(ARGV[3]), tonumber(seen))
redis.call('ZADD', KEYS[2], text(at + ARGV[5]), '-' .. text(at) .. ':' .. user)
redis.call('SET', KEYS[5], text(at) .. ':', 'PX', ARGV[8])
return text(at)`

/**
 * KEYS: shard, changes, visibility. ARGV: user, visibility, its TTL, time or '', silent at.
 * Answers since when the user is online, if so. That is announced again: the audience may have changed.
 */
const SHOW = `#!lua flags=allow-key-locking
-- usually calls 2
${CLOCK}
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
local seen = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not seen or tonumber(seen) <= tonumber(ARGV[5]) then return false end
local at = math.max(clock(ARGV[4]), tonumber(seen))
redis.call('ZADD', KEYS[1], text(at), ARGV[1])
redis.call('ZADD', KEYS[2], 0, '+' .. text(at) .. ':' .. ARGV[1])
return text(at)`

/**
 * KEYS: shard, changes. ARGV: now, silent at, how many, claim until.
 * Takes changes whose claim has lapsed, then moves silent users from the shard to the changes.
 */
const TAKE_CHANGES = `#!lua flags=allow-key-locking
-- usually calls 4
local taken = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local room = tonumber(ARGV[3]) - #taken
local silent = room > 0 and redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, room) or {}
for i = 1, #silent, 2 do
  redis.call('ZREM', KEYS[1], silent[i])
  taken[#taken + 1] = '-' .. silent[i + 1] .. ':' .. silent[i]
end
for i = 1, #taken do redis.call('ZADD', KEYS[2], ARGV[4], taken[i]) end
redis.call('PEXPIRE', KEYS[1], ${SHARD_MS})
redis.call('PEXPIRE', KEYS[2], ${SHARD_MS})
return taken`

/** KEYS: loss. ARGV: now, window. Answers since when presence is lost, if that is at least a window ago. */
const FIND_LOSS = `#!lua flags=allow-key-locking
-- usually calls 2
local at = redis.call('GET', KEYS[1])
if not at then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ${SHARD_MS})
  return false
end
redis.call('PEXPIRE', KEYS[1], ${SHARD_MS})
if at == 'none' or tonumber(at) + ARGV[2] > tonumber(ARGV[1]) then return false end
return at`

export type Online = ReturnType<typeof createOnline>

/**
 * Who is online, on several devices, and which arrivals and departures are still to be announced.
 *
 * Redis types. `presence`: a sorted set per shard, member = user, score = last seen. `presenceChanges`: a sorted set per
 * shard, member = `+<at>:<user>` for an arrival or `-<at>:<user>` for a departure, score = claimed until.
 * `presenceDevices`: a sorted set per user, expiring soon after the window. `presenceVisibility` and `presenceLast`:
 * strings per user, expiring. `presenceLoss`: a string that is absent after a flush. A user's shard is a hash of the id;
 * a shard holds at most `shardUsers`, and so do its changes: no key grows without bound.
 *
 * One round trip each. A steady beat is 3 commands inside one script, an arrival 12, or 14 when the shard is full.
 *
 * Every change is recorded in the script that makes it, and stays until it is confirmed. If its reply is lost or its
 * caller dies, `takeChanges` returns it again. So a change is never lost, and may be announced twice: the announcement
 * must be safe to repeat. `at` is Redis' time and orders the changes of a user: an arrival is later than the departure
 * before it, a departure not earlier than the arrival before it. A user who falls silent and returns before the sweep has
 * not changed.
 *
 * Every command is safe to repeat. Redis errors are thrown. `now` (Unix ms) replaces Redis' time: tests own the clock.
 */
export function createOnline(redis: Redis, keys: OnlineKeys, policy: OnlinePolicy) {
  const { windowMs, shards } = policy
  const shardOf = (userId: string) => hash(userId) % shards
  const allShards = Array.from({ length: shards }, (_, shard) => shard)
  /** As the scripts write it. */
  const memberOf = ({ userId, at, isOnline }: Change) => `${isOnline ? '+' : '-'}${at}:${userId}`
  const timeOf = (now: number | undefined) => (now === undefined ? '' : String(now))
  /** Older devices are ignored anyway; the slack is for clocks that differ. */
  const userMs = windowMs + REPEAT_MS

  /** A visible user is remembered for long, `nobody` briefly: showing again must not depend on one delivery. */
  const visibilityMs = (visibility: Visibility | undefined) => (visibility === 'nobody' ? windowMs : VISIBLE_MS)

  const keysOf = (userId: string, shard: number) => [
    keys.presence(shard),
    keys.presenceChanges(shard),
    keys.presenceDevices(userId),
    keys.presenceVisibility(userId),
    keys.presenceLast(userId),
  ]

  /** Those who leave: one device, maybe with its tabs; those last seen by `until`; or all, which may also hide the user. */
  async function depart(
    userId: string,
    { deviceId = '', hasTabs = false, until, isHiding = false }: Leaving,
    now?: number,
    evaluate?: Evaluate,
  ): Promise<Change | undefined> {
    const shard = shardOf(userId)
    const script = {
      text: LEAVE,
      keys: keysOf(userId, shard),
      reads: 0,
      args: [
        userId,
        deviceId,
        timeOf(now),
        ...[(now ?? Date.now()) - windowMs, CLAIM_MS, isHiding ? 1 : 0, visibilityMs('nobody'), userMs].map(String),
        until === undefined ? '' : String(until),
        hasTabs ? '1' : '',
      ],
    }
    const at = await run<number | null>(redis, script, evaluate)
    return at === null ? undefined : { userId, at, isOnline: false, shard }
  }

  return {
    shardOf,

    /**
     * Records a sign of life. `visibility` is what the source of truth says, after an `unknown` and only then. `evaluate`
     * may refuse to run the script: then nothing is recorded.
     */
    async beat(
      { userId, deviceId, beatId }: Beat,
      now?: number,
      visibility?: Visibility,
      evaluate?: Evaluate,
    ): Promise<BeatOutcome> {
      const shard = shardOf(userId)
      const script = {
        text: BEAT,
        keys: keysOf(userId, shard),
        reads: 0,
        args: [
          userId,
          deviceId,
          beatId,
          String(now ?? Date.now()),
          timeOf(now),
          ...[userMs, policy.maxDevices, policy.shardUsers].map(String),
          visibility ?? '',
          String(visibilityMs(visibility)),
        ],
      }
      const outcome = await run<Exclude<BeatOutcome, Change> | [at: number, isFirst: number]>(redis, script, evaluate)
      if (typeof outcome === 'string') return outcome
      const [at, isFirst] = outcome
      return { userId, at, isOnline: true, shard, isFirst: isFirst === 1 }
    },

    /**
     * One device leaves; the user goes offline with the last one. Safe to repeat: after a lost reply `takeChanges`
     * returns the departure. The same holds for the other ways to leave.
     */
    leave: (userId: string, deviceId: string, now?: number, evaluate?: Evaluate) =>
      depart(userId, { deviceId }, now, evaluate),

    /** A device leaves with its tabs, which are the devices named `<device>:…`. */
    leaveWithTabs: (userId: string, deviceId: string, now?: number) => depart(userId, { deviceId, hasTabs: true }, now),

    /** The devices that were last seen by `until` (Unix ms) leave; the user goes offline with the last one. */
    leaveUntil: (userId: string, until: number, now?: number) => depart(userId, { until }, now),

    /** Takes a user offline on all devices, and refuses their beats. */
    hide: (userId: string, now?: number) => depart(userId, { isHiding: true }, now),

    /**
     * Removes everything about a user who is gone. Changes that are not announced stay until they are. Two round trips.
     * Safe to repeat.
     */
    async forget(userId: string): Promise<void> {
      const change = await depart(userId, { isHiding: true })
      const [shard, changes, ...ofUser] = keysOf(userId, shardOf(userId))
      if (!shard || !changes) return // a user has them
      const pipeline = redis.pipeline().del(...ofUser)
      if (change) pipeline.zrem(changes, memberOf(change))
      await pipeline.exec()
    },

    /**
     * Admits beats of a user again, or changes who sees them. Answers an arrival if the user is online. Safe to repeat:
     * after a lost reply `takeChanges` returns the arrival.
     */
    async show(userId: string, visibility: Exclude<Visibility, 'nobody'>, now?: number): Promise<Change | undefined> {
      const shard = shardOf(userId)
      const at = await redis.eval<string[], number | null>(
        SHOW,
        [keys.presence(shard), keys.presenceChanges(shard), keys.presenceVisibility(userId)],
        [userId, visibility, String(visibilityMs(visibility)), timeOf(now), String((now ?? Date.now()) - windowMs)],
      )
      return at === null ? undefined : { userId, at, isOnline: true, shard }
    },

    /** When each of `userIds` was last seen, in their order; null for users Redis does not know. Some may be offline. */
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

    /**
     * Users online, latest first: at most `count`, seen no later than `until`. Of many shards it reads `LISTED_SHARDS`, the
     * same ones for a minute of `now`: users are spread by a hash, so these hold a fair sample of those seen last. If they
     * do not hold enough, few users are online, and it reads the other shards too. One round trip, or two; replies of
     * about twice `count` users, however many are online.
     */
    async latest(count: number, now: number, until = Infinity): Promise<Seen[]> {
      const seen = new Map<string, number>()
      const max = until === Infinity ? '+inf' : until
      const share = Math.min(count, 2 * Math.ceil(count / Math.min(LISTED_SHARDS, shards)))
      const options = { byScore: true, rev: true, offset: 0, count: share, withScores: true } as const
      async function readShards(some: number[]): Promise<void> {
        const pipeline = redis.pipeline()
        for (const shard of some) pipeline.zrange(keys.presence(shard), max, `(${now - windowMs}`, options)
        for (const flat of await pipeline.exec<(string | number)[][]>()) {
          for (let i = 0; i < flat.length; i += 2) {
            const userId = String(flat[i])
            seen.set(userId, Math.max(Number(flat[i + 1]), seen.get(userId) ?? 0)) // in two shards while their number changes
          }
        }
      }
      const first = Math.floor(now / SAMPLED_MS) % shards
      const inTurn = allShards.map((shard) => (shard + first) % shards)
      await readShards(inTurn.slice(0, LISTED_SHARDS))
      if (seen.size < count && shards > LISTED_SHARDS) await readShards(inTurn.slice(LISTED_SHARDS))
      return [...seen]
        .map(([userId, at]) => ({ userId, at }))
        .sort((a, b) => b.at - a.at || (a.userId < b.userId ? -1 : 1))
        .slice(0, count)
    },

    /** How many users are online. */
    async count(now: number): Promise<number> {
      const pipeline = redis.pipeline()
      for (const shard of allShards) pipeline.zcount(keys.presence(shard), `(${now - windowMs}`, '+inf')
      const perShard = await pipeline.exec<number[]>()
      return perShard.reduce((sum, count) => sum + count, 0)
    },

    isOnline: (at: number | null, now: number): at is number => at !== null && at > now - windowMs,

    /**
     * Takes silent users offline, about `count` at most, an equal share of each shard, and returns them with the changes
     * that nobody has confirmed. The caller has `CLAIM_MS` to confirm them. `hasMore`: there may be others. After a
     * lost reply they are taken again when the claim lapses.
     */
    async takeChanges(count: number, now: number): Promise<{ changes: Change[]; hasMore: boolean }> {
      const perShard = Math.ceil(count / shards)
      const pipeline = redis.pipeline()
      const args = [now, now - windowMs, perShard, now + CLAIM_MS].map(String)
      for (const shard of allShards) {
        pipeline.eval(TAKE_CHANGES, [keys.presence(shard), keys.presenceChanges(shard)], args)
      }
      const perShardTaken = await pipeline.exec<string[][]>()
      const changes = perShardTaken.flatMap((members, shard) =>
        members.map((member) => {
          const colon = member.indexOf(':')
          const at = Number(member.slice(1, colon))
          return { userId: member.slice(colon + 1), at, isOnline: member.startsWith('+'), shard }
        }),
      )
      return { changes, hasMore: perShardTaken.some((members) => members.length === perShard) }
    },

    /** How many changes are not announced, also those that somebody has just taken. One round trip, a command per shard. */
    async unannounced(): Promise<number> {
      const pipeline = redis.pipeline()
      for (const shard of allShards) pipeline.zcard(keys.presenceChanges(shard))
      return (await pipeline.exec<number[]>()).reduce((sum, changes) => sum + changes, 0)
    },

    /** Removes changes that are announced. Safe to repeat. */
    async confirm(changes: Change[]): Promise<void> {
      if (changes.length === 0) return
      const pipeline = redis.pipeline()
      for (const [shard, those] of Map.groupBy(changes, ({ shard }) => shard)) {
        pipeline.zrem(keys.presenceChanges(shard), ...those.map(memberOf))
      }
      await pipeline.exec()
    },

    /**
     * When Redis lost presence in a flush, once users had a window to come back; undefined: it has not, or that is
     * recovered. Safe to repeat.
     */
    async findLoss(now: number): Promise<number | undefined> {
      return (
        (await redis.eval<string[], number | null>(FIND_LOSS, [keys.presenceLoss], [now, windowMs].map(String))) ??
        undefined
      )
    },

    /** Ends a loss: the users who did not come back are announced. Safe to repeat. */
    async endLoss(): Promise<void> {
      await redis.set(keys.presenceLoss, 'none', { px: SHARD_MS })
    },

    /** Whether a change is recorded in a shard that is not the user's any more: the number of shards has changed. */
    isMisplaced: ({ userId, shard }: Change) => shardOf(userId) !== shard,
  }
}

/** FNV-1a, 32 bits (draft-eastlake-fnv). */
function hash(text: string): number {
  let sum = 0x81_1c_9d_c5
  for (let i = 0; i < text.length; i += 1) sum = Math.imul(sum ^ text.charCodeAt(i), 0x01_00_01_93)
  return sum >>> 0
}
