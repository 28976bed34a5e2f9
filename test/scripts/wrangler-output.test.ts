import { expect, test } from 'vitest'
import { createOutputFilter } from '../../scripts/wrangler-output.ts'

test('the warning that nothing triggers the cron is dropped, and nothing else', () => {
  const filter = createOutputFilter()
  const lines = [
    '▲ [WARNING] Another warning',
    '▲ [WARNING] Scheduled Workers are not automatically triggered during local development.',
    '  To manually trigger a scheduled event, run:',
    '    curl "http://127.0.0.1:8787/cdn-cgi/local/scheduled"',
    '  For more details, see https://developers.cloudflare.com/workers/configuration/cron-triggers/#test-cron-triggers-locally',
    '✘ [ERROR] Build failed',
    '{"level":"error","during":"streams","name":"RedisUnavailable"}',
    '{ not JSON',
  ]
  expect(lines.flatMap(filter)).toEqual([lines[0], ...lines.slice(5)])
})

test('the log line of a failed cron job follows a sentence with its name and cause', () => {
  const filter = createOutputFilter()
  const line =
    '{"level":"error","job":"reconcile likes","name":"DrizzleQueryError","cause":{"name":"Error","code":"D1_ERROR"}}'
  expect(filter(line)).toEqual([
    'The cron job "reconcile likes" failed: DrizzleQueryError, caused by Error (D1_ERROR)',
    line,
  ])
})
