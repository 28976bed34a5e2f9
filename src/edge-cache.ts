/** Workers Cache, as the context of an invocation offers it. Absent: the Worker is deployed without it, or runs locally. */
export type EdgeCache = Pick<CacheContext, 'purge'>

/** The most tags that one purge accepts. */
const MAX_TAGS = 100
/** How long an isolate sends no purges after one was refused: the platform allows an account five a minute. */
const PAUSE_MS = 60_000

/**
 * Purges Cloudflare's cache in front of the Worker by the tags of its answers (`Cache-Tag`), one per user and post. An
 * answer that no purge reaches expires after `MEMORY_SECONDS` at the latest, so a purge may fail. Throws the first
 * refusal and is silent while refusals are to be expected. No Redis command. Safe to repeat.
 */
export function createPurges() {
  let pausedUntil = 0

  return async function purge(cache: EdgeCache, tags: string[], now = Date.now()): Promise<void> {
    const remainingMs = pausedUntil - now
    if (remainingMs > 0 && remainingMs <= PAUSE_MS) return // longer: the clock was set back
    for (let purged = 0; purged < tags.length; purged += MAX_TAGS) {
      try {
        const { success, errors } = await cache.purge({ tags: tags.slice(purged, purged + MAX_TAGS) })
        if (!success) throw new Error(`PURGE_REFUSED by the platform: ${errors.map(({ code }) => code).join(', ')}`)
      } catch (error) {
        pausedUntil = now + PAUSE_MS
        throw error
      }
    }
  }
}
