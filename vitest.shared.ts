import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import type { TestUserConfig } from 'vitest/config'

// wrangler only repeats here that secrets come from the bindings in vitest.workerd.config.ts.
process.env['WRANGLER_LOG'] ??= 'error'
// Tests start wrangler dozens of times. With a cache of its compiled code each start takes a third less CPU time.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules/.cache/compiled')

/** Whether this is `npm run test:long`, which tests what takes minutes, and only that. */
export const isLong = Boolean(process.env['TEST_LONG'])

/** Of the fuzzed requests and of the keys that a drill evicts. `SEED` repeats those of an earlier run, which printed it. */
export const seed = (process.env['SEED'] ??= String(randomInt(2 ** 31)))

/** A passing run prints a few lines. A failing test prints its error and everything it logged. */
export const run = {
  reporters: ['dot', './test/summary.ts'],
  silent: 'passed-only',
  maxWorkers: 4,
  // CI machines stall for longer than a timeout: there a failed test runs once more, and the summary names it.
  retry: process.env['CI'] ? 1 : 0,
} satisfies TestUserConfig
