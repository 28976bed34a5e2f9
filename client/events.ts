import { createParser } from 'eventsource-parser'
import type { ChannelEvents, EventData } from './api.ts'
import { Problem } from './problem.ts'
import { jitter, pause } from './send.ts'

/** An event as CloudEvents 1.0 in JSON. */
export interface CloudEvent<Type extends string = string, Data = Record<string, unknown>, C extends string = string> {
  specversion: '1.0'
  /** The same event may arrive twice. Then it has the same id. */
  id: string
  source: string
  type: Type
  /** What it is about: the id of a post, a user, or what its publisher named. */
  subject: string
  /** RFC 3339. */
  time: string
  datacontenttype: 'application/json'
  channel: C
  /** Rises by one with each event about the same subject on the same channel. Compare as strings. */
  /** Absent: a hint (`counter_update`, `user_status_change`). Of two about the same, the later `time` is newer. */
  sequence?: string
  /** W3C Trace Context, if a request caused the event. */
  traceparent?: string
  data: Data
}

/** A channel of the API, or of a back end. */
export type Channel = keyof ChannelEvents | `custom_${string}`

/** The events of a channel. A `switch` over `type` distinguishes those of one channel. */
export type EventOf<C extends Channel> = C extends keyof ChannelEvents
  ? { [T in ChannelEvents[C]]: CloudEvent<T, EventData[T], C> }[ChannelEvents[C]]
  : CloudEvent<string, Record<string, unknown>, C>

/** Every event that the API itself publishes. */
export type ApiEvent = EventOf<keyof ChannelEvents>

/** The stream cannot continue where it ended. Load your data again: events may be missing. */
export interface Reset {
  type: 'reset'
  /** Always absent: an event of a back end may have any type, but it has a channel, and a reset has none. */
  data?: undefined
}

export interface StreamOptions {
  /** Ends the stream. The loop over it then ends too. */
  signal?: AbortSignal
  /** The `lastEventId` of a stream before, to continue it. */
  lastEventId?: string
  /** Called when the stream is connected, and when it waits before it connects again. */
  onState?: (state: 'open' | 'waiting') => void
  /** The client connects again if it receives nothing for so long. By default 45 000: the API sends a comment every 15 s. */
  silenceMs?: number
}

/** Events as they happen, for `for await`. */
export interface EventStream<Event> extends AsyncIterable<Event> {
  /** The position after the last event received. */
  readonly lastEventId: string
}

/** Before the API states one. */
const RETRY_MS = 2_000
const MAX_BACKOFF_MS = 30_000

/**
 * Follows a stream of Server-Sent Events. Connects again when it ends, fails or falls silent, with the `Last-Event-ID`, after
 * the `retry` of the API or a `Retry-After`, with jitter. Throws a `Problem` if the API refuses for good, such as a session that
 * has ended. `connect` throws the problem of an answer that is not a success.
 * @internal
 */
export function followEvents<Event>(
  connect: (lastEventId: string, signal: AbortSignal) => Promise<Response>,
  { signal, lastEventId = '', onState, silenceMs = 45_000 }: StreamOptions,
): EventStream<Event | Reset> {
  let position = lastEventId
  let retryMs = RETRY_MS

  /** The events of one connection. */
  async function* read(connection: AbortController): AsyncGenerator<Event | Reset> {
    let silence: ReturnType<typeof setTimeout> | undefined
    const expectMore = () => {
      clearTimeout(silence)
      silence = setTimeout(() => connection.abort(), silenceMs)
    }
    let received: (Event | Reset)[] = []
    const parser = createParser({
      onEvent: ({ event, data }) => received.push(event === 'reset' ? { type: 'reset' } : (JSON.parse(data) as Event)), // as documented
      onId: (id) => void (position = id),
      onRetry: (ms) => void (retryMs = ms),
    })
    try {
      expectMore()
      const { body } = await connect(position, connection.signal)
      onState?.('open')
      const reader = body?.getReader()
      const decoder = new TextDecoder()
      for (;;) {
        expectMore()
        const chunk = await reader?.read()
        if (chunk?.value === undefined) return
        clearTimeout(silence) // while the consumer works
        parser.feed(decoder.decode(chunk.value, { stream: true }))
        const events = received
        received = []
        yield* events
      }
    } finally {
      clearTimeout(silence)
      connection.abort()
    }
  }

  async function* follow(): AsyncGenerator<Event | Reset> {
    for (let failures = 0; ;) {
      if (signal?.aborted) return
      const connection = new AbortController()
      const stop = () => connection.abort()
      signal?.addEventListener('abort', stop)
      let waitMs: number
      try {
        for await (const event of read(connection)) {
          failures = 0
          yield event
        }
        failures = 0
        waitMs = retryMs + jitter(retryMs / 4)
      } catch (error) {
        if (signal?.aborted) return
        const { status = 500, retryAfter } = error instanceof Problem ? error : {}
        if (status < 500 && status !== 408 && status !== 429) throw error
        const backoffMs = Math.min(MAX_BACKOFF_MS, retryMs * 2 ** failures)
        failures += 1
        waitMs = retryAfter === undefined ? jitter(backoffMs) : retryAfter * 1_000 + jitter(retryMs)
      } finally {
        signal?.removeEventListener('abort', stop)
      }
      onState?.('waiting')
      await pause(waitMs, signal).catch(() => {}) // aborted
    }
  }

  return {
    get lastEventId() {
      return position
    },
    [Symbol.asyncIterator]: follow,
  }
}
