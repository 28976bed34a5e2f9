import { type Feature, provide } from '../feature.ts'
import { createRemovals, type RemovalStep, type RemovedKind, removalsService } from './removals.ts'

/** Removals that one run of the cron enqueues again. */
const RESUMED_PER_RUN = 1_000

/** Deletes what belongs to deleted contents and users, in steps that features contribute. */
export const removals: Feature = {
  name: 'removals',
  provides: [
    provide(removalsService, (platform) => {
      const of = (kind: RemovedKind) =>
        platform.features.flatMap(({ name, removals }): RemovalStep[] => {
          const remove = removals?.[kind]
          return remove ? [{ feature: name, remove: (id, most, from) => remove(platform, id, most, from) }] : []
        })
      const steps = { post: of('post'), comment: of('comment'), user: of('user') }
      return createRemovals(platform.db, steps, (ids) =>
        platform.enqueue(
          'EVENTS',
          ids.map((cursor) => ({ body: { kind: 'proceed', listener: 'removals', cursor } })),
        ),
      )
    }),
  ],
  jobs: [
    {
      name: 'continue removals',
      isExclusive: false,
      run: ({ use }, { now }) => use(removalsService).resume(RESUMED_PER_RUN, now),
    },
  ],
  listener: ({ use }) => use(removalsService).listener,
}
