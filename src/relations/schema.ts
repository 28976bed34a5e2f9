import * as v from 'valibot'

/** What a user's blocks and mutes hide. A list is null if it is too long to travel with a session. */
export interface Relations {
  /** Rises with each change. */
  version: number
  /** Users who block this user, or whom this user blocks. */
  hidden: string[] | null
  /** Users whom this user mutes. */
  muted: string[] | null
}

/** Who reads, and which users this reader does not see. */
export interface Viewer {
  userId: string
  /**
   * Which of `userIds` are hidden from the viewer by a block, and in a `feed` also by a mute. No round trip of its own: the
   * check of the session brings the lists. One D1 query if a list is too long for that.
   */
  hidden: (userIds: string[], where?: 'anywhere' | 'feed') => Promise<ReadonlySet<string>>
}

export const Blocked = v.pipe(
  v.object({ isBlocked: v.pipe(v.boolean(), v.description('Whether I block the user.')) }),
  v.description('My block of the user.'),
)
export const Muted = v.pipe(
  v.object({ isMuted: v.pipe(v.boolean(), v.description('Whether I mute the user.')) }),
  v.description('My mute of the user.'),
)
