import { defineConfig } from 'vitest/config'
import { run } from './vitest.shared.ts'

// The suites that run on Node: the emulator, the scripts, deployment, the benchmarks.
export default defineConfig({
  test: {
    ...run,
    name: 'node',
    include: ['test/{bench,deploy,emulator,scripts}/**/*.test.ts'],
    testTimeout: 30_000,
  },
})
