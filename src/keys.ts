/** Every Redis key. An entry of a cache is a string of JSON; beside it `<key>:lease` is a string while it is loaded. */
export const keys = {
  /** Cache entry of a user. */
  user: (id: string) => `user:${id}`,
  /** Cache entry: the id behind a username (lower case). */
  username: (name: string) => `username:${name}`,
  /** Cache entry of a post, without its counts. */
  post: (id: string) => `post:${id}`,
  /** Cache entry: the newest notifications of a user, and how far they have read. */
  inbox: (userId: string) => `inbox:${userId}`,
  /** Cache entry: the ids of the hot feed, best first. */
  hotPosts: (scope: string) => `hot:${scope}`,
  /** Cache entry: the ids of posts for a user, best first. */
  recommended: (userId: string) => `recommended:${userId}`,
  /** Integer, no expiry: raising it expires every hot feed. */
  hotGeneration: 'generation:hot',
  /** String holding an integer: a count of a post or comment. Expires when idle; D1 holds it too. */
  count: (counter: 'likes' | 'comments' | 'views', contentId: string) => `count:${counter}:${contentId}`,
  /**
   * String beside a count: the count again, and what orders or derives it. Expires with the count; of views 30 days after
   * the last new viewer.
   */
  tally: (counter: 'likes' | 'comments' | 'views', contentId: string) => `tally:${counter}:${contentId}`,
  /** Hash of a user: content id → whether the user likes it, and since when. Expires when idle; D1 holds it too. */
  likedBy: (userId: string) => `liked:${userId}`,
  /** Sorted set of `<content>:<user>:<1 or 0>` by change time (Unix ms): likes that D1 has not confirmed. No expiry. */
  likesUnwritten: 'likes-unwritten',
  /** HyperLogLog: the viewers of a post. Expires 30 days after the last new one. */
  viewers: (postId: string) => `viewers:${postId}`,
  /** Sorted set of post ids by their count of views: those that D1 has not confirmed. No expiry. */
  viewsUnwritten: 'views-unwritten',
  /** String of JSON: a session, without its secret. Expires when idle. */
  session: (id: string) => `session:${id}`,
  /** Integer: rises when all sessions of a user are ended. Expires after 30 days; D1 holds it too. */
  epoch: (userId: string) => `epoch:${userId}`,
  /** Sorted set: those online, by when last seen (Unix ms). Bounded; expires a day after its last sweep. */
  presence: (shard: number) => `presence:${shard}`,
  /** Sorted set: arrivals and departures still to be announced, by until when they are claimed. Expires as above. */
  presenceChanges: (shard: number) => `presence:${shard}:changes`,
  /** Sorted set: the devices of a user, by when last seen. Bounded; expires a minute after the presence window. */
  presenceDevices: (userId: string) => `presence:devices:${userId}`,
  /** String: who may see a user. Expires after a day, `nobody` with the presence window; D1 holds it. */
  presenceVisibility: (userId: string) => `presence:visibility:${userId}`,
  /** String: when Redis was found to have lost presence (Unix ms), or `none`. Expires a day after the last sweep. */
  presenceLoss: 'presence:loss',
  /** String `<at>:<beat>`: the last arrival or departure of a user. Expires with their devices. */
  presenceLast: (userId: string) => `presence:last:${userId}`,
  /** String `<fence>:<owner>`: a lock that is held. Expires with the hold. */
  lock: (name: string) => `lock:${name}`,
  /** String holding an integer: the last fence of a lock. Expires after 30 days unused; a later one is higher all the same. */
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
  /** Sorted set: the open streams of a user or address, by until when each holds its place. Bounded; expires with the last. */
  openStreams: (caller: string) => `open-streams:${caller}`,
  /** Sorted set: all open streams. The same. */
  allOpenStreams: 'open-streams',
  /** Stream of what isolates report of themselves, until it is folded. At most 1 000 entries; expires after 30 days. */
  statsReports: 'stats:v2:reports',
  /** String of JSON: those reports folded into sums and an hour of steps. Expires after 30 days without one. */
  stats: 'stats:v2:folded',
  /** String of JSON: how far the walk over all keys is, and what it found. Expires after 30 days. */
  statsScan: 'stats:v1:scan',
}

/** The words of keys: whatever else is between their colons belongs to one user, content or caller. */
const words = new Set(
  Object.values(keys)
    // Each takes what it puts into a key: nothing leaves the words alone.
    .map((key) => (typeof key === 'string' ? key : (key as (...parts: string[]) => string)('', '')))
    .flatMap((key) => key.split(':'))
    .concat('likes', 'comments', 'views', 'lease')
    .filter(Boolean),
)

/** Whether a key is one of these, as its first word says. */
export const isOwnKey = (key: string): boolean => words.has(key.split(':', 1)[0] ?? '')

/** A key with all that is particular replaced: `count:likes:*`. One that is not ours is `*`. */
export function patternOf(key: string): string {
  if (!isOwnKey(key)) return '*'
  const parts = key.split(':').map((part) => (words.has(part) ? part : '*'))
  return parts.filter((part, i) => part !== '*' || parts[i - 1] !== '*').join(':')
}
