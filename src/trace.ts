/** The place of a request in a trace (W3C Trace Context). */
export interface Trace {
  /** 32 hex digits, from the caller or new. */
  traceId: string
  /** 16 hex digits of this request, or of this delivery attempt. */
  spanId: string
  /** Two hex digits, from the caller or 00. */
  flags: string
}

/** Random bytes as hex digits, drawn for many requests at once. */
let pool = ''
const POOL_BYTES = 4_096

/** New random hex digits, two for each byte. */
export function randomHex(bytes: number): string {
  if (pool.length < 2 * bytes) pool = Buffer.from(crypto.getRandomValues(new Uint8Array(POOL_BYTES))).toString('hex')
  const digits = pool.slice(0, 2 * bytes)
  pool = pool.slice(2 * bytes)
  return digits
}

/**
 * Joins the trace of a `traceparent` header, or begins a new trace if the header is not valid (W3C Trace Context §3.2).
 * Valid: lower-case hex, ids with a digit other than 0, any version but ff. Later versions may have more fields.
 */
export function joinTrace(header: string | undefined): Trace {
  if (header === undefined) return { traceId: randomHex(16), spanId: randomHex(8), flags: '00' }
  const [, version, traceId, parentId, flags, rest] =
    /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/.exec(header) ?? []
  const isValid =
    version !== undefined &&
    version !== 'ff' &&
    (version !== '00' || rest === undefined) &&
    !/^0+$/.test(traceId ?? '') &&
    !/^0+$/.test(parentId ?? '')
  const joined = isValid ? { traceId, flags } : {}
  return { traceId: joined.traceId ?? randomHex(16), spanId: randomHex(8), flags: joined.flags ?? '00' }
}

/** The `traceparent` header for requests that continue the trace. */
export const traceparentOf = ({ traceId, spanId, flags }: Trace) => `00-${traceId}-${spanId}-${flags}`
