import { dictionary } from '@zxcvbn-ts/language-common'
import { filterOf } from '../../src/credentials/common-passwords.ts'

/** How many of the most common passwords the API refuses. The OWASP ASVS (2.1.7) requires 3,000. */
const MOST = 10_000

/** The Bloom filter that the Worker loads as a static asset. */
export const commonPasswordsFilter = (): Uint8Array => filterOf(dictionary['passwords-common'], MOST)
