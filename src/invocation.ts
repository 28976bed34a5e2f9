import type { Config } from './config.ts'
import type { Outcome } from './monitoring/recorder.ts'
import { newMeter } from './redis/client.ts'
import { type Bindings, createServices, type Isolate } from './services.ts'

/** What the configuration makes of an isolate. */
export interface State {
  config: Config
  isolate: Isolate
}

/**
 * Begins one invocation of the Worker: what it works with, and what that costs. Work handed to `defer` waits for `end`,
 * then runs all at once, so that its commands share round trips; what comes later runs as it comes. `end` counts the
 * invocation once all of it is done, what the deferred work defers in turn too.
 *
 * `onFailure` is told of what fails after the answer, or is made up for later: whose it is, and what was thrown.
 */
export function beginInvocation(
  { config, isolate }: State,
  bindings: Bindings,
  waitUntil: (work: Promise<unknown>) => void,
  onFailure: (of: string, error: unknown) => void,
  traceparent?: string,
) {
  const meter = newMeter()
  const watch = isolate.recorder.watch()
  const works: Promise<unknown>[] = []
  let waiting: (() => Promise<unknown>)[] | undefined = []
  const run = (work: () => Promise<unknown>) => {
    const done = work().catch((error: unknown) => onFailure('deferred', error))
    works.push(done)
    waitUntil(done)
  }
  const defer = (work: () => Promise<unknown>) => (waiting ? void waiting.push(work) : run(work))
  const services = createServices(config, bindings, isolate, {
    meter,
    onCacheEvent: watch.onCacheEvent,
    onSent: watch.onSent,
    onFailure,
    defer,
    ...(traceparent === undefined ? {} : { traceparent }),
  })

  return {
    meter,
    cacheEvents: watch.cacheEvents,
    defer,
    services,
    end(outcome: Omit<Outcome, 'meter'>): void {
      const deferred = waiting ?? []
      waiting = undefined
      for (const work of deferred) run(work)
      const count = async () => {
        for (const work of works) await work
        watch.end({ ...outcome, meter })
        services.stats.reportSoon()
      }
      waitUntil(count())
    },
  }
}
