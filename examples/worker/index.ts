import { connect, createCache, createLimits } from 'threads-edge/redis'

/** A Worker of its own, in front of a slow API: it uses only the primitives of threads-edge. */
interface Env {
  UPSTASH_REDIS_REST_URL: string
  UPSTASH_REDIS_REST_TOKEN: string
  /** The API. It answers `GET /USD` with `{ currency, rate }`, or 404. */
  RATES_URL: string
}

interface Rate {
  currency: string
  rate: number
}

const MINUTE_MS = 60_000

export default {
  async fetch(request: Request, env: Env, context: { waitUntil(work: Promise<unknown>): void }): Promise<Response> {
    const [, currency] = /^\/rates\/([A-Z]{3})$/.exec(new URL(request.url).pathname) ?? []
    if (currency === undefined) return new Response('Ask for /rates/USD', { status: 404 })

    const { redis, once } = connect({ url: env.UPSTASH_REDIS_REST_URL, token: env.UPSTASH_REDIS_REST_TOKEN })
    const limits = createLimits({ redis: once, quotas: { reads: { limit: 20, windowSeconds: 60 } } })
    const reader = request.headers.get('CF-Connecting-IP') ?? 'unknown'
    const allowance = await limits.take('reads', reader).catch(() => undefined) // without Redis, nobody is refused
    if (allowance?.isAllowed === false) {
      const seconds = Math.max(1, Math.ceil((allowance.resetsAt - Date.now()) / 1_000))
      return new Response('Too many requests', { status: 429, headers: { 'Retry-After': String(seconds) } })
    }

    // One reader loads a rate, wherever the others are. If the API fails, they get the last one for a day.
    const rates = createCache<Rate>({
      redis,
      name: 'rate',
      freshMs: MINUTE_MS,
      defer: (work) => context.waitUntil(work()),
    })
    const rate = await rates.get(currency, () => load(env.RATES_URL, currency))
    return rate ? Response.json(rate) : new Response('There is no such currency', { status: 404 })
  },
}

async function load(url: string, currency: string): Promise<Rate | null> {
  const response = await fetch(`${url}/${currency}`)
  if (response.status === 404) return null
  if (!response.ok) throw new Error(`The API answered ${response.status}`)
  return (await response.json()) as Rate // as it documents
}
