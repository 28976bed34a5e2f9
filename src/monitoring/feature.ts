import { type Feature, provide } from '../feature.ts'
import { createHistory, historyService } from './history.ts'
import { createMaintenance, maintenanceService, type PurgeBudget } from './maintenance.ts'
import { health, monitoring as routes, stats } from './routes.ts'
import { createScan, scanService } from './scan.ts'
import { createStats, type FigureSources, isReportDue, statsService } from './stats.ts'

/** What all purges together do per minute. A step deletes in some 10 ms, so that requests do not wait long for D1. */
const PURGES_PER_MINUTE: PurgeBudget = { stepRows: 1_000, steps: 250, ms: 20_000 }

/** Health checks, figures, and the purges of all features. */
export const monitoring: Feature = {
  name: 'monitoring',
  provides: [
    provide(scanService, ({ redis, config }) => createScan(redis.reads, config.monitoring.scanCommands)),
    provide(historyService, ({ db }) => createHistory(db)),
    provide(statsService, (platform) => {
      const { redis, db, recorder, breaker, queueBacklogs, config, defer, use, features } = platform
      return createStats({
        redis: redis.reads,
        once: redis.once,
        db,
        recorder,
        scan: use(scanService),
        history: use(historyService),
        breakerState: () => breaker.state(Date.now()),
        queueBacklogs,
        // The features of this Worker contribute all of them.
        sources: Object.assign({}, ...features.map(({ figures }) => figures?.(platform))) as FigureSources,
        policy: config.monitoring,
        defer,
      })
    }),
    provide(maintenanceService, (platform) =>
      createMaintenance(
        Object.fromEntries(
          platform.features
            .flatMap(({ purges = {} }) => Object.entries(purges))
            .map(([name, purge]) => [name, (most: number, now: number) => purge(platform, most, now)]),
        ),
      ),
    ),
  ],
  unconfiguredRoutes: () => health,
  routes: [
    ['/v1/stats', () => stats],
    ['/', () => routes],
  ],
  dashboard: [['/v1/stats', () => stats]],
  jobs: [
    {
      name: 'purge expired data',
      isExclusive: false,
      async run({ use }, { now }) {
        const outcomes = Object.values(await use(maintenanceService)(PURGES_PER_MINUTE, now))
        const errors = outcomes.flatMap((outcome) => ('error' in outcome ? [outcome.error] : []))
        if (errors.length > 0) throw new AggregateError(errors, `${errors.length} purges failed`)
        return outcomes.filter((outcome) => 'hasMore' in outcome && outcome.hasMore).length
      },
    },
    {
      name: 'fold figures and scan keys',
      isExclusive: false,
      async run({ use }, { now }) {
        await use(scanService).tick(await use(statsService).fold(now), now)
        return 0
      },
    },
  ],
  afterInvocation({ recorder, config, use }) {
    if (isReportDue(recorder, config.monitoring.flushMs)) use(statsService).reportSoon()
  },
}
