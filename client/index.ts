import { MEMBER_OPERATIONS, type MemberApi, SERVICE_OPERATIONS, type ServiceApi } from './api.ts'
import { type Call, methodsOf, queryOf } from './call.ts'
import { type Channel, type EventOf, type EventStream, followEvents, type Reset, type StreamOptions } from './events.ts'
import { Problem, readProblem } from './problem.ts'
import { type Connection, send } from './send.ts'

// The entry of the package `threads-edge/client`.
export type * from './api.ts'
export type { CallOptions, Conditional, Keyed, Pages } from './call.ts'
export type { ApiEvent, Channel, CloudEvent, EventOf, EventStream, Reset, StreamOptions } from './events.ts'
export { type FieldError, Problem } from './problem.ts'
export type { Connection } from './send.ts'
export { type Challenge, receiveWebhook, type VerifyOptions, verifyWebhook, WebhookError } from './webhook.ts'

/** Who is signed in. */
export interface Session {
  /** Absent if the browser has it as a cookie. */
  token?: string
  expiresAt: string
}

export interface ClientOptions extends Connection {
  /**
   * `token`: the client sends the token of the session (the default). `cookie`: the browser sends it as a cookie, which no script
   * can read. That works on the origin of the API, and on pages of the same site whose origin is in `CORS_ORIGINS`.
   */
  auth?: 'token' | 'cookie'
  /** The session of an earlier client. */
  session?: Session | undefined
  /** Called after a sign-in, and with `undefined` after a sign-out or when the session turns out to have ended. Store it here. */
  onSession?: (session: Session | undefined) => void
}

interface Streams {
  /**
   * The events of some channels, as they happen: `GET /v1/events/stream`. The stream connects again by itself and misses nothing.
   * If it cannot continue, it yields `{ type: 'reset' }`: load your data again. It ends by `signal` or `break`.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  events<C extends Channel>(channels: readonly C[], options?: StreamOptions): EventStream<EventOf<C> | Reset>
}

/** The API for users and for everyone. Every method throws a `Problem` if the API refuses. */
export interface Client extends MemberApi, Streams {
  /** Who is signed in, as far as the client knows. */
  readonly session: Session | undefined
}

/** The API for services. Every method throws a `Problem` if the API refuses. */
export interface ServiceClient extends ServiceApi, Streams {}

/** A client for users, and for those who are not signed in. One client is one user: make one for each on a server. */
export function createClient(options: ClientOptions = {}): Client {
  const { auth = 'token', onSession } = options
  const isCookie = auth === 'cookie'
  let { session } = options
  function setSession(next: Session | undefined): void {
    session = next
    onSession?.(next)
  }

  const { perform, events } = createCaller(options, {
    token: () => session?.token,
    isCookie,
    onRefused(problem, token) {
      // A request of an earlier session may be refused late.
      if (problem.type === 'not-signed-in' && token === session?.token) setSession(undefined)
    },
  })
  const methods = methodsOf(MEMBER_OPERATIONS, async (call) => {
    const answer = await perform(call)
    if (call.words.includes('session')) {
      const { token, expiresAt } = answer as Required<Session>
      setSession(isCookie ? { expiresAt } : { token, expiresAt })
    }
    if (call.words.includes('end')) setSession(undefined)
    return answer
  })
  const client = {
    events,
    get session() {
      return session
    },
  }
  return Object.assign(client, methods as MemberApi) // the table is generated with the type
}

/** A client for a service. Keep the token on the server. */
export function createServiceClient(options: Connection & { token: string }): ServiceClient {
  const { perform, events } = createCaller(options, { token: () => options.token, isCookie: false, onRefused() {} })
  return Object.assign(methodsOf(SERVICE_OPERATIONS, perform) as ServiceApi, { events }) // the table is generated with the type
}

interface Credentials {
  token: () => string | undefined
  isCookie: boolean
  onRefused: (problem: Problem, token: string | undefined) => void
}

function createCaller(connection: Connection, credentials: Credentials) {
  const base = (connection.url ?? '').replace(/\/+$/, '')

  /** Adds the credentials to a request, and notes if the API refuses them. */
  async function authorized<T>(headers: Record<string, string>, run: (init: RequestInit) => Promise<T>): Promise<T> {
    const token = credentials.token()
    try {
      return await run({
        headers: token === undefined ? headers : { ...headers, Authorization: `Bearer ${token}` },
        ...(credentials.isCookie ? { credentials: 'include' } : {}), // Workers refuse the property
      })
    } catch (error) {
      if (error instanceof Problem) credentials.onRefused(error, token)
      throw error
    }
  }

  const perform = ({ method, path, headers, body, isRepeatable, words, options }: Call) =>
    authorized(headers, (init) =>
      send(connection, {
        url: base + path,
        init: {
          ...init,
          method,
          ...(body === undefined ? {} : { body }),
          ...(options.keepalive ? { keepalive: true } : {}),
        },
        isRepeatable,
        signal: options.signal,
        read: (response): Promise<unknown> => {
          if (response.status === 204) return Promise.resolve(undefined)
          if (words.includes('bytes')) return response.arrayBuffer()
          return words.includes('text') ? response.text() : response.json()
        },
      }),
    )

  function events<C extends Channel>(channels: readonly C[], options: StreamOptions = {}) {
    const url = `${base}/v1/events/stream${queryOf({ channels })}`
    return followEvents<EventOf<C>>(
      (lastEventId, signal) =>
        authorized(lastEventId === '' ? {} : { 'Last-Event-ID': lastEventId }, async (init) => {
          const response = await (connection.fetch ?? globalThis.fetch)(url, { ...init, signal })
          if (!response.ok) throw await readProblem(response)
          return response
        }),
      options,
    )
  }

  return { perform, events }
}
