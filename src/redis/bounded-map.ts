/** A map with a maximum total size. It evicts the least recently used values first. */
export type BoundedMap<T> = ReturnType<typeof createBoundedMap<T>>

/**
 * Creates a map whose values have a total size of at most `maxSize`, in the unit of `sizeOf`. A value larger than
 * `maxSize` is not kept. `onEvict` receives each value that the map drops because of its size.
 *
 * Not a library: those that limit the total size add 6 KiB to the Worker.
 */
export function createBoundedMap<T>(
  maxSize: number,
  sizeOf: (value: T, key: string) => number,
  onEvict: (value: T) => void = () => {},
) {
  const items = new Map<string, { value: T; size: number }>() // the most recently used is last
  let totalSize = 0

  function remove(key: string): void {
    totalSize -= items.get(key)?.size ?? 0
    items.delete(key)
  }

  return {
    get(key: string): T | undefined {
      const item = items.get(key)
      if (!item) return undefined
      items.delete(key)
      items.set(key, item)
      return item.value
    },

    set(key: string, value: T): void {
      remove(key)
      const size = sizeOf(value, key)
      if (size > maxSize) return onEvict(value)
      items.set(key, { value, size })
      totalSize += size
      for (const [oldest, { value }] of items) {
        if (totalSize <= maxSize) break
        remove(oldest)
        onEvict(value)
      }
    },

    delete: remove,
    keys: () => items.keys(),
    /** The total size of all values. */
    size: () => totalSize,
  }
}
