/** Cache-aside by @epic-web/cachified, as its README shows, with an adapter for @upstash/redis. */
import { type Cache, type CacheEntry, cachified, createBatch, createCacheEntry, totalTtl } from '@epic-web/cachified'
import type { Redis } from '@upstash/redis/cloudflare'
import { createPeer } from './app.ts'

const STALE_MS = 60_000

/** The adapter that its README describes. The SDK pipelines concurrent commands: a batch is one HTTP request. */
const upstash = (redis: Redis): Cache => ({
  name: 'upstash',
  get: (key) => redis.get<CacheEntry>(key),
  set: (key, entry) => {
    const ttlMs = totalTtl(entry.metadata)
    return redis.set(key, entry, Number.isFinite(ttlMs) ? { px: ttlMs } : undefined)
  },
  delete: (key) => redis.del(key),
})

export default createPeer((redis, context) => {
  const cache = upstash(redis)
  const waitUntil = (work: Promise<unknown>) => context.waitUntil(work)
  const options = (seconds: number) => ({ cache, waitUntil, ttl: seconds * 1_000, swr: STALE_MS })
  return {
    one: <T>(key: string, seconds: number, load: () => Promise<T | null>) =>
      cachified<T | null>({
        ...options(seconds),
        key,
        async getFreshValue({ metadata }) {
          const value = await load()
          if (value === null) metadata.ttl = -1 // not cached
          return value
        },
      }),

    async many<T>(keys: Record<string, string>, seconds: number, load: (ids: string[]) => Promise<Map<string, T>>) {
      const batch = createBatch<T | null, string>(async (ids) => {
        const loaded = await load(ids)
        return ids.map((id) => loaded.get(id) ?? null)
      })
      const values = await Promise.all(
        Object.entries(keys).map(async ([id, key]) => {
          const getFreshValue = batch.add(id, ({ value, metadata }) => {
            if (value === null) metadata.ttl = -1
          })
          return [id, await cachified<T | null>({ ...options(seconds), key, getFreshValue })] as const
        }),
      )
      return new Map(values.flatMap(([id, value]) => (value === null ? [] : [[id, value] as const])))
    },

    put: async (key, seconds, value) =>
      cache.set(key, createCacheEntry(value, { ttl: seconds * 1_000, swr: STALE_MS })),
  }
})
