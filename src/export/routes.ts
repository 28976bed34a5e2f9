import { Hono } from 'hono'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { doc, valid } from '../http/openapi.ts'
import { exportService } from './export.ts'

const ExportQuery = v.object({
  cursor: v.optional(v.pipe(v.string(), v.maxLength(300), v.description('The `next` of an earlier export.'))),
})

export const accountExport = new Hono<AppEnv>().get(
  '/me/export',
  doc({
    id: 'exportAccount',
    tag: 'Users',
    summary: 'Export everything about me',
    description:
      'Streams everything that is stored about me, as lines of JSON: one per row, with its `kind`. The last line is ' +
      '`{"kind":"end","next":null}`; without it the export broke off. After 900,000 rows `next` is a cursor: repeat the ' +
      'request with it. Works without Redis. Copies in events and caches, which expire, are not repeated.',
    answer: v.pipe(v.string(), v.description('Lines of JSON, one per row.')),
    mediaTypes: ['application/x-ndjson'],
    problems: ['invalid-request', 'not-signed-in'],
  }),
  admit('exports', { session: 'required' }),
  valid('query', ExportQuery),
  (c) =>
    c.body(c.var.use(exportService).stream(c.var.userId, c.req.valid('query').cursor), 200, {
      'Content-Type': 'application/x-ndjson; charset=utf-8',
      'Content-Disposition': 'attachment; filename="account.jsonl"',
      'Cache-Control': 'no-store',
    }),
)
