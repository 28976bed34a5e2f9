import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { keys } from '../keys.ts'
import { createConcurrency } from '../redis/concurrency.ts'
import { createSharedSubscription, newSharedSubscription } from '../redis/shared-subscription.ts'
import { createStream } from '../redis/stream.ts'
import { createSubscribe } from '../redis/subscription.ts'
import { streams as routes } from './routes.ts'
import {
  CHECKS_PER_KEEP,
  createStreams,
  openStreams,
  type Streamed,
  streamsService,
  streamSubscription,
} from './streams.ts'

/** How long Redis keeps events for clients that resume, after the last event. */
const LOG_TTL_MS = 86_400_000
/** An open stream may miss keeping its place once, and be late by this margin. */
const PLACE_MARGIN_MS = 10_000

/** Events as Server-Sent Events. */
export const streams: Feature = {
  name: 'streams',
  provides: [
    provideForIsolate(openStreams, () => ({ count: 0 })),
    provideForIsolate(streamSubscription, () => newSharedSubscription()),
    provide(streamsService, ({ db, redis, config, breaker, meter, use, onSent, defer, onFailure }) =>
      createStreams({
        db,
        log: createStream<Streamed>(
          {
            redis: redis.reads,
            writes: redis.writes,
            join: createSharedSubscription(
              use(streamSubscription),
              createSubscribe(config.redis, breaker, meter, config.redis.writeTimeoutMs, onSent),
              keys.streamChannel,
              config.streams.heartbeatMs,
              defer,
            ),
          },
          keys,
          { maxEntries: config.streams.maxEntries, ttlMs: LOG_TTL_MS },
        ),
        places: createConcurrency(redis.reads, keys, {
          ...config.streams,
          ttlMs: 2 * CHECKS_PER_KEEP * config.streams.checkMs + PLACE_MARGIN_MS,
        }),
        open: use(openStreams),
        source: config.events.source,
        policy: { ...config.streams, keptMs: LOG_TTL_MS },
        defer,
        onFailure,
      }),
    ),
  ],
  routes: [['/v1/events', () => routes]],
  listener: ({ use }) => use(streamsService).listener,
  removals: { user: async ({ use }, id, _most, from) => ({ next: await use(streamsService).forget(id, from) }) },
  jobs: [
    {
      name: 'append missed events',
      isExclusive: true,
      async run({ use }, { now, signal }) {
        await use(streamsService).catchUp(5_000, now, signal)
        return use(streamsService).missed(now)
      },
    },
  ],
}
