import { defineConfig } from 'vitest/config'

// The suites that run on Node: the emulator, and the scripts.
export default defineConfig({
  test: {
    include: ['test/deploy/**/*.test.ts', 'test/emulator/**/*.test.ts', 'test/scripts/**/*.test.ts'],
    maxWorkers: 2,
    testTimeout: 30_000,
  },
})
