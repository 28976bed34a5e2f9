import type { Context } from 'hono'
import { HTTPException } from 'hono/http-exception'
import { ConfigError } from '../config.ts'
import { Problem, problems } from '../errors.ts'
import type { AppEnv } from './context.ts'

/**
 * Turns any error into an RFC 9457 problem document. Internal errors and outages are logged, and their details stay
 * hidden.
 */
export function renderError(error: unknown, c: Context): Response {
  const problem = toProblem(error)
  const isOurFault = problem.type === 'internal' || (problem.type === 'unavailable' && problem !== error)
  if (isOurFault) logError(error, c, 'request')
  return renderProblem(problem, c)
}

/** Logs a failure of a request, or of work after its answer. */
export function logError(error: unknown, c: Context, during: string): void {
  const { requestId, trace } = c.var as Partial<AppEnv['Variables']>
  logFailure({ during, requestId, traceId: trace?.traceId, method: c.req.method }, error)
}

/** Logs a failure as one line of JSON. Of the message it keeps only a code, because messages quote commands and queries. */
export function logFailure(line: Record<string, unknown>, error: unknown): void {
  const { name, code } = errorCode(error)
  // A stack begins with the message, which may have several lines.
  const places = error instanceof Error ? error.stack?.split('\n').filter((line) => /^\s+at /.test(line)) : undefined
  const stack = places?.slice(0, 5)
  console.error(JSON.stringify({ level: 'error', ...line, name, code, stack }))
}

/** The name of an error, and the code its message begins with. Never the message: it may quote data. */
export const errorCode = (error: unknown) =>
  error instanceof Error
    ? { name: error.name, code: /^[A-Z][A-Z0-9_]{2,}\b/.exec(error.message)?.[0] }
    : { name: typeof error }

export function renderProblem(problem: Problem, c: Context): Response {
  const { status, title } = problems[problem.type]
  const document = {
    type: `/problems/${problem.type}`,
    title,
    status,
    detail: problem.message,
    instance: c.req.path,
    ...problem.extensions,
  }
  const { retryAfter } = problem.extensions
  return c.body(JSON.stringify(document), status, {
    'Content-Type': 'application/problem+json',
    'Cache-Control': 'no-store',
    ...challengeOf(problem),
    ...(typeof retryAfter === 'number' ? { 'Retry-After': String(retryAfter) } : {}),
  })
}

/** What a client that lacks a credential must present (RFC 9110 §11.6.1, RFC 6750 §3.1). */
function challengeOf({ type, extensions: { scope } }: Problem): Record<string, string> {
  if (problems[type].status === 401) return { 'WWW-Authenticate': 'Bearer' }
  if (typeof scope !== 'string') return {}
  return { 'WWW-Authenticate': `Bearer error="insufficient_scope", scope="${scope}"` }
}

function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (error instanceof ConfigError) {
    return new Problem('misconfigured', error.message, { variables: error.variables }, { cause: error })
  }
  // Thrown by Hono and its JSON validator.
  if (error instanceof HTTPException && error.status === 400) return new Problem('malformed-json')
  if (error instanceof HTTPException && error.status === 413) return new Problem('body-too-large')
  if (hasMessage(error, 'FOREIGN KEY constraint failed')) {
    // Only users are referred to by what a request writes.
    return new Problem('not-signed-in', 'This account was deleted', {}, { cause: error })
  }
  if (isOutage(error)) {
    return new Problem(
      'unavailable',
      'The database or a queue does not answer right now',
      { retryAfter: 5 },
      { cause: error },
    )
  }
  return new Problem('internal', undefined, {}, { cause: error })
}

const hasMessage = (error: unknown, part: string): boolean =>
  error instanceof Error && (error.message.includes(part) || hasMessage(error.cause, part))

/** D1 errors that a repetition of the request cannot avoid: the statement or its values are at fault. */
const FAULTY_STATEMENT = /SQLITE_(CONSTRAINT|ERROR|MISMATCH|MISUSE|RANGE|TOOBIG|AUTH)/

/** Whether D1 or a queue could not do its work. Both throw plain errors. Drizzle wraps those of D1. */
function isOutage(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const { message, cause } = error
  if (message.startsWith('D1_ERROR')) return !FAULTY_STATEMENT.test(message)
  return /^Queue send(Batch)? failed/.test(message) || isOutage(cause)
}
