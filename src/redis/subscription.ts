import { EventSourceParserStream } from 'eventsource-parser/stream'
import { type Breaker, type Meter, RedisUnavailable, type Sent } from './client.ts'

/** Listens to a channel until `signal` says so; each message is what was published, as text. */
export type Subscribe = (channel: string, signal: AbortSignal) => Promise<AsyncIterator<string, void>>

/** A message is at most this long (UTF-16 units): above it something is wrong with who publishes. */
const MAX_MESSAGE = 4_000_000

/**
 * Pub/sub of Upstash: `SUBSCRIBE` over HTTP, answered by Server-Sent Events without end. One command and one round trip
 * until Redis confirms, within `timeoutMs`; then messages come by themselves, and wait in the connection until they are
 * taken. The iteration is over when `signal` says so or the connection is: it does not throw, and misses what was
 * published since. Throws `RedisUnavailable` when there is no confirmation.
 *
 * Ours, because the SDK's subscriber keeps to itself that a connection is over, and buffers for who does not keep up.
 */
export function createSubscribe(
  server: { url: string; token: string },
  breaker: Breaker,
  meter: Meter,
  timeoutMs: number,
  onSent: (sent: Sent) => void = () => {},
): Subscribe {
  return async (channel, signal) => {
    if (!breaker.admits(Date.now())) throw new RedisUnavailable('Redis is not asked: the circuit is open')
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
      const told = response.body
        .pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream({ maxBufferSize: MAX_MESSAGE }))
        .getReader()
      const confirmation = await told.read()
      if (!confirmation.value?.data.startsWith('subscribe,')) throw new Error('Redis did not confirm SUBSCRIBE')
      isAnswered = true
      breaker.succeeded()
      return messages(told, `message,${channel},`)
    } catch (cause) {
      if (!signal.aborted) {
        meter.failures += 1
        // Too many connections, say: it answers, and whoever else asks it need not be kept away.
        if (isRefused) breaker.succeeded()
        else breaker.failed(Date.now())
      }
      throw new RedisUnavailable('Redis did not take a subscription', { cause })
    } finally {
      clearTimeout(timer)
      const ms = performance.now() - startedAt
      meter.waitedMs += ms
      onSent({ commands: [['SUBSCRIBE', channel]], ms, isAnswered })
    }
  }
}

async function* messages(
  told: ReadableStreamDefaultReader<{ data: string }>,
  prefix: string,
): AsyncGenerator<string, void> {
  for (;;) {
    const { done, value } = await told.read().catch(() => ({ done: true, value: undefined }) as const)
    if (done) return
    if (value.data.startsWith(prefix)) yield value.data.slice(prefix.length)
  }
}
