import { EventSourceParserStream } from 'eventsource-parser/stream'
import { type Breaker, type Meter, RedisUnavailable, type Sent } from './client.ts'

/** Subscribes to a channel until `signal` aborts. Each message is the published text. */
export type Subscribe = (channel: string, signal: AbortSignal) => Promise<AsyncIterator<string, void>>

/** A longer message (UTF-16 units) is a fault of the publisher. */
const MAX_MESSAGE_LENGTH = 4_000_000

/**
 * Pub/sub of Upstash: `SUBSCRIBE` over HTTP, answered by a stream of Server-Sent Events. One command and one round trip
 * until Redis confirms, within `timeoutMs`. Messages wait in the connection until they are read. The iteration ends when
 * `signal` aborts or the connection ends. It does not throw then, and misses what is published afterwards. Throws
 * `RedisUnavailable` without a confirmation. Safe to repeat.
 *
 * Not the SDK's subscriber: it does not report the end of a connection, and it buffers without bound for slow readers.
 */
export function createSubscribe(
  server: { url: string; token: string },
  breaker: Breaker,
  meter: Meter,
  timeoutMs: number,
  onSent: (sent: Sent) => void = () => {},
): Subscribe {
  return async (channel, signal) => {
    const ticket = breaker.admit(Date.now())
    if (ticket === undefined) throw new RedisUnavailable('Redis was not asked: the circuit is open')
    const startedAt = performance.now()
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(new Error(`Redis took over ${timeoutMs} ms`)), timeoutMs)
    meter.commands += 1
    meter.billed += 1
    meter.roundTrips += 1
    let isAnswered = false
    let isRefused = false
    try {
      const response = await fetch(`${server.url.replace(/\/$/, '')}/subscribe/${encodeURIComponent(channel)}`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${server.token}`, Accept: 'text/event-stream' },
        signal: AbortSignal.any([signal, late.signal]),
      })
      if (!response.ok || !response.body) {
        await response.body?.cancel()
        isRefused = response.status >= 400 && response.status < 500
        throw new Error(`Redis answered ${response.status} to SUBSCRIBE`)
      }
      const events = response.body
        .pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream({ maxBufferSize: MAX_MESSAGE_LENGTH }))
        .getReader()
      const confirmation = await events.read()
      if (!confirmation.value?.data.startsWith('subscribe,')) throw new Error('Redis did not confirm SUBSCRIBE')
      isAnswered = true
      breaker.succeed()
      return messages(events, `message,${channel},`)
    } catch (cause) {
      if (!signal.aborted) {
        meter.failures += 1
        // For example too many connections: Redis answers, so other requests may go on.
        if (isRefused) breaker.succeed()
        else breaker.fail(ticket, Date.now())
      }
      throw new RedisUnavailable('Redis did not accept the subscription', { cause })
    } finally {
      clearTimeout(timer)
      const ms = performance.now() - startedAt
      meter.waitedMs += ms
      onSent({ commands: [['SUBSCRIBE', channel]], ms, isAnswered })
    }
  }
}

async function* messages(
  events: ReadableStreamDefaultReader<{ data: string }>,
  prefix: string,
): AsyncGenerator<string, void> {
  for (;;) {
    const { done, value } = await events.read().catch(() => ({ done: true, value: undefined }) as const)
    if (done) return
    if (value.data.startsWith(prefix)) yield value.data.slice(prefix.length)
  }
}
