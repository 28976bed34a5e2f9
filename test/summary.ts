import type { Reporter, TestModule } from 'vitest/node'

/** Prints `N passed, N failed` on a line of its own, in the form that CI systems parse. */
export default class Summary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const count = (state: string) => tests.filter((test) => test.result().state === state).length
    // A module that cannot be loaded has no tests, and counts as one failure.
    const broken = modules.filter((module) => module.errors().length > 0).length
    console.log(`${count('passed')} passed, ${count('failed') + broken} failed`)
  }
}
