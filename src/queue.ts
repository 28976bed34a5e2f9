/** The delay after the first failure, and the most it grows to. */
const FIRST_DELAY_SECONDS = 5
const MAX_DELAY_SECONDS = 900

/**
 * Seconds until a queue delivers a message again that has failed `attempts` times: 5, 10, 20 … up to 900, ± 20 % so that
 * what failed together does not come back together. With the 100 retries of `wrangler.toml` that is about a day. After
 * that the message comes from the dead-letter queue, which the Worker consumes too, and whose dead letters go back to the
 * first queue: an outage of any length loses nothing.
 */
export const retryDelaySeconds = (attempts: number, random: () => number = Math.random): number =>
  Math.round(Math.min(FIRST_DELAY_SECONDS * 2 ** (attempts - 1), MAX_DELAY_SECONDS) * (0.8 + 0.4 * random()))

/** Acknowledges each message of a batch that is done, and retries each other one by itself, later each time. */
export function settleMessages(messages: readonly Message[], isDone: (message: Message) => boolean): void {
  for (const message of messages) {
    if (isDone(message)) message.ack()
    else message.retry({ delaySeconds: retryDelaySeconds(message.attempts) })
  }
}
