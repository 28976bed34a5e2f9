import * as v from 'valibot'
import { createApp } from './app.ts'
import { type Config, readConfig } from './config.ts'
import type { LikeMessage } from './likes/likes.ts'
import { newMeter } from './redis/client.ts'
import { createIsolate, createServices, type Isolate } from './services.ts'

/** What the configuration of `env` makes of this isolate. */
export interface State {
  config: Config
  isolate: Isolate
}

/** The Worker. Tests make their own, each with the memory of an isolate of its own. */
export function createWorker() {
  // Made by the first event, because the configuration comes with it.
  let made: (State & { env: Env }) | undefined
  function stateOf(env: Env): State {
    if (made?.env !== env) {
      const config = readConfig(env)
      made = { env, config, isolate: createIsolate(config) }
    }
    return made
  }

  function servicesFor(env: Env, context: ExecutionContext) {
    const { config, isolate } = stateOf(env)
    const defer = (work: () => Promise<unknown>) => context.waitUntil(work())
    return createServices(config, env, isolate, { meter: newMeter(), onCacheEvent: () => {}, defer })
  }

  const app = createApp(stateOf)
  return {
    fetch: (request, env, context) => app.fetch(request, env, context),

    /** Applies likes to D1. What is no like, or will not be taken, is retried alone, and ends among the dead letters. */
    async queue(batch, env, context) {
      const likes = new Map<LikeMessage, Message>()
      for (const message of batch.messages) {
        const parsed = v.safeParse(LikeBody, message.body)
        if (parsed.success) likes.set(parsed.output, message)
        else message.retry()
      }
      const failed = await servicesFor(env, context).likes.apply([...likes.keys()])
      for (const [like, message] of likes) {
        if (failed.has(like)) message.retry()
        else message.ack()
      }
    },

    /** Every minute. */
    async scheduled(controller, env, context) {
      const { accounts, comments, idempotency, likes, locks, presence, views } = servicesFor(env, context)
      const ttlMs = stateOf(env).config.lockTtlMs
      const now = controller.scheduledTime
      /** One at a time across the world; who comes second leaves the work to the first. */
      const alone = (name: string, job: (signal: AbortSignal) => Promise<unknown>) => () =>
        locks.withLock(`cron:${name}`, { ttlMs }, job)
      const jobs = [
        alone('views', async (signal) => {
          // Bounded: what a minute brings beyond this is written in the next.
          for (let round = 0; round < 50 && (await views.flush(1_000)) > 0; round += 1) signal.throwIfAborted()
        }),
        alone('likes', (signal) => likes.reconcile(now - 5 * 60_000, 500, signal)),
        alone('comments', (signal) => comments.reconcile(now - 5 * 60_000, 500, signal)),
        alone('presence', (signal) => presence.sweep(now, signal)),
        () => accounts.purge(1_000, now),
        () => idempotency.purge(1_000, now),
      ]
      const results = await Promise.allSettled(jobs.map((job) => job()))
      const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []))
      if (failures.length > 0) throw new AggregateError(failures, `${failures.length} of ${jobs.length} jobs failed`)
    },
  } satisfies ExportedHandler<Env>
}

const LikeBody = v.object({
  kind: v.picklist(['post', 'comment']),
  contentId: v.string(),
  userId: v.string(),
  isLiked: v.boolean(),
  changedAt: v.pipe(v.number(), v.integer()),
})

export default createWorker()
