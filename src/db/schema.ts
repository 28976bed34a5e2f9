import { sql } from 'drizzle-orm'
import { index, integer, primaryKey, sqliteTable, text, uniqueIndex } from 'drizzle-orm/sqlite-core'

// Ids carry their kind and sort by time (`u_` + ULID). Times are Unix ms.

export const users = sqliteTable(
  'users',
  {
    id: text().primaryKey(),
    /** Lower case. */
    username: text().notNull(),
    /** Lower case. Only its owner sees it. */
    email: text().notNull(),
    /** scrypt, with its parameters: `scrypt$N$r$p$salt$hash`. */
    passwordHash: text('password_hash').notNull(),
    displayName: text('display_name').notNull(),
    bio: text().notNull().default(''),
    followersCount: integer('followers_count').notNull().default(0),
    followingsCount: integer('followings_count').notNull().default(0),
    postsCount: integer('posts_count').notNull().default(0),
    createdAt: integer('created_at').notNull(),
    updatedAt: integer('updated_at').notNull(),
    /** Rises when the profile is edited: what `If-Match` compares. */
    version: integer().notNull().default(1),
    /** Rises with every change of the row, counts included: what the cache compares. */
    revision: integer().notNull().default(1),
  },
  (t) => [uniqueIndex('users_username').on(t.username), uniqueIndex('users_email').on(t.email)],
)

export const posts = sqliteTable(
  'posts',
  {
    id: text().primaryKey(),
    authorId: text('author_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    text: text().notNull(),
    likesCount: integer('likes_count').notNull().default(0),
    commentsCount: integer('comments_count').notNull().default(0),
    /** Unique viewers, approximate. */
    viewsCount: integer('views_count').notNull().default(0),
    createdAt: integer('created_at').notNull(),
    updatedAt: integer('updated_at').notNull(),
    version: integer().notNull().default(1),
    /** The UTC day it was written on, in days since 1970: each day's best can be read off one index. */
    createdDay: integer('created_day')
      .notNull()
      .generatedAlwaysAs(sql`created_at / 86400000`, { mode: 'virtual' }),
  },
  (t) => [index('posts_author').on(t.authorId, t.id), index('posts_hot').on(t.createdDay, t.likesCount, t.id)],
)

export const comments = sqliteTable(
  'comments',
  {
    id: text().primaryKey(),
    postId: text('post_id')
      .notNull()
      .references(() => posts.id, { onDelete: 'cascade' }),
    authorId: text('author_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    text: text().notNull(),
    likesCount: integer('likes_count').notNull().default(0),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [index('comments_post').on(t.postId, t.id), index('comments_author').on(t.authorId)],
)

export const follows = sqliteTable(
  'follows',
  {
    followerId: text('follower_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    followedId: text('followed_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** `f_` + ULID: the place in a page of followers or followings. */
    id: text().notNull(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.followerId, t.followedId] }),
    index('follows_followers').on(t.followedId, t.id),
    index('follows_followings').on(t.followerId, t.id),
  ],
)

export const postLikes = sqliteTable(
  'post_likes',
  {
    postId: text('post_id')
      .notNull()
      .references(() => posts.id, { onDelete: 'cascade' }),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** False once taken back: the row stays, so that an older message cannot bring the like back. */
    isLiked: integer('is_liked', { mode: 'boolean' }).notNull(),
    /** When the member last changed it: the newest state wins, in whatever order the states arrive. */
    changedAt: integer('changed_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.postId, t.userId] }), index('post_likes_user').on(t.userId, t.postId)],
)

export const commentLikes = sqliteTable(
  'comment_likes',
  {
    commentId: text('comment_id')
      .notNull()
      .references(() => comments.id, { onDelete: 'cascade' }),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    isLiked: integer('is_liked', { mode: 'boolean' }).notNull(),
    changedAt: integer('changed_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.commentId, t.userId] }), index('comment_likes_user').on(t.userId, t.commentId)],
)
