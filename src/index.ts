import * as v from 'valibot'
import { createApp } from './app.ts'
import { ConfigError, readConfig } from './config.ts'
import { EventBody, type EventMessage } from './events/outbox.ts'
import { costOf, log } from './http/log.ts'
import { logFailure } from './http/problem.ts'
import type { LikeMessage } from './likes/likes.ts'
import { beginInvocation, type State } from './invocation.ts'
import { settleMessages } from './queue.ts'
import { createIsolate } from './services.ts'
import { DeliveryBody, type DeliveryMessage } from './webhooks/messages.ts'

/** The Worker. Tests make their own, each with the memory of an isolate of its own. */
export function createWorker() {
  // Made by the first event, because the configuration comes with it.
  let made: { env: Env; outcome: State | ConfigError } | undefined
  function stateOf(env: Env): State {
    if (made?.env !== env) made = { env, outcome: createState(env) }
    if (made.outcome instanceof ConfigError) throw made.outcome
    return made.outcome
  }

  /** What no request asked for: its services, and `end`, which counts and logs it with what `line` adds. */
  function begin(env: Env, context: ExecutionContext, route: string) {
    const state = stateOf(env)
    const { config } = state
    const startedAt = performance.now()
    const { meter, services, ...invocation } = beginInvocation(
      state,
      env,
      (work) => context.waitUntil(work),
      (of, error) => logFailure({ during: of, route }, error),
    )
    const end = (line: { level: 'info' | 'error' } & Record<string, unknown>): void => {
      const ms = performance.now() - startedAt
      invocation.end({ route, ms })
      if (config.logRequests === 'none' || (config.logRequests === 'failed' && line.level === 'info')) return
      log({ ...line, route, durationMs: Number(ms.toFixed(1)), redis: costOf(meter) })
    }
    return { config, services, end }
  }

  const app = createApp(stateOf)
  return {
    fetch: (request, env, context) => app.fetch(request, env, context),

    /**
     * Takes the messages of every queue: what they are says whose they are. One that is nobody's, or will not be taken,
     * is retried alone, and ends among the dead letters.
     */
    async queue(batch, env, context) {
      const likes = new Map<LikeMessage, Message>()
      const events = new Map<EventMessage, Message>()
      const deliveries = new Map<DeliveryMessage, Message>()
      const taken = new Set<Message>()
      for (const message of batch.messages) {
        const parsed = v.safeParse(QueueBody, message.body)
        if (!parsed.success) continue
        const body = parsed.output
        switch (body.kind) {
          case 'post':
          case 'comment':
            likes.set(body, message)
            break
          case 'delivery':
          case 'wake':
          case 'replay':
            deliveries.set(body, message)
            break
          default:
            events.set(body, message)
        }
      }
      const { services, end } = begin(env, context, `QUEUE ${batch.queue}`)
      /** A consumer that throws has failed for all of its messages: each is retried, later each time. */
      const consume = async <T>(messages: Map<T, Message>, consumer: (bodies: T[]) => Promise<Set<T>>) => {
        try {
          const failed = await consumer([...messages.keys()])
          for (const [body, message] of messages) if (!failed.has(body)) taken.add(message)
        } catch (error) {
          logFailure({ during: 'queue', route: `QUEUE ${batch.queue}` }, error)
        }
      }
      await consume(likes, (bodies) => services.likes.apply(bodies))
      if (likes.size > 0) await services.dispatch.tellCountsLater().catch(() => {}) // the cron tells them all the same
      await consume(events, (bodies) => services.dispatch.consume(bodies))
      await consume(deliveries, (bodies) => services.deliveries.consume(bodies))
      settleMessages(batch.messages, (message) => taken.has(message))
      const retried = batch.messages.length - taken.size
      const traceparents = [...likes.keys()].flatMap(({ traceparent }) => traceparent ?? [])
      const traceIds = [...new Set(traceparents.map((traceparent) => traceparent.split('-')[1]))].slice(0, 10)
      const level = retried > 0 ? 'error' : 'info'
      end({ level, message: 'queue', messages: batch.messages.length, retried, traceIds })
    },

    /** Every minute. */
    async scheduled(controller, env, context) {
      const { config, services, end } = begin(env, context, 'CRON')
      const { counts, deliveries, dispatch, likes, locks, maintenance, outbox, presence, scan, stats, streams, views } =
        services
      const now = controller.scheduledTime
      const failures: unknown[] = []
      const run = (job: () => Promise<unknown>) => job().catch((error: unknown) => void failures.push(error))
      /** One invocation at a time does these; who comes second leaves them to it. One lock for all: it costs 9 commands. */
      const alone = (signal: AbortSignal) => [
        () => views.flush(signal),
        () => likes.complete(10_000, signal),
        () => counts.reconcile(5_000, signal),
        () => presence.sweep(now, signal),
        () => streams.catchUp(5_000, now, signal),
      ]
      const jobs = [
        () => locks.withLock('cron', { ttlMs: config.lockTtlMs }, (signal) => Promise.all(alone(signal).map(run))),
        () => outbox.resend(1_000, now),
        () => deliveries.resend(1_000, now),
        () => dispatch.tellCounts(),
        async () => {
          const purged = Object.values(await maintenance(1_000, now))
          const errors = purged.flatMap((outcome) => ('error' in outcome ? [outcome.error] : []))
          if (errors.length > 0) throw new AggregateError(errors, `${errors.length} purges failed`)
        },
        async () => scan.tick(await stats.fold(now), now),
      ]
      await Promise.all(jobs.map(run))
      end({
        level: failures.length > 0 ? 'error' : 'info',
        message: 'cron',
        failures: failures.map((failure) => (failure instanceof Error ? failure.name : typeof failure)),
      })
      if (failures.length > 0) throw new AggregateError(failures, `${failures.length} jobs failed`)
    },
  } satisfies ExportedHandler<Env>
}

/** Every event is told what is missing; the log is told once. */
function createState(env: Env): State | ConfigError {
  try {
    const config = readConfig(env)
    return { config, isolate: createIsolate(config) }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const { name, variables } = error
    console.error(JSON.stringify({ level: 'error', during: 'configuration', name, variables }))
    return error
  }
}

const LikeBody = v.object({
  kind: v.picklist(['post', 'comment']),
  contentId: v.string(),
  userId: v.string(),
  isLiked: v.boolean(),
  changedAt: v.pipe(v.number(), v.integer()),
  stateSince: v.optional(v.nullable(v.pipe(v.number(), v.integer())), null),
  traceparent: v.exactOptional(v.string()),
})

/** Told apart by their kinds. */
const QueueBody = v.variant('kind', [LikeBody, EventBody, DeliveryBody])

export default createWorker()
