import { and, desc, eq, gt, inArray, isNull, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { countUpTo } from '../db/count.ts'
import { listOf } from '../db/list.ts'
import { comments, events, follows, posts, users } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import {
  type CloudEvent,
  CUSTOM_CHANNEL,
  formatSequence,
  isHint,
  MAIL_CHANNEL,
  type StoredAudience,
  type StoredEvent,
  toCloudEvent,
} from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import { newId } from '../ids.ts'
import type { Viewer as Member } from '../relations/schema.ts'
import type { Concurrency } from '../redis/concurrency.ts'
import type { Visibility } from '../redis/presence.ts'
import { service } from '../service.ts'
import type { Membership, SharedSubscription } from '../redis/shared-subscription.ts'
import type { Entry, Message, Start, Stream } from '../redis/stream.ts'

/** An event on the log. */
export interface Streamed {
  event: CloudEvent
  audience: StoredAudience
  /** Its sequence for strangers; 0: it has none. */
  publicSequence: number
  /** The author of the content that it is about, where its data does not name the author. */
  authorIds?: string[]
}

/** Who reads. A service sees everything but `others`; a user what everyone, followers or that user may see. */
export type Viewer = { isService: true } | { isService: false; userId: string | undefined }

/** Times in ms. */
export interface StreamsPolicy {
  heartbeatMs: number
  /** How often a stream checks its session, and the streams of an isolate look for entries whose message was lost. */
  checkMs: number
  /** A stream ends after about this long, and the client opens another. */
  lifeMs: number
  /** How long clients wait before they reconnect, at least. */
  retryMs: number
  /** Data waiting for a slow reader. */
  maxQueuedBytes: number
  /** A reader that takes nothing for this long, while that much data waits, is dropped. */
  stallMs: number
  /** Events that missed the log longer ago than this are not appended any more. */
  keptMs: number
  maxPerIsolate: number
}

export interface StreamsDependencies {
  db: DrizzleD1Database
  log: Stream<Streamed>
  places: Concurrency
  /** The isolate's count of open streams. */
  open: { count: number }
  /** The CloudEvents `source`. */
  source: string
  policy: StreamsPolicy
  defer: (work: () => Promise<unknown>) => void
  onFailure: (of: string, error: unknown) => void
}

export interface Opening {
  channels: ReadonlySet<string>
  viewer: Viewer
  /** Whose streams are bounded: a user id, a network address, or a service. */
  caller: string
  /**
   * Checks the credential of the viewer: the member with the blocks and mutes of now, or true for a service. It answers
   * undefined once the credential is not valid any more. Absent: there is no credential that can end.
   */
  check: (() => Promise<Member | true | undefined>) | undefined
  /** The id of the last event the client has received. */
  seen: string | undefined
  /** Aborts when the client disconnects. */
  signal: AbortSignal
}

/** How many follows of a viewer a stream holds, the latest. D1 is asked about the others one by one. Ids have 28 characters. */
const MAX_FOLLOWED = 10_000
/** Missed events appended at once. */
const PAGE = 100
/** A hint about presence that is published this long after it was sent is checked: it may be hidden by now. */
const LATE_MS = 60_000
/** An open stream keeps its place with every so many checks. */
export const CHECKS_PER_KEEP = 4
/** How long a client waits after a refusal. */
const RETRY_AFTER_SECONDS = 5

export type Streams = ReturnType<typeof createStreams>
/** How many streams this isolate has open. */
export const openStreams = service<{ count: number }>('open streams')
/** The subscription that the streams of this isolate share. */
export const streamSubscription = service<SharedSubscription<Message<Streamed>>>('stream subscription')
export const streamsService = service<Streams>('streams')

/**
 * Events as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html), live and resumable.
 *
 * A listener appends every fact to a log in Redis. Hints are published only, for up to a minute: the next one corrects a
 * lost one, and who resumes reads the state again. So a client that resumes learns nothing about presence that has been hidden since. A
 * stream follows the log and sends the events on its channels that its viewer may see. The audience is stored with the
 * event, and who wrote the content that it is about: D1 is asked once for a batch with such events. Whom a viewer follows is
 * loaded from D1 when first needed, again after a follow or unfollow, and every `checkMs`. The check of the session brings
 * the viewer's blocks and mutes.
 * Sequences have no gaps for a viewer: strangers and the others are counted apart. Blocks may leave gaps.
 *
 * A hint about presence that is late is checked in D1: "online" that must be hidden by now is not published, and
 * "offline" without its time and id.
 *
 * A replayed or late event about a post or comment that is gone by then has ids only: one D1 query for a batch of them.
 *
 * Opening: `SUBSCRIBE` if the isolate has no subscription yet, then one round trip, both before the answer. Open: one
 * round trip every `checkMs` for the session, another command for the first stream of the isolate, and two with every
 * `CHECKS_PER_KEEP`th to keep its place. Closing: one round trip. A later stream continues where this one ended.
 *
 * Without Redis, opening is refused as `unavailable` and open streams end. Events then miss the log, not the other
 * listeners: D1 records which they are (one statement per batch), and `catchUp` appends them once Redis is back, after
 * newer events; `sequence` gives their order. The log knows the names of its `maxEntries` latest events and appends none
 * of them twice.
 */
export function createStreams({ db, log, places, open, source, policy, defer, onFailure }: StreamsDependencies) {
  const listener: Listener = {
    name: 'streams',
    wants: ({ channel }) => channel !== MAIL_CHANNEL, // its events contain tokens
    /** Safe to repeat. For facts, a failure is recorded in D1 and completed by the cron; recent hints are published again. */
    async handle(happened) {
      const { hints = [], facts = [] } = Object.groupBy(happened, (event) => (isHint(event) ? 'hints' : 'facts'))
      await Promise.all([publishHints(hints), appendFacts(facts)])
    },
    hint: publishHints,
  }

  /**
   * One command; a D1 query before it if hints about presence are late. Throws while that may help: open streams end when
   * Redis is away for longer, and who opens another reads the state again.
   */
  async function publishHints(hints: StoredEvent[]): Promise<void> {
    try {
      await publishAsOfNow(hints)
    } catch (error) {
      if (!hints.every(isLate)) throw error
      onFailure('streams', error)
    }
  }

  async function publishAsOfNow(hints: StoredEvent[]): Promise<void> {
    const visibilities = await visibilitiesOf(hints.filter((hint) => isPresence(hint) && isLate(hint)))
    const shown = hints.flatMap((hint) =>
      isPresence(hint) && isLate(hint) ? asOfNow(hint, visibilities.get(hint.subject)) : [hint],
    )
    if (shown.length > 0) await log.publish(await streamed(shown))
  }

  async function appendFacts(facts: StoredEvent[]): Promise<void> {
    if (facts.length === 0) return
    try {
      await append(facts)
    } catch (error) {
      onFailure('streams', error)
      await db
        .update(events)
        .set({ missedAt: Date.now() })
        .where(and(among(facts), isNull(events.missedAt)))
    }
  }

  /** Events as the log has them. One D1 query where some are about contents whose author they do not name. */
  async function streamed(happened: StoredEvent[]): Promise<Streamed[]> {
    const contents = happened.filter(({ channel }) => channel === 'comment_events' || channel === 'counter_events')
    const authors = await authorsOf([...new Set(contents.map(({ subject }) => subject))])
    return happened.map((event) => {
      const authorIds = contents.includes(event) ? authors.get(event.subject) : undefined
      return {
        event: toCloudEvent(event, source),
        audience: event.audience,
        publicSequence: event.publicSequence ?? 0,
        ...(authorIds && { authorIds }),
      }
    })
  }

  /** The authors of posts and comments: of a comment also that of its post. Deleted contents have none. */
  async function authorsOf(ids: string[]): Promise<Map<string, string[]>> {
    if (ids.length === 0) return new Map()
    const rows = await db.all<{ id: string; authors: string }>(sql`
      SELECT posts.id, author_id AS authors FROM json_each(${JSON.stringify(ids)}) CROSS JOIN ${posts} ON posts.id = value
      UNION ALL
      SELECT comments.id, comments.author_id || ' ' || posts.author_id
      FROM json_each(${JSON.stringify(ids)}) CROSS JOIN ${comments} ON comments.id = value
        CROSS JOIN ${posts} ON posts.id = post_id`)
    return new Map(rows.map((row) => [row.id, row.authors.split(' ')]))
  }

  async function append(happened: StoredEvent[]): Promise<void> {
    const values = await streamed(happened)
    await log.append(happened.map((event, i) => ({ name: event.id, value: values[i] as Streamed }))) // one for each
  }

  const among = (happened: StoredEvent[]) => inArray(events.id, listOf(happened.map((event) => event.id)))

  /** Who may see the presence of the subjects of `hints` now. One query, or none. */
  async function visibilitiesOf(hints: StoredEvent[]): Promise<Map<string, Visibility>> {
    const subjects = hints.map(({ subject }) => subject)
    if (subjects.length === 0) return new Map()
    const rows = await db
      .select({ id: users.id, visibility: users.presenceVisibility })
      .from(users)
      .where(inArray(users.id, listOf([...new Set(subjects)])))
    return new Map(rows.map((row) => [row.id, row.visibility]))
  }

  /** The contents that `entries` quote and that are gone, deleted or taken down. One query, or none where they quote none. */
  async function goneOf(entries: Entry<Streamed>[]): Promise<Set<string>> {
    const ids = [...new Set(entries.flatMap(({ value: { event } }) => quotedIn(event) ?? []))]
    if (ids.length === 0) return new Set()
    const here = await db.all<{ id: string }>(sql`
      SELECT id FROM ${posts} WHERE id IN ${listOf(ids)}
      UNION ALL SELECT id FROM ${comments} WHERE id IN ${listOf(ids)} AND deleted_at IS NULL`)
    const found = new Set(here.map(({ id }) => id))
    return new Set(ids.filter((id) => !found.has(id)))
  }

  /** What one viewer may see. `member` has the blocks and mutes, as the last check of the session found them. */
  function createSight(viewer: Viewer, check: Opening['check'], checked: Member | true) {
    let member = memberIn(checked)
    let followed: { ids: Set<string>; isComplete: boolean; others: Map<string, boolean>; readAt: number } | undefined

    async function isFollowing(userId: string, subject: string): Promise<boolean> {
      if (!followed || Date.now() - followed.readAt >= policy.checkMs) {
        const readAt = Date.now()
        const rows = await db
          .select({ id: follows.followedId })
          .from(follows)
          .where(eq(follows.followerId, userId))
          .orderBy(desc(follows.id))
          .limit(MAX_FOLLOWED)
        followed = {
          ids: new Set(rows.map((row) => row.id)),
          isComplete: rows.length < MAX_FOLLOWED,
          others: new Map(),
          readAt,
        }
      }
      if (followed.isComplete || followed.ids.has(subject)) return followed.ids.has(subject)
      const { others } = followed
      let isFollowed = others.get(subject)
      if (isFollowed === undefined) {
        const rows = await db
          .select({ id: follows.id })
          .from(follows)
          .where(and(eq(follows.followerId, userId), eq(follows.followedId, subject)))
        isFollowed = rows.length > 0
        others.set(subject, isFollowed)
      }
      return isFollowed
    }

    /** Whether a block hides a user of the event from the viewer, or a mute hides a new post. */
    async function isHidden({ event, authorIds = [] }: Streamed): Promise<boolean> {
      if (!member || event.channel === 'relation_events' || CUSTOM_CHANNEL.test(event.channel)) return false
      const userIds = [...USERS.map((field) => event.data[field]), ...authorIds].filter((id) => typeof id === 'string')
      if (userIds.length === 0) return false
      const hidden = await member.hidden(userIds, event.type === 'post_created' ? 'feed' : 'anywhere')
      return userIds.some((id) => hidden.has(id))
    }

    return {
      /** Must be called with every event, whatever its channel. */
      async note({ type, channel, data }: CloudEvent): Promise<void> {
        if (viewer.isService || viewer.userId === undefined) return
        if (channel === 'relation_events' && (data['userId'] === viewer.userId || data['otherId'] === viewer.userId)) {
          member = memberIn((await check?.()) ?? true) ?? member // Redis had the change before the event
        }
        if (data['followerId'] !== viewer.userId) return
        if (channel === 'user_events' && (type === 'user_followed' || type === 'user_unfollowed')) followed = undefined
      },

      /** The viewer as a later check has found it. */
      update(current: Member | true): void {
        member = memberIn(current)
      },

      /** An event as the viewer may see it; undefined: not at all. */
      async view(streamed: Streamed): Promise<CloudEvent | undefined> {
        const { event, audience, publicSequence } = streamed
        if (viewer.isService) return audience === 'others' ? undefined : event
        const { userId } = viewer
        if (audience === 'services') return undefined
        if (Array.isArray(audience)) return userId !== undefined && audience.includes(userId) ? event : undefined
        if (await isHidden(streamed)) return undefined
        const isSame = isHint(event) || formatSequence(publicSequence) === event.sequence
        if (audience === 'everyone' && isSame) return event
        const isStranger =
          userId === undefined || (event.subject !== userId && !(await isFollowing(userId, event.subject)))
        if (audience === (isStranger ? 'followers' : 'others')) return undefined
        return isStranger && publicSequence > 0 ? { ...event, sequence: formatSequence(publicSequence) } : event
      },
    }
  }

  return {
    listener,

    /**
     * Appends at most `most` events that missed the log, in the order in which they missed it; answers how many. Stops
     * between steps when `signal` aborts. For the cron: one D1 query when nothing was missed; else two queries and two
     * round trips per `PAGE`. Safe to repeat: the next run continues after a failure.
     */
    async catchUp(most: number, now: number, signal: AbortSignal): Promise<number> {
      for (let caughtUp = 0; ;) {
        signal.throwIfAborted()
        const missed = await db
          .select()
          .from(events)
          .where(gt(events.missedAt, now - policy.keptMs))
          .orderBy(events.missedAt, sql`rowid`)
          .limit(Math.min(PAGE, most - caughtUp))
        if (missed.length === 0) return caughtUp
        await append(missed.filter((event) => !isHint(event)))
        await db.update(events).set({ missedAt: null }).where(among(missed)) // also if they missed it again meanwhile
        caughtUp += missed.length
      }
    },

    /** Deletes the events about a deleted user from a part of the log, but not `user_deleted`. Returns where to continue, null at the end. */
    forget: (userId: string, from?: string): Promise<string | null> =>
      log.forget(JSON.stringify(userId), '"type":"user_deleted"', from),

    /** How many events missed the log and are not appended, counted up to 10,000. */
    missed: (now: number) => countUpTo(db, events, sql`missed_at > ${now - policy.keptMs}`),

    /**
     * Opens a stream; `ended` resolves when it is over. It ends when the client disconnects, the session or the
     * subscription ends, after `lifeMs`, or when the client stalls.
     *
     * Throws `not-signed-in` when the credential of the viewer has ended, `rate-limited` when the caller has too many streams
     * open, and `unavailable` when there are too many in total or Redis fails. It writes only the place, which is
     * released when the stream ends or is refused, and expires when the isolate dies.
     */
    async open({ channels, viewer, caller, check, seen, signal }: Opening) {
      if (open.count >= policy.maxPerIsolate) refuse('Too many streams are open on this server')
      open.count += 1
      const id = crypto.randomUUID()
      const over = new AbortController()
      const listening = AbortSignal.any([signal, over.signal])
      function close(): void {
        open.count -= 1
        over.abort()
        defer(() => places.release(caller, id).catch(() => {})) // it expires
      }

      let membership: Membership<Message<Streamed>>
      let start: Start<Streamed>
      let checked: Member | true | undefined
      let place: Awaited<ReturnType<Concurrency['take']>>
      try {
        membership = await log.join(listening)
        ;[start, place, checked] = await Promise.all([
          log.read(seen),
          places.take(caller, id, Date.now()),
          check?.() ?? true,
        ])
      } catch (cause) {
        close()
        refuse('Streams cannot be opened right now', cause)
      }
      if (place !== 'taken' || !checked) {
        close()
        if (!checked) throw new Problem('not-signed-in', 'This session has ended')
        if (place === 'all-full') refuse('Too many streams are open')
        throw new Problem('rate-limited', 'You have too many streams open: close one', {
          retryAfter: RETRY_AFTER_SECONDS,
        })
      }

      const sight = createSight(viewer, check, checked)
      const outlet = createOutlet(policy, () => over.abort())
      let { position } = start

      async function send({ id, value }: Entry<Streamed>, gone?: Set<string>) {
        await sight.note(value.event)
        const shown = gone?.has(quotedIn(value.event) ?? '') ? { ...value, event: withoutQuote(value.event) } : value
        const event = channels.has(value.event.channel) ? await sight.view(shown) : undefined
        if (event) await outlet.send(`id: ${id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
        position = id
      }
      /** A comment with the position, so that a resuming client does not read again what it may not see. */
      const mark = (comment: string) => `: ${comment}\nid: ${position}\n\n`
      const sendReset = () => outlet.send(`event: reset\ndata: ${JSON.stringify({ seen: seen ?? position })}\n\n`)

      async function run(): Promise<void> {
        const retryMs = Math.round(policy.retryMs * (1 + Math.random())) // streams that end together return apart
        const life = setTimeout(() => over.abort(), policy.lifeMs * (0.9 + 0.1 * Math.random()))
        const heartbeat = setInterval(() => {
          outlet.sendIfRoom(mark('still here'))
          membership.beat()
        }, policy.heartbeatMs)
        let checks = 0
        async function keep(): Promise<boolean> {
          checks += 1
          const [current] = await Promise.all([
            check?.() ?? true,
            checks % CHECKS_PER_KEEP === 0 && places.keep(caller, id, Date.now()).catch(() => {}), // the next repeats it
          ])
          if (current) sight.update(current)
          return current !== undefined
        }
        try {
          await outlet.send(`retry: ${retryMs}\n${mark('open')}`)
          if (!start.isComplete) await sendReset()
          const batches = log.follow(start, membership, { everyMs: policy.checkMs, alongside: keep })
          for await (const { entries, isReplay, hasGap } of batches) {
            if (listening.aborted) break
            if (hasGap) await sendReset()
            const isOld = isReplay || entries.some(({ value }) => Date.now() - Date.parse(value.event.time) > LATE_MS)
            const gone = isOld ? await goneOf(entries) : undefined
            for (const entry of entries) {
              if (!isReplay || !isHint(entry.value.event)) await send(entry, gone) // earlier versions logged presence
            }
          }
          outlet.sendIfRoom(mark('over'))
          outlet.close()
        } catch (error) {
          if (!listening.aborted && !(error instanceof Stalled)) onFailure('streams', error)
          outlet.fail(error)
        } finally {
          clearTimeout(life)
          clearInterval(heartbeat)
          close()
        }
      }
      return { body: outlet.body, ended: run() }
    },
  }
}

function refuse(detail: string, cause?: unknown): never {
  throw new Problem('unavailable', detail, { retryAfter: RETRY_AFTER_SECONDS }, cause === undefined ? {} : { cause })
}

const memberIn = (checked: Member | true) => (checked === true ? undefined : checked)

/** The fields of events that name users. */
const USERS = ['userId', 'authorId', 'followerId', 'followedId']

const isLate = ({ createdAt }: StoredEvent) => Date.now() - createdAt > LATE_MS

const isPresence = ({ type }: StoredEvent) => type === 'user_status_change'

/** What may be said of a late status change, now that `visibility` holds; undefined: the user is gone. */
function asOfNow(hint: StoredEvent, visibility: Visibility = 'nobody'): StoredEvent[] {
  const { subject: userId, audience } = hint
  if (visibility === 'everyone' || (visibility === 'followers' && audience === 'followers')) return [hint]
  if (hint.data['status'] === 'online') {
    return visibility === 'followers' && audience === 'everyone' ? [{ ...hint, audience: 'followers' }] : []
  }
  const now = Date.now()
  const data = { userId, status: 'offline', at: new Date(now).toISOString() }
  return [{ ...hint, id: newId('ev', now), createdAt: now, data, traceparent: null }] // ids contain times
}

/** The post or comment whose text an event has. */
function quotedIn({ channel, data }: CloudEvent): string | undefined {
  if ((channel !== 'post_events' && channel !== 'comment_events') || data['text'] === undefined) return undefined
  return String(data['commentId'] ?? data['postId'])
}

/** An event about a content that is gone: ids only. */
function withoutQuote(event: CloudEvent): CloudEvent {
  const { text: _text, ...data } = event.data
  return { ...event, data }
}

/** A reader took nothing for too long. */
class Stalled extends Error {
  override readonly name = 'Stalled'
}

/** The way to one reader, which buffers at most `maxQueuedBytes` and the event being sent. */
function createOutlet({ maxQueuedBytes, stallMs }: StreamsPolicy, onCancel: () => void) {
  const encoder = new TextEncoder()
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  let isOpen = true
  let onRoom = () => {}
  const body = new ReadableStream<Uint8Array>(
    {
      start: (given) => void (controller = given),
      pull: () => onRoom(),
      cancel() {
        isOpen = false
        onRoom()
        onCancel()
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: maxQueuedBytes }),
  )
  const hasRoom = () => (controller?.desiredSize ?? 0) > 0

  /** Waits until the reader has taken something. */
  function room(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Stalled(`The reader took nothing for ${stallMs} ms`)), stallMs)
      onRoom = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  return {
    body,
    /** Sends once there is room, and nothing after the reader is gone. Throws `Stalled`. */
    async send(text: string): Promise<void> {
      if (isOpen && !hasRoom()) await room()
      if (isOpen) controller?.enqueue(encoder.encode(text))
    },
    sendIfRoom(text: string): void {
      if (isOpen && hasRoom()) controller?.enqueue(encoder.encode(text))
    },
    close(): void {
      if (isOpen) controller?.close()
      isOpen = false
    },
    /** Ends the body with an error and drops what waits. */
    fail(error: unknown): void {
      if (isOpen) controller?.error(error)
      isOpen = false
    },
  }
}
