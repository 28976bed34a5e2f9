import { createHash, createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto'
import { service } from '../service.ts'
import { createBoundedMap } from '../redis/bounded-map.ts'
import type { Claims } from '../redis/session.ts'

export type SessionTokens = ReturnType<typeof createSessionTokens>
export const sessionTokens = service<SessionTokens>('session tokens')

/** How many genuine tokens an isolate remembers: some 300 bytes each. */
const REMEMBERED_TOKENS = 2_000

/**
 * Session tokens: `<user id>.<session id>.<secret>.<tag>`. The secret has 128 random bits. The tag authenticates the rest:
 * HMAC-SHA-256 with a key derived from `key`, 128 bits (RFC 2104, RFC 5869). So a forged token costs no round trip, and
 * limits can count by user before the session is checked. The store keeps only a hash.
 *
 * The claims of a genuine token never change, so an isolate computes its HMAC and its hash once.
 */
export function createSessionTokens(key: string) {
  const macKey = Buffer.from(hkdfSync('sha256', key, '', 'threads-edge session token', 32))
  const tagOf = (text: string) =>
    createHmac('sha256', macKey).update(text).digest().subarray(0, 16).toString('base64url')
  const hashOf = (token: string) => createHash('sha256').update(token).digest('base64url')
  const genuine = createBoundedMap<Claims>(REMEMBERED_TOKENS, () => 1)

  return {
    issue(userId: string, sessionId: string): { token: string; claims: Claims } {
      const text = `${userId}.${sessionId}.${randomBytes(16).toString('base64url')}`
      const token = `${text}.${tagOf(text)}`
      return { token, claims: { userId, sessionId, hash: hashOf(token) } }
    },

    /** The claims of a token. Undefined: the token is forged. */
    read(token: string): Claims | undefined {
      const known = genuine.get(token)
      if (known) return known
      const match =
        /^(?<text>(?<userId>u_[a-z0-9]{1,40})\.(?<sessionId>s_[a-z0-9]{1,40})\.[\w-]{22})\.(?<tag>[\w-]{22})$/.exec(
          token,
        )
      const { text, userId, sessionId, tag } = match?.groups ?? {}
      if (text === undefined || userId === undefined || sessionId === undefined || tag === undefined) return undefined
      if (!timingSafeEqual(Buffer.from(tagOf(text)), Buffer.from(tag))) return undefined // both have 22 characters
      const claims = { userId, sessionId, hash: hashOf(token) }
      genuine.set(token, claims)
      return claims
    },
  }
}
