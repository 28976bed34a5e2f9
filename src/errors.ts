/**
 * Every problem this API reports: its `type`, HTTP status and title. In documents the type is the relative URI
 * `/problems/<name>` (RFC 9457 §3.1.1): it is the same on every deployment, and there it leads to a page that explains it.
 */
export const problems = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'malformed-json': { status: 400, title: 'The body is not JSON' },
  'not-signed-in': { status: 401, title: 'Sign in first' },
  'wrong-credentials': { status: 401, title: 'Login or password is wrong' },
  'service-token-required': { status: 401, title: 'This route requires a service token' },
  suspended: { status: 403, title: 'This account is suspended' },
  'scope-required': { status: 403, title: 'The service token lacks the scope of this route' },
  'wrong-password': { status: 403, title: 'The password is wrong' },
  'cross-site': { status: 403, title: 'Another site may not do this with your cookie' },
  'not-yours': { status: 403, title: 'Only the author may do this' },
  'not-found': { status: 404, title: 'There is no such resource' },
  'no-such-route': { status: 404, title: 'There is no such route' },
  'method-not-allowed': { status: 405, title: 'This route does not support the method' },
  taken: { status: 409, title: 'Somebody else has this already' },
  'lock-held': { status: 409, title: 'Another owner holds this lock' },
  'lock-lost': { status: 409, title: 'This owner does not hold the lock' },
  'idempotency-key-in-use': { status: 409, title: 'The first request with this key is still running' },
  'too-many-webhooks': { status: 409, title: 'The maximum number of webhooks exists already' },
  'webhook-not-enabled': { status: 409, title: 'Enable this endpoint first' },
  'event-gone': { status: 409, title: 'The event of this delivery has expired' },
  'not-empty': { status: 409, title: 'The database is not empty' },
  'not-restoring': { status: 409, title: 'Begin a restore first' },
  'token-expired': { status: 410, title: 'This token was used or has expired' },
  'version-changed': { status: 412, title: 'The resource has changed' },
  'body-too-large': { status: 413, title: 'The body is too large' },
  'unsupported-media-type': { status: 415, title: 'The body must be application/json' },
  'idempotency-key-reused': { status: 422, title: 'This key was used for another request' },
  'event-id-reused': { status: 422, title: 'Another event has this id' },
  'challenge-failed': { status: 422, title: 'The endpoint did not answer the challenge' },
  'rate-limited': { status: 429, title: 'Too many requests' },
  internal: { status: 500, title: 'Something went wrong on our side' },
  misconfigured: { status: 503, title: 'The Worker is not fully configured' },
  unavailable: { status: 503, title: 'The service is temporarily unavailable' },
} as const

export type ProblemType = keyof typeof problems

/** One invalid field of the input: its place, its name (a path), and what the API expects. */
export interface FieldError {
  in: 'path' | 'query' | 'body' | 'header'
  field: string
  message: string
}

/** A failure that the API explains to the client. Any other error becomes `internal`, without details. */
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

/** A 400 that names one invalid field. */
export const invalidField = (where: FieldError['in'], field: string, message: string): Problem =>
  new Problem('invalid-request', `${field}: ${message}`, { errors: [{ in: where, field, message }] })

/**
 * For `catch`: turns an error of Redis or D1 into a 503 with `Retry-After`. `detail` names what the API cannot do. A
 * `Problem` stays what it is.
 */
export const unavailable =
  (detail: string, retryAfterSeconds = 5) =>
  (cause: unknown): never => {
    if (cause instanceof Problem) throw cause
    throw new Problem('unavailable', detail, { retryAfter: retryAfterSeconds }, { cause })
  }
