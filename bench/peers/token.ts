/** The session id in a request's token, and the hash of the token as D1 stores it. Null: no token. */
export async function readToken(
  authorization: string | undefined,
): Promise<{ sessionId: string; hash: string } | null> {
  const token = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
  const sessionId = token?.split('.')[1]
  if (token === undefined || sessionId === undefined) return null
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(token))
  const hash = btoa(String.fromCharCode(...new Uint8Array(digest)))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replace(/=+$/, '')
  return { sessionId, hash }
}
