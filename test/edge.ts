import { applyD1Migrations, createExecutionContext, type D1Migration, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { createControl } from '../emulator/control.ts'
import { createWorker } from '../src/index.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      MIGRATIONS: D1Migration[]
    }
  }
}

/** Brings the tables of this file's D1. Storage belongs to the file, not to the test: tests use ids of their own. */
export const migrate = () => applyD1Migrations(env.DB, env.MIGRATIONS)

export type Edge = ReturnType<typeof newEdge>

const NO_LIMITS = {
  LIMIT_READS: '1000000',
  LIMIT_WRITES: '1000000',
  LIMIT_SIGN_IN: '1000000',
  LIMIT_SIGN_IN_ADDRESS: '1000000',
}

/**
 * A Worker with an isolate of its own, over a Redis keyspace of its own (or that of another edge, by `token`), with
 * `variables` set over the defaults. Its limits are out of the way unless a test sets them.
 */
export function newEdge(variables: Record<string, string> = {}, token = `test-${crypto.randomUUID()}`) {
  const worker = createWorker()
  const settings = { ...env, UPSTASH_REDIS_REST_TOKEN: token, ...NO_LIMITS, ...variables } as Env
  const pending: ExecutionContext[] = []
  return {
    token,
    /** The emulator's counts and faults for this keyspace. */
    redis: createControl(settings.UPSTASH_REDIS_REST_URL, token),

    /** Sends a request; what the Worker does after its answer may still be under way. */
    async fetch(path: string, init?: RequestInit<IncomingRequestCfProperties>): Promise<Response> {
      const context = createExecutionContext()
      pending.push(context)
      const request = new Request<unknown, IncomingRequestCfProperties>(`https://edge.test${path}`, init)
      return worker.fetch(request, settings, context)
    },

    /** Waits for all that was left to do after the answers. */
    async settle(): Promise<void> {
      await Promise.all(pending.splice(0).map(waitOnExecutionContext))
    },
  }
}

/** Round trips to Redis before the answer, as the answer itself says; `edge.redis` has those after it too. */
export function roundTrips(response: Response): number {
  return Number(/(\d+) round trips/.exec(response.headers.get('Server-Timing') ?? '')?.[1])
}
