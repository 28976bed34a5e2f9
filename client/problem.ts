import type { ProblemType } from './api.ts'

/** One invalid field of the input: its place, its name (a path), and what the API expects. */
export interface FieldError {
  in: 'path' | 'query' | 'body' | 'header'
  field: string
  message: string
}

/** A refusal by the API: a problem document (RFC 9457), or an answer that has none. */
export class Problem extends Error {
  override readonly name = 'Problem'
  /** Which problem it is. `unknown`: something in front of the API answered. Newer deployments may have more types. */
  readonly type: ProblemType | 'unknown' | (string & {})
  /** The HTTP status. */
  readonly status: number
  /** The invalid fields of an `invalid-request`. Otherwise empty. */
  readonly errors: readonly FieldError[]
  /** In how many seconds a repetition may succeed, if the API states it. */
  readonly retryAfter: number | undefined
  /** All members of the problem document. */
  readonly document: Readonly<Record<string, unknown>>

  constructor(status: number, document: Record<string, unknown>, retryAfter?: number) {
    const { type, title, detail, errors } = document
    super([detail, title].find(isText) ?? `The API answered ${status}`)
    this.type = (isText(type) && /[^/:#]+$/.exec(type)?.[0]) || 'unknown'
    this.status = status
    this.errors = Array.isArray(errors) ? (errors as FieldError[]) : [] // as the API documents them
    this.retryAfter = retryAfter
    this.document = document
  }
}

const isText = (value: unknown): value is string => typeof value === 'string'

/**
 * Reads the problem of an answer that is not a success.
 * @internal
 */
export async function readProblem(response: Response): Promise<Problem> {
  const text = await response.text()
  let document: Record<string, unknown> = {}
  try {
    document = Object(JSON.parse(text)) as Record<string, unknown>
  } catch {} // not a problem document: of a proxy, for example
  const { retryAfter = readRetryAfter(response.headers.get('Retry-After')) } = document
  return new Problem(response.status, document, typeof retryAfter === 'number' ? retryAfter : undefined)
}

/** Seconds, or a date (RFC 9110 §10.2.3). */
function readRetryAfter(header: string | null): number | undefined {
  if (header === null) return undefined
  const seconds = /^\d+$/.test(header) ? Number(header) : Math.ceil((Date.parse(header) - Date.now()) / 1_000)
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds)
}
