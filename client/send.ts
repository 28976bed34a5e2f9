import { Problem, readProblem } from './problem.ts'

/** How the client reaches the API. */
export interface Connection {
  /** Where the API is, such as `https://api.example.com`. By default the origin of the page. */
  url?: string
  /** Replaces `fetch`, for example with that of a service binding. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>
  /** How often the client repeats a request that may be repeated. By default 3. */
  retries?: number
  /** How long an attempt may take. By default 30 000. */
  timeoutMs?: number
}

/** @internal */
export interface Outgoing<T> {
  url: string
  init: RequestInit
  /** Whether the API does the same if it receives the request twice. */
  isRepeatable: boolean
  signal: AbortSignal | undefined
  read: (response: Response) => Promise<T>
}

/** The client fails rather than wait longer than this for a `Retry-After`. */
const MAX_WAIT_MS = 20_000
const FIRST_BACKOFF_MS = 250

/**
 * Sends a request, and repeats it if that is safe: after a 429, which the API answers before it does anything, and after
 * failures of the network or of the server if the request is repeatable. Waits as `Retry-After` says, or with full jitter.
 * Throws a `Problem`, or what `fetch` throws.
 * @internal
 */
export async function send<T>(
  { fetch, retries = 3, timeoutMs = 30_000 }: Connection,
  request: Outgoing<T>,
): Promise<T> {
  const { url, init, isRepeatable, read } = request
  for (let attempt = 0; ; attempt += 1) {
    const timeout = AbortSignal.timeout(timeoutMs)
    const signal = request.signal ? AbortSignal.any([request.signal, timeout]) : timeout
    try {
      const response = await (fetch ?? globalThis.fetch)(url, { ...init, signal })
      if (!response.ok) throw await readProblem(response)
      return await read(response)
    } catch (error) {
      const waitMs =
        attempt < retries && !request.signal?.aborted ? waitBeforeRetry(error, isRepeatable, attempt) : null
      if (waitMs === null) throw error
      await pause(waitMs, request.signal)
    }
  }
}

/** Null: the request must not be repeated, or not so soon. */
function waitBeforeRetry(error: unknown, isRepeatable: boolean, attempt: number): number | null {
  const { status, type, retryAfter } = error instanceof Problem ? error : {}
  const isRefused = status === 429 || type === 'idempotency-key-in-use'
  const isTransient = status === undefined || status === 408 || status >= 500
  if (!isRefused && !(isRepeatable && isTransient)) return null
  if (retryAfter === undefined) return jitter(FIRST_BACKOFF_MS * 2 ** attempt)
  const waitMs = retryAfter * 1_000
  return waitMs <= MAX_WAIT_MS ? waitMs + jitter(FIRST_BACKOFF_MS) : null
}

/** @internal */
export const jitter = (ms: number) => Math.random() * ms

/**
 * Waits, or throws when the signal aborts.
 * @internal
 */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer)
      reject(signal?.reason as Error)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop)
      resolve()
    }, ms)
    if (signal?.aborted) stop()
    else signal?.addEventListener('abort', stop)
  })
}
