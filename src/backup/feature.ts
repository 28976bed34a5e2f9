import { dispatchService } from '../events/dispatch.ts'
import { type Feature, provide } from '../feature.ts'
import { likesService } from '../likes/likes.ts'
import { viewsService } from '../posts/views.ts'
import { backupService, createBackup } from './backup.ts'
import { createCounts } from './counts.ts'
import { writeDailyBackup } from './daily.ts'
import { backups, restores } from './routes.ts'

/** Rows of a page of the daily backup. */
const PAGE_ROWS = 5_000
/** Likes that one write takes. */
const LIKES = 100

/** Backups of D1 and of the Redis keys that D1 does not have, and their restore. */
export const backup: Feature = {
  name: 'backup',
  provides: [
    provide(backupService, ({ db, redis, use }) =>
      createBackup({
        db,
        redis: redis.writes,
        writeViews: (most) => use(viewsService).flush(most),
        async writeLikes(userIds) {
          const likes = use(likesService)
          const states = await likes.unwritten(userIds)
          for (let done = 0; done < states.length; done += LIKES) {
            const failed = await likes.apply(states.slice(done, done + LIKES))
            if (failed.size > 0) throw new Error(`D1 refused ${failed.size} likes that only Redis has`)
          }
        },
        beginRebuild: (listener) => use(dispatchService).beginRebuild(listener),
      }),
    ),
  ],
  routes: [
    ['/v1/backup', backups],
    ['/v1/restore', restores],
  ],
  jobs: [
    {
      name: 'write daily backup',
      isExclusive: true,
      async run({ bucket, use }, { now, signal }) {
        if (!bucket) return
        const backup = use(backupService)
        const source = {
          begin: () => backup.begin(),
          read: (table: string, after: string | undefined) => {
            signal.throwIfAborted()
            return backup.read(table, after, PAGE_ROWS)
          },
        }
        await writeDailyBackup(source, bucket, now)
      },
    },
  ],
  listener: ({ db, counters }) => createCounts(db, (keys) => counters.writes.forget(keys)),
}
