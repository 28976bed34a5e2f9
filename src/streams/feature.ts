import { type Feature, provide } from '../feature.ts'
import { keys } from '../keys.ts'
import { createStream } from '../redis/stream.ts'
import { createSubscribe } from '../redis/subscription.ts'
import { streams as routes } from './routes.ts'
import { createStreams, type Streamed, streamsService } from './streams.ts'

/** How long Redis keeps events for clients that resume, after the last event. */
const LOG_TTL_MS = 86_400_000

/** Events as Server-Sent Events. */
export const streams: Feature = {
  name: 'streams',
  provides: [
    provide(streamsService, ({ db, redis, config, breaker, meter, onSent, onFailure }) =>
      createStreams(
        db,
        createStream<Streamed>(
          {
            redis: redis.reads,
            writes: redis.writes,
            subscribe: createSubscribe(config.redis, breaker, meter, config.redis.writeTimeoutMs, onSent),
          },
          keys,
          { maxEntries: config.streams.maxEntries, ttlMs: LOG_TTL_MS },
        ),
        config.events.source,
        { ...config.streams, keptMs: LOG_TTL_MS },
        onFailure,
      ),
    ),
  ],
  routes: [['/v1/events', routes]],
  listener: ({ use }) => use(streamsService).listener,
  jobs: [
    {
      name: 'append missed events',
      isExclusive: true,
      run: ({ use }, { now, signal }) => use(streamsService).catchUp(5_000, now, signal),
    },
  ],
}
