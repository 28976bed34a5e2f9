import { and, desc, eq, gt, inArray, isNull, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { events, follows } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { service } from '../service.ts'
import { type Audience, type CloudEvent, type StoredEvent, toCloudEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import type { Entry, Start, Stream } from '../redis/stream.ts'

/** An event on the log. */
export interface Streamed {
  event: CloudEvent
  audience: Audience
}

/** Who reads: a service sees everything; a user what everyone, their followers, or they may; anyone what everyone may. */
export type Viewer = { isService: true } | { isService: false; userId: string | undefined }

/** All in ms, but for the bytes. */
export interface StreamsPolicy {
  heartbeatMs: number
  /** How often the session is checked, what was not told is looked for, and who is followed is read again. */
  checkMs: number
  /** A stream ends after about this long; the client opens another. */
  lifeMs: number
  /** When clients do so, at the earliest. */
  retryMs: number
  /** What waits for a reader to take it. */
  maxQueuedBytes: number
  /** Who takes nothing for this long, while that many bytes wait, is dropped. */
  stallMs: number
  /** What the log missed longer ago than this is not brought there any more: nothing of then is left to continue. */
  keptMs: number
}

export interface Opening {
  channels: ReadonlySet<string>
  viewer: Viewer
  /** Whether the session of the viewer is live; for who has none it is not asked. */
  isLive: () => Promise<boolean>
  /** The id of the last event the client has seen. */
  seen: string | undefined
  /** The client is gone. */
  signal: AbortSignal
}

/** Of who follows more, the latest count. Ids of 28 characters. */
const MAX_FOLLOWED = 10_000

/** How many events that the log missed are brought there at once. */
const PAGE = 100

export type Streams = ReturnType<typeof createStreams>
export const streamsService = service<Streams>('streams')

/**
 * Events as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html), live and resumable.
 *
 * A listener puts every event on a log in Redis; a stream follows it, and passes on what is on its channels and what its
 * viewer may see. Who that is stands with the event; whom a viewer follows is read from D1 when first needed, again when
 * they follow or unfollow somebody, and every `checkMs`.
 *
 * Opening: `SUBSCRIBE`, then one round trip, both before the answer. Open: one round trip every `checkMs`, however much
 * happens. A stream that ends, for whatever reason, is continued where it was by the next.
 *
 * Without Redis opening is refused as `unavailable`, and open streams end. What happens meanwhile misses the log, not the
 * other listeners: `onFailure` is told, D1 notes which events those are (one statement a batch), and `catchUp` brings
 * them to the log once Redis is back. There they come after what happened since, and so reach whoever resumes or is
 * there by then; `sequence` tells their place. An event that is appended twice (a reply was lost, a step died) is on the
 * log once, as the log knows the names of its `maxEntries` latest: only one that has left it since may come again.
 */
export function createStreams(
  db: DrizzleD1Database,
  log: Stream<Streamed>,
  source: string,
  policy: StreamsPolicy,
  onFailure: (of: string, error: unknown) => void,
) {
  const listener: Listener = {
    name: 'streams',
    wants: () => true,
    async handle(happened) {
      try {
        await append(happened)
      } catch (error) {
        onFailure('streams', error)
        await db
          .update(events)
          .set({ missedAt: Date.now() })
          .where(and(among(happened), isNull(events.missedAt)))
      }
    },
  }

  const append = (happened: StoredEvent[]) =>
    log.append(
      happened.map((event) => ({
        name: event.id,
        value: { event: toCloudEvent(event, source), audience: event.audience },
      })),
    )

  const among = (happened: StoredEvent[]) => inArray(events.id, listOf(happened.map((event) => event.id)))

  /** Whether a viewer may see an event; `note` hears of every event, whatever its channel. */
  function createSight(viewer: Viewer) {
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

    return {
      note({ type, data }: CloudEvent): void {
        if (viewer.isService || viewer.userId === undefined || data['followerId'] !== viewer.userId) return
        if (type === 'user_followed' || type === 'user_unfollowed') followed = undefined
      },

      async maySee({ event, audience }: Streamed): Promise<boolean> {
        if (viewer.isService || audience === 'everyone') return true
        const { userId } = viewer
        if (audience === 'services' || userId === undefined) return false
        if (audience !== 'followers') return audience.includes(userId)
        return event.subject === userId || isFollowing(userId, event.subject)
      },
    }
  }

  return {
    listener,

    /**
     * Brings at most `most` events that the log missed there, in the order in which they missed it; answers how many.
     * Stops between steps when `signal` aborts. For the cron: one D1 query when nothing was missed; else two and two
     * round trips per `PAGE`. Safe twice; what fails is left for the next time.
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

    /**
     * Begins a stream; `ended` when it is over. `viewer` sees nothing but what everyone may if their session is not live.
     * It ends when the client goes, the session or the subscription is over, after `lifeMs`, or when the client stalls.
     */
    async open({ channels, viewer, isLive, seen, signal }: Opening) {
      const over = new AbortController()
      const hasSession = !viewer.isService && viewer.userId !== undefined
      const listening = AbortSignal.any([signal, over.signal])
      let told: AsyncIterator<string, void>
      let start: Start<Streamed>
      let isSignedIn: boolean
      try {
        told = await log.subscribe(listening)
        ;[start, isSignedIn] = await Promise.all([log.read(seen), hasSession && isLive()])
      } catch (cause) {
        over.abort()
        throw new Problem('unavailable', 'Streams cannot be opened right now', { retryAfter: 5 }, { cause })
      }
      if (hasSession && !isSignedIn) {
        over.abort()
        throw new Problem('not-signed-in', 'This session has ended')
      }
      const sight = createSight(viewer)
      const outlet = createOutlet(policy, () => over.abort())
      let { position } = start

      async function pass({ id, value }: Entry<Streamed>): Promise<void> {
        const { event } = value
        sight.note(event)
        if (channels.has(event.channel) && (await sight.maySee(value))) {
          await outlet.send(`id: ${id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
        }
        position = id
      }
      /** A comment, and how far this is: who resumes there is not given again what it may not see. */
      const mark = (comment: string) => `: ${comment}\nid: ${position}\n\n`

      async function run(): Promise<void> {
        // Spread, so that those that end together do not come back together.
        const retryMs = Math.round(policy.retryMs * (1 + Math.random()))
        const life = setTimeout(() => over.abort(), policy.lifeMs * (0.9 + 0.1 * Math.random()))
        const heartbeat = setInterval(() => outlet.sendIfRoom(mark('still here')), policy.heartbeatMs)
        try {
          await outlet.send(`retry: ${retryMs}\n${mark('open')}`)
          if (!start.isComplete) await outlet.send(`event: reset\ndata: ${JSON.stringify({ seen })}\n\n`)
          const look = { everyMs: policy.checkMs, alongside: async () => !isSignedIn || isLive() }
          for await (const entries of log.follow(start, told, look)) {
            if (listening.aborted) break
            for (const entry of entries) await pass(entry)
          }
          outlet.sendIfRoom(mark('over'))
          outlet.close()
        } catch (error) {
          if (!listening.aborted && !(error instanceof Stalled)) onFailure('streams', error)
          outlet.fail(error)
        } finally {
          clearTimeout(life)
          clearInterval(heartbeat)
          over.abort()
        }
      }
      return { body: outlet.body, ended: run() }
    },
  }
}

/** A reader took nothing for too long. */
class Stalled extends Error {
  override readonly name = 'Stalled'
}

/** The way out to one reader: at most `maxQueuedBytes` and what is being sent wait for it, and not for ever. */
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

  /** Until the reader has taken something. */
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
    /** Sends when there is room; nothing once the reader is gone. Throws `Stalled`. */
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
    /** Ends it as broken, and lets go of what waits. */
    fail(error: unknown): void {
      if (isOpen) controller?.error(error)
      isOpen = false
    },
  }
}
