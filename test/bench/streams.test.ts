import { execFile } from 'node:child_process'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

// Here each request has its own I/O, as when it is deployed. In the tests of streams, requests have that of the test: Vitest's
// plugin turns off that promises settle across requests.
test('streams share one subscription per isolate, and miss and repeat nothing while its readers end', async () => {
  const sizes = ['--viewers', '8', '--isolates', '2', '--rate', '20', '--seconds', '6', '--churn', '4']
  const { stdout } = await promisify(execFile)(process.execPath, ['bench/streams.ts', ...sizes], {
    cwd: dirname(dirname(import.meta.dirname)),
  })
  expect(stdout).toContain('missing      0, repeated 0, resets 0, ended by the Worker 0')
  const [, published, resumed] = /; (\d+) events in .+; (\d+) resumed/.exec(stdout)?.map(Number) ?? []
  const subscribed = Number(/subscribed +(\d+) times/.exec(stdout)?.[1])
  expect(published).toBeGreaterThan(0)
  expect(resumed).toBeGreaterThan(2)
  expect(subscribed).toBeGreaterThan(2) // some that were resumed were readers
  expect(subscribed).toBeLessThanOrEqual(2 + (resumed ?? 0)) // and none of the others subscribed
}, 120_000)
