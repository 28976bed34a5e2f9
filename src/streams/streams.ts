import { createHash } from 'node:crypto'
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
  type StoredAudience,
  type StoredEvent,
  toCloudEvent,
} from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import type { Viewer as Member } from '../relations/schema.ts'
import type { Concurrency } from '../redis/concurrency.ts'
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

/** Of a user who follows more, only the latest follows count. Ids have 28 characters. */
const MAX_FOLLOWED = 10_000
/** Missed events appended at once. */
const PAGE = 100
/** An event about presence that is published this long after it happened is checked like a replayed one. */
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
 * A listener appends every event to a log in Redis, except hints: a `counter_update` carries the latest value and is
 * worthless when late, so it is published only, and the next one corrects a lost one. A stream follows the log and
 * sends the events on its channels that its viewer may see. The audience is stored with the event. Whom a viewer
 * follows is loaded from D1 when first needed, again after a follow or unfollow, and every `checkMs`. The check of the
 * session brings the viewer's blocks and mutes.
 *
 * Presence is also checked when an event is replayed or late: a client that resumes must not learn what has been hidden
 * since. Instead of a `user_status_change` that its viewer may not see any more, the client receives "offline" under
 * the same sequence, without its time and id. Sequences have no gaps for a viewer: strangers and the others are counted
 * apart.
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
    wants: () => true,
    /** Safe to repeat. For facts, a failure is recorded in D1 and completed by the cron; hints are forgotten. */
    async handle(happened) {
      const { hints = [], facts = [] } = Object.groupBy(happened, (event) => (isHint(event) ? 'hints' : 'facts'))
      await Promise.all([publishHints(hints), appendFacts(facts)])
    },
  }

  /** The next hint corrects a lost one. */
  async function publishHints(hints: StoredEvent[]): Promise<void> {
    if (hints.length === 0) return
    await streamed(hints)
      .then((values) => log.publish(values))
      .catch((error: unknown) => onFailure('streams', error))
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

  /** Who may see the presence of the subjects of `entries` now. One query, or none where no entry is about presence. */
  async function visibilitiesOf(entries: Entry<Streamed>[]) {
    const subjects = entries.flatMap(({ value: { event } }) => (isPresence(event) ? [event.subject] : []))
    if (subjects.length === 0) return new Map<string, never>()
    const rows = await db
      .select({ id: users.id, visibility: users.presenceVisibility })
      .from(users)
      .where(inArray(users.id, listOf([...new Set(subjects)])))
    return new Map(rows.map((row) => [row.id, row.visibility]))
  }

  /** What one viewer may see. `member` has the blocks and mutes, as the last check of the session found them. */
  function createSight(viewer: Viewer, check: Opening['check'], checked: Member | true) {
    let member = memberIn(checked)
    let followed: { ids: Set<string>; readAt: number } | undefined

    async function isFollowing(userId: string, subject: string): Promise<boolean> {
      if (!followed || Date.now() - followed.readAt >= policy.checkMs) {
        const readAt = Date.now()
        const rows = await db
          .select({ id: follows.followedId })
          .from(follows)
          .where(eq(follows.followerId, userId))
          .orderBy(desc(follows.id))
          .limit(MAX_FOLLOWED)
        followed = { ids: new Set(rows.map((row) => row.id)), readAt }
      }
      return followed.ids.has(subject)
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

      /**
       * An event as the viewer may see it; undefined: not at all. `visibilities`, of a replayed event, say who may see
       * presence now.
       */
      async view(
        streamed: Streamed,
        visibilities: Map<string, 'everyone' | 'followers' | 'nobody'> | undefined,
      ): Promise<{ event: CloudEvent; isRedacted: boolean } | undefined> {
        const { event, audience, publicSequence } = streamed
        const isCheckedNow = visibilities !== undefined && isPresence(event)
        if (viewer.isService) return audience === 'others' ? undefined : { event, isRedacted: false }
        const { userId } = viewer
        if (audience === 'services') return undefined
        if (Array.isArray(audience)) {
          return userId !== undefined && audience.includes(userId) ? { event, isRedacted: false } : undefined
        }
        if (await isHidden(streamed)) return undefined
        const isSame = audience === 'everyone' && formatSequence(publicSequence) === event.sequence && !isCheckedNow
        const isStranger =
          isSame || userId === undefined || (event.subject !== userId && !(await isFollowing(userId, event.subject)))
        if (audience === (isStranger ? 'followers' : 'others')) return undefined
        const isCountedApart = isStranger && publicSequence !== 0
        const seen = isCountedApart ? { ...event, sequence: formatSequence(publicSequence) } : event
        const visibility = visibilities?.get(event.subject)
        const mayKnow = visibility === 'everyone' || (visibility === 'followers' && !isStranger)
        return isCheckedNow && !mayKnow ? { event: redact(seen), isRedacted: true } : { event: seen, isRedacted: false }
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
        await append(missed)
        await db.update(events).set({ missedAt: null }).where(among(missed)) // also if they missed it again meanwhile
        caughtUp += missed.length
      }
    },

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

      async function send({ id, value }: Entry<Streamed>, visibilities?: Awaited<ReturnType<typeof visibilitiesOf>>) {
        await sight.note(value.event)
        const view = channels.has(value.event.channel) ? await sight.view(value, visibilities) : undefined
        if (view) {
          const { event, isRedacted } = view
          const line = isRedacted ? '' : `id: ${id}\n` // an id reveals the time
          await outlet.send(`${line}event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
        }
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
            const isOld = isReplay || entries.some(({ value }) => isPresence(value.event) && isLate(value.event))
            const visibilities = isOld ? await visibilitiesOf(entries) : undefined
            for (const entry of entries) await send(entry, visibilities)
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

const isLate = ({ time }: CloudEvent) => Date.now() - Date.parse(time) > LATE_MS

/** Whether an event only carries the latest value, which the next such event carries too. */
const isHint = ({ channel, type }: StoredEvent) => channel === 'counter_events' && type === 'counter_update'

const isPresence = ({ channel, type }: CloudEvent) => channel === 'user_events' && type === 'user_status_change'

/** A status change that the viewer may no longer see: "offline", without the original time. */
function redact(event: CloudEvent): CloudEvent {
  const at = new Date().toISOString()
  const id = `ev_${createHash('sha256').update(event.id).digest('hex').slice(0, 26)}` // ids contain times
  const redacted: CloudEvent = { ...event, id, time: at, data: { userId: event.subject, status: 'offline', at } }
  delete redacted.traceparent
  return redacted
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
