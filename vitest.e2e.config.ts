import { defineConfig } from 'vitest/config'

// The dashboard in a real browser, over the product as `npm start` runs it. Needs Chromium: CHROMIUM says where, if not in /usr/bin.
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.test.ts'],
    maxWorkers: 1,
    testTimeout: 120_000, // figures arrive every ten seconds, and machines are busy
    hookTimeout: 120_000,
  },
})
