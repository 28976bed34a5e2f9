import { type Feature, provide, provideForIsolate } from '../feature.ts'
import { keys } from '../keys.ts'
import { createConcurrency } from '../redis/concurrency.ts'
import { createStream } from '../redis/stream.ts'
import { createSubscribe } from '../redis/subscription.ts'
import { streams as routes } from './routes.ts'
import { createStreams, openStreams, type Streamed, streamsService } from './streams.ts'

/** How long Redis keeps events for clients that resume, after the last event. */
const LOG_TTL_MS = 86_400_000
/** An open stream keeps its place for two checks and this margin. */
const PLACE_MARGIN_MS = 10_000

/** Events as Server-Sent Events. */
export const streams: Feature = {
  name: 'streams',
  provides: [
    provideForIsolate(openStreams, () => ({ count: 0 })),
    provide(streamsService, ({ db, redis, config, breaker, meter, use, onSent, defer, onFailure }) =>
      createStreams({
        db,
        log: createStream<Streamed>(
          {
            redis: redis.reads,
            writes: redis.writes,
            subscribe: createSubscribe(config.redis, breaker, meter, config.redis.writeTimeoutMs, onSent),
          },
          keys,
          { maxEntries: config.streams.maxEntries, ttlMs: LOG_TTL_MS },
        ),
        places: createConcurrency(redis.reads, keys, {
          ...config.streams,
          ttlMs: 2 * config.streams.checkMs + PLACE_MARGIN_MS,
        }),
        open: use(openStreams),
        source: config.events.source,
        policy: { ...config.streams, keptMs: LOG_TTL_MS },
        defer,
        onFailure,
      }),
    ),
  ],
  routes: [['/v1/events', routes]],
  listener: ({ use }) => use(streamsService).listener,
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
