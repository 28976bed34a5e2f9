import type { ProblemType } from '../errors.ts'

/** What a problem type means, what causes it, and what the client does. For its page and for the OpenAPI document. */
interface Explanation {
  meaning: string
  cause: string
  remedy: string
}

/** Every problem type explained. Texts are Markdown of one kind: `code`. */
export const explanations: Record<ProblemType, Explanation> = {
  'invalid-request': {
    meaning: 'A part of the request does not match the API reference. The API has changed nothing.',
    cause: 'A field, a query parameter, a header or a part of the path is missing, unknown or has a wrong value.',
    remedy:
      'Read `errors`: it names each field, where it is, and what the API expects. Correct the request and send it.',
  },
  'malformed-json': {
    meaning: 'The API cannot parse the body.',
    cause: 'The body is not JSON, is cut off, or is not encoded as UTF-8.',
    remedy: 'Build the body with a JSON library, and send it as UTF-8.',
  },
  'not-signed-in': {
    meaning: 'This request needs a session, and the API found no live one.',
    cause: 'The request has no token, the token is not valid, or its session has ended or expired.',
    remedy: 'Sign in with `POST /v1/sessions`, and send the new token as `Authorization: Bearer`.',
  },
  'wrong-credentials': {
    meaning: 'The sign-in failed.',
    cause: 'No account has this login, or the password is wrong. The API does not say which.',
    remedy: 'Ask the user for the login and the password again. Attempts are limited.',
  },
  'wrong-password': {
    meaning: 'The password of the signed-in user is wrong.',
    cause: 'Changing a password or an email address, and deleting an account, require the current password.',
    remedy: 'Ask the user for the password again. The session continues. Attempts are limited.',
  },
  'service-token-required': {
    meaning: 'Only services may use this route.',
    cause: 'The request has no service token, or a wrong one. Session tokens are not accepted here.',
    remedy: 'Send a service token of the deployment as `Authorization: Bearer`, from a back end only.',
  },
  suspended: {
    meaning: 'Moderators have suspended this account, so it cannot sign in.',
    cause: 'The login and the password are right. The account is suspended.',
    remedy: 'Contact the people who run this service.',
  },
  'scope-required': {
    meaning: 'This service token is valid, and may not use this route.',
    cause:
      'The token lacks the scope of the route. `scope` names it. `root` stands for `SERVICE_TOKEN` itself. A portal of a tenant may ' +
      'only manage webhooks.',
    remedy: 'Use a token with this scope. `SERVICE_TOKEN` creates one with `POST /v1/service-tokens`.',
  },
  'cross-site': {
    meaning: 'The API refused a write that another site sent with the cookie of the user.',
    cause:
      'The page that sent the request belongs to an origin that is neither ours nor in `CORS_ORIGINS`. Only our own origin may use the ' +
      'session of the dashboard.',
    remedy: 'Add the origin of your page to `CORS_ORIGINS`, or send the token as `Authorization: Bearer`.',
  },
  'not-yours': {
    meaning: 'Another user owns this resource.',
    cause: 'Only its author may change or delete it.',
    remedy: 'Do not repeat the request. Offer the action only to the author.',
  },
  'not-found': {
    meaning: 'There is no resource with this id or name.',
    cause: 'The id is wrong, or the resource has been deleted.',
    remedy: 'Check the id. Remove the resource from your own lists if you had seen it before.',
  },
  'no-such-route': {
    meaning: 'The API has no route with this path.',
    cause: 'The path is misspelled, or belongs to another version of the API.',
    remedy: 'Compare the path with the API reference at `/docs`.',
  },
  'method-not-allowed': {
    meaning: 'The route exists, and does not support this HTTP method.',
    cause: 'The request uses a wrong method.',
    remedy: 'Use a method that the `Allow` header of the answer lists.',
  },
  taken: {
    meaning: 'Another account has this username or email address.',
    cause: 'Both are unique. Upper and lower case are equal.',
    remedy: 'Ask the user for another one. `detail` says which of the two is taken.',
  },
  'lock-held': {
    meaning: 'Another owner holds this lock.',
    cause: 'The owner has not released it, and it has not expired.',
    remedy: 'Try again after `retryAfterMs`, or let the request wait with `waitMs`.',
  },
  'lock-lost': {
    meaning: 'This owner does not hold the lock.',
    cause: 'The lock expired, was released, or belongs to another owner.',
    remedy: 'Stop the work that the lock protects. Acquire the lock again before you continue.',
  },
  'idempotency-key-in-use': {
    meaning: 'The first request with this `Idempotency-Key` is still running.',
    cause: 'The request was repeated before its first answer.',
    remedy: 'Repeat the same request after `Retry-After`, with the same key. You get the first answer.',
  },
  'too-many-webhooks': {
    meaning: 'The deployment has as many webhooks as it allows.',
    cause: 'The maximum is `WEBHOOK_MAX_ENDPOINTS`, and 20 for a tenant.',
    remedy: 'Delete webhooks that you do not need, or raise the maximum.',
  },
  'webhook-not-enabled': {
    meaning: 'The webhook is not enabled, so the API sends it nothing.',
    cause: 'It has not answered a challenge yet, or it is paused or disabled.',
    remedy: 'Enable it with `POST /v1/webhooks/{id}/enable`, and repeat the request.',
  },
  'event-gone': {
    meaning: 'The event of this delivery no longer exists.',
    cause: 'Events expire after `EVENT_DAYS`. A webhook with a tenant gets only events that everyone may see.',
    remedy: 'Load the current data instead. A replay is not possible any more.',
  },
  'token-expired': {
    meaning: 'The token from the mail does not work any more.',
    cause:
      'It was used before, another one was used, or it has expired: after 30 minutes for a password, after a day for an address.',
    remedy: 'Ask for another mail. If the first attempt to use the token may have succeeded, sign in.',
  },
  'not-empty': {
    meaning: 'A restore needs an empty database, and this one has data.',
    cause: 'The deployment is in use, or another backup was restored before.',
    remedy: 'Restore into a new database.',
  },
  'not-restoring': {
    meaning: 'No restore is in progress.',
    cause: 'The restore has not begun, or has ended.',
    remedy: 'Begin it with `PUT /v1/restore`. `npm run restore` does all steps.',
  },
  'version-changed': {
    meaning: 'The resource has changed since you read it. The API has changed nothing.',
    cause: 'The `If-Match` header names an older version.',
    remedy: 'Read the resource again, apply your change to the new version, and send its `ETag`.',
  },
  'body-too-large': {
    meaning: 'The body is larger than the API accepts.',
    cause: 'It has more bytes than `MAX_BODY_BYTES`.',
    remedy: 'Send less at once. `detail` names the maximum.',
  },
  'unsupported-media-type': {
    meaning: 'The API does not read bodies of this kind.',
    cause: 'The `Content-Type` is not `application/json`, or the body is compressed.',
    remedy: 'Send JSON with `Content-Type: application/json`, without `Content-Encoding`.',
  },
  'idempotency-key-reused': {
    meaning: 'This `Idempotency-Key` belongs to a different request.',
    cause: 'The client sent a key again with another path or body.',
    remedy: 'Use a new random key for each new request. Keep a key only to repeat the same request.',
  },
  'event-id-reused': {
    meaning: 'Another event has this id already.',
    cause: 'The publisher sent the id again with other contents.',
    remedy: 'Give each event an id of its own. Repeat an id only with the same event.',
  },
  'challenge-failed': {
    meaning: 'The endpoint did not prove that it wants the events.',
    cause: 'It was unreachable, too slow, or did not answer 200 with the challenge.',
    remedy:
      'Let the endpoint answer `{ "challenge": "…" }` with the value that it receives. `detail` says what it did.',
  },
  'rate-limited': {
    meaning: 'The caller has sent too many requests.',
    cause: 'The user, or the network of the caller, has used up a limit. `violated-policies` names it.',
    remedy: 'Wait for the seconds in `Retry-After`. Watch the `RateLimit` header to slow down in time.',
  },
  internal: {
    meaning: 'The API failed to answer.',
    cause: 'A fault of ours. It is logged under the `X-Request-Id` of the answer.',
    remedy: 'Repeat the request later. If the problem stays, report the `X-Request-Id` to the operator.',
  },
  misconfigured: {
    meaning: 'The deployment lacks a setting, so it answers no request.',
    cause: 'A variable, a secret or a binding is missing or has a wrong value. `variables` names each.',
    remedy: 'Operators correct the settings and deploy again. Clients wait.',
  },
  unavailable: {
    meaning: 'A part that this request needs does not answer right now. Other routes may work.',
    cause: 'Redis, the database or a queue is unreachable or overloaded. `detail` says what the API cannot do.',
    remedy: 'Repeat the request after `Retry-After`. Repeating is safe.',
  },
}
