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
/** Likes that the beginning of a backup writes to D1. The cron writes the others. */
const UNWRITTEN = 100_000
const LOCK = 'backup'
/** How long a backup waits for another one to begin. */
const WAIT_MS = 10_000

/** Backups of D1 and of the Redis keys that D1 does not have, and their restore. */
export const backup: Feature = {
  name: 'backup',
  provides: [
    provide(backupService, ({ db, redis, use, locks, config }) =>
      createBackup({
        db,
        redis: redis.writes,
        async writeBehind() {
          const done = await locks.withLock(
            LOCK,
            { ttlMs: config.lockTtlMs, waitMs: WAIT_MS },
            async (signal, fence) => {
              await use(likesService).complete(UNWRITTEN, signal)
              await use(viewsService).flush({ signal, lock: { name: LOCK, fence } })
              return true
            },
          )
          if (!done) throw new Error('Another backup begins')
        },
        beginRebuild: (listener) => use(dispatchService).beginRebuild(listener),
      }),
    ),
  ],
  routes: [
    ['/v1/backup', () => backups],
    ['/v1/restore', () => restores],
  ],
  jobs: [
    {
      name: 'write daily backup',
      isExclusive: true,
      async run({ bucket, use }, { now, signal }) {
        if (!bucket) return 0
        const backup = use(backupService)
        const source = {
          begin: () => backup.begin(),
          read: (table: string, after: string | undefined) => {
            signal.throwIfAborted()
            return backup.read(table, after, PAGE_ROWS)
          },
        }
        return (await writeDailyBackup(source, bucket, now)) ? 0 : 1
      },
    },
  ],
  listener: ({ db }) => createCounts(db),
}
