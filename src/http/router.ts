import type { Result, Router } from 'hono/router'

/** How many paths an isolate remembers, and how long they may be. */
const REMEMBERED = 1_000
const MAX_LENGTH = 200

/**
 * Remembers in a map what `router` found for recent paths, because the search takes as long as the rest of a cached
 * read. A full map is emptied. Before each search, `prepare` may add the routes of the path.
 */
export function rememberMatches<T>(router: Router<T>, prepare: (path: string) => void): Router<T> {
  const found = new Map<string, Result<T>>()
  return {
    name: 'RememberingRouter',
    add: (method, path, handler) => router.add(method, path, handler),
    match(method, path) {
      const name = `${method} ${path}`
      let result = found.get(name)
      if (!result) {
        prepare(path)
        result = router.match(method, path)
        if (path.length > MAX_LENGTH) return result
        if (found.size >= REMEMBERED) found.clear()
        found.set(name, result)
      }
      return result
    },
  }
}
