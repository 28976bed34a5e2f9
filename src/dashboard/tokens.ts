import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto'

/** What a token of the dashboard states. */
export interface Claims {
  /** Of the session: `s_…`. */
  id: string
  /** The service token that it depends on, and its stamp. */
  tokenId: string
  stamp: string
  /** Unix ms. */
  expiresAt: number
  /** The tenant whose people have it. Absent: the holder of the service token. */
  tenant?: string
}

/** What a token is for: the cookie of a session, or a link that begins one. */
type Purpose = 'session' | 'link'

/**
 * Tokens of the dashboard: `<claims>.<tag>`, both in base64url. The tag authenticates purpose and claims: HMAC-SHA-256 with a
 * key derived from `key` (RFC 2104, RFC 5869). The claims are readable and contain no secret. No Redis, no D1.
 */
export function createDashboardTokens(key: string) {
  const macKey = Buffer.from(hkdfSync('sha256', key, '', 'threads-edge dashboard', 32))
  const tagOf = (purpose: Purpose, text: string) =>
    createHmac('sha256', macKey).update(`${purpose}.${text}`).digest('base64url')

  return {
    issue(purpose: Purpose, claims: Claims): string {
      const text = Buffer.from(JSON.stringify(claims)).toString('base64url')
      return `${text}.${tagOf(purpose, text)}`
    },

    /** The claims of a token. Undefined: it is forged, for another purpose, or has expired. */
    read(purpose: Purpose, token: string, now: number): Claims | undefined {
      const [, text, tag] = /^([\w-]{1,1000})\.([\w-]{43})$/.exec(token) ?? []
      if (text === undefined || tag === undefined) return undefined
      if (!timingSafeEqual(Buffer.from(tagOf(purpose, text)), Buffer.from(tag))) return undefined // 43 characters each
      const claims = JSON.parse(Buffer.from(text, 'base64url').toString()) as Claims // `issue` wrote them
      return now < claims.expiresAt ? claims : undefined
    },
  }
}
