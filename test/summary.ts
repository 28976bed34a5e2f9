import type { Reporter, TestModule } from 'vitest/node'

/**
 * Prints the tests that passed only when repeated, and the seed of the random tests. Then `N passed, N failed` on a line of
 * its own, as CI systems parse it.
 */
export default class Summary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const count = (state: string) => tests.filter((test) => test.result().state === state).length
    // A module that cannot be loaded has no tests, and counts as one failure.
    const broken = modules.filter((module) => module.errors().length > 0).length
    for (const test of tests)
      if (test.diagnostic()?.flaky) console.log(`passed at the second attempt: ${test.fullName}`)
    // Only the suites of workerd draw by it.
    if (modules.some(({ project }) => project.name === 'workerd')) console.log(`SEED=${process.env['SEED']}`)
    console.log(`${count('passed')} passed, ${count('failed') + broken} failed`)
  }
}
