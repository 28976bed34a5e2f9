import { defineConfig } from 'vitest/config'

// The suites that run on Node: the emulator, the scripts, deploying, the benchmarks.
export default defineConfig({
  test: {
    include: ['test/{bench,deploy,emulator,scripts}/**/*.test.ts'],
    maxWorkers: 2,
    testTimeout: 30_000,
  },
})
