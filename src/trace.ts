/** Where a request stands in a trace (W3C Trace Context). */
export interface Trace {
  /** 32 hex digits: of the caller, or new. */
  traceId: string
  /** 16 hex digits: this request, or this attempt to deliver. */
  spanId: string
  /** Two hex digits: of the caller, or 00. */
  flags: string
}

const hex = (bytes: number) =>
  Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, '0')).join('')

/**
 * Joins the trace of a `traceparent`, or begins one where there is none that is valid (W3C Trace Context §3.2): hex in
 * lower case, ids that are not all zeros, no version ff; of versions to come what 00 has is read, and more may follow.
 */
export function joinTrace(header: string | undefined): Trace {
  const [, version, traceId, parentId, flags, rest] =
    /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/.exec(header ?? '') ?? []
  const isValid =
    version !== undefined &&
    version !== 'ff' &&
    (version !== '00' || rest === undefined) &&
    !/^0+$/.test(traceId ?? '') &&
    !/^0+$/.test(parentId ?? '')
  const joined = isValid ? { traceId, flags } : {}
  return { traceId: joined.traceId ?? hex(16), spanId: hex(8), flags: joined.flags ?? '00' }
}

/** What whoever is called on behalf of a request gets, to go on with its trace. */
export const traceparentOf = ({ traceId, spanId, flags }: Trace) => `00-${traceId}-${spanId}-${flags}`
