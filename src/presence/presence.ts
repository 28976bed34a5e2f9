import { and, eq, gt, inArray, isNotNull, ne, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { forViewer, isBlocked } from '../db/relations.ts'
import { follows, users } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import type { StoredAudience } from '../events/catalog.ts'
import type { NewHint } from '../events/hints.ts'
import type { Change, Online, Visibility } from '../redis/presence.ts'
import type { Evaluate } from '../redis/script.ts'
import { service } from '../service.ts'
import type { Status } from './schema.ts'

/** The device of an ended session, or all devices of a user that were last seen by `until` (Unix ms). */
export type EndedDevices = { userId: string; deviceId: string } | { userId: string; until: number }

export interface PresenceDependencies {
  db: DrizzleD1Database
  online: Online
  /** Users who can be online at once. */
  capacity: number
  sendHints: (hints: NewHint[]) => Promise<unknown>
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
const WIDTH = { nobody: 0, followers: 1, everyone: 2 } as const

/** What D1 knows of a user's presence. */
interface Known {
  visibility: Visibility
  /** The widest audience that may believe that the user is online. */
  shownTo: Visibility
  /** The `at` of the last hint. */
  shownAt: number
  /** When Redis recorded the last arrival or departure that was announced. */
  changedAt: number
}

/** What follows for one user: a hint, if anybody is to be informed, and what D1 has to know. */
interface Step {
  userId: string
  /** What D1 knew: it must still be so when it is written. */
  known: Known
  next: Pick<Known, 'shownTo' | 'shownAt' | 'changedAt'>
  /** A departure that readers may know of. */
  lastSeenAt: number | null
  hint: { status: 'online' | 'offline'; audience: Exclude<StoredAudience, string[] | 'services'> } | undefined
}

/**
 * Whom to inform when the audience that may know that a user is online changes: those between the two, and nobody else.
 * Everyone, the followers, or the others, who are everyone but the followers.
 */
function hintBetween(from: Visibility, to: Visibility): Step['hint'] {
  if (from === to) return undefined
  const status = WIDTH[to] > WIDTH[from] ? 'online' : 'offline'
  const audience = from === 'nobody' ? to : to === 'nobody' ? from : 'others'
  return audience === 'nobody' ? undefined : { status, audience }
}

/** What follows from an arrival or departure that Redis recorded. */
function stepOf(change: Change, known: Known): Step {
  const { userId, at, isOnline } = change
  const isNewer = at + (isOnline ? 0 : 1) > known.changedAt
  const target = !isNewer ? known.shownTo : isOnline ? known.visibility : 'nobody'
  const shownAt = Math.max(at, known.shownAt + 1)
  // Whoever noted an arrival may have died before the hint was sent; and after a flush Redis does not know who was informed.
  const isRepeated = isOnline && at === known.changedAt
  if ((isRepeated || (isNewer && change.isFirst === true)) && target === known.shownTo && target !== 'nobody') {
    const next = isRepeated ? known : { ...known, shownAt, changedAt: at }
    return { userId, known, next, lastSeenAt: null, hint: { status: 'online', audience: target } }
  }
  const hint = hintBetween(known.shownTo, target)
  return {
    userId,
    known,
    next: {
      shownTo: target,
      shownAt: hint ? shownAt : known.shownAt,
      changedAt: isNewer ? at : known.changedAt,
    },
    lastSeenAt: isNewer && !isOnline && known.visibility !== 'nobody' ? at : null,
    hint,
  }
}

/** What follows from a visibility that was changed at `at`, as far as D1 knows the user to be online. */
function stepOfVisibility(userId: string, at: number, known: Known): Step {
  const target = known.shownTo === 'nobody' ? 'nobody' : known.visibility
  const hint = hintBetween(known.shownTo, target)
  const shownAt = hint ? Math.max(at, known.shownAt + 1) : known.shownAt
  return { userId, known, next: { ...known, shownTo: target, shownAt }, lastSeenAt: null, hint }
}

const isWidening = ({ known, next }: Step) => WIDTH[next.shownTo] > WIDTH[known.shownTo]

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
 * Every change of what an audience may know is announced by a hint, `user_status_change`. D1 knows the widest audience that
 * may believe a user online: it is widened before "online" is sent, and narrowed after "offline" was sent. So whoever dies
 * in between leaves nobody believing a user online of whom D1 does not know it, and the repetition informs them again.
 * Arrivals and departures come from Redis, which keeps each until it is announced; changes of visibility from D1 itself.
 * Announcing one twice repeats its hint, announcing one after a newer one changes nothing. `at` rises with each hint about
 * a user: the later is newer.
 *
 * After a flush everyone is offline. Users come back with their next beat; the cron announces those who do not.
 *
 * At 90 % of `capacity` the sweep reports `PresenceNearlyFull` each minute: beyond it, users displace each other.
 *
 * Without Redis everyone is offline, last seen when D1 says; beats and departures are refused with `unavailable`.
 */
export function createPresence({ db, online, capacity, sendHints, defer, onFailure }: PresenceDependencies) {
  const isOneOf = (ids: string[]) => inArray(users.id, listOf(ids))

  async function visibilityOf(userId: string): Promise<Visibility | undefined> {
    const [row] = await db.select({ visibility: users.presenceVisibility }).from(users).where(eq(users.id, userId))
    return row?.visibility
  }

  async function read(userIds: string[]): Promise<Map<string, Known>> {
    const rows = await db
      .select({
        id: users.id,
        visibility: users.presenceVisibility,
        shownTo: users.presenceShownTo,
        shownAt: users.presenceShownAt,
        changedAt: users.presenceChangedAt,
      })
      .from(users)
      .where(isOneOf(userIds))
    return new Map(rows.map(({ id, ...known }) => [id, known]))
  }

  /** Writes what D1 has to know (compare-and-set). Returns the users of whom D1 knows something else meanwhile. */
  async function note(steps: Step[]): Promise<Set<string>> {
    const changing = steps.filter(({ known, next, lastSeenAt }) => {
      const isSame =
        next.shownTo === known.shownTo && next.shownAt === known.shownAt && next.changedAt === known.changedAt
      return !isSame || lastSeenAt !== null
    })
    if (changing.length === 0) return new Set()
    const noted = await db
      .update(users)
      .set({
        presenceShownTo: sql`step.value ->> '$.next.shownTo'`,
        presenceShownAt: sql`step.value ->> '$.next.shownAt'`,
        presenceChangedAt: sql`step.value ->> '$.next.changedAt'`,
        lastSeenAt: sql`coalesce(max(coalesce(last_seen_at, 0), step.value ->> 'lastSeenAt'), last_seen_at)`,
      })
      .from(sql`json_each(${JSON.stringify(changing)}) AS step`)
      .where(
        sql`users.id = step.value ->> 'userId'
          AND (presence_visibility, presence_shown_to, presence_shown_at, presence_changed_at) = (
            step.value ->> '$.known.visibility', step.value ->> '$.known.shownTo', step.value ->> '$.known.shownAt',
            step.value ->> '$.known.changedAt'
          )`,
      )
      .returning({ id: users.id })
    const ids = new Set(noted.map(({ id }) => id))
    return new Set(changing.filter(({ userId }) => !ids.has(userId)).map(({ userId }) => userId))
  }

  /**
   * Notes who comes to believe a user online, sends the hints, then notes who does not any more. One or two D1 round
   * trips, one row per user. Returns the users whose step must be taken again. Throws when the queue refuses: then only
   * what was widened is noted. Safe to repeat.
   */
  async function take(steps: Step[]): Promise<Set<string>> {
    const outdated = await note(steps.filter(isWidening))
    const valid = steps.filter(({ userId }) => !outdated.has(userId))
    await sendHints(
      valid.flatMap(({ userId, next: { shownAt: at }, hint }) => {
        if (!hint) return []
        const { status, audience } = hint
        return [{ type: 'user_status_change', data: { userId, status, at: new Date(at).toISOString() }, audience, at }]
      }),
    )
    for (const userId of await note(valid.filter((step) => !isWidening(step)))) outdated.add(userId)
    return outdated
  }

  /**
   * Announces changes, stores when those who left were last seen, then confirms the changes to Redis. Two or three D1 round
   * trips and one of Redis; another for each arrival that nobody may see. Safe to repeat. A change of a user of whom D1
   * knows something else meanwhile is not confirmed: the cron announces it.
   */
  async function announce(changes: Change[]): Promise<void> {
    if (changes.length === 0) return
    const latest = latestOf(changes)
    const known = await read(latest.map(({ userId }) => userId))
    const steps = latest.flatMap((change) => {
      const ofUser = known.get(change.userId)
      return ofUser ? [stepOf(change, ofUser)] : []
    })
    const outdated = await take(steps)
    for (const { userId, isOnline } of latest) {
      if (!isOnline || (known.get(userId)?.visibility ?? 'nobody') !== 'nobody') continue
      const hidden = await online.hide(userId) // Redis did not know
      if (hidden) await online.confirm([hidden])
    }
    await online.confirm(changes.filter(({ userId }) => !outdated.has(userId)))
  }

  /**
   * Announces what follows from a visibility that was recorded at `changedAt`, passes it on to Redis, announces what
   * follows there, and notes in D1 that it is done. Safe to repeat.
   */
  async function sync(userId: string, visibility: Visibility, changedAt: number, now?: number): Promise<void> {
    const known = (await read([userId])).get(userId)
    if (!known) return
    const outdated = await take([stepOfVisibility(userId, changedAt, known)])
    if (outdated.size > 0) return // the cron does it again
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
      .where(and(isOneOf(userIds), isPresent(users.id)))
    const isVisible = (row: (typeof rows)[number]) =>
      !row.isHidden &&
      (row.visibility === 'everyone' ||
        (row.visibility === 'followers' && (row.id === viewerId || row.followerId !== null)))
    return new Map(rows.map((row) => [row.id, { isVisible: isVisible(row), lastSeenAt: row.lastSeenAt }]))
  }

  return {
    /**
     * Records that a device of a user is alive. One round trip. For the first beat in a day Redis does not know the
     * user's visibility: it is loaded from D1, and the user comes online after the answer, unless the device left meanwhile.
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

    /**
     * Devices of ended sessions leave; users go offline with their last one. One round trip, then the announcement. Throws
     * if Redis, D1 or the queue fails. Safe to repeat: the cron announces a departure that Redis has recorded.
     */
    async leaveEnded(ended: EndedDevices[]): Promise<void> {
      const changes = await Promise.all(
        ended.map(({ userId, ...which }) =>
          'deviceId' in which ? online.leaveWithTabs(userId, which.deviceId) : online.leaveUntil(userId, which.until),
        ),
      )
      await announce(changes.filter((change) => change !== undefined))
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
     * Changes who may see whether a user is online: it holds at once for all readers. A user who hides goes offline, and D1
     * forgets when they were last seen.
     *
     * Recorded, then completed: whoever must be informed is informed after D1 has recorded it, then Redis; what fails is
     * repeated by the cron. Safe to repeat.
     */
    async setVisibility(userId: string, visibility: Visibility, now = Date.now()): Promise<void> {
      const changed = await db
        .update(users)
        .set({
          presenceVisibility: visibility,
          presenceSyncAt: now,
          ...(visibility === 'nobody' ? { lastSeenAt: null } : {}),
        })
        .where(eq(users.id, userId))
        .returning({ id: users.id })
      if (changed.length === 0) throw new Problem('not-found', `There is no user ${userId}`)
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
