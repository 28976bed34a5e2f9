/** Every Redis key. A cache entry is a JSON string. While a reader loads it, `<key>:lease` holds that reader's nonce. */
export const keys = {
  /** Cache entry of a user. */
  user: (id: string) => `user:${id}`,
  /** Cache entry: the id behind a username (lower case). */
  username: (name: string) => `username:${name}`,
  /** Cache entry of a post, without its counts. */
  post: (id: string) => `post:${id}`,
  /** Cache entry: the newest notifications of a user, and the read mark. */
  inbox: (userId: string) => `inbox:${userId}`,
  /** Cache entry: the ids of the hot feed, best first. */
  hotPosts: (scope: string) => `hot:${scope}`,
  /** Cache entry: the ids of posts for a user, best first. */
  recommended: (userId: string) => `recommended:${userId}`,
  /** Integer, no expiry. Raising it expires every hot feed. */
  hotGeneration: 'generation:hot',
  /** String holding an integer: a count of a post or comment. Expires when idle; D1 holds it too. */
  count: (counter: 'likes' | 'comments' | 'views', contentId: string) => `count:${counter}:${contentId}`,
  /**
   * String beside a count: the count again, and what orders or derives it. Expires with the count; of views 30 days after
   * the last new viewer.
   */
  tally: (counter: 'likes' | 'comments' | 'views', contentId: string) => `tally:${counter}:${contentId}`,
  /**
   * Hash of a user: content id → the like state and when it began, and from which content on none is missing. Expires a day
   * after a load; D1 holds it too.
   */
  likedBy: (userId: string) => `liked:${userId}`,
  /** Sorted set of `<content>:<user>:<1 or 0>` by change time (Unix ms): likes that D1 has not confirmed. No expiry. */
  likesUnwritten: 'likes-unwritten',
  /** HyperLogLog: the viewers of a post. Expires 30 days after the last new one. */
  viewers: (postId: string) => `viewers:${postId}`,
  /** Sorted set of post ids by their count of views: those that D1 has not confirmed, and a mark of completeness. No expiry. */
  viewsUnwritten: 'views-unwritten',
  /** String of JSON: a session, without its secret. Expires when idle. */
  session: (id: string) => `session:${id}`,
  /** Integer: rises when the user signs out everywhere. Expires after 30 days; D1 holds it too. */
  epoch: (userId: string) => `epoch:${userId}`,
  /** String of JSON: whom blocks hide from a user, and whom the user mutes. Bounded; expires after a day. */
  relations: (userId: string) => `relations:${userId}`,
  /** String: the id of an account that D1 may have created without an answer. Expires after ten minutes. */
  signUp: (username: string) => `sign-up:${username}`,
  /** String: the author of a post or comment, and of the post of a comment. Never changes; expires after 30 days. */
  authors: (contentId: string) => `authors:${contentId}`,
  /** Sorted set: the users online, by when last seen (Unix ms). Bounded; expires a day after its last sweep. */
  presence: (shard: number) => `presence:${shard}`,
  /** Sorted set: arrivals and departures to announce, by the end of their claim. Expires like the users online. */
  presenceChanges: (shard: number) => `presence:${shard}:changes`,
  /** Sorted set: the devices of a user, by when last seen. Bounded; expires a minute after the presence window. */
  presenceDevices: (userId: string) => `presence:devices:${userId}`,
  /** String: who may see a user. Expires after a day, `nobody` with the presence window; D1 holds it. */
  presenceVisibility: (userId: string) => `presence:visibility:${userId}`,
  /** String: when Redis was found to have lost presence (Unix ms), or `none`. Expires a day after the last sweep. */
  presenceLoss: 'presence:loss',
  /** String `<at>:<beat>`: the last arrival or departure of a user. Expires with their devices. */
  presenceLast: (userId: string) => `presence:last:${userId}`,
  /** String `<fence>:<owner>`: a held lock. Expires with it. */
  lock: (name: string) => `lock:${name}`,
  /**
   * String holding an integer: the last fence of a lock. Expires after 30 days without use; later fences are higher
   * anyway.
   */
  fence: (name: string) => `fence:${name}`,
  /** Sliding windows of @upstash/ratelimit: strings holding an integer, expiring after two windows. */
  rateLimit: (policy: string) => `limit:${policy}`,
  /** Stream: the latest events, for streams to follow and resume. Capped; expires a day after the last event. */
  streamLog: 'events:v2:log',
  /** Sorted set: the ids of those events, by when they were appended. Capped; expires with the log. */
  streamNames: 'events:v2:names',
  /** String: the position of readers of the empty log. Expires after a day; the first event removes it. */
  streamOrigin: 'events:v2:origin',
  /** Pub/sub channel, not a key: new entries of that log. */
  streamChannel: 'events:live',
  /** Sorted set: the open streams of a user or address, by the expiry of their places. Bounded; expires with the last. */
  openStreams: (caller: string) => `open-streams:${caller}`,
  /** Sorted set: all open streams, by the expiry of their places. Bounded; expires with the last. */
  allOpenStreams: 'open-streams',
  /** Stream: the reports of isolates, until they are folded. At most 1,000 entries; expires after 30 days. */
  statsReports: 'stats:v2:reports',
  /** JSON string: the folded reports, as sums and an hour of steps. Expires after 30 days without a report. */
  stats: 'stats:v2:folded',
  /** JSON string: the state and results of the scan of all keys. Expires after 30 days. */
  statsScan: 'stats:v1:scan',
}

/** The fixed words of keys. Any other part belongs to one user, content or caller. */
const words = new Set(
  Object.values(keys)
    // Called with empty parts, each returns only its words.
    .map((key) => (typeof key === 'string' ? key : (key as (...parts: string[]) => string)('', '')))
    .flatMap((key) => key.split(':'))
    .concat('likes', 'comments', 'views', 'lease')
    .filter(Boolean),
)

/** Whether a key is one of ours, by its first word. */
export const isOwnKey = (key: string): boolean => words.has(key.split(':', 1)[0] ?? '')

/** The pattern of a key: `count:likes:*`. A key that is not ours has the pattern `*`. */
export function patternOf(key: string): string {
  if (!isOwnKey(key)) return '*'
  const parts = key.split(':').map((part) => (words.has(part) ? part : '*'))
  return parts.filter((part, i) => part !== '*' || parts[i - 1] !== '*').join(':')
}
