import { listOf } from '../db/list.ts'
import { and, eq, inArray, ne, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { follows, users } from '../db/schema.ts'
import { Problem, unavailable } from '../errors.ts'
import { service } from '../service.ts'
import type { Gone, Online, Seen, Visibility } from '../redis/presence.ts'
import type { Status } from './schema.ts'

/** Somebody came or went. */
export interface StatusChange {
  userId: string
  isOnline: boolean
  /** Unix ms. */
  at: number
  /** Who may be told. `nobody` only ever goes: the last that is heard of who hides. */
  visibility: Visibility
}

/** What the sweep takes at a time: as JSON it is a parameter of 100 KB. */
const SWEEP_BATCH = 2_000
/** A sweep that has not caught up after so many batches leaves the rest to the next. */
const SWEEP_BATCHES = 20
/** The list looks at most at so many pages of users for those that may be seen. */
const LIST_PAGES = 5

/** The primitive: which devices are online. */
export const onlineUsers = service<Online>('online users')

export type Presence = ReturnType<typeof createPresence>
export const presenceService = service<Presence>('presence')

/**
 * Who is online, for whom. Redis knows who is; D1 knows who may see it, and when the others were last seen.
 *
 * Visibility is enforced where presence is written (a user whom nobody may see is not, and nobody is told) and again
 * where it is read, from D1: what it says holds at once, whatever Redis still has.
 *
 * Without Redis everyone is offline, last seen when D1 says; beats and departures are refused with `unavailable`,
 * for the client to repeat, which it would anyway. `onChange` is told of every change once, after the answer.
 */
export function createPresence(
  db: DrizzleD1Database,
  online: Online,
  onChange: (changes: StatusChange[]) => Promise<void>,
  defer: (work: () => Promise<unknown>) => void,
) {
  const isOneOf = (ids: string[]) => inArray(users.id, listOf(ids))

  async function visibilityOf(userId: string): Promise<Visibility | undefined> {
    const [row] = await db.select({ visibility: users.presenceVisibility }).from(users).where(eq(users.id, userId))
    return row?.visibility
  }

  /** Tells that a user came online, unless nobody is to know. */
  async function arrive({ userId, at }: Seen, visibility: Visibility | undefined): Promise<void> {
    if (visibility === undefined || visibility === 'nobody') {
      const gone = await online.hide(userId, at) // Redis did not know: D1 changed while it could not be told
      if (gone) await online.confirm([gone])
      return
    }
    await onChange([{ userId, isOnline: true, at, visibility }])
  }

  /** Stores when those who left were last seen, tells that they went, then lets Redis forget it. */
  async function farewell(gone: Gone[], now: number): Promise<void> {
    if (gone.length === 0) return
    const seen = JSON.stringify(gone.map(({ userId, at }) => [userId, at]))
    const [, rows] = await db.batch([
      db
        .update(users)
        .set({ lastSeenAt: sql`seen.value ->> 1` })
        .from(sql`json_each(${seen}) AS seen`)
        .where(
          and(
            sql`${users.id} = seen.value ->> 0`,
            ne(users.presenceVisibility, 'nobody'),
            sql`coalesce(${users.lastSeenAt}, 0) < seen.value ->> 1`,
          ),
        ),
      db
        .select({ id: users.id, visibility: users.presenceVisibility })
        .from(users)
        .where(isOneOf(gone.map(({ userId }) => userId))),
    ])
    const visibilities = new Map(rows.map((row) => [row.id, row.visibility]))
    const changes = gone.flatMap(({ userId, at }) => {
      const visibility = visibilities.get(userId)
      if (visibility === undefined) return [] // the account is gone
      return [{ userId, isOnline: false, at: visibility === 'nobody' ? now : at, visibility }]
    })
    if (changes.length > 0) await onChange(changes)
    await online.confirm(gone)
  }

  /** Of `userIds`: who may be seen by `viewerId`, and when D1 last heard of them. Unknown users are absent. */
  async function known(viewerId: string | undefined, userIds: string[]) {
    const rows = await db
      .select({
        id: users.id,
        visibility: users.presenceVisibility,
        lastSeenAt: users.lastSeenAt,
        followerId: follows.followerId,
      })
      .from(users)
      .leftJoin(follows, and(eq(follows.followedId, users.id), eq(follows.followerId, viewerId ?? '')))
      .where(isOneOf(userIds))
    const isVisible = (row: (typeof rows)[number]) =>
      row.visibility === 'everyone' ||
      (row.visibility === 'followers' && (row.id === viewerId || row.followerId !== null))
    return new Map(rows.map((row) => [row.id, { isVisible: isVisible(row), lastSeenAt: row.lastSeenAt }]))
  }

  const cannotRecord = unavailable('Presence cannot be recorded right now')

  return {
    /**
     * Notes that a device of a user is alive. One round trip. Whose visibility Redis does not know, as of the first
     * beat in a day, is looked up in D1 and comes online after the answer.
     */
    async heartbeat(userId: string, deviceId: string, now = Date.now()): Promise<void> {
      const beat = { userId, deviceId, beatId: crypto.randomUUID() }
      const outcome = await online.beat(beat, now).catch(cannotRecord)
      if (outcome !== 'joined' && outcome !== 'unknown') return
      defer(async () => {
        let visibility = await visibilityOf(userId)
        if (outcome === 'unknown') {
          if ((await online.beat(beat, now, visibility ?? 'nobody')) !== 'joined') return
          if (visibility === 'nobody') visibility = await visibilityOf(userId) // Redis heard of a change since
        }
        await arrive({ userId, at: now }, visibility)
      })
    },

    /** One device leaves; the user goes offline with the last one. One round trip. */
    async leave(userId: string, deviceId: string, now = Date.now()): Promise<void> {
      const gone = await online.leave(userId, deviceId, now).catch(cannotRecord)
      if (gone) defer(() => farewell([gone], now))
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
     * Changes who may see whether a user is online. D1 first: that is in force for all readers. Who hides goes offline
     * and is no longer last seen. Redis that cannot be told catches up within the presence window or a day.
     */
    async setVisibility(userId: string, visibility: Visibility, now = Date.now()): Promise<void> {
      const changed = await db
        .update(users)
        .set({ presenceVisibility: visibility, ...(visibility === 'nobody' ? { lastSeenAt: null } : {}) })
        .where(eq(users.id, userId))
        .returning({ id: users.id })
      if (changed.length === 0) throw new Problem('not-found', `There is no user ${userId}`)
      if (visibility !== 'nobody') {
        await online.show(userId, visibility).catch(() => {})
        return
      }
      const gone = await online.hide(userId, now).catch(() => undefined)
      if (gone) defer(() => farewell([gone], now))
    },

    /**
     * Takes those who went silent offline: stores when they were last seen and tells that they went, each once however
     * many sweeps run (`redis/presence` says what holds when one dies). Answers how many. For the cron: per batch two
     * round trips and one D1 batch. Ends early when `signal` aborts.
     */
    async sweep(now = Date.now(), signal?: AbortSignal): Promise<number> {
      let swept = 0
      for (let batch = 0; batch < SWEEP_BATCHES; batch += 1) {
        if (signal?.aborted === true) break
        const { gone, hasMore } = await online.takeSilent(SWEEP_BATCH, now)
        // While the number of shards changes, who is silent in one may be alive in another.
        const misplaced = gone.filter(online.isMisplaced)
        const scores = await online.lastSeen(misplaced.map(({ userId }) => userId))
        const moved = new Set(misplaced.filter((_, i) => scores[i] !== null))
        const silent = gone.filter((who) => !moved.has(who))
        await farewell(silent, now)
        await online.confirm([...moved])
        swept += silent.length
        if (!hasMore) break
      }
      return swept
    },
  }
}
