import CachePolicy from 'http-cache-semantics'
import type { EdgeCache } from '../src/edge-cache.ts'
import { newEdge } from './edge.ts'

/** An answer of the Worker. */
interface Stored {
  policy: CachePolicy
  body: string
  tags: string[]
}

/** A request as the rules of RFC 9111 see it. Workers Cache has one entry for all hosts. */
export const asked = (path: string, headers: HeadersInit = {}, method = 'GET') => ({
  url: path,
  method,
  headers: Object.fromEntries(new Headers(headers)),
})
type Asked = ReturnType<typeof asked>

const policyOf = (request: Asked, { status, headers }: Response) =>
  new CachePolicy(request, { status, headers: Object.fromEntries(headers) }, { shared: true })

/** Whether a shared cache may store this answer. Workers Cache stores none that sets a cookie. */
export const isStorable = (request: Asked, answer: Response): boolean =>
  policyOf(request, answer).storable() && answer.status !== 304 && !answer.headers.has('Set-Cookie')

/** The values of the request headers that the answer varies by. */
const variantOf = ({ headers }: Asked, answer: Response): string =>
  JSON.stringify((answer.headers.get('Vary') ?? '').split(',').map((name) => headers[name.trim().toLowerCase()]))

/**
 * A Worker behind a shared cache, which is what Miniflare lacks of Workers Cache: the rules of RFC 9111 (`Cache-Control`,
 * `Vary`, `stale-while-revalidate`) as `http-cache-semantics` has them, one entry per path and query, and purges by
 * `Cache-Tag`. It reports what it did as `Cf-Cache-Status`. It leaves out tiers, and collapses no requests.
 */
export function newCachedEdge(bindings: Record<string, unknown> = {}, token?: string) {
  /** By path, then by variant. */
  const stored = new Map<string, Map<string, Stored>>()
  const revalidations: Promise<unknown>[] = []
  const purging = {
    /** Of each purge. */
    tags: [] as string[][],
    /** What a purge answers. */
    answer: async (): Promise<CachePurgeResult> => ({ success: true, errors: [] }),
  }
  const cache: EdgeCache = {
    async purge({ tags = [] }) {
      purging.tags.push(tags)
      const result = await purging.answer()
      if (!result.success) return result
      for (const [path, variants] of stored) {
        const isTagged = [...variants.values()].some((variant) => variant.tags.some((tag) => tags.includes(tag)))
        if (isTagged) stored.delete(path)
      }
      return result
    },
  }
  const edge = newEdge(bindings, token, cache)

  /** Asks the Worker, and stores what may be stored. */
  async function fill(path: string, init: RequestInit<IncomingRequestCfProperties>): Promise<Response> {
    const request = asked(path, init.headers)
    const answer = await edge.fetch(path, init)
    if (isStorable(request, answer)) {
      const variants = stored.get(path) ?? new Map<string, Stored>()
      variants.set(variantOf(request, answer), {
        policy: policyOf(request, answer),
        body: await answer.clone().text(),
        tags: answer.headers.get('Cache-Tag')?.split(',') ?? [],
      })
      stored.set(path, variants)
    }
    return answer
  }

  return {
    ...edge,
    purging,
    /** Forgets all answers. */
    forget: () => stored.clear(),

    async fetch(path: string, init: RequestInit<IncomingRequestCfProperties> = {}): Promise<Response> {
      if (init.method !== undefined && init.method !== 'GET') return edge.fetch(path, init)
      const request = asked(path, init.headers)
      for (const { policy, body } of stored.get(path)?.values() ?? []) {
        const { response, revalidation } = policy.evaluateRequest(request)
        if (!response) continue
        if (revalidation) revalidations.push(fill(path, init))
        const headers = new Headers(Object.entries(response.headers).map(([name, value]) => [name, String(value)]))
        headers.delete('Cache-Tag')
        headers.set('Cf-Cache-Status', revalidation ? 'UPDATING' : 'HIT')
        const isCurrent = request.headers['if-none-match'] === headers.get('ETag')
        return new Response(isCurrent ? null : body, { status: isCurrent ? 304 : 200, headers })
      }
      return fill(path, init)
    },

    async settle(): Promise<void> {
      await Promise.all(revalidations.splice(0))
      await edge.settle()
    },
  }
}
