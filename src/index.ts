import * as v from 'valibot'
import { createApp } from './app.ts'
import { ConfigError, readConfig } from './config.ts'
import type { Consumer, Job } from './feature.ts'
import { features } from './features.ts'
import type { JobFailure } from './monitoring/recorder.ts'
import { log, redisCost } from './http/log.ts'
import { errorCode, logFailure } from './http/problem.ts'
import { beginInvocation, createIsolate, type Isolate } from './platform.ts'
import { settleMessages } from './queue.ts'

/** Creates the Worker. Each `env` has the memory of one isolate: deployed there is one, and a test has several. */
export function createWorker() {
  // Created by the first event, which brings the configuration.
  const created = new WeakMap<Env, Isolate | ConfigError>()
  function isolateOf(env: Env): Isolate {
    let outcome = created.get(env)
    if (!outcome) created.set(env, (outcome = tryCreateIsolate(env)))
    if (outcome instanceof ConfigError) throw outcome
    return outcome
  }

  /** Begins an invocation that is not a request. `end` records and logs it, with the fields of `line`. */
  function begin(env: Env, context: ExecutionContext, route: string) {
    const isolate = isolateOf(env)
    const { logRequests } = isolate.config
    const startedAt = performance.now()
    const invocation = beginInvocation(isolate, env, context, (during, error) => logFailure({ during, route }, error))
    const end = (line: { level: 'info' | 'error' } & Record<string, unknown>): void => {
      const ms = performance.now() - startedAt
      invocation.end({ route, ms })
      if (logRequests === 'none' || (logRequests === 'failed' && line.level === 'info')) return
      log({ ...line, route, durationMs: Number(ms.toFixed(1)), redis: redisCost(invocation.platform.meter) })
    }
    return { platform: invocation.platform, end }
  }

  const app = createApp(isolateOf)
  return {
    fetch: (request, env, context) => app.fetch(request, env, context),

    /**
     * Handles a batch of any queue: each message goes to the consumer whose schema accepts it. A message that no consumer
     * accepts, or that fails, is retried alone and ends in the dead-letter queue.
     */
    async queue(batch, env, context) {
      const accepted = new Map<Consumer, Map<object, Message>>()
      for (const message of batch.messages) {
        for (const consumer of consumers) {
          const parsed = v.safeParse(consumer.message, message.body)
          if (!parsed.success) continue
          const group = accepted.get(consumer) ?? new Map<object, Message>()
          accepted.set(consumer, group.set(parsed.output, message))
          break
        }
      }
      const { platform, end } = begin(env, context, `QUEUE ${batch.queue}`)
      const done = new Set<Message>()
      for (const consumer of consumers) {
        const group = accepted.get(consumer)
        if (!group) continue
        const bodies = [...group.keys()] as never[] // the schema of this consumer accepted them
        try {
          const failed: Set<object> = await consumer.consume(platform, bodies)
          for (const [body, message] of group) if (!failed.has(body)) done.add(message)
        } catch (error) {
          // It has failed for all of its messages: each is retried, later each time.
          logFailure({ during: 'queue', route: `QUEUE ${batch.queue}` }, error)
        }
      }
      settleMessages(batch.messages, (message) => done.has(message))
      const retried = batch.messages.length - done.size
      const traceIds = [...new Set(batch.messages.flatMap(({ body }) => traceIdOf(body) ?? []))].slice(0, 10)
      const level = retried > 0 ? 'error' : 'info'
      end({ level, message: 'queue', messages: batch.messages.length, retried, traceIds })
    },

    /** Runs the jobs of all features, every minute. One invocation at a time runs the exclusive jobs, under one lock. */
    async scheduled(controller, env, context) {
      const { platform, end } = begin(env, context, 'CRON')
      const now = controller.scheduledTime
      const failures: { job: string; error: unknown }[] = []
      const runs: Record<string, { ms: number; remaining: number | null }> = {}
      async function attempt(job: string, work: () => Promise<unknown>): Promise<{ failure?: JobFailure }> {
        try {
          await work()
          return {}
        } catch (error) {
          failures.push({ job, error })
          return { failure: { at: Date.now(), reason: reasonOf(error) } }
        }
      }
      /** Runs a job, and records how long it took and what it leaves. */
      async function run({ name }: Job, work: () => Promise<number>): Promise<void> {
        const startedAt = performance.now()
        let remaining: number | null = null
        const outcome = await attempt(name, async () => void (remaining = await work()))
        const ms = Number((performance.now() - startedAt).toFixed(1))
        runs[name] = { ms, remaining }
        platform.recorder.ran(name, { at: Date.now(), ms, remaining, ...outcome })
      }
      await Promise.all([
        attempt('hold the lock of exclusive jobs', () =>
          platform.locks.withLock(CRON_LOCK, { ttlMs: platform.config.lockTtlMs }, (signal, fence) => {
            const tick = { now, signal, lock: { name: CRON_LOCK, fence } }
            return Promise.all(exclusiveJobs.map((job) => run(job, () => job.run(platform, tick))))
          }),
        ),
        ...sharedJobs.map((job) => run(job, () => job.run(platform, { now }))),
      ])
      for (const { job, error } of failures) {
        const cause = causeOf(error)
        console.error(JSON.stringify({ level: 'error', job, ...errorCode(error), cause: cause && errorCode(cause) }))
      }
      end({
        level: failures.length > 0 ? 'error' : 'info',
        message: 'cron',
        failures: failures.map(({ job }) => job),
        jobs: runs,
      })
      if (failures.length === 0) return
      const names = failures.map(({ job }) => job).join(', ')
      throw new AggregateError(
        failures.map(({ error }) => error),
        `${failures.length} cron jobs failed: ${names}`,
      )
    },
  } satisfies ExportedHandler<Env>
}

/** The error behind an error, or the first of several. */
const causeOf = (error: unknown): unknown =>
  error instanceof AggregateError ? error.errors[0] : error instanceof Error ? error.cause : undefined

/** Names and codes of an error and of what caused it: `DrizzleQueryError, Error D1_ERROR`. Never messages. */
function reasonOf(error: unknown): string {
  const cause = causeOf(error)
  const parts = [error, ...(cause === undefined ? [] : [cause])].map(errorCode)
  return parts.map(({ name, code }) => (code ? `${name} ${code}` : name)).join(', ')
}

/** The lock of the exclusive jobs. One lock for all of them: a lock costs nine commands. */
const CRON_LOCK = 'cron'

const consumers = features.flatMap((feature) => feature.consumers?.() ?? [])
const jobs = features.flatMap((feature) => feature.jobs ?? [])
const exclusiveJobs = jobs.filter((job) => job.isExclusive)
const sharedJobs = jobs.filter((job) => !job.isExclusive)

/** Logs a configuration error once. Every event then reports it. */
function tryCreateIsolate(env: Env): Isolate | ConfigError {
  try {
    return createIsolate(readConfig(env), features)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const { name, variables } = error
    console.error(JSON.stringify({ level: 'error', during: 'configuration', name, variables }))
    return error
  }
}

/** The trace of the request that sent a queue message. */
const traceIdOf = (body: unknown): string | undefined =>
  v.is(v.object({ traceparent: v.string() }), body) ? body.traceparent.split('-')[1] : undefined

export default createWorker()
