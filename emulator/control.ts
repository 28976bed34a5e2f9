/**
 * The emulator's control path: what tests and benchmarks ask of it, and its client.
 * Only `fetch`: this file is also imported by tests that run inside workerd.
 */

/**
 * What a fault does to an HTTP request:
 * `refuse` closes the connection, nothing executed; `status` answers an error, nothing executed;
 * `delay` waits, then executes; `delay-after` executes, then waits; `cut` executes, then closes the connection
 * without a reply; `cut-mid` the same after half of the reply; `hang` neither executes nor answers.
 */
export type FaultKind = 'refuse' | 'status' | 'delay' | 'delay-after' | 'cut' | 'cut-mid' | 'hang'

export interface Fault {
  kind: FaultKind
  /** Of `status`; 500 if absent. */
  status?: number
  /** Of `status`: the `error` of its JSON body. */
  message?: string
  /** Of `delay` and `delay-after`. */
  delayMs?: number
  /** How many HTTP requests it befalls (a pipeline is one); absent: until cleared. */
  times?: number
  /** Only requests that contain this command (`EVAL`, of a pipeline any), or this path (`/pipeline`). */
  match?: string
}

/** Counted for one token since its last reset. */
export interface Counts {
  /** As billed: each of a pipeline, of a transaction, and the ones answered by an error. Not those inside Lua. */
  commands: number
  /** HTTP requests with a valid token, also those a fault befell. */
  requests: number
  /** By lower-case name. */
  byCommand: Record<string, number>
}

/** The answer of `GET /control`. */
export interface ControlState extends Counts {
  faults: Fault[]
  latencyMs: number
}

export type Control = ReturnType<typeof createControl>

/** Talks to the control path of the emulator at `url` about the keyspace of `token`; never counted itself. */
export function createControl(url: string, token: string) {
  async function call(method: string, path: string, body?: unknown): Promise<Response> {
    const init: RequestInit = { method, headers: { authorization: `Bearer ${token}` } }
    if (body !== undefined) init.body = JSON.stringify(body)
    const response = await fetch(`${url}/control${path}`, init)
    if (!response.ok) throw new Error(`emulator control: ${response.status} ${await response.text()}`)
    return response
  }
  const done = async (response: Promise<Response>): Promise<void> => {
    await (await response).text() // workerd warns about bodies left unread
  }

  return {
    /** What was counted since the last reset, and what is asked for. */
    counts: async (): Promise<ControlState> => (await call('GET', '')).json() as Promise<ControlState>,
    /** Zeroes the counters, clears faults and latency; the data stays. */
    reset: () => done(call('POST', '/reset')),
    /** Adds a fault after those already asked for; the first that matches a request befalls it. */
    fault: (fault: Fault) => done(call('POST', '/faults', fault)),
    clearFaults: () => done(call('DELETE', '/faults')),
    /** Every HTTP request of this token takes this much longer; concurrent ones wait at the same time. */
    latency: (ms: number) => done(call('POST', '/latency', { ms })),
  }
}
