import type { Guard } from './script.ts'

/**
 * Whether a script may write to a content. KEYS: the user's state, authors. The state is JSON with the list `hidden`, or
 * null for too many. Returns 1; or 2 where an author is hidden or Redis does not know: then the source decides.
 */
const GUARD = `#!lua flags=allow-key-locking
local hidden = string.match(HELD[1] or '', '"hidden":(%b[])')
if hidden == '[]' then return { 1 } end
if not hidden or not HELD[2] then return { 2 } end
for author in string.gmatch(HELD[2], '%S+') do
  if string.find(hidden, '"' .. author .. '"', 1, true) then return { 2 } end
end
return { 1 }`

/**
 * Lets a script write to a content if none of its authors is hidden from a user. Part of the script's `MGET`. Redis has the
 * authors beside the counts of the content (`createCounters`): where it has neither, the script asks for a load anyway.
 */
export const authorsGuard =
  (keys: { relations: (userId: string) => string; authors: (contentId: string) => string }) =>
  (userId: string, contentId: string): Guard => ({
    text: GUARD,
    keys: [keys.relations(userId), keys.authors(contentId)],
    reads: 2,
    args: [],
  })
