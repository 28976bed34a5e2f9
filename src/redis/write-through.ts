export type WriteThrough = ReturnType<typeof createWriteThrough>

/**
 * Brings a change that the source of truth already has to the caches. It never throws: a write does not fail because
 * Redis does.
 *
 * `refresh` is one round trip: the commands that it starts in one turn share it. If it fails, `invalidate` runs after
 * the answer and, if it fails too, a last time `retryMs` to twice that later, when the breaker may have closed. Both
 * must be safe to repeat.
 *
 * If Redis fails each time, other isolates may return the old value for as long as Redis keeps it fresh. This isolate
 * does not: its memory knows of the change (`Memory`), and its next read loads the value and stores it in Redis.
 */
export function createWriteThrough(defer: (work: () => Promise<unknown>) => void, retryMs: number) {
  return async (refresh: () => Promise<unknown>[], invalidate: () => Promise<unknown>[]): Promise<void> => {
    const results = await Promise.allSettled(refresh())
    if (results.every(({ status }) => status === 'fulfilled')) return
    defer(() =>
      Promise.all(invalidate()).catch(async () => {
        await new Promise((resolve) => setTimeout(resolve, retryMs * (1 + Math.random())))
        await Promise.all(invalidate())
      }),
    )
  }
}
