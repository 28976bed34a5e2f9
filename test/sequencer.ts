import { BaseSequencer, type TestSpecification } from 'vitest/node'

/**
 * Runs the files of workerd last. vitest ends a runtime that files share when the next file belongs to another project: among
 * each other, the projects would start a runtime for almost every file.
 */
export class WorkerdLast extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files)
    const isWorkerd = ({ project }: TestSpecification) => project.name === 'workerd'
    return [...sorted.filter((file) => !isWorkerd(file)), ...sorted.filter(isWorkerd)]
  }
}
