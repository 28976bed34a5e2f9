import { relative } from 'node:path'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** The files that take longest, the longest first. A file that begins late runs alone at the end. */
const LONGEST = [
  'test/bench/bench.test.ts',
  'test/deploy/deploy.test.ts',
  'test/scripts/start.test.ts',
  'test/scripts/docs.test.ts',
  'test/bench/growth.test.ts',
  'test/deploy/setup.test.ts',
  'test/scripts/backup.test.ts',
  'test/scripts/example-programs.test.ts',
  'test/drills/drill.test.ts',
  'test/drills/fuzz.test.ts',
  'test/streams/streams.test.ts',
  'test/drills/matrix.test.ts',
  'test/http/authorization.test.ts',
  'test/removals/account.test.ts',
  'test/webhooks/isolation.test.ts',
  'test/backup/backup.test.ts',
  'test/drills/relations.test.ts',
  'test/docs/openapi.test.ts',
]

/**
 * Runs the files of workerd last, and of each project the longest first. vitest ends a runtime that files share when the
 * next file belongs to another project: among each other, the projects would start a runtime for almost every file.
 */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ project, moduleId }: TestSpecification) => {
      const known = LONGEST.indexOf(relative(project.vitest.config.root, moduleId).replaceAll('\\', '/'))
      return (project.name === 'workerd' ? 1_000 : 0) + (known < 0 ? LONGEST.length : known)
    }
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b))
  }
}
