import { env } from 'cloudflare:workers'
import { createClient, createServiceClient, type ClientOptions } from '../../client/index.ts'
import type { Edge } from '../edge.ts'
import { addUser, quickHash } from '../rows.ts'

type Fetch = NonNullable<ClientOptions['fetch']>

/** Sends the requests of a client to an edge. */
export const fetchOf =
  (edge: Edge): Fetch =>
  (url, init) =>
    edge.fetch(url, init as RequestInit<IncomingRequestCfProperties>) // the same, but for `cf`

/** A client of an edge. */
export const clientOf = (edge: Edge, options: ClientOptions = {}) =>
  createClient({ url: '', fetch: fetchOf(edge), ...options })

export const serviceOf = (edge: Edge, fetch = fetchOf(edge)) =>
  createServiceClient({ url: '', fetch, token: env.SERVICE_TOKEN })

/** A new member, signed in. */
export async function newMember(edge: Edge) {
  const client = clientOf(edge)
  const username = `m${crypto.randomUUID().replaceAll('-', '').slice(0, 20)}`
  const password = 'correct-horse-battery'
  await addUser({ username, passwordHash: quickHash(password) })
  const { token, user } = await client.signIn({ login: username, password })
  return { client, user, login: username, password, token }
}

/** An edge whose requests arrive, and whose next `times` answers are lost if the request matches. */
export function losing(edge: Edge, match: RegExp, times = 1) {
  const send = fetchOf(edge)
  let left = times
  let requests = 0
  const fetch: Fetch = async (url, init) => {
    const response = await send(url, init)
    if (!match.test(`${init.method} ${url}`)) return response
    requests += 1
    if (left === 0) return response
    left -= 1
    await response.body?.cancel()
    throw new TypeError('The connection was lost')
  }
  return { fetch, requests: () => requests }
}
