import { defineConfig } from 'vitest/config'
import { LongestFirst } from './test/sequencer.ts'
import { run } from './vitest.shared.ts'

// `npm test`: the suites that run in workerd and those that run on Node, side by side in one run.
export default defineConfig({
  test: {
    ...run,
    projects: ['vitest.workerd.config.ts', 'vitest.node.config.ts'],
    sequence: { sequencer: LongestFirst },
  },
})
