/** A map that forgets what was used least recently when it grows past its bound. */
export type BoundedMap<T> = ReturnType<typeof createBoundedMap<T>>

/**
 * A least-recently-used map whose sizes add up to at most `maxSize`, in whatever unit `sizeOf` answers. Larger values
 * are not kept. Ours, because the libraries that bound by size weigh 6 KiB of the Worker's 110.
 */
export function createBoundedMap<T>(maxSize: number, sizeOf: (value: T, key: string) => number) {
  const held = new Map<string, { value: T; size: number }>() // in the order of use, the latest last
  let total = 0

  function remove(key: string): void {
    total -= held.get(key)?.size ?? 0
    held.delete(key)
  }

  return {
    get(key: string): T | undefined {
      const found = held.get(key)
      if (!found) return undefined
      held.delete(key)
      held.set(key, found)
      return found.value
    },

    set(key: string, value: T): void {
      remove(key)
      const size = sizeOf(value, key)
      if (size > maxSize) return
      held.set(key, { value, size })
      total += size
      for (const oldest of held.keys()) {
        if (total <= maxSize) break
        remove(oldest)
      }
    },

    delete: remove,
    keys: () => held.keys(),
    /** The sum of the sizes. */
    size: () => total,
  }
}
