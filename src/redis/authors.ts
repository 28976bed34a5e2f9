import type { Redis } from '@upstash/redis/cloudflare'
import type { Guard } from './script.ts'

/**
 * Whether a script may write to a content: KEYS: the user's state, authors. The state is JSON with the list `hidden`, or
 * null for too many. Returns 1; or 0 and whether an author is hidden (1) or Redis does not know (0).
 */
const GUARD = `#!lua flags=allow-key-locking
local hidden = string.match(HELD[1] or '', '"hidden":(%b[])')
if hidden == '[]' then return { 1 } end
if not hidden or not HELD[2] then return { 0, 0 } end
for author in string.gmatch(HELD[2], '%S+') do
  if string.find(hidden, '"' .. author .. '"', 1, true) then return { 0, 1 } end
end
return { 1 }`

/** The authors of a content never change. Nobody writes to most contents for longer than this. */
const TTL_MS = 86_400_000

export type Authors = ReturnType<typeof createAuthors>

/**
 * Who wrote a content, for scripts that write to it: a string of ids, separated by spaces, per content. It never changes,
 * so it needs no order and no invalidation. Redis has it only of contents to which somebody with hidden users wrote.
 */
export function createAuthors(
  redis: () => Redis,
  keys: { relations: (userId: string) => string; authors: (contentId: string) => string },
) {
  return {
    /** Lets a script write to a content if none of its authors is hidden from `userId`. Part of the script's `MGET`. */
    guard: (userId: string, contentId: string): Guard => ({
      text: GUARD,
      keys: [keys.relations(userId), keys.authors(contentId)],
      reads: 2,
      args: [],
    }),

    /** Remembers the authors of a content. One command. Safe to repeat. */
    remember: (contentId: string, authorIds: string[]) =>
      redis().set(keys.authors(contentId), authorIds.join(' '), { px: TTL_MS }),

    /** Forgets the authors of deleted contents. One command, none for no content. Safe to repeat. */
    async forget(contentIds: string[]): Promise<void> {
      if (contentIds.length > 0) await redis().del(...contentIds.map(keys.authors))
    },
  }
}
