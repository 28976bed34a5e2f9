import { exported } from '../db/exported.ts'
import { follows, users as rows } from '../db/schema.ts'

/** The account of a user, and who follows whom. */
export const userExports = {
  account: exported(rows, rows.id, rows.id, {
    id: rows.id,
    username: rows.username,
    email: rows.email,
    pendingEmail: rows.pendingEmail,
    displayName: rows.displayName,
    bio: rows.bio,
    presenceVisibility: rows.presenceVisibility,
    lastSeenAt: rows.lastSeenAt,
    createdAt: rows.createdAt,
    updatedAt: rows.updatedAt,
  }),
  following: exported(follows, follows.followerId, follows.id, {
    userId: follows.followedId,
    createdAt: follows.createdAt,
  }),
  follower: exported(follows, follows.followedId, follows.id, {
    userId: follows.followerId,
    createdAt: follows.createdAt,
  }),
}
