import { Hono } from 'hono'
import * as v from 'valibot'
import { Problem } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { requireService } from '../http/service-token.ts'
import { backupService } from './backup.ts'
import {
  DailyFile,
  PageQuery,
  Rebuilding,
  Restored,
  RestoreRequest,
  RestoreRows,
  TableName,
  TablePage,
  Tables,
} from './schema.ts'

const tag = 'Backup'

export const backups = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'beginBackup',
      tag,
      summary: 'Begin a backup',
      description:
        'For `npm run backup`. Writes to D1 the likes and views that only Redis has. Answers the tables in reading order.',
      answer: Tables,
      problems: ['service-token-required', 'unavailable'],
    }),
    requireService('backup'),
    async (c) => c.json({ tables: await c.var.use(backupService).begin() }),
  )
  .get(
    '/:table',
    doc({
      id: 'getBackupPage',
      tag,
      summary: 'Read a page of a table',
      description: 'For `npm run backup`. With password hashes and secrets. About 1 MB at most.',
      answer: TablePage,
      problems: ['invalid-request', 'service-token-required', 'not-found', 'unavailable'],
    }),
    requireService('backup'),
    valid('param', TableName),
    valid('query', PageQuery),
    async (c) => {
      const { after, limit } = c.req.valid('query')
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.use(backupService).read(c.req.valid('param').table, after, limit))
    },
  )
  .get(
    '/:date/:file',
    doc({
      id: 'getBackupFile',
      tag,
      summary: 'Read a file of a daily backup',
      description: '`manifest.json` names the files.',
      answer: v.pipe(v.string(), v.description('The file.')),
      mediaTypes: ['application/octet-stream'],
      problems: ['invalid-request', 'service-token-required', 'not-found'],
    }),
    requireService('backup'),
    valid('param', DailyFile),
    async (c) => {
      const { date, file } = c.req.valid('param')
      const object = await c.var.platform.bucket?.get(`${date}/${file}`)
      if (!object) throw new Problem('not-found', `There is no backup file ${date}/${file}`)
      return c.body(object.body, 200, { 'Content-Type': 'application/octet-stream', 'Cache-Control': 'no-store' })
    },
  )

export const restores = new Hono<AppEnv>()
  .put(
    '/',
    doc({
      id: 'beginRestore',
      tag,
      summary: 'Begin to restore a backup',
      description:
        'For `npm run restore`. Removes caches from Redis. Writes fail until the restore ends. Safe to repeat.',
      status: 204,
      problems: [
        'invalid-request',
        'malformed-json',
        'service-token-required',
        'unsupported-media-type',
        'not-empty',
        'unavailable',
      ],
    }),
    requireService('root'),
    requireJson,
    valid('json', RestoreRequest),
    async (c) => {
      await c.var.use(backupService).beginRestore(c.req.valid('json').backup)
      return c.body(null, 204)
    },
  )
  .post(
    '/:table',
    doc({
      id: 'restoreRows',
      tag,
      summary: 'Restore rows of a table',
      description: 'Skips rows that exist, and rows that refer to one which does not. Safe to repeat.',
      answer: Restored,
      problems: [
        'invalid-request',
        'malformed-json',
        'service-token-required',
        'unsupported-media-type',
        'not-found',
        'not-restoring',
        'unavailable',
      ],
    }),
    requireService('root'),
    valid('param', TableName),
    requireJson,
    valid('json', RestoreRows),
    async (c) => {
      const { table } = c.req.valid('param')
      return c.json({ inserted: await c.var.use(backupService).restore(table, c.req.valid('json')) })
    },
  )
  .delete(
    '/',
    doc({
      id: 'endRestore',
      tag,
      summary: 'End the restore',
      description: 'Allows writes, and begins to rebuild search, scores and counts. Safe to repeat.',
      answer: Rebuilding,
      status: 202,
      problems: ['service-token-required'],
    }),
    requireService('root'),
    async (c) => c.json({ rebuilding: await c.var.use(backupService).endRestore() }, 202),
  )
