import { sql } from 'drizzle-orm'
import { index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from 'drizzle-orm/sqlite-core'

// Ids carry their kind and sort by time (`u_` + ULID). Times are Unix ms. The counts of users, posts and comments, and
// the revisions beside them, are kept by triggers (migrations/0002_count_triggers.sql): writers add and delete rows.

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
    /** Who may see whether this user is online. */
    presenceVisibility: text('presence_visibility', { enum: ['everyone', 'followers', 'nobody'] })
      .notNull()
      .default('everyone'),
    /** When last seen online; null: never, or not to be told. */
    lastSeenAt: integer('last_seen_at'),
    /** Rises when all sessions are revoked: those of an older epoch are over. */
    sessionEpoch: integer('session_epoch').notNull().default(0),
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
    /** The newest `changedAt` among its likes: which of the acknowledged likes have arrived here. */
    likesChangedAt: integer('likes_changed_at').notNull().default(0),
    /** Rises with every change of its counts. */
    countsRevision: integer('counts_revision').notNull().default(0),
    /** The UTC day it was written on, in days since 1970: each day's best can be read off one index. */
    createdDay: integer('created_day')
      .notNull()
      .generatedAlwaysAs(sql`created_at / 86400000`, { mode: 'virtual' }),
  },
  (t) => [
    index('posts_author').on(t.authorId, t.id),
    index('posts_hot').on(t.createdDay, t.likesCount, t.id),
    index('posts_liked').on(t.likesChangedAt),
  ],
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
    likesChangedAt: integer('likes_changed_at').notNull().default(0),
    countsRevision: integer('counts_revision').notNull().default(0),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [
    index('comments_post').on(t.postId, t.id),
    index('comments_author').on(t.authorId),
    index('comments_liked').on(t.likesChangedAt),
  ],
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
    /** When the member last said so: the newest state wins, in whatever order the states arrive. */
    changedAt: integer('changed_at').notNull(),
    /** Since when it is so: they may have said it again. Null: since `changedAt`. */
    since: integer(),
  },
  (t) => [
    primaryKey({ columns: [t.postId, t.userId] }),
    index('post_likes_user').on(t.userId, t.postId),
    index('post_likes_latest')
      .on(t.postId, sql`coalesce(since, changed_at)`, t.userId)
      .where(sql`is_liked`),
  ],
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
    since: integer(),
  },
  (t) => [
    primaryKey({ columns: [t.commentId, t.userId] }),
    index('comment_likes_user').on(t.userId, t.commentId),
    index('comment_likes_latest')
      .on(t.commentId, sql`coalesce(since, changed_at)`, t.userId)
      .where(sql`is_liked`),
  ],
)

export const sessions = sqliteTable(
  'sessions',
  {
    /** `s_` + ULID. */
    id: text().primaryKey(),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** SHA-256 of the token, base64url. */
    secretHash: text('secret_hash').notNull(),
    /** The user's `sessionEpoch` when the session began. */
    epoch: integer().notNull(),
    /** The `User-Agent` of the device, at most 200 characters. */
    userAgent: text('user_agent').notNull(),
    createdAt: integer('created_at').notNull(),
    /** Accurate to `SESSION_TOUCH_SECONDS`. */
    lastSeenAt: integer('last_seen_at').notNull(),
    /** The absolute end. The session ends earlier if it idles. */
    expiresAt: integer('expires_at').notNull(),
  },
  (t) => [index('sessions_user').on(t.userId, t.id), index('sessions_expiry').on(t.expiresAt)],
)

/** Ended sessions that Redis has not confirmed yet. The cron retries them. */
export const revocations = sqliteTable(
  'revocations',
  {
    /** The id of a session, or of a user whose sessions all ended. */
    subjectId: text('subject_id').primaryKey(),
    /** The new `sessionEpoch` of the user. Null for a session. */
    epoch: integer(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [index('revocations_created').on(t.createdAt)],
)

/** Networks from which a user has signed in. Their guesses have a limit of their own. */
export const signInSources = sqliteTable(
  'sign_in_sources',
  {
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** SHA-256 of the network, base64url. */
    source: text().notNull(),
    /** The last sign-in. */
    seenAt: integer('seen_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.userId, t.source] }), index('sign_in_sources_seen').on(t.seenAt)],
)

/** Creates that carried an `Idempotency-Key`, and what they were answered. */
export const idempotencyKeys = sqliteTable(
  'idempotency_keys',
  {
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    key: text().notNull(),
    /** SHA-256 of method, path and body: the same key with another request is refused. */
    fingerprint: text().notNull(),
    /** The answer to repeat: null while the first request is under way. */
    answer: text({ mode: 'json' }).$type<{ status: number; headers: Record<string, string>; body: string }>(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.userId, t.key] }), index('idempotency_keys_age').on(t.createdAt)],
)

/** The highest fencing token that has written under each lock: an older holder's write is refused. */
export const fences = sqliteTable('fences', {
  name: text().primaryKey(),
  fence: integer().notNull(),
})

/**
 * What happened: the outbox, and for some days the record of it. Ordered as it happened by rowid. A trigger numbers the
 * events of each subject (migrations/0004_events.sql).
 */
export const events = sqliteTable(
  'events',
  {
    /** `ev_` + ULID, or as its publisher chose. */
    id: text().primaryKey(),
    channel: text().notNull(),
    type: text().notNull(),
    subject: text().notNull(),
    sequence: integer().notNull().default(0),
    data: text({ mode: 'json' }).$type<Record<string, unknown>>().notNull(),
    /** Who may see it on a stream. */
    audience: text({ mode: 'json' }).$type<'everyone' | 'followers' | 'services' | string[]>().notNull(),
    createdAt: integer('created_at').notNull(),
    /** When the queue is told again; null: dispatched, all who listen have handled it. */
    dueAt: integer('due_at'),
    /** How often the cron has told the queue. */
    attempts: integer().notNull().default(0),
    /** Of the request that made it so (W3C Trace Context); null where none did. */
    traceparent: text(),
    /** Since when it is missing on the log of the streams, which could not take it; null: it is not. */
    missedAt: integer('missed_at'),
  },
  (t) => [
    index('events_due')
      .on(t.dueAt)
      .where(sql`due_at IS NOT NULL`),
    index('events_age').on(t.createdAt),
    index('events_missed')
      .on(t.missedAt)
      .where(sql`missed_at IS NOT NULL`),
  ],
)

/** The sequence of the last event about each subject on each channel. */
export const eventSequences = sqliteTable(
  'event_sequences',
  {
    channel: text().notNull(),
    subject: text().notNull(),
    sequence: integer().notNull(),
  },
  (t) => [primaryKey({ columns: [t.channel, t.subject] })],
)

/** Counts that changed and were not told of since. Triggers note them. */
export const counterChanges = sqliteTable(
  'counter_changes',
  {
    contentId: text('content_id').notNull(),
    counterType: text('counter_type', { enum: ['likes', 'comments', 'views'] }).notNull(),
    /** When the first of the changes was. */
    changedAt: integer('changed_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.contentId, t.counterType] }), index('counter_changes_age').on(t.changedAt)],
)

/**
 * What authors are told of: the likes of each content, gathered, and each comment. All of it follows from the other
 * tables, but for `notedAt`. Posts and follows are told of without rows: see `notifications/notifications`.
 */
export const notifications = sqliteTable(
  'notifications',
  {
    kind: text({ enum: ['like', 'comment'] }).notNull(),
    /** What is liked, or the comment. It may be gone: then nobody is told. */
    contentId: text('content_id').notNull(),
    /** Who is told: the author of what is liked, or of the post commented on. */
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    postId: text('post_id').notNull(),
    /** `n_` + time + … : its place in the list of its user. */
    id: text().notNull(),
    /** The latest who did it, at most three, the last first. */
    actorIds: text('actor_ids', { mode: 'json' }).$type<string[]>().notNull(),
    actorsCount: integer('actors_count').notNull(),
    /** When it last happened. */
    createdAt: integer('created_at').notNull(),
    /** When that was written down here, which may be later: what was read before is not this. */
    notedAt: integer('noted_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.kind, t.contentId] }),
    index('notifications_user').on(t.userId, t.id),
    index('notifications_age').on(t.id),
  ],
)

/** How far each has read: what was noted until `readAt`, up to the place `readUntil`. */
export const notificationReads = sqliteTable('notification_reads', {
  userId: text('user_id')
    .primaryKey()
    .references(() => users.id, { onDelete: 'cascade' }),
  readUntil: text('read_until').notNull(),
  readAt: integer('read_at').notNull(),
})

/**
 * Where a post or user is in the search index: the rowid of its words in `post_words` or `user_words`, two FTS5 tables
 * that hold words and no texts (migrations/0006_search_recommendations.sql). Places rise, and are never given twice.
 */
export const searchDocuments = sqliteTable(
  'search_documents',
  {
    place: integer().primaryKey({ autoIncrement: true }),
    /** Of the post or user. No reference: what was deleted leaves when the listener hears of it. */
    id: text().notNull(),
  },
  (t) => [uniqueIndex('search_documents_id').on(t.id)],
)

/** How good a post is to recommend, as last counted: see `recommendations.ts`. */
export const postScores = sqliteTable(
  'post_scores',
  {
    postId: text('post_id')
      .primaryKey()
      .references(() => posts.id, { onDelete: 'cascade' }),
    score: real().notNull(),
  },
  (t) => [index('post_scores_best').on(t.score)],
)

/** Where back ends want events delivered. */
export const webhooks = sqliteTable(
  'webhooks',
  {
    /** `wh_` + ULID. */
    id: text().primaryKey(),
    url: text().notNull(),
    channels: text({ mode: 'json' }).$type<string[]>().notNull(),
    /** Null: every type of those channels. */
    types: text({ mode: 'json' }).$type<string[]>(),
    filter: text({ mode: 'json' }).$type<Record<string, unknown>>(),
    description: text().notNull().default(''),
    headers: text({ mode: 'json' }).$type<Record<string, string>>().notNull(),
    /** `whsec_` and base64: what deliveries are signed with. */
    secret: text().notNull(),
    /** Those of the rotations before, the latest first, with spaces between: they sign as well until then. */
    previousSecret: text('previous_secret'),
    previousSecretUntil: integer('previous_secret_until'),
    status: text({ enum: ['unverified', 'enabled', 'paused', 'disabled'] })
      .notNull()
      .default('unverified'),
    /** `gone`: it answered 410; `failing`: it failed for long. */
    disabledReason: text('disabled_reason', { enum: ['gone', 'failing'] }),
    /** When the first of the failures was, since it last took anything. */
    failingSince: integer('failing_since'),
    /** Failures in a row. */
    failures: integer().notNull().default(0),
    /** Its circuit is open until then; after that one delivery tries it. Null: closed. */
    openUntil: integer('open_until'),
    /** When its parked deliveries, or a probe, are looked after. An enabled one that has parked deliveries has it. */
    wakeAt: integer('wake_at'),
    createdAt: integer('created_at').notNull(),
    updatedAt: integer('updated_at').notNull(),
  },
  (t) => [
    index('webhooks_status').on(t.status),
    index('webhooks_wake')
      .on(t.wakeAt)
      .where(sql`wake_at IS NOT NULL`),
  ],
)

/** An event on its way to an endpoint. Those of an endpoint that was deleted are left to the purge. */
export const deliveries = sqliteTable(
  'deliveries',
  {
    /** `dl_` + ULID, rising with the order of the events that were told together. */
    id: text().primaryKey(),
    eventId: text('event_id').notNull(),
    webhookId: text('webhook_id').notNull(),
    status: text({ enum: ['pending', 'delivered', 'dead'] })
      .notNull()
      .default('pending'),
    /** How many attempts had an outcome, since it was made or replayed. */
    attempts: integer().notNull().default(0),
    /** Rises when it is taken up: a message of the queue names the turn it is for, and is void once that is taken. */
    turn: integer().notNull().default(0),
    /** When the cron sends a message that should have come. Null: done, or parked until its endpoint wakes. */
    dueAt: integer('due_at'),
  },
  (t) => [
    uniqueIndex('deliveries_once').on(t.eventId, t.webhookId),
    index('deliveries_webhook').on(t.webhookId, t.id),
    index('deliveries_status').on(t.webhookId, t.status, t.id),
    index('deliveries_due')
      .on(t.dueAt)
      .where(sql`due_at IS NOT NULL`),
    index('deliveries_parked')
      .on(t.webhookId, t.id)
      .where(sql`status = 'pending' AND due_at IS NULL`),
  ],
)

/** What came of each attempt. */
export const deliveryAttempts = sqliteTable(
  'delivery_attempts',
  {
    deliveryId: text('delivery_id')
      .notNull()
      .references(() => deliveries.id, { onDelete: 'cascade' }),
    /** When it began. */
    at: integer().notNull(),
    durationMs: integer('duration_ms').notNull(),
    /** HTTP status; null: there was no answer. */
    status: integer(),
    /** Why it failed, where no status says so. */
    error: text(),
    /** The first KB of the answer. */
    answer: text(),
  },
  (t) => [primaryKey({ columns: [t.deliveryId, t.at] })],
)

/** How attempts went, by the hour: for the dashboard. */
export const webhookHours = sqliteTable(
  'webhook_hours',
  {
    /** Unix hours. */
    hour: integer().notNull(),
    webhookId: text('webhook_id').notNull(),
    succeeded: integer().notNull(),
    failed: integer().notNull(),
  },
  (t) => [primaryKey({ columns: [t.hour, t.webhookId] })],
)
