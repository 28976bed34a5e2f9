/** Cache-aside as the README of @upstash/redis shows: `redis.get`, then D1, then `redis.set` with an expiry. */
import { createPeer } from './app.ts'

export default createPeer((redis) => ({
  async one<T>(key: string, seconds: number, load: () => Promise<T | null>) {
    const cached = await redis.get<T>(key)
    if (cached !== null) return cached
    const value = await load()
    if (value !== null) await redis.set(key, value, { ex: seconds })
    return value
  },

  async many<T>(keys: Record<string, string>, seconds: number, load: (ids: string[]) => Promise<Map<string, T>>) {
    const ids = Object.keys(keys)
    const values = new Map<string, T>()
    if (ids.length === 0) return values
    const cached = await redis.mget<(T | null)[]>(...Object.values(keys))
    for (const [i, id] of ids.entries()) {
      const value = cached[i]
      if (value !== null && value !== undefined) values.set(id, value)
    }
    const missing = ids.filter((id) => !values.has(id))
    if (missing.length === 0) return values
    const loaded = await load(missing)
    const fill = redis.pipeline()
    for (const [id, value] of loaded) {
      values.set(id, value)
      fill.set(keys[id] ?? id, value, { ex: seconds })
    }
    if (fill.length() > 0) await fill.exec()
    return values
  },

  put: (key, seconds, value) => redis.set(key, value, { ex: seconds }),
}))
