import type { CacheEvent } from '../redis/cache.ts'

/** The value of `Cache-Status`: the cache layers of a request, the layer nearest to the source of truth first. */
export function cacheStatus(events: readonly CacheEvent[]): string {
  const layers = (['redis', 'memory'] as const).flatMap((layer) => {
    const seen = events.filter((event) => event.layer === layer)
    const hits = seen.filter(({ outcome }) => outcome === 'hit' || outcome === 'stale' || outcome === 'negative')
    const hasMiss = seen.some(({ outcome }) => outcome === 'miss')
    if (seen.some(({ outcome }) => outcome === 'error')) return `${layer}; fwd=bypass; detail=error`
    if (hasMiss) return `${layer}; fwd=${hits.length > 0 ? 'partial' : 'uri-miss'}`
    if (hits.length === 0) return []
    const ttlMs = Math.min(...hits.map(({ ttlMs = 0 }) => ttlMs))
    return `${layer}; hit; ttl=${Math.floor(ttlMs / 1_000)}`
  })
  return layers.join(', ')
}
