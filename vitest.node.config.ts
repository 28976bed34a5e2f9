import { defineConfig } from 'vitest/config'
import { isLong, run } from './vitest.shared.ts'

/** What `npm test` leaves to `npm run test:long`: benchmarks, and programs that are started as a user starts them. */
const LONG = [
  'test/bench/**/*.test.ts',
  'test/deploy/{deploy,setup}.test.ts',
  'test/scripts/{backup,docs,example-programs,start,streams}.test.ts',
]

// The suites that run on Node: the emulator, the scripts, deployment, the benchmarks.
export default defineConfig({
  test: {
    ...run,
    name: 'node',
    include: isLong ? LONG : ['test/{bench,deploy,emulator,scripts}/**/*.test.ts'],
    exclude: isLong ? [] : LONG,
    testTimeout: 30_000,
  },
})
