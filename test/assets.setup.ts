import { writeFile } from 'node:fs/promises'
import { commonPasswordsFilter } from '../scripts/build/common-passwords.ts'

/** Writes the asset that the Worker reads, as the build does: tests do not need a build. */
export default async function setup() {
  await writeFile(new URL('../public/common-passwords.bin', import.meta.url), commonPasswordsFilter())
}
