/** Every problem this API reports: its RFC 9457 `type` (as `/problems/<name>`), HTTP status and title. */
export const problems = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'malformed-json': { status: 400, title: 'The body is not JSON' },
  'not-signed-in': { status: 401, title: 'Sign in first' },
  'wrong-credentials': { status: 401, title: 'Login or password is wrong' },
  'service-token-required': { status: 401, title: 'This route is for services, with their token' },
  'not-yours': { status: 403, title: 'Only its author may do this' },
  'not-found': { status: 404, title: 'There is no such resource' },
  'no-such-route': { status: 404, title: 'There is no such route' },
  'method-not-allowed': { status: 405, title: 'This route does not have that method' },
  taken: { status: 409, title: 'Somebody else has this already' },
  'lock-held': { status: 409, title: 'Another holds this lock' },
  'lock-lost': { status: 409, title: 'This lock is not yours, or no longer' },
  'idempotency-key-in-use': { status: 409, title: 'The first request with this key is still under way' },
  'too-many-webhooks': { status: 409, title: 'There are as many webhooks as there may be' },
  'webhook-not-enabled': { status: 409, title: 'This endpoint has to be enabled first' },
  'event-gone': { status: 409, title: 'The event of this delivery is not kept any more' },
  'version-changed': { status: 412, title: 'It was changed meanwhile' },
  'body-too-large': { status: 413, title: 'The body is too large' },
  'unsupported-media-type': { status: 415, title: 'The body must be application/json' },
  'idempotency-key-reused': { status: 422, title: 'This key was used for another request' },
  'event-id-reused': { status: 422, title: 'This id is that of another event' },
  'challenge-failed': { status: 422, title: 'The endpoint did not answer the challenge' },
  'rate-limited': { status: 429, title: 'Too many requests' },
  internal: { status: 500, title: 'Something went wrong on our side' },
  misconfigured: { status: 503, title: 'The Worker is not fully configured' },
  unavailable: { status: 503, title: 'This cannot be answered right now' },
} as const

export type ProblemType = keyof typeof problems

/** What is wrong with one field of the input: where it was found, its name (a path), and what is expected. */
export interface FieldError {
  in: 'path' | 'query' | 'body' | 'header'
  field: string
  message: string
}

/** A failure the client is told about. Whatever else is thrown becomes `internal`, unexplained. */
export class Problem extends Error {
  override readonly name = 'Problem'
  readonly type: ProblemType
  /** Extra members of the problem document, e.g. `{ errors: FieldError[] }` or `{ retryAfter: 12 }` (seconds). */
  readonly extensions: Record<string, unknown>

  constructor(type: ProblemType, detail?: string, extensions: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(detail ?? problems[type].title, options)
    this.type = type
    this.extensions = extensions
  }
}
