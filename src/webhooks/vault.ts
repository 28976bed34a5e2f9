import { service } from '../service.ts'
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'

const ALGORITHM = 'aes-256-gcm'
const IV_BYTES = 12
const TAG_BYTES = 16
/** `v1.<key id>.<IV>.<ciphertext and tag>`, the last two in base64url. */
const SEALED = /^v1\.(?<keyId>[0-9a-f]{8})\.(?<iv>[\w-]{16})\.(?<sealed>[\w-]{22,})$/

export type Vault = ReturnType<typeof createVault>
export const vaultService = service<Vault>('webhook vault')

/** The encrypted value names a key that is not configured, or was altered. */
export class UnreadableError extends Error {
  override readonly name = 'UnreadableError'
}

/**
 * Encrypts secrets at rest: AES-256-GCM under a key derived from each of `keys` (HKDF-SHA-256, RFC 5869). The first key
 * encrypts, all decrypt. `context` (the id of the row) is authenticated: a value copied to another row is unreadable.
 */
export function createVault(keys: readonly string[]) {
  const [current, ...older] = keys.map(derive)
  if (!current) throw new TypeError('A vault needs a key')
  const byId = new Map([current, ...older].map(({ id, key }) => [id, key]))

  return {
    /** What values encrypted with the first key begin with. */
    prefix: `v1.${current.id}.`,

    seal(text: string, context: string): string {
      const iv = randomBytes(IV_BYTES)
      const cipher = createCipheriv(ALGORITHM, current.key, iv).setAAD(Buffer.from(context))
      const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
      return `v1.${current.id}.${iv.toString('base64url')}.${sealed.toString('base64url')}`
    },

    /** Decrypts a value. Plain text from before encryption is returned as it is. Throws `UnreadableError`. */
    open(value: string, context: string): string {
      const { keyId, iv, sealed } = SEALED.exec(value)?.groups ?? {}
      if (keyId === undefined || iv === undefined || sealed === undefined) return value
      const key = byId.get(keyId)
      if (!key) throw new UnreadableError(`WEBHOOK_KEY has no key ${keyId}`)
      const bytes = Buffer.from(sealed, 'base64url')
      try {
        const decipher = createDecipheriv(ALGORITHM, key, Buffer.from(iv, 'base64url')).setAAD(Buffer.from(context))
        decipher.setAuthTag(bytes.subarray(-TAG_BYTES))
        return decipher.update(bytes.subarray(0, -TAG_BYTES), undefined, 'utf8') + decipher.final('utf8')
      } catch (cause) {
        throw new UnreadableError(`A value encrypted with key ${keyId} was altered`, { cause })
      }
    },
  }
}

const derive = (secret: string) => ({
  id: Buffer.from(hkdfSync('sha256', secret, '', 'threads-edge webhook key id', 4)).toString('hex'),
  key: Buffer.from(hkdfSync('sha256', secret, '', 'threads-edge webhook secrets', 32)),
})
