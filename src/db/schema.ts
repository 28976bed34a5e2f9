import { sql } from 'drizzle-orm'
import { index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from 'drizzle-orm/sqlite-core'

// Ids carry their kind and sort by time (`u_` + ULID). Times are Unix ms. Triggers maintain the counts of users, posts and
// comments, and their revisions (migrations/0002_count_triggers.sql, 0023_safety.sql, 0028_first_like.sql). Writers only add and
// delete rows.

export const users = sqliteTable(
  'users',
  {
    id: text().primaryKey(),
    /** Lower case. */
    username: text().notNull(),
    /** Lower case, confirmed by mail. Only the owner sees it. `-` and the id: none is confirmed yet. */
    email: text().notNull(),
    /** scrypt with its parameters: `scrypt$N$r$p$salt$hash`. */
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
    /** When last seen online. Null: never, or hidden. */
    lastSeenAt: integer('last_seen_at'),
    /** Rises when the user signs out everywhere. Sessions of an older epoch have ended. */
    sessionEpoch: integer('session_epoch').notNull().default(0),
    /** Rises with each edit of the profile. `If-Match` compares it. */
    version: integer().notNull().default(1),
    /** Rises with each change of the row, counts included. The cache compares it. */
    revision: integer().notNull().default(1),
    /**
     * The widest audience that may believe that this user is online. `nobody`: every audience was informed that the user is
     * offline.
     */
    presenceShownTo: text('presence_shown_to', { enum: ['everyone', 'followers', 'nobody'] })
      .notNull()
      .default('nobody'),
    /** The `at` of the last `user_status_change`. */
    presenceShownAt: integer('presence_shown_at').notNull().default(0),
    /** When Redis recorded the last arrival or departure that was announced: older ones are ignored. */
    presenceChangedAt: integer('presence_changed_at').notNull().default(0),
    /** When the visibility changed, while Redis may not know it. Null: Redis knows it. */
    presenceSyncAt: integer('presence_sync_at'),
    /** Rises with each block or mute that changes what this user sees. A trigger raises it (migrations/0023_safety.sql). */
    relationsVersion: integer('relations_version').notNull().default(0),
    /** An address that the user has given and not confirmed. Lower case; several users may have named the same one. */
    pendingEmail: text('pending_email'),
  },
  (t) => [
    uniqueIndex('users_username').on(t.username),
    uniqueIndex('users_email').on(t.email),
    index('users_pending_email')
      .on(t.pendingEmail)
      .where(sql`pending_email IS NOT NULL`),
    index('users_presence_sync')
      .on(t.presenceSyncAt)
      .where(sql`presence_sync_at IS NOT NULL`),
  ],
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
    /** The newest `changedAt` among its likes: D1 has all likes up to it. */
    likesChangedAt: integer('likes_changed_at').notNull().default(0),
    /** Rises with each change of its counts. */
    countsRevision: integer('counts_revision').notNull().default(0),
    /** The UTC day of creation, in days since 1970. */
    createdDay: integer('created_day')
      .notNull()
      .generatedAlwaysAs(sql`created_at / 86400000`, { mode: 'virtual' }),
    /** How high it ranks (`score.ts`). What changes its counts sets it. Null: its weight is below `SCORED_WEIGHT`. */
    score: real(),
  },
  (t) => [
    index('posts_author').on(t.authorId, t.id),
    index('posts_best')
      .on(t.score)
      .where(sql`score IS NOT NULL`),
  ],
)

export const comments = sqliteTable(
  'comments',
  {
    id: text().primaryKey(),
    /** No reference: what is left of a deleted post goes in steps (`removals`). Readers join the post. */
    postId: text('post_id').notNull(),
    authorId: text('author_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    text: text().notNull(),
    likesCount: integer('likes_count').notNull().default(0),
    likesChangedAt: integer('likes_changed_at').notNull().default(0),
    countsRevision: integer('counts_revision').notNull().default(0),
    createdAt: integer('created_at').notNull(),
    /** The comment that this one replies to. Null: it replies to the post. */
    parentId: text('parent_id'),
    version: integer().notNull().default(1),
    /** The last edit. Null: none. */
    updatedAt: integer('updated_at'),
    /** When a comment with replies was deleted: it stays in its place without its text. Null: it is there. */
    deletedAt: integer('deleted_at'),
    /** How many comments reply to this one, those that were deleted and have replies included. Triggers maintain it. */
    repliesCount: integer('replies_count').notNull().default(0),
  },
  (t) => [
    index('comments_post').on(t.postId, t.id),
    index('comments_top')
      .on(t.postId, t.id)
      .where(sql`parent_id IS NULL`),
    index('comments_replies')
      .on(t.parentId, t.id)
      .where(sql`parent_id IS NOT NULL`),
    index('comments_author').on(t.authorId),
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
    /** `f_` + ULID: the position in pages of followers and followings. */
    id: text().notNull(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.followerId, t.followedId] }),
    index('follows_followers').on(t.followedId, t.id),
    index('follows_followings').on(t.followerId, t.id),
  ],
)

/** Whom a user blocks or mutes. A block hides both users from each other, a mute hides one. */
export const relations = sqliteTable(
  'relations',
  {
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    kind: text({ enum: ['block', 'mute'] }).notNull(),
    otherId: text('other_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** `r_` + ULID: the position in pages of blocked and muted users. */
    id: text().notNull(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.userId, t.kind, t.otherId] }),
    index('relations_list').on(t.userId, t.kind, t.id),
    index('relations_other').on(t.otherId, t.kind, t.userId),
  ],
)

export const postLikes = sqliteTable(
  'post_likes',
  {
    /** No reference: see `removals`. */
    postId: text('post_id').notNull(),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** False after an unlike. The row stays for a month, so that an older message cannot restore the like. */
    isLiked: integer('is_liked', { mode: 'boolean' }).notNull(),
    /** When the user last sent this state. The newest state wins, in any order of arrival. */
    changedAt: integer('changed_at').notNull(),
    /** When this state began. Null: at `changedAt`. */
    since: integer(),
  },
  (t) => [
    primaryKey({ columns: [t.postId, t.userId] }),
    index('post_likes_user').on(t.userId, t.postId),
    // Only for the purge: a like has no entry, an unlike has one.
    index('post_likes_removed')
      .on(t.changedAt)
      .where(sql`NOT is_liked`),
    index('post_likes_latest')
      .on(t.postId, sql`coalesce(since, changed_at)`, t.userId)
      .where(sql`is_liked`),
  ],
)

export const commentLikes = sqliteTable(
  'comment_likes',
  {
    /** No reference: see `removals`. */
    commentId: text('comment_id').notNull(),
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
    // Only for the purge: a like has no entry, an unlike has one.
    index('comment_likes_removed')
      .on(t.changedAt)
      .where(sql`NOT is_liked`),
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

/** Ended sessions that Redis has not confirmed yet, or whose devices are not offline yet. The cron retries them. */
export const revocations = sqliteTable(
  'revocations',
  {
    /** The id of a session, or of a user whose sessions all ended. */
    subjectId: text('subject_id').primaryKey(),
    /** The new `sessionEpoch` of the user. Null for a session. */
    epoch: integer(),
    createdAt: integer('created_at').notNull(),
    /** Whose devices go offline. Null: those of a user who is removed, or recorded by an earlier version. */
    userId: text('user_id'),
  },
  (t) => [index('revocations_created').on(t.createdAt)],
)

/** Tokens of back ends. `SERVICE_TOKEN` is not among them. */
export const serviceTokens = sqliteTable(
  'service_tokens',
  {
    /** `st_` + ULID. */
    id: text().primaryKey(),
    /** Who uses it. */
    name: text().notNull(),
    /** What it may do. */
    scopes: text({ mode: 'json' }).$type<string[]>().notNull(),
    /** SHA-256 of the token, base64url. */
    hash: text().notNull(),
    /** The hashes before the last rotations, the latest first, and until when each works. */
    previous: text({ mode: 'json' }).$type<{ hash: string; until: number }[]>().notNull(),
    createdAt: integer('created_at').notNull(),
    /** When `hash` was made. Null: at `createdAt`. */
    rotatedAt: integer('rotated_at'),
    /** Accurate to ten minutes. Null: never. */
    lastUsedAt: integer('last_used_at'),
  },
  (t) => [uniqueIndex('service_tokens_name').on(t.name)],
)

/** Sessions of the dashboard that were signed out before they expired. */
export const dashboardSignOuts = sqliteTable('dashboard_sign_outs', {
  /** `s_` + ULID of the sign-in. */
  sessionId: text('session_id').primaryKey(),
})

/** Tokens that were mailed to a user, each for one use. The purge removes those that have expired. */
export const credentialTokens = sqliteTable(
  'credential_tokens',
  {
    /** SHA-256 of the token, base64url. */
    hash: text().primaryKey(),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** `…-used`: it has done its work, and answers a repeated request. */
    purpose: text({ enum: ['reset', 'verify', 'reset-used', 'verify-used'] }).notNull(),
    /** The address that the token was sent to. */
    email: text().notNull(),
    expiresAt: integer('expires_at').notNull(),
  },
  (t) => [index('credential_tokens_user').on(t.userId), index('credential_tokens_expiry').on(t.expiresAt)],
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

/** Requests with an `Idempotency-Key`, and their answers. */
export const idempotencyKeys = sqliteTable(
  'idempotency_keys',
  {
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    key: text().notNull(),
    /** SHA-256 of method, path and body. The API refuses the key for another request. */
    fingerprint: text().notNull(),
    /** The stored answer. Null: the first request still runs. */
    answer: text({ mode: 'json' }).$type<{ status: number; headers: Record<string, string>; body: string }>(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.userId, t.key] }), index('idempotency_keys_age').on(t.createdAt)],
)

/** The highest fencing token that has written under each lock. Writes of older holders are refused. */
export const fences = sqliteTable('fences', {
  name: text().primaryKey(),
  fence: integer().notNull(),
})

/**
 * The outbox, and for some days the history of events. The rowid is their order. A trigger numbers the facts about each
 * subject (migrations/0020_hints.sql). Of hints it has only those that an endpoint takes.
 */
export const events = sqliteTable(
  'events',
  {
    /** `ev_` + ULID, or chosen by the publisher. */
    id: text().primaryKey(),
    channel: text().notNull(),
    type: text().notNull(),
    subject: text().notNull(),
    sequence: integer().notNull().default(0),
    data: text({ mode: 'json' }).$type<Record<string, unknown>>().notNull(),
    /** Who may see it on a stream. */
    audience: text({ mode: 'json' }).$type<'everyone' | 'followers' | 'others' | 'services' | string[]>().notNull(),
    createdAt: integer('created_at').notNull(),
    /** When the cron enqueues it again. Null: dispatched to all listeners. */
    dueAt: integer('due_at'),
    /** How often the cron has enqueued it. */
    attempts: integer().notNull().default(0),
    /** The trace of the request that caused it (W3C Trace Context). Null: no request. */
    traceparent: text(),
    /** When the stream log failed to store it. Null: the log has it. */
    missedAt: integer('missed_at'),
    /** The sequence among the events that strangers may see. 0: they may not see this event. A trigger sets it. */
    publicSequence: integer('public_sequence').notNull().default(0),
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

/** The sequences of the last event about each subject on each channel. */
export const eventSequences = sqliteTable(
  'event_sequences',
  {
    channel: text().notNull(),
    subject: text().notNull(),
    sequence: integer().notNull(),
    publicSequence: integer('public_sequence').notNull().default(0),
    /** The `createdAt` of the last event. When that event is purged, so is this row. */
    changedAt: integer('changed_at').notNull().default(0),
  },
  (t) => [primaryKey({ columns: [t.channel, t.subject] })],
)

/** With which code each listener last began to rebuild its data: see `Listener.version`. */
export const listenerVersions = sqliteTable('listener_versions', {
  listener: text().primaryKey(),
  version: integer().notNull(),
})

/** What members report to moderators. */
export const reports = sqliteTable(
  'reports',
  {
    /** `rp_` + ULID. */
    id: text().primaryKey(),
    /** A post, comment or user. No reference: a report outlives it. */
    subjectId: text('subject_id').notNull(),
    reporterId: text('reporter_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    reason: text({
      enum: ['spam', 'harassment', 'hate', 'violence', 'sexual', 'self-harm', 'illegal', 'other'],
    }).notNull(),
    text: text().notNull(),
    status: text({ enum: ['open', 'dismissed', 'acted'] }).notNull(),
    createdAt: integer('created_at').notNull(),
    /** Null: it is open. */
    resolvedAt: integer('resolved_at'),
  },
  (t) => [
    uniqueIndex('reports_once').on(t.subjectId, t.reporterId),
    index('reports_reporter').on(t.reporterId),
    index('reports_status').on(t.status, t.id),
    index('reports_resolved')
      .on(t.resolvedAt)
      .where(sql`resolved_at IS NOT NULL`),
  ],
)

/**
 * Posts and comments that moderators took down: their rows, moved here. Their likes and comments stay where they are
 * (migrations/0021_moderation.sql).
 */
export const takedowns = sqliteTable(
  'takedowns',
  {
    contentId: text('content_id').primaryKey(),
    authorId: text('author_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** Of a comment: its post. Of a post: itself. */
    postId: text('post_id').notNull(),
    /** The row, by the names of its columns. */
    content: text({ mode: 'json' }).$type<Record<string, unknown>>().notNull(),
    note: text().notNull(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [index('takedowns_author').on(t.authorId)],
)

/** Accounts that cannot sign in. */
export const suspensions = sqliteTable('suspensions', {
  userId: text('user_id')
    .primaryKey()
    .references(() => users.id, { onDelete: 'cascade' }),
  note: text().notNull(),
  createdAt: integer('created_at').notNull(),
})

/** What moderators did, and with which service token. Nothing removes a row: see docs/moderation.md. */
export const moderationLog = sqliteTable(
  'moderation_log',
  {
    /** `ml_` + ULID. */
    id: text().primaryKey(),
    action: text({
      enum: ['take-down', 'restore', 'suspend', 'reinstate', 'dismiss-reports', 'act-on-reports'],
    }).notNull(),
    /** `u_deleted`: a user who has deleted the account. */
    subjectId: text('subject_id').notNull(),
    note: text().notNull(),
    tokenId: text('token_id').notNull(),
    /** Its name at that time. */
    tokenName: text('token_name').notNull(),
    createdAt: integer('created_at').notNull(),
  },
  (t) => [index('moderation_log_subject').on(t.subjectId)],
)

/** Unused: counts travel as hints. It stays until no deployed Worker reads it. */
export const counterChanges = sqliteTable(
  'counter_changes',
  {
    contentId: text('content_id').notNull(),
    counterType: text('counter_type', { enum: ['likes', 'comments', 'views'] }).notNull(),
    /** The time of the first change. */
    changedAt: integer('changed_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.contentId, t.counterType] }), index('counter_changes_age').on(t.changedAt)],
)

/** Contents whose counts changed, or that were deleted, since the cron brought Redis to them. Triggers add them. */
export const unsettledCounts = sqliteTable('unsettled_counts', { contentId: text('content_id').primaryKey() })

/**
 * What is deleted and has rows left: contents with likes or comments, which triggers add (migrations/0014_removals.sql),
 * and users, whom no reader finds any more (`isPresent`). `removals` deletes what is left in steps, then the row.
 */
export const removals = sqliteTable(
  'removals',
  {
    contentId: text('content_id').primaryKey(),
    /** When the cron enqueues the next step, unless a step runs before. */
    dueAt: integer('due_at').notNull(),
    /** How far the steps have come that walk data without an index: their places, by name of the feature. */
    progress: text({ mode: 'json' }).$type<Record<string, string>>(),
  },
  (t) => [index('removals_due').on(t.dueAt)],
)

/** All but the rowid, which has the age of the row. */
export const notificationColumns = {
  kind: text({ enum: ['like', 'comment', 'reply'] }).notNull(),
  /** The liked content, or the comment. If it is deleted, readers skip the row. */
  contentId: text('content_id').notNull(),
  /** The recipient: the author of the liked content, of the commented post, or of the comment replied to. */
  userId: text('user_id')
    .notNull()
    .references(() => users.id, { onDelete: 'cascade' }),
  postId: text('post_id').notNull(),
  /** `n_` + time + …: its position in the inbox of the user. */
  id: text().notNull(),
  /** The latest actors, at most three, the latest first. */
  actorIds: text('actor_ids', { mode: 'json' }).$type<string[]>().notNull(),
  actorsCount: integer('actors_count').notNull(),
  /** When it last happened. */
  createdAt: integer('created_at').notNull(),
  /** When the row was written. A read mark from before does not cover it. */
  notedAt: integer('noted_at').notNull(),
}

/**
 * Notifications of authors: one row for all likes of a content, and one for each comment and reply. Everything but `notedAt` derives
 * from other tables. Notifications of posts and follows have no rows: see `notifications/notifications`.
 */
export const notifications = sqliteTable('notifications', notificationColumns, (t) => [
  primaryKey({ columns: [t.kind, t.contentId] }),
  // No index by age: each like moves its entry. The rowid has the age: see `notifications/notifications`.
  index('notifications_user').on(t.userId, t.id),
])

/**
 * Whom a post or comment names (`@name`). A notification without a row of its own, as posts and follows are. It stays as
 * long as its content, so that an edit does not notify again.
 */
export const mentions = sqliteTable(
  'mentions',
  {
    /** The id of a post or comment. No reference: see `removals`. */
    contentId: text('content_id').notNull(),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    /** `m_` + ULID of when it first named the user: the position in the inbox. */
    id: text().notNull(),
    postId: text('post_id').notNull(),
    createdAt: integer('created_at').notNull(),
    /** Whether the text names the user now. */
    isNamed: integer('is_named', { mode: 'boolean' }).notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.contentId, t.userId] }),
    index('mentions_user').on(t.userId, t.id),
    index('mentions_post').on(t.postId),
  ],
)

/** The read mark of each user: covers rows written until `readAt`, up to the position `readUntil`. */
export const notificationReads = sqliteTable('notification_reads', {
  userId: text('user_id')
    .primaryKey()
    .references(() => users.id, { onDelete: 'cascade' }),
  readUntil: text('read_until').notNull(),
  readAt: integer('read_at').notNull(),
})

/**
 * The place of a post or user in the search index: the rowid of its words in `post_words` or `user_words`, two FTS5 tables
 * that hold words and no texts (migrations/0006_search_recommendations.sql). Places rise and are never reused.
 */
export const searchDocuments = sqliteTable(
  'search_documents',
  {
    place: integer().primaryKey({ autoIncrement: true }),
    /** The id of the post or user. No reference: the listener removes deleted content. */
    id: text().notNull(),
  },
  (t) => [uniqueIndex('search_documents_id').on(t.id)],
)

/** Unused: `posts.score` replaces it. It stays until no deployed Worker reads it. */
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

/** The endpoints of back ends. */
export const webhooks = sqliteTable(
  'webhooks',
  {
    /** `wh_` + ULID. */
    id: text().primaryKey(),
    url: text().notNull(),
    channels: text({ mode: 'json' }).$type<string[]>().notNull(),
    /** Null: every type of the channels. */
    types: text({ mode: 'json' }).$type<string[]>(),
    filter: text({ mode: 'json' }).$type<Record<string, unknown>>(),
    description: text().notNull().default(''),
    /** Sent with every request. Names are plain, values are encrypted (`v1.<key id>.<IV>.<ciphertext>`). */
    headers: text({ mode: 'json' }).$type<Record<string, string>>().notNull(),
    /** Signs the requests: `whsec_` and base64, encrypted. */
    secret: text().notNull(),
    /** The secrets before the last rotations, encrypted, the latest first, separated by spaces. They sign too until then. */
    previousSecret: text('previous_secret'),
    previousSecretUntil: integer('previous_secret_until'),
    status: text({ enum: ['unverified', 'enabled', 'paused', 'disabled'] })
      .notNull()
      .default('unverified'),
    /** `gone`: it answered 410. `failing`: it failed for days. */
    disabledReason: text('disabled_reason', { enum: ['gone', 'failing'] }),
    /** The first failure since the last success. */
    failingSince: integer('failing_since'),
    /** Failures in a row. */
    failures: integer().notNull().default(0),
    /** The circuit is open until then. After that, one delivery tries the endpoint. Null: closed. */
    openUntil: integer('open_until'),
    /** Since when its successful answers are slow. Null: the last one was fast. */
    slowSince: integer('slow_since'),
    /**
     * When the cron enqueues the parked deliveries of an enabled endpoint, probes a disabled one, or removes an unverified
     * one whose creation did not finish.
     */
    wakeAt: integer('wake_at'),
    createdAt: integer('created_at').notNull(),
    updatedAt: integer('updated_at').notNull(),
    /** Whose people may see and manage it. Null: only back ends. */
    tenant: text(),
  },
  (t) => [
    index('webhooks_status').on(t.status),
    index('webhooks_tenant')
      .on(t.tenant, t.id)
      .where(sql`tenant IS NOT NULL`),
    index('webhooks_wake')
      .on(t.wakeAt)
      .where(sql`wake_at IS NOT NULL`),
  ],
)

/**
 * One row with a random value that changes whenever an endpoint may take other events: one is added, deleted or changes its
 * status, channels, types, filter or tenant. Triggers write it (migrations/0018_webhook_version.sql and
 * 0026_tenants.sql).
 */
export const webhookVersion = sqliteTable('webhook_version', {
  id: integer().primaryKey(),
  version: text().notNull(),
})

/** The delivery of an event to an endpoint. The purge removes those of deleted endpoints. */
export const deliveries = sqliteTable(
  'deliveries',
  {
    /** `dl_` + ULID, rising in the order of the events. */
    id: text().primaryKey(),
    eventId: text('event_id').notNull(),
    webhookId: text('webhook_id').notNull(),
    status: text({ enum: ['pending', 'delivered', 'dead'] })
      .notNull()
      .default('pending'),
    /** The number of finished attempts since creation or replay. */
    attempts: integer().notNull().default(0),
    /** Rises when a batch claims the delivery. A queue message names its turn, and is void after the claim. */
    turn: integer().notNull().default(0),
    /** When the cron enqueues it again. Null: finished, or parked until its endpoint wakes. */
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

/** The outcome of each attempt. */
export const deliveryAttempts = sqliteTable(
  'delivery_attempts',
  {
    deliveryId: text('delivery_id')
      .notNull()
      .references(() => deliveries.id, { onDelete: 'cascade' }),
    /** When it began. */
    at: integer().notNull(),
    durationMs: integer('duration_ms').notNull(),
    /** The HTTP status. Null: no answer. */
    status: integer(),
    /** Why there was no answer. */
    error: text(),
    /** The first KB of the answer. */
    answer: text(),
    /** Headers of the answer, by name. Null: no answer, or an attempt from before they were recorded. */
    answerHeaders: text('answer_headers', { mode: 'json' }).$type<Record<string, string>>(),
  },
  (t) => [primaryKey({ columns: [t.deliveryId, t.at] })],
)

/** Attempts per hour, for the dashboard. */
export const webhookHours = sqliteTable(
  'webhook_hours',
  {
    /** Unix hours. */
    hour: integer().notNull(),
    webhookId: text('webhook_id').notNull(),
    succeeded: integer().notNull(),
    failed: integer().notNull(),
    /** When the latest of them began (Unix ms). 0: none. */
    lastSuccessAt: integer('last_success_at').notNull().default(0),
    lastFailureAt: integer('last_failure_at').notNull().default(0),
  },
  (t) => [primaryKey({ columns: [t.hour, t.webhookId] })],
)

/**
 * The figures of `/v1/stats` at a minute, as sums since `since`: the difference of two rows is what happened in between. Kept
 * for two hours. Rows of one value of `since` belong together.
 */
export const statMinutes = sqliteTable('stat_minutes', {
  /** Unix minutes. */
  minute: integer().primaryKey(),
  /** When counting began (Unix ms): it begins again after Redis has lost the figures. 0: unknown. */
  since: integer().notNull(),
  /** Users online. Null: unknown. */
  online: integer(),
  /** Of all steps. */
  totals: text({ mode: 'json' }).$type<number[]>().notNull(),
  /** By route, and by cache and layer. */
  routes: text({ mode: 'json' }).$type<Record<string, number[]>>().notNull(),
  caches: text({ mode: 'json' }).$type<Record<string, number[]>>().notNull(),
})
