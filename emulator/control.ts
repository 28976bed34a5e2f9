/**
 * The emulator's control API: its types and its client, for tests, drills and benchmarks.
 * It uses only `fetch`: tests inside workerd import this file.
 */

/**
 * What a fault does to an HTTP request. The README describes each kind.
 * Lost connections: `refuse` and `cut-before` run nothing; `cut` and `cut-mid` run the commands, then lose the reply.
 * Slowness: `hang` runs nothing and never answers; `delay` waits, then runs; `delay-after` runs, then waits.
 * Answers that run nothing: `status`, `html`, `garbage` and `wrongpass`.
 * Redis errors of single commands: `oom`, `readonly`, `loading` and `noscript`.
 */
export type FaultKind =
  | 'refuse'
  | 'cut-before'
  | 'cut'
  | 'cut-mid'
  | 'hang'
  | 'delay'
  | 'delay-after'
  | 'status'
  | 'html'
  | 'garbage'
  | 'wrongpass'
  | 'oom'
  | 'readonly'
  | 'loading'
  | 'noscript'

export interface Fault {
  kind: FaultKind
  /** The HTTP status of `status` (default 500), `html` (502), `garbage` (200) and `wrongpass` (401). */
  status?: number
  /** Replaces the error text; for `html` and `garbage`, the body. */
  message?: string
  /** For `delay` and `delay-after`. Absent: until the faults are cleared. */
  delayMs?: number
  /** How many HTTP requests the fault hits (a pipeline is one). Absent: until cleared. */
  times?: number
  /** Hits only these commands (`EVAL`, also inside a pipeline) or paths (`/pipeline`). */
  match?: string | string[]
}

/** Counted for one token since its last reset. */
export interface Counts {
  /** Billed commands: each one of a pipeline or transaction, errors included. Commands that Lua calls are not counted. */
  commands: number
  /** HTTP requests with a valid token, also those that a fault hit. */
  requests: number
  /** Billed commands by lower-case name. */
  byCommand: Record<string, number>
}

/** The answer of `GET /control`. */
export interface ControlState extends Counts {
  faults: Fault[]
  latencyMs: number
}

/** Which keys to evict: these, or this many random ones. The same `seed` takes the same places of the sorted keys. */
export type Eviction = { keys: string[] } | { count: number; seed?: number }

export type Control = ReturnType<typeof createControl>

/** Controls the keyspace of `token` in the emulator at `url`. Control requests are not counted. */
export function createControl(url: string, token: string) {
  async function call(method: string, path: string, body?: unknown): Promise<unknown> {
    const init: RequestInit = { method, headers: { authorization: `Bearer ${token}` } }
    if (body !== undefined) init.body = JSON.stringify(body)
    const response = await fetch(`${url}/control${path}`, init)
    if (!response.ok) throw new Error(`emulator control: ${response.status} ${await response.text()}`)
    return response.json() // always: workerd warns about unread bodies
  }

  return {
    /** The counts since the last reset, the pending faults and the latency. */
    counts: async () => (await call('GET', '')) as ControlState, // what `/control` answers
    /** Zeroes the counts and clears faults and latency. The data stays. */
    reset: async () => void (await call('POST', '/reset')),
    /** Adds a fault. The first fault that matches a request hits it. */
    fault: async (fault: Fault) => void (await call('POST', '/faults', fault)),
    clearFaults: async () => void (await call('DELETE', '/faults')),
    /** Delays every HTTP request of this token; concurrent requests wait at the same time. */
    latency: async (ms: number) => void (await call('POST', '/latency', { ms })),
    /** Deletes all keys. */
    flush: async () => void (await call('POST', '/flush')),
    /** Deletes keys as eviction would, and returns the keys that it deleted. */
    evict: async (eviction: Eviction) => {
      const answer = (await call('POST', '/evict', eviction)) as { evicted: string[] } // what `/control/evict` answers
      return answer.evicted
    },
  }
}
