/** All in ms. */
export interface PatiencePolicy {
  /** The shortest hard timeout: that of an isolate near Redis. */
  minMs: number
  /** The longest hard timeout. */
  maxMs: number
}

/**
 * How long an isolate waits for Redis. One per isolate. Derives timeouts from the time that replies take, as TCP does: an
 * average and a deviation (RFC 6298 §2). The soft timeout, after which a reader takes a stale value, is one and a half
 * averages plus four deviations. The hard timeout is half an average more. Neither is shorter than its minimum, so an
 * isolate near Redis has fixed timeouts.
 *
 * A timeout shows only that Redis took longer than that. So the hard timeout doubles (RFC 6298 §5.5) while no reply has
 * been measured, and with each probe of an open circuit that times out; a reply ends that. Other timeouts change nothing:
 * an outage is not distance, and its requests must not wait longer and longer.
 */
export function createLatency({ minMs, maxMs }: PatiencePolicy) {
  let averageMs: number | undefined
  let deviationMs = 0
  let factor = 1

  const hardMs = () => {
    const measuredMs = averageMs === undefined ? 0 : 2 * averageMs + 4 * deviationMs
    return Math.round(Math.min(Math.max(minMs, measuredMs) * factor, Math.max(minMs, maxMs)))
  }

  return {
    /** Measures a reply that took `ms`. */
    answered(ms: number): void {
      factor = 1
      if (averageMs === undefined) {
        averageMs = ms
        deviationMs = ms / 2
        return
      }
      deviationMs += (Math.abs(ms - averageMs) - deviationMs) / 4
      averageMs += (ms - averageMs) / 8
    },

    /** Notes a request without a reply after `ms`. `isProbe`: of a circuit that is not closed. */
    failed(ms: number, isProbe: boolean): void {
      const isTimeout = ms >= hardMs() - 1 // timers are exact to a ms
      if (isTimeout && hardMs() < maxMs && (isProbe || averageMs === undefined)) factor *= 2
    },

    /** After this time a request has failed. */
    hardMs,

    /** After this time a reader takes a stale value, if there is one. At least `shortestMs`. */
    softMs: (shortestMs: number): number => {
      const measuredMs = averageMs === undefined ? 0 : 1.5 * averageMs + 4 * deviationMs
      return Math.min(Math.max(shortestMs, Math.round(measuredMs)), Math.max(shortestMs, hardMs()))
    },
  }
}
