import { defineConfig } from 'vitest/config'
import { run } from './vitest.shared.ts'

// The dashboard in a real browser, against the product as `npm start` runs it. Needs Chromium: /usr/bin/chromium, or CHROMIUM.
// And the package, installed into empty projects.
export default defineConfig({
  test: {
    ...run,
    include: ['test/e2e/**/*.test.ts'],
    maxWorkers: 2, // the tests of the dashboard wait for its updates most of the time
    testTimeout: 120_000, // the dashboard refreshes every ten seconds, and machines are busy
    hookTimeout: 120_000,
  },
})
