export type WriteThrough = ReturnType<typeof createWriteThrough>

/**
 * Brings a change that the source of truth already has to the caches, and never throws: a write does not fail because
 * Redis is gone.
 *
 * `tell` is one round trip: what it begins in one turn travels together. Where that fails, `forget` runs after the
 * answer (an invalidation also empties this isolate's memory at once) and, if Redis is still gone, a last time
 * `retryMs` to twice that later, when the breaker may have closed. If that fails too, the old value may be answered
 * for as long as Redis keeps it fresh.
 */
export function createWriteThrough(defer: (work: () => Promise<unknown>) => void, retryMs: number) {
  return async (tell: () => Promise<unknown>[], forget: () => Promise<unknown>[]): Promise<void> => {
    const [told] = await Promise.allSettled([Promise.all(tell())])
    if (told.status === 'fulfilled') return
    defer(() =>
      Promise.all(forget()).catch(async () => {
        await new Promise((resolve) => setTimeout(resolve, retryMs * (1 + Math.random())))
        await Promise.all(forget())
      }),
    )
  }
}
