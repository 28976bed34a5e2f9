import { createHash } from 'node:crypto'
import { service } from '../service.ts'

/** Bits per password, and bits that each sets: one password in 100,000 is taken for a common one by mistake. */
const BITS_EACH = 24
const HASHES = 17

/** The shortest password that is in the filter. The API refuses shorter ones anyway. */
const MIN_LENGTH = 8

export type CommonPasswords = ReturnType<typeof createCommonPasswords>
export const commonPasswords = service<CommonPasswords>('common passwords')

/**
 * Whether a password is one of the most common: a Bloom filter (B. Bloom, 1970), built from a maintained list when the
 * Worker is built (`scripts/build/common-passwords.ts`) and loaded as a static asset when a password is first set in this
 * isolate. 30 KB of memory then; nothing in the bundle, and nothing for requests that set no password.
 *
 * If the asset cannot be loaded, `onFailure` receives the error, the password is accepted, and the next one tries again.
 */
export function createCommonPasswords() {
  let filter: Uint8Array | undefined

  return {
    async includes(
      password: string,
      loadAsset: () => Promise<Response>,
      onFailure: (error: unknown) => void,
    ): Promise<boolean> {
      try {
        filter ??= await read(await loadAsset())
      } catch (error) {
        onFailure(error)
        return false
      }
      const bits = filter
      return placesOf(password, bits.length * 8).every((place) => ((bits[place >> 3] ?? 0) >> (place & 7)) & 1)
    },
  }
}

async function read(response: Response): Promise<Uint8Array> {
  if (!response.ok) throw new Error(`The list of common passwords answered ${response.status}`)
  return new Uint8Array(await response.arrayBuffer())
}

/** The filter of the first `most` passwords of a list that are long enough. */
export function filterOf(passwords: string[], most: number): Uint8Array {
  const kept = passwords.filter((password) => password.length >= MIN_LENGTH).slice(0, most)
  const filter = new Uint8Array(Math.ceil((kept.length * BITS_EACH) / 8))
  for (const password of kept) {
    for (const place of placesOf(password, filter.length * 8)) {
      filter[place >> 3] = (filter[place >> 3] ?? 0) | (1 << (place & 7))
    }
  }
  return filter
}

/** The bits of a password, in any case: two hashes make them all (Kirsch and Mitzenmacher, 2006). */
function placesOf(password: string, size: number): number[] {
  const digest = createHash('sha256').update(password.normalize('NFKC').toLowerCase()).digest()
  const [first, step] = [digest.readUInt32LE(0), digest.readUInt32LE(4) | 1]
  return Array.from({ length: HASHES }, (_, i) => (first + i * (step >>> 0)) % size)
}
