/** The response headers that the document describes. */
export const headers = {
  ETag: header(
    'Names this state of the resource. Send it in `If-None-Match` to revalidate, or in `If-Match` to change.',
  ),
  Location: header('The path of what was created.'),
  Link: header('The next page: `</v1/…>; rel="next"` (RFC 8288). Absent on the last page.'),
  'Idempotent-Replayed': header('`true`: the API repeats the first answer to this `Idempotency-Key`.'),
  'Set-Cookie': header('Sets or deletes the session cookie.'),
  RateLimit: header('What remains of the limit: `"reads";r=1199;t=60`, requests and seconds until the window ends.'),
  'RateLimit-Policy': header('The limit of the route: `"reads";q=1200;w=60`, requests in so many seconds.'),
  'Retry-After': header('Wait so many seconds before you repeat the request.'),
  'WWW-Authenticate': header('`Bearer`: send a token.'),
  'X-D1-Bookmark': header(
    'If read replicas are in use: what you have now written or seen. Send it with later reads. Absent for a session by cookie.',
  ),
  'X-Request-Id': header('Names the request in the log. Report it with a problem.'),
  Traceresponse: header('The trace of the request (W3C Trace Context).'),
  'Server-Timing': header('What the answer cost: Redis commands, round trips and milliseconds.'),
  'Cache-Status': header('The outcome of each cache layer (RFC 9211). Absent if no cache was asked.'),
}

function header(description: string) {
  return { description, schema: { type: 'string' as const } }
}
