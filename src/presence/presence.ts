import { and, eq, gt, inArray, isNotNull, ne, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { forViewer, isBlocked } from '../db/relations.ts'
import { follows, users } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import type { Change, Online, Visibility } from '../redis/presence.ts'
import type { Evaluate } from '../redis/script.ts'
import { service } from '../service.ts'
import type { Status } from './schema.ts'

export interface PresenceDependencies {
  db: DrizzleD1Database
  online: Online
  /** Users who can be online at once. */
  capacity: number
  outbox: Pick<Outbox, 'transaction'>
  defer: (work: () => Promise<unknown>) => void
  onFailure: (of: string, error: unknown) => void
}

/** Changes per batch of the sweep: as JSON they are a parameter of 300 KB. */
const SWEEP_BATCH = 2_000
/** A sweep that has more batches leaves the rest to the next. */
const SWEEP_BATCHES = 20
/** Users per page when presence was lost. */
const LOSS_PAGE = 1_000
/** Visibility changes that the sweep passes on to Redis at once. */
const SYNC_BATCH = 100
/** The list reads at most this many pages of users to find enough that the viewer may see. */
const LIST_PAGES = 5

/** The share of the capacity at which users are reported as nearly too many. */
const FULL_SHARE = 0.9

/** So many users are online that more would soon displace others: raise `PRESENCE_MAX_USERS`. */
class PresenceNearlyFull extends Error {
  override readonly name = 'PresenceNearlyFull'
  constructor(online: number, capacity: number) {
    super(`PRESENCE_MAX_USERS is nearly reached: ${online} of ${capacity} users are online`)
  }
}

/** How wide an audience is. */
const width = (audience: SQL) => sql`CASE ${audience} WHEN 'everyone' THEN 2 WHEN 'followers' THEN 1 ELSE 0 END`

/** The user that an event of a statement is about, as `value` has it. */
const ofSubject = (column: SQL) => sql`(SELECT ${column} FROM users WHERE id = value ->> 'subject')`

/**
 * What a change of presence means for the audiences: `target` is the audience that may know now that the user is online,
 * `presence_shown_to` the one that was informed last. The event goes to those between the two, and nobody else: everyone,
 * the followers, or the others, who are everyone but the followers.
 */
const announcementOf = (target: SQL) => {
  const [from, to] = [width(sql`presence_shown_to`), width(target)]
  return {
    data: {
      status: ofSubject(sql`iif(${to} >= ${from}, 'online', 'offline')`),
      /** Never before the last one, whatever the clocks. */
      at: ofSubject(
        sql`strftime('%Y-%m-%dT%H:%M:%fZ', max(value ->> '$.given.at', presence_shown_at) / 1000.0, 'unixepoch')`,
      ),
    },
    audience: ofSubject(
      sql`json_quote(CASE WHEN min(${from}, ${to}) = 0 OR ${from} = ${to}
        THEN iif(${to} > ${from}, ${target}, presence_shown_to) ELSE 'others' END)`,
    ),
  }
}

/** Who may know that the user is online after a change that Redis recorded. */
const TARGET = sql`iif(value ->> '$.given.isOnline', presence_visibility, 'nobody')`
/** Whether a change that Redis recorded is newer than the last one announced. */
const IS_NEWER = sql`value ->> '$.given.at' + iif(value ->> '$.given.isOnline', 0, 1) > presence_changed_at`
/** Whether anybody is informed. Of a first arrival too: Redis does not know whether they were informed before. */
const IS_NEWS = sql`(presence_shown_to <> ${TARGET} OR (value ->> '$.given.isFirst' AND presence_shown_to <> 'nobody'))`

/** The primitive: which users are online. */
export const onlineUsers = service<Online>('online users')

export type Presence = ReturnType<typeof createPresence>
export const presenceService = service<Presence>('presence')

/**
 * Who is online, for whom. Redis knows who is online. D1 knows who may see it, what each audience was informed of, and
 * when users were last seen.
 *
 * Visibility is enforced where presence is written (a user whom nobody may see is not written, and nobody is informed)
 * and again where it is read, from D1: a change holds at once, whatever Redis has.
 *
 * Every change of what an audience may know is announced by a `user_status_change`, recorded in the D1 transaction that
 * notes what the audience was informed of. Arrivals and departures come from Redis, which keeps each until it is
 * announced; announcing one twice, or after a newer one, changes nothing. Changes of visibility come from D1 itself.
 *
 * After a flush everyone is offline. Users come back with their next beat; the cron announces those who do not.
 *
 * At 90 % of `capacity` the sweep reports `PresenceNearlyFull` each minute: beyond it, users displace each other.
 *
 * Without Redis everyone is offline, last seen when D1 says; beats and departures are refused with `unavailable`.
 */
export function createPresence({ db, online, capacity, outbox, defer, onFailure }: PresenceDependencies) {
  const isOneOf = (ids: string[]) => inArray(users.id, listOf(ids))

  async function visibilityOf(userId: string): Promise<Visibility | undefined> {
    const [row] = await db.select({ visibility: users.presenceVisibility }).from(users).where(eq(users.id, userId))
    return row?.visibility
  }

  /**
   * Announces changes, stores when those who left were last seen, then confirms the changes to Redis. One D1 batch and one
   * round trip; another for each arrival that nobody may see. Safe to repeat.
   */
  async function announce(changes: Change[]): Promise<void> {
    if (changes.length === 0) return
    const latest = latestOf(changes)
    const { data, audience } = announcementOf(TARGET)
    const events = latest.map(({ userId, ...given }) => ({
      type: 'user_status_change' as const,
      data: { userId, ...data },
      audience,
      given,
    }))
    const given = JSON.stringify(latest.map(({ userId, ...given }) => ({ userId, given })))
    const transaction = outbox.transaction()
    const [, , rows] = await db.batch([
      transaction.record(
        events,
        sql`EXISTS (SELECT 1 FROM users WHERE id = value ->> 'subject' AND ${IS_NEWER} AND ${IS_NEWS})`,
      ),
      db
        .update(users)
        .set({
          presenceShownTo: TARGET,
          presenceShownAt: sql`iif(${IS_NEWS}, max(value ->> '$.given.at', presence_shown_at), presence_shown_at)`,
          presenceChangedAt: sql`value ->> '$.given.at'`,
          lastSeenAt: sql`iif(value ->> '$.given.isOnline' OR presence_visibility = 'nobody', last_seen_at,
            max(coalesce(last_seen_at, 0), value ->> '$.given.at'))`,
        })
        .from(sql`json_each(${given})`)
        .where(sql`users.id = value ->> 'userId' AND ${IS_NEWER}`),
      db
        .select({ id: users.id, visibility: users.presenceVisibility })
        .from(users)
        .where(isOneOf(latest.map(({ userId }) => userId))),
    ])
    transaction.enqueue()
    const visibilities = new Map(rows.map((row) => [row.id, row.visibility]))
    for (const { userId, isOnline } of latest) {
      if (!isOnline || (visibilities.get(userId) ?? 'nobody') !== 'nobody') continue
      const hidden = await online.hide(userId) // Redis did not know
      if (hidden) await online.confirm([hidden])
    }
    await online.confirm(changes)
  }

  /** Passes a visibility on to Redis, announces what follows, and notes in D1 that it is done. Safe to repeat. */
  async function sync(userId: string, visibility: Visibility, changedAt: number, now?: number): Promise<void> {
    const change = await (visibility === 'nobody' ? online.hide(userId, now) : online.show(userId, visibility, now))
    if (change) await announce([change])
    await db
      .update(users)
      .set({ presenceSyncAt: null })
      .where(and(eq(users.id, userId), eq(users.presenceSyncAt, changedAt)))
  }

  /**
   * Announces the users whom D1 believes online and Redis does not know any more, as of `lostAt`. One D1 query, one batch
   * and two round trips per `LOSS_PAGE` of them. Safe to repeat.
   */
  async function recover(lostAt: number, signal: AbortSignal | undefined): Promise<void> {
    for (let last = ''; ;) {
      if (signal?.aborted === true) return
      const page = await db
        .select({ userId: users.id })
        .from(users)
        .where(and(gt(users.id, last), ne(users.presenceShownTo, 'nobody')))
        .orderBy(users.id)
        .limit(LOSS_PAGE)
      const scores = await online.lastSeen(page.map(({ userId }) => userId))
      const gone = page.filter((_, i) => scores[i] === null)
      await announce(gone.map(({ userId }) => ({ userId, at: lostAt, isOnline: false, shard: 0 })))
      last = page.at(-1)?.userId ?? ''
      if (page.length < LOSS_PAGE) break
    }
    await online.endLoss()
  }

  const cannotRecord = unavailable('Presence cannot be recorded right now')

  /** Of `userIds`: who may be seen by `viewerId`, and when D1 last heard of them. Unknown users are absent. */
  async function known(viewerId: string | undefined, userIds: string[]) {
    const rows = await db
      .select({
        id: users.id,
        visibility: users.presenceVisibility,
        lastSeenAt: users.lastSeenAt,
        followerId: follows.followerId,
        isHidden: sql<number>`NOT ${forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, users.id)}`)}`,
      })
      .from(users)
      .leftJoin(follows, and(eq(follows.followedId, users.id), eq(follows.followerId, viewerId ?? '')))
      .where(isOneOf(userIds))
    const isVisible = (row: (typeof rows)[number]) =>
      !row.isHidden &&
      (row.visibility === 'everyone' ||
        (row.visibility === 'followers' && (row.id === viewerId || row.followerId !== null)))
    return new Map(rows.map((row) => [row.id, { isVisible: isVisible(row), lastSeenAt: row.lastSeenAt }]))
  }

  return {
    /**
     * Records that a device of a user is alive. One round trip. For the first beat in a day Redis does not know the
     * user's visibility: it is loaded from D1, and the user comes online after the answer.
     *
     * Safe to repeat. If it is refused or dies, the cron announces an arrival that Redis has recorded.
     */
    async heartbeat(userId: string, deviceId: string, now?: number, evaluate?: Evaluate): Promise<void> {
      const beat = { userId, deviceId, beatId: crypto.randomUUID() }
      const outcome = await online.beat(beat, now, undefined, evaluate).catch(cannotRecord)
      if (typeof outcome === 'object') defer(() => announce([outcome]))
      if (outcome !== 'unknown') return
      defer(async () => {
        const change = await online.beat(beat, now, (await visibilityOf(userId)) ?? 'nobody')
        if (typeof change === 'object') await announce([change])
      })
    },

    /**
     * One device leaves; the user goes offline with the last one. One round trip. Safe to repeat. If it is refused or
     * dies, the cron announces a departure that Redis has recorded.
     */
    async leave(userId: string, deviceId: string, now?: number, evaluate?: Evaluate): Promise<void> {
      const change = await online.leave(userId, deviceId, now, evaluate).catch(cannotRecord)
      if (change) defer(() => announce([change]))
    },

    /** Those of `userIds` that exist, in that order, as `viewerId` may see them. One round trip and one query. */
    async ofUsers(viewerId: string | undefined, userIds: string[], now = Date.now()): Promise<Status[]> {
      const [rows, scores] = await Promise.all([
        known(viewerId, userIds),
        online.lastSeen(userIds).catch(() => []), // without Redis everyone is offline
      ])
      return userIds.flatMap((userId, i) => {
        const row = rows.get(userId)
        if (!row) return []
        if (!row.isVisible) return [{ userId, isOnline: false, lastSeenAt: null }]
        const score = scores[i] ?? null
        const lastSeenAt = Math.max(score ?? 0, row.lastSeenAt ?? 0)
        return [
          {
            userId,
            isOnline: online.isOnline(score, now),
            lastSeenAt: lastSeenAt === 0 ? null : new Date(lastSeenAt).toISOString(),
          },
        ]
      })
    },

    /**
     * Who is online, latest first, as far as `viewerId` may see it; nobody without Redis. A round trip and a query,
     * and again, up to `LIST_PAGES` times, while too few of those found may be seen.
     */
    async latest(viewerId: string | undefined, limit: number, now = Date.now()): Promise<Status[]> {
      const listed = new Map<string, Status>()
      const looked = new Set<string>()
      let until = Infinity
      for (let page = 0; page < LIST_PAGES && listed.size < limit; page += 1) {
        const count = 2 * limit
        const seen = await online.latest(count, now, until).catch(() => [])
        const fresh = seen.filter(({ userId }) => !looked.has(userId))
        if (fresh.length === 0) break
        const rows = await known(
          viewerId,
          fresh.map(({ userId }) => userId),
        )
        for (const { userId, at } of fresh) {
          looked.add(userId)
          if (listed.size < limit && rows.get(userId)?.isVisible === true) {
            listed.set(userId, { userId, isOnline: true, lastSeenAt: new Date(at).toISOString() })
          }
        }
        until = seen.at(-1)?.at ?? 0
        if (seen.length < count) break
      }
      return [...listed.values()]
    },

    /**
     * Changes who may see whether a user is online. D1 records it together with what every audience must be informed of:
     * it holds at once for all readers. A user who hides goes offline, and D1 forgets when they were last seen.
     *
     * Recorded, then completed: Redis is informed after D1, and if that fails by the cron. Safe to repeat.
     */
    async setVisibility(userId: string, visibility: Visibility, now = Date.now()): Promise<void> {
      const target = sql`iif(presence_shown_to = 'nobody', 'nobody', ${visibility})`
      const { data, audience } = announcementOf(target)
      const transaction = outbox.transaction()
      const [, changed] = await db.batch([
        transaction.record(
          { type: 'user_status_change', data: { userId, ...data }, audience, given: { at: now } },
          sql`EXISTS (SELECT 1 FROM users WHERE id = value ->> 'subject' AND presence_shown_to <> ${target})`,
        ),
        db
          .update(users)
          .set({
            presenceVisibility: visibility,
            presenceShownTo: target,
            presenceShownAt: sql`iif(presence_shown_to <> ${target}, max(${now}, presence_shown_at), presence_shown_at)`,
            presenceSyncAt: now,
            ...(visibility === 'nobody' ? { lastSeenAt: null } : {}),
          })
          .where(eq(users.id, userId))
          .returning({ id: users.id }),
      ])
      if (changed.length === 0) throw new Problem('not-found', `There is no user ${userId}`)
      transaction.enqueue()
      await sync(userId, visibility, now, now).catch(() => {}) // the cron repeats it
    },

    /**
     * Takes silent users offline, announces what Redis has recorded and nobody has announced, passes on visibility changes
     * that Redis missed, and recovers what Redis lost; returns how many changes it took. For the cron: per batch two round
     * trips and one D1 batch, and one query for visibility changes. Ends early when `signal` aborts. Safe to repeat and to
     * run twice at once.
     */
    async sweep(now = Date.now(), signal?: AbortSignal): Promise<number> {
      const unsynced = await db
        .select({ id: users.id, visibility: users.presenceVisibility, changedAt: users.presenceSyncAt })
        .from(users)
        .where(isNotNull(users.presenceSyncAt))
        .orderBy(users.presenceSyncAt)
        .limit(SYNC_BATCH)
      for (const { id, visibility, changedAt } of unsynced) {
        if (signal?.aborted !== true && changedAt !== null) await sync(id, visibility, changedAt)
      }
      let swept = 0
      for (let batch = 0; batch < SWEEP_BATCHES; batch += 1) {
        if (signal?.aborted === true) break
        const [{ changes, hasMore }, lostAt, onlineCount] = await Promise.all([
          online.takeChanges(SWEEP_BATCH, now),
          batch === 0 ? online.findLoss(now) : undefined, // in the same round trip
          batch === 0 ? online.count(now) : 0,
        ])
        if (onlineCount >= FULL_SHARE * capacity) {
          onFailure('presence', new PresenceNearlyFull(onlineCount, capacity))
        }
        // While the number of shards changes, a user who is silent in one may be alive in another.
        const misplaced = changes.filter((change) => !change.isOnline && online.isMisplaced(change))
        const scores = await online.lastSeen(misplaced.map(({ userId }) => userId))
        const moved = new Set(misplaced.filter((_, i) => scores[i] !== null))
        const due = changes.filter((change) => !moved.has(change))
        await announce(due)
        await online.confirm([...moved])
        swept += due.length
        if (lostAt !== undefined) await recover(lostAt, signal)
        if (!hasMore) break
      }
      return swept
    },
  }
}

/** The latest change of each user: a departure if it is as late as an arrival. */
function latestOf(changes: Change[]): Change[] {
  const latest = new Map<string, Change>()
  for (const change of changes) {
    const other = latest.get(change.userId)
    if (!other || change.at > other.at || (change.at === other.at && !change.isOnline))
      latest.set(change.userId, change)
  }
  return [...latest.values()]
}
